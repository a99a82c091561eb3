"""Carries out through Salt what decide.py decides: asks nodes, applies them, and returns the outcome.

Nothing is decided on an answer that its node has not signed (nodes/asking.py).

Targets are minion ids that have an accepted key and are nodes of a site in pillar; they never come from an event. The
text of a failure is cut to a length that fits into an event.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

import salt.runner
import salt.utils.minions

from alerts.authentic import Sites
from nodes import asking
from nodes.keys import Keys
from resync.waits import MORE, MORE_SUBJECT

ANSWER_SECONDS = 15  # for a node to answer a question
APPLY_SECONDS = 1500  # for a node to be applied, as long as it works on it
CONNECT_SECONDS = 3  # for a node to connect to another master
MAX_REASON_CHARACTERS = 1500  # of the text of a failure
# What the failure of a step of orch.resync means.
STEPS = {"standby_applied": "the standby could not be applied", "standby_healthy": "the standby is not healthy",
         "active_applied": "the active node could not be applied",
         "active_healthy": "the active node is not healthy"}
# When one of these steps fails, the active node was touched.
TOUCHED = ("active_applied", "active_healthy")


# Of a node: [its number, whether it was compared with the master since it booted]; ["", False] for a node without a
# record, None for a node that does not answer. A list, because it comes through a pipe as JSON.
Record = list[Any] | None


class Answers(TypedDict):
    """The answers of nodes to actions.Ask."""

    nodes: dict[str, dict[str, Record]]  # by site and minion
    conditions: dict[str, list[Any]]  # by minion, its conditions as signed events


class Hands:
    """The functions of one master. Use it in a process of its own: Salt's clients are not made for threads."""

    def __init__(self, opts: dict[str, Any], after: Iterable[str] = (), keys: Keys | None = None) -> None:
        """
        Args:
            opts: the master's configuration.
            after: addresses of the masters that come before this one (rank 1).
            keys: the master's secret; None: read it when it is needed.
        """
        self.opts, self.after, self._keys = opts, tuple(after), keys
        self.unbelieved: dict[str, str] = {}  # by minion that gave no valid answer to the last question, why
        self.sites = Sites(opts["pillar_roots"].get("base", []))

    # Questions

    def minions(self, site: str) -> list[str]:
        """The minion ids of a site's nodes that have an accepted key."""
        return sorted(each for each in self.accepted() if self.sites.sender(each) == site)

    def accepted(self) -> list[str]:
        """The ids of all minions with an accepted key."""
        found: list[str] = salt.utils.minions.CkMinions(self.opts).check_minions("*", "glob")["minions"]
        return found

    def ask(self, minions: list[str], functions: dict[str, list[Any]], timeout: int = ANSWER_SECONDS,
            ) -> dict[str, dict[str, Any]]:
        """
        Call functions on minions.

        Args:
            minions: minion ids.
            functions: by function, its arguments.
            timeout: seconds for each function.

        Returns:
            The results by minion and function, without minions that do not answer.
        """
        # Trap: one job of several functions would be shorter, but while it runs, no state can be applied on that minion
        # (Salt 3008.3: saltutil.is_running can not match a list).
        found: dict[str, dict[str, Any]] = {minion: {} for minion in minions}
        self.unbelieved = {}
        for function, arguments in functions.items():
            said = self.question(list(found), function, arguments, seconds=timeout)
            self.unbelieved |= said.missing
            # A function that fails is an answer, too: as Salt has it, its text.
            found = {minion: each | {function: f"ERROR: {its.error}" if its.error else its.value}
                     for minion, each in found.items() if (its := said.answers.get(minion))}
        return found

    def question(self, minions: list[str], function: str, arguments: Iterable[Any] = (), *, seconds: float,
                 named: dict[str, Any] | None = None, long: bool = False) -> asking.Said:
        """Call a function on minions; see asking.ask."""
        if not minions:
            return asking.Said()
        self._keys = self._keys or Keys(self.opts["pki_dir"])
        return asking.ask(self.opts, self._keys, minions, function, arguments, named, seconds, long)

    def apply(self, minions: list[str], formula: str = "", test: bool = False) -> asking.Said:
        """Call state.apply on minions, with one formula or with all."""
        return self.question(minions, "state.apply", [formula] if formula else [], seconds=APPLY_SECONDS, long=True,
                             named={"test": True} if test else None)

    def silence(self, minions: Iterable[str]) -> str:
        """Why these minions gave no valid answer to the last question, in words."""
        return "; ".join(f"{each}: {self.unbelieved.get(each) or 'does not answer'}" for each in minions)

    def told(self, sites: Iterable[str] = ()) -> Answers:
        """For actions.Ask: the nodes' records and conditions. `sites` empty: of all sites."""
        wanted = set(sites)
        of = {minion: site for minion in self.accepted() if (site := self.sites.sender(minion))
              and (not wanted or site in wanted)}
        said = self.ask(sorted(of), {"drift.inputs": [], "gateway_events.conditions": []})
        nodes: dict[str, dict[str, Record]] = {}
        for minion, site in of.items():
            nodes.setdefault(site, {})[minion] = _number(said.get(minion))
        conditions = {minion: each["gateway_events.conditions"] for minion, each in said.items()
                      if isinstance(each.get("gateway_events.conditions"), list)}
        return {"nodes": nodes, "conditions": conditions}

    def differences(self, site: str) -> list[str] | None:
        """
        For actions.Compare: the differences between a site's two nodes, one line each.

        Returns:
            The lines; None when not both nodes answer, or when another master takes care of them.
        """
        minions = self.minions(site)
        if len(minions) != 2 or self.elsewhere(minions):
            return None
        said = self.ask(minions, {"drift.fingerprints": []}, timeout=30)
        one, two = (said.get(minion, {}).get("drift.fingerprints") for minion in minions)
        if not isinstance(one, dict) or not isinstance(two, dict):
            return None
        return compared(minions, one, two)

    def elsewhere(self, minions: list[str]) -> str:
        """The address of the other master that takes care of these nodes: one that a node can reach. Empty: none."""
        port = self.opts["ret_port"]
        for address in self.after:
            said = self.ask(minions, {"network.connect": [address, port,
                                                          {"__kwarg__": True, "timeout": CONNECT_SECONDS}]})
            if any(isinstance(each.get("network.connect"), dict) and each["network.connect"].get("result")
                   for each in said.values()):
                return address
        return ""

    def mistakes(self, site: str) -> list[str]:
        """The mistakes of a site, from `salt-run gateway.validate`."""
        said = self.run("gateway.validate", site)
        return said["mistakes"] if isinstance(said, dict) else [str(said)]

    def run(self, function: str, *arguments: Any, **named: Any) -> Any:
        """Call a runner; returns its result."""
        # The client signs its jobs with this user's key. Without the user, an orchestration reaches no node.
        with salt.runner.RunnerClient(dict(self.opts)) as client:
            return client.cmd(function, list(arguments), {"user": self.opts["user"]}, named, print_event=False)

    # Changes

    def roll_out(self, site: str, number: str, by_hand: bool = False, tree: str = "") -> tuple[str, str]:
        """For actions.RollOut: the outcome and its reason. The arguments are those of RollOut."""
        minions = self.minions(site)
        if not minions:
            return "bare", "none of its nodes has an accepted key"
        said = self.ask(minions, {"drift.inputs": []})
        why = self.silence(minion for minion in minions if minion not in said)
        if said and (other := self.elsewhere(minions)):
            return "elsewhere", f"its nodes reach the master {other}"
        mistakes = self.mistakes(site)
        if mistakes:
            return "refused", _cut("; ".join(mistakes))
        numbers = {minion: _number(said.get(minion)) for minion in minions}
        if said and not any(each and each[0] for each in numbers.values()) and not by_hand:
            return "bare", "apply it for the first time by hand"
        if not by_hand and len(minions) == 2 and all(each == [number, True] for each in numbers.values()):
            return "current", ""
        if why:
            return "waits", _cut(why)
        inputs = [said[minion].get("drift.inputs") for minion in minions]
        if disabled := [minion for minion, its in zip(minions, inputs, strict=True)
                        if isinstance(its, dict) and its.get("disabled")]:
            return "waits", (f"whole state runs are disabled on {', '.join(disabled)}; "
                             f"`salt {disabled[0]} state.enable highstate` ends that")
        # Both nodes were applied with this tree, so their modules are up to date: they need not look for new ones.
        same = bool(tree) and all(isinstance(its, dict) and its.get("tree") == tree for its in inputs)
        # The orchestration itself asks for the roles, at the last moment.
        # The file server keeps its list of names for 20 s; without this it would miss new files.
        self.run("fileserver.clear_file_list_cache")
        return outcome(self.run("state.orch", "orch.resync", pillar={"site": site, "same_tree": same}))

    def repair(self, site: str, minion: str, formula: str, number: str, subjects: Iterable[Iterable[str]] = (),
               alone: bool = False) -> tuple[str, str]:
        """For actions.Apply: the outcome and its reason. The arguments are those of Apply."""
        minions = self.minions(site)
        if minion not in minions:
            return "waits", "it has no accepted key"
        said = self.ask(minions, {"drift.inputs": [], "heartbeat.role": []})
        its = _number(said.get(minion))
        if its is None:
            return "waits", _cut(self.silence([minion]))
        if not its[0]:
            return "gone", "apply it for the first time by hand"
        if other := self.elsewhere(minions):
            return "elsewhere", f"its nodes reach the master {other}"
        if its[0] != number:
            # The node is not up to date, so the formula could bring a change to the active node before the standby.
            return "behind", "the present state is not rolled out to it yet"
        many = any(condition == MORE for condition, _subject in subjects)
        if self.after and (formula or many) and not self.still(minion, subjects):
            return "gone", ""
        if not formula and its[1] and not many:
            return "gone", "it was compared already"
        role = said[minion].get("heartbeat.role")
        others = [each.get("heartbeat.role") for name, each in said.items() if name != minion]
        if (formula or many) and role == "stopped":
            return "waits", "heartbeat does not run there: somebody is at work"
        if not formula and (role in ("transition", "split") or alone and role == "active" and "standby" in others):
            return "waits", f"it is {role}"
        said_of_it = self.apply([minion], formula)
        done = said_of_it.answers.get(minion)
        if done is None:
            return "waits", _cut(f"it did not answer to the end: {said_of_it.missing.get(minion, '')}")
        states = done.value if not done.error else f"ERROR: {done.error}"
        if running := occupied(states):
            return "waits", _cut("; ".join(running))
        wrong = failures(states)
        return ("failed", _cut("; ".join(wrong))) if wrong else ("done", "")

    def still(self, minion: str, subjects: Iterable[Iterable[str]]) -> bool:
        """Whether the node itself still reports one of these (condition, subject); of MORE: any change by hand."""
        said = self.ask([minion], {"gateway_events.conditions": []}).get(minion, {}).get("gateway_events.conditions")
        if not isinstance(said, list):
            return False
        now = {(each.get("condition"), each.get("subject")) for each in said if isinstance(each, dict)}
        if any(isinstance(each, dict) and each.get("beacon") == "drift" and each.get("condition") != "not_compared"
               for each in said):
            now.add((MORE, MORE_SUBJECT))
        return any(tuple(each) in now for each in subjects)

    def look(self, site: str) -> dict[str, Any]:
        """
        What a roll-out would do; changes nothing.

        Returns:
            As of a site in `salt-run resync.dry_run`.
        """
        minions = self.minions(site)
        mistakes = self.mistakes(site)
        if mistakes or not minions:
            return {"refused": mistakes or ["none of its nodes has an accepted key"]}
        pair = self.run("gateway.pair", site)
        done = self.apply(minions, test=True)
        found = {}
        for minion in sorted(minions, key=lambda each: each != pair["standby"]):
            its = done.answers.get(minion)
            states = (its.error or its.value) if its else done.missing.get(minion, "it did not answer")
            found[minion] = {"role": pair["roles"].get(minion, "silent"), "would_change": [
                _name(key) for key, each in _ordered(states) if each.get("result") is None],
                "would_fail": failures(states)}
        return {"first": found} | ({"waits_for": "; ".join(pair["mistakes"])} if pair["mistakes"] else {})


def compared(names: list[str], one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The differences between two nodes' fingerprints, one line each, with the names of the nodes."""
    lines = []
    for key in sorted(set(one) | set(two)):
        first, second = one.get(key), two.get(key)
        if first == second:
            continue
        if first is None or second is None:
            lines.append(f"{key}: only on {names[0] if second is None else names[1]}")
        else:
            lines.append(f"{key}: {names[0]} has {_short(first)}, {names[1]} {_short(second)}")
    return [line[:300] for line in lines]


def _short(fingerprint: object) -> str:
    """The first 16 digits of a fingerprint, and the words after it."""
    digest, _blank, words = str(fingerprint).partition(" ")
    return f"{digest[:16]} {words}".strip()


def outcome(said: Any) -> tuple[str, str]:
    """The outcome and reason of a run of orch.resync."""
    try:
        steps = next(iter(said["data"].values()))
        states = list(_ordered(steps))
    except (TypeError, KeyError, AttributeError, StopIteration, ValueError):
        return "failed", _cut(f"the orchestration did not run: {said}")
    if not states:
        return "failed", _cut(f"the orchestration did not run: {steps}")
    wrong = [(_name(key), each) for key, each in states if each.get("result") is False]
    if not wrong:
        return "done", ""
    name, step = next(((name, each) for name, each in wrong if each.get("__state_ran__", True)), wrong[0])
    if name.startswith("mistake-"):
        return "waits", _cut("; ".join(str(each.get("comment", "")) for _name_, each in wrong))
    why = STEPS.get(name, name)
    silent = _silent(step)
    if silent:
        # Its result is unknown, so this is no failure: the node may be applied by now, or switched off.
        return "waits", _cut("; ".join([f"{', '.join(silent)} did not answer to the end: {why}",
                                        *([text] if (text := _unbelieved(step)) else [])]))
    if running := _running(step):
        return "waits", _cut("; ".join(running))
    details = list(_details(step))
    kept = "" if name in TOUCHED else "; the active node was not touched"
    return "failed", _cut(": ".join([why, *(["; ".join(details)] if details else [])]), kept)


def _returned(step: dict[str, Any]) -> dict[str, Any]:
    """What each minion returned to a step of an orchestration."""
    changes = step.get("changes")
    if isinstance(changes, dict) and isinstance(changes.get("return"), dict):
        changes = changes["return"]  # of salt.runner: what gateway_step.run returned
    returned = changes.get("ret") if isinstance(changes, dict) else None
    return returned if isinstance(returned, dict) else {}


def _unbelieved(step: dict[str, Any]) -> str:
    """Why no valid answer came to a step, in words; empty if one came."""
    changes = step.get("changes")
    said = changes.get("return") if isinstance(changes, dict) else None
    why = said.get("why") if isinstance(said, dict) else None
    return "; ".join(f"{minion}: {text}" for minion, text in why.items()) if isinstance(why, dict) else ""


def _silent(step: dict[str, Any]) -> list[str]:
    """The minions that did not return from a step; salt.state has False for them."""
    return sorted(minion for minion, said in _returned(step).items() if said is False)


def _running(step: dict[str, Any]) -> list[str]:
    """The state runs because of which minions refused a step, one line each."""
    return [f"{minion}: {line}" for minion, said in _returned(step).items() for line in occupied(said)]


def occupied(said: Any) -> list[str]:
    """The state runs because of which a minion refused to apply states, in its own words (salt.modules.state.running).
    Empty if it did not refuse."""
    lines = said if isinstance(said, list) else []
    return [line for line in lines if isinstance(line, str) and " is running as PID " in line]


def _details(step: dict[str, Any]) -> Iterator[str]:
    """Why a step of an orchestration failed, by minion."""
    found = False
    for minion, said in _returned(step).items():
        for line in failures(said) if isinstance(said, dict) else [str(said)]:
            found = True
            yield f"{minion}: {line}"
    if not found:
        yield str(step.get("comment", ""))


def failures(states: Any) -> list[str]:
    """The failures of a state run, one line each; empty when nothing failed. Leaves out states that failed only because
    another one failed."""
    if not isinstance(states, dict):
        return [str(line) for line in states] if isinstance(states, list) else [str(states)]
    wrong = [(_name(key), " ".join(str(each.get("comment", "")).split())) for key, each in _ordered(states)
             if each.get("result") is False]
    own = [each for each in wrong if not each[1].startswith("One or more requisite failed")]
    return [f"{name}: {comment}"[:400] for name, comment in own or wrong]


def _ordered(states: Any) -> list[tuple[str, dict[str, Any]]]:
    """The states of a run in their order; empty for something else than a state run."""
    if not isinstance(states, dict):
        return []
    found = [(key, each) for key, each in states.items() if isinstance(each, dict) and "result" in each]
    return sorted(found, key=lambda each: each[1].get("__run_num__", 0))


def _name(key: str) -> str:
    """The id in a state's tag, MODULE_|-ID_|-NAME_|-FUNCTION."""
    parts = key.split("_|-")
    return parts[1] if len(parts) == 4 else key


def _number(said: dict[str, Any] | None) -> Record:
    """The record in a node's answers, see Record."""
    if said is None:
        return None
    its = said.get("drift.inputs")
    if not isinstance(its, dict) or not isinstance(its.get("inputs"), str):
        return ["", False]
    return [its["inputs"][:200], its.get("current") is True]


def _cut(text: str, rest: str = "") -> str:
    """A text cut to a length that fits into an event; `rest` is appended whole."""
    most = MAX_REASON_CHARACTERS - len(rest)
    return (text if len(text) <= most else f"{text[:most - 1]}…") + rest
