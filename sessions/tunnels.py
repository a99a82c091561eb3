"""Which states and policies there are on the active node (Originals), and their copies on the standby (Copies).

Changes go from the one to the other. Both keep the originals as the active node's kernel told them; what the standby's
kernel gets is made from them by adoption.py. No I/O: requests for the kernel come out, kernel.py carries them out.
"""
from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sessions import adoption, kernel, xfrm
from sessions.adoption import Reqids, Rules
from sessions.kernel import Event, Request
from sessions.xfrm import Counters, Policy, PolicyId, State, StateId


class PutState(NamedTuple):
    """A state is new, or another one than before."""
    state: State


class PutPolicy(NamedTuple):
    """A policy is new, or another one than before."""
    policy: Policy


class DropState(NamedTuple):
    """A state has ended."""
    id: StateId


class DropPolicy(NamedTuple):
    """A policy has ended."""
    id: PolicyId


class Numbers(NamedTuple):
    """Where a state's numbers stand."""
    id: StateId
    counters: Counters


Change = PutState | PutPolicy | DropState | DropPolicy | Numbers


class Originals:
    """What the active node's kernel holds, kept up to date by its events."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.states: dict[StateId, State] = {}
        self.policies: dict[PolicyId, Policy] = {}
        self.refused: dict[StateId, str] = {}  # states of this site that are not copied, and why

    def load(self, states: Iterable[State], policies: Iterable[Policy]) -> None:
        """Starts anew with what a dump tells."""
        self.states, self.policies, self.refused = {}, {}, {}
        for state in states:
            self.put(state)
        for policy in policies:
            if adoption.is_copied(policy, self.rules):
                self.policies[policy.id] = policy

    def put(self, state: State) -> bool:
        """Takes a state in. False where it is none that is copied."""
        why = adoption.refusal(state, self.rules)
        if not why:
            self.states[state.id] = state
            self.refused.pop(state.id, None)
        elif state.keyed and adoption.direction(state, self.rules.addresses) is not None:
            self.refused[state.id] = why
        return not why

    def changes(self) -> Iterator[Change]:
        """All of it, for a full comparison."""
        yield from (PutState(each) for each in self.states.values())
        yield from (PutPolicy(each) for each in self.policies.values())

    def handle(self, event: Event) -> list[Change]:
        """What an event changes. A flush changes nothing: see daemon.py."""
        if event.kind in (xfrm.NEWSA, xfrm.UPDSA):
            state = State.parse(event.body)
            return [PutState(state)] if self.put(state) else self.drop(state.id)
        if event.kind == xfrm.DELSA:
            return self.drop(xfrm.deleted_state(event.body))
        if event.kind == xfrm.EXPIRE:
            ended = xfrm.expired_state(event.body)
            return self.drop(ended) if ended else []
        if event.kind in (xfrm.NEWPOLICY, xfrm.UPDPOLICY):
            policy = Policy.parse(event.body)
            if adoption.is_copied(policy, self.rules):
                self.policies[policy.id] = policy
                return [PutPolicy(policy)]
            return self.drop_policy(policy.id)
        if event.kind == xfrm.DELPOLICY:
            return self.drop_policy(xfrm.deleted_policy(event.body))
        if event.kind == xfrm.NEWAE:
            return self.count(event.body)
        return []

    def count(self, body: bytes) -> list[Change]:
        """A state's numbers have moved."""
        found = xfrm.counters_of_event(body)
        if not found or found[0] not in self.states:
            return []
        identity, counters = found
        state = self.states[identity].with_counters(counters)
        if adoption.refusal(state, self.rules):  # without extended numbers an outbound state comes to its end
            gone = self.drop(identity)
            self.put(state)  # notes why
            return gone
        self.states[identity] = state
        return [Numbers(identity, counters)]

    def drop(self, identity: StateId) -> list[Change]:
        """A state has ended, or is not copied any more."""
        self.refused.pop(identity, None)
        return [DropState(identity)] if self.states.pop(identity, None) else []

    def drop_policy(self, identity: PolicyId) -> list[Change]:
        """A policy has ended, or is not copied any more."""
        return [DropPolicy(identity)] if self.policies.pop(identity, None) else []

    def outbound(self) -> list[State]:
        """The states under which this node sends."""
        return [each for each in self.states.values()
                if adoption.direction(each, self.rules.addresses) == xfrm.OUT]


Group = tuple[bytes, int]  # selector and direction of a policy


class Copies:
    """The copies on this node, and the originals that they are made from."""

    def __init__(self, rules: Rules, reqids: Reqids) -> None:
        self.rules, self.reqids = rules, reqids
        self.states: dict[StateId, State] = {}  # originals
        self.policies: dict[PolicyId, Policy] = {}  # originals
        self.groups: dict[Group, set[PolicyId]] = {}
        self.users: dict[int, set[StateId]] = {}  # original reqid: the states that have it
        self.needs: dict[int, set[Group]] = {}  # original reqid: the policies that lead to it
        self.installed: dict[Group, Policy] = {}  # the policies that the kernel holds by our request

    # Changes from the active node

    def handle(self, change: Change) -> list[Request]:
        """Takes a change in. Returns what the kernel has to do."""
        if isinstance(change, PutState):
            return self.put(change.state)
        if isinstance(change, DropState):
            return self.drop(change.id)
        if isinstance(change, PutPolicy):
            return self.put_policy(change.policy)
        if isinstance(change, DropPolicy):
            return self.drop_policy(change.id)
        return self.count(change.id, change.counters)

    def put(self, state: State) -> list[Request]:
        """A state to copy. What this node's own rules refuse is not taken, whatever the other node says."""
        before = self.states.get(state.id)
        if adoption.refusal(state, self.rules):
            return self.drop(state.id)
        out = self.drop(state.id) if before and before.reqid != state.reqid else (
            [kernel.delete_state(state.id)] if before else [])
        self.states[state.id] = state
        self.users.setdefault(state.reqid, set()).add(state.id)
        out.append(kernel.add_state(self.copy(state)))
        return out + self.settle(self.needs.get(state.reqid, ()))

    def drop(self, identity: StateId) -> list[Request]:
        """A state to end."""
        state = self.states.pop(identity, None)
        if not state:
            return []
        self.users[state.reqid].discard(identity)
        if not self.users[state.reqid]:
            del self.users[state.reqid]
        # Policies first: a policy without its state holds packets back, where it is effective.
        return [*self.settle(self.needs.get(state.reqid, ())), kernel.delete_state(identity)]

    def put_policy(self, policy: Policy) -> list[Request]:
        """A policy to copy, once there are states for it."""
        if not adoption.is_copied(policy, self.rules):
            return self.drop_policy(policy.id)
        group = policy.selector, policy.direction
        self.unlink(policy.id)
        self.policies[policy.id] = policy
        self.groups.setdefault(group, set()).add(policy.id)
        for reqid in policy.reqids:
            self.needs.setdefault(reqid, set()).add(group)
        return self.settle([group])

    def drop_policy(self, identity: PolicyId) -> list[Request]:
        """A policy to end."""
        self.unlink(identity)
        return self.settle([(identity.selector, identity.direction)])

    def unlink(self, identity: PolicyId) -> None:
        """Forgets an original policy."""
        policy = self.policies.pop(identity, None)
        if policy:
            group = policy.selector, policy.direction
            self.groups[group].discard(identity)
            if not self.groups[group]:
                del self.groups[group]
            left = {reqid for each in self.groups.get(group, ()) for reqid in self.policies[each].reqids}
            for reqid in policy.reqids - left:
                self.needs[reqid].discard(group)
                if not self.needs[reqid]:
                    del self.needs[reqid]

    def count(self, identity: StateId, counters: Counters) -> list[Request]:
        """A state's numbers have moved on the other node."""
        state = self.states.get(identity)
        if not state:
            return []
        state = state.with_counters(counters)
        if adoption.refusal(state, self.rules):
            return self.drop(identity)
        self.states[identity] = state
        way = adoption.direction(state, self.rules.addresses)
        assert way is not None  # refusal() has said so
        return [kernel.set_counters(identity, adoption.moved(counters, way, self.rules))]

    # What the kernel gets

    def copy(self, state: State) -> State:
        """A state as this node's kernel takes it."""
        return adoption.copied_state(state, self.rules, self.reqids.adopted(state.reqid))

    def effective(self, group: Group) -> Policy | None:
        """The policy to install for a selector: one that has states; the daemon's own rather than an adopted one."""
        having = [self.policies[each] for each in self.groups.get(group, ())
                  if self.policies[each].reqids & self.users.keys()]
        best = min(having, key=lambda each: (bool(each.get(xfrm.MARK)), each.priority), default=None)
        return adoption.copied_policy(best, self.reqids) if best else None

    def settle(self, groups: Iterable[Group]) -> list[Request]:
        """Brings the kernel's policies for these selectors up to date."""
        out: list[Request] = []
        for group in tuple(groups):
            wanted, there = self.effective(group), self.installed.get(group)
            if wanted and wanted != there:
                self.installed[group] = wanted
                out.append(kernel.set_policy(wanted))
            elif not wanted and there:
                del self.installed[group]
                out.append(kernel.delete_policy(there.id))
        return out

    def again(self) -> list[Request]:
        """Everything once more: somebody has flushed it. States come before policies."""
        return [*(kernel.add_state(self.copy(each)) for each in self.states.values()),
                *(kernel.set_policy(each) for each in self.installed.values())]

    def lacking(self, states: Iterable[State], policies: Iterable[Policy]) -> list[Request]:
        """What a dump of this kernel lacks, or has otherwise than it should, once more."""
        there = {each.id: each for each in states}
        held = {each.id: each for each in policies}
        out: list[Request] = []
        for identity, original in self.states.items():
            found, wanted = there.get(identity), self.copy(original)
            if not found or found.fixed() != wanted.fixed():
                out += [*([kernel.delete_state(identity)] if found else []), kernel.add_state(wanted)]
        for policy in self.installed.values():
            other = held.get(policy.id)
            if not other or other.reqids != policy.reqids or other.priority != policy.priority:
                out.append(kernel.set_policy(policy))
        return out

    def anew(self, identity: StateId) -> list[Request]:
        """One state once more, whatever the kernel has."""
        state = self.states.get(identity)
        return [kernel.delete_state(identity), kernel.add_state(self.copy(state))] if state else []

    def reduce(self, states: set[StateId], policies: set[PolicyId]) -> list[Request]:
        """Ends what is not among these: the other node has just told all that it holds."""
        out: list[Request] = []
        for identity in [each for each in self.policies if each not in policies]:
            out += self.drop_policy(identity)
        for state in [each for each in self.states if each not in states]:
            out += self.drop(state)
        return out

    def foreign(self, states: Iterable[State], policies: Iterable[Policy]) -> list[Request]:
        """Ends adopted states and policies in a dump of this kernel that are no copies.

        An earlier process has left them.
        """
        ours = {each.id for each in self.installed.values()}
        return [*(kernel.delete_policy(each.id) for each in policies
                  if each.get(xfrm.MARK) == adoption.MARK_ATTRIBUTE and each.id not in ours),
                *(kernel.delete_state(each.id) for each in states
                  if adoption.is_adopted(each.reqid) and each.id not in self.states)]

    def missing(self, states: Iterable[State], policies: Iterable[Policy]) -> list[str]:
        """What a dump of this kernel lacks or has otherwise than it should. No line names a key."""
        there = {each.id: each for each in states}
        wrong = []
        for identity, original in self.states.items():
            found, wanted = there.get(identity), self.copy(original)
            if not found:
                wrong.append(f"state {identity} is missing")
            elif found.fixed() != wanted.fixed():
                wrong.append(f"state {identity} differs")
        held = {each.id: each for each in policies}
        for policy in self.installed.values():
            other = held.get(policy.id)
            if not other:
                wrong.append(f"policy {policy.id} is missing")
            elif other.reqids != policy.reqids or other.priority != policy.priority:
                wrong.append(f"policy {policy.id} differs")
        return wrong


def digest(states: Iterable[State], policies: Iterable[Policy], nonce: bytes) -> str:
    """A number that both nodes compute of the originals: equal when they hold the same, keys included.

    It changes with `nonce`, which is made for one connection, and says nothing of a key.
    """
    lines = [b"state " + each.id.body() + each.source + str(each.reqid).encode() + b"".join(each.keys)
             for each in states]
    lines += [b"policy " + each.id.body() + each.get(xfrm.TMPL) for each in policies]
    mac = hmac.new(nonce, digestmod=hashlib.sha256)
    for line in sorted(lines):
        mac.update(len(line).to_bytes(4, "big") + line)
    return mac.hexdigest()
