"""The text of each event for the person whom it wakes: what happened, what it means for users, what was done
automatically, what to do next.

{node}, {site}, {subject}, {was}, {now} and {id} stand for fields of the event. They are printable text on one line
(authentic.printable) and are never executed here. But a person copies what stands in a command. So the next step, and
every text with a command in it, has only {site}, {node} and {id}: the master knows these itself (authentic.Sites), and
an event counts only when its id is a node of one of the master's sites. The others are what the node says.
"""
from __future__ import annotations

from typing import NamedTuple

from alerts.shapes import Line

NOTHING = "Nothing."


class Entry(NamedTuple):
    """One condition."""

    severity: str  # as the beacon sends it; for the reference only
    happened: str
    over: str  # the sentence when the condition is over; "" for an event that only happens
    means: str  # for the users
    done: str  # automatically
    todo: str


_ROLES = "salt-run gateway.roles {site}"
_HEARTBEAT = "salt '{id}' heartbeat.status"
_BONDING = "salt '{id}' bonding.status"
_IPSEC = "salt '{id}' ipsec.status"

CATALOGUE: dict[tuple[str, str], Entry] = {
    # bonding
    ("bonding", "slave_down"): Entry(
        "warning", "{node} has lost the link of {subject}", "{subject} of {node} has its link again",
        "Nobody notices: the bond's other slave carries everything. There is no reserve left on this bond.",
        "The bond has switched to its other slave.",
        f"Check the cable, the switch port and the switch. Then: {_BONDING}"),
    ("bonding", "bond_down"): Entry(
        "critical", "{node} has no link left on {subject}", "{subject} of {node} has a link again",
        "This node is cut off from that network. If it was active, its tunnels are interrupted for a moment.",
        "If this node was active and the other one is ready, the other one has taken over.",
        f"Check both cables and both switches. Who is active now: {_ROLES}"),
    ("bonding", "slave_missing"): Entry(
        "warning", "{node} has no network card {subject}, which the site names", "{node} has {subject} again",
        "Nobody notices as long as the bond's other slave is up. There is no reserve left on this bond.",
        NOTHING, f"Has the card failed, or has its name changed? {_BONDING} and: salt '{{id}}' network.interfaces"),
    ("bonding", "not_on_primary"): Entry(
        "info", "{node} does not use the preferred card of {subject}",
        "{node} uses the preferred card of {subject} again",
        "Nobody notices. Both nodes may now depend on the same switch.",
        "The bond switches back automatically when the preferred card has had its link for a while.",
        f"If it does not switch back: {_BONDING}"),
    ("bonding", "active_slave_changed"): Entry(
        "info", "{subject} of {node} now uses another card ({was} before, {now} now)", "",
        "Nobody notices: at most a fraction of a second without traffic.", "The bond has switched.",
        f"Nothing if somebody was working there. Otherwise: {_BONDING}"),
    ("bonding", "slave_flapped"): Entry(
        "warning", "{subject} of {node} lost its link and got it back at once", "",
        "At most a moment without traffic. Cables and transceivers that begin to fail do this first.",
        "The bond has switched to its other slave and may have switched back.",
        f"Replace the cable or the transceiver before it fails. {_BONDING}"),
    ("bonding", "bond_missing"): Entry(
        "critical", "{node} has no bond {subject}", "{node} has the bond {subject} again",
        "This node is cut off from that network.", "If it was active and the other is ready, the other has taken over.",
        "Somebody removed it, or the network did not start: salt '{id}' state.apply test=True, then state.apply"),
    ("bonding", "arp_silent"): Entry(
        "warning", "{subject} of {node} has a link and receives no answer over it",
        "{subject} of {node} receives answers again",
        "Nobody notices as long as the other slave receives answers.", "The bond has switched to its other slave.",
        f"The switch behind it is cut off, or its port is in the wrong VLAN. {_BONDING}"),
    ("bonding", "lacp_partner_lost"): Entry(
        "warning", "the switch no longer speaks LACP with {subject} of {node}",
        "the switch speaks LACP with {subject} of {node} again",
        "Less bandwidth, or none over that slave.", "The bond uses the remaining slaves.",
        f"Check the switch's port channel. {_BONDING}"),
    ("bonding", "lacp_churn"): Entry(
        "warning", "{subject} of {node} and the switch do not agree on LACP",
        "{subject} of {node} and the switch agree again",
        "That slave may carry nothing.", "The bond uses the remaining slaves.",
        f"Check the switch's port channel: mode, members, rate. {_BONDING}"),
    # heartbeat
    ("heartbeat", "role_changed"): Entry(
        "critical, info when somebody asked for it", "{node} is {now}, it was {was}", "",
        "When the active node changes, the tunnels break and the clients reconnect. How long that takes depends on the "
        "client (docs/takeover.md).", "The active node has the virtual addresses.",
        f"{_ROLES} shows who is active, salt '{{id}}' heartbeat.history 5 shows why"),
    ("heartbeat", "peer_dead"): Entry(
        "critical", "{node} hears nothing of the other node {subject}", "{node} hears the other node {subject} again",
        "The remaining node serves the users. If it fails too, nobody is served.",
        "If the dead node was active, the other one has taken over.",
        f"Is the other machine up? Check its console and power. Who is active: {_ROLES}"),
    ("heartbeat", "link_dead"): Entry(
        "warning", "{node} does not hear the other node over {subject}",
        "{node} hears the other node over {subject} again",
        "Nobody notices. If the remaining link between the nodes fails too, both may become active.",
        "The nodes use the remaining links.",
        f"Check the cable or the network of that link. {_HEARTBEAT}"),
    ("heartbeat", "ping_node_dead"): Entry(
        "warning", "the ping node {subject} does not answer {node}", "the ping node {subject} answers {node} again",
        "Nobody notices if only the ping node itself is down. A node that reaches fewer ping nodes than the other one "
        "loses its role.", "If the other node reaches more ping nodes, it has taken over.",
        f"Is the ping node up? Is another machine a better ping node? {_HEARTBEAT}"),
    ("heartbeat", "split"): Entry(
        "critical", "both nodes of {site} are active", "one node of {site} is active, one standby again",
        "Users reach one or the other, or both in turn: tunnels break and reconnect.",
        "When the nodes hear each other again, the one with the older claim gives up its role within a second.",
        f"Check all links between the nodes. {_ROLES}. If it lasts: on one node systemctl stop heartbeat"),
    ("heartbeat", "none_active"): Entry(
        "critical", "no node of {site} is active", "a node of {site} is active again",
        "Nobody can connect: no tunnel works.", "A node that is ready takes over automatically; none is ready.",
        f"{_ROLES}. Why neither is ready: salt '*.{{site}}' heartbeat.status. To make one active all the same: "
        "salt '{id}' heartbeat.takeover force=True"),
    ("heartbeat", "not_ready"): Entry(
        "warning", "{node} can not take over: {now}", "{node} can take over again",
        "Nobody notices. If the active node fails now, nobody is served.", NOTHING,
        f"What is wrong: salt '{{id}}' heartbeat.healthy standby. Also: {_IPSEC}"),
    ("heartbeat", "agent_missing"): Entry(
        "critical", "the role agent of {node} does not run", "the role agent of {node} runs again",
        "If this node is active, it serves the users until something else fails.",
        "heartbeat restarts the agent; after three failures the node hands its role over.",
        "On the node: journalctl -t gateway-agent. Then: salt '{id}' state.apply"),
    ("heartbeat", "heartbeat_stopped"): Entry(
        "critical", "heartbeat does not run on {node}", "heartbeat runs on {node} again",
        "The other node serves the users. If it fails too, nobody is served.", "The other node has taken over.",
        "Was it stopped on purpose? On the node: journalctl -u heartbeat. Then: salt '{id}' service.start heartbeat"),
    ("heartbeat", "disagree"): Entry(
        "warning", "{node} is not in the state that its role requires: {now}",
        "{node} is in the state that its role requires again",
        "Perhaps nobody notices, perhaps an address is missing.",
        "The role agent restores an address that is missing on the active node, and removes one from a standby.",
        f"{_HEARTBEAT} and docs/troubleshooting.md, \"Nobody is active, or both are\""),
    ("heartbeat", "clock_offset"): Entry(
        "warning", "the clocks of the two nodes of {site} differ ({now})", "the clocks of {site} agree again",
        "Nobody notices yet. Valid certificates may seem expired, and logs can not be compared.",
        "chrony corrects the clocks slowly, if it reaches a time server.",
        "salt '*.{site}' cmd.run 'chronyc tracking'"),
    ("heartbeat", "sessions_lost"): Entry(
        "warning", "The tunnels of {node} are {now} to the other node", "The tunnels of {node} are copied again",
        "None now. After a takeover each peer has to notice and call again, which takes clients as shipped up to some "
        "minutes.",
        "{node} keeps trying, over each heartbeat path; when it reaches the other node it compares all tunnels.",
        "On both nodes: salt '*.{site}' sessions.status; systemctl status gateway-sessions; "
        "journalctl -t gateway-sessions (docs/session-takeover.md)"),
    ("heartbeat", "starved"): Entry(
        "warning", "{node} gets too little processor time: it, or the other node, {now}",
        "{node} gets enough processor time again",
        "Each standstill interrupts their traffic for as long as it lasts.",
        "A silent node counts as dead after a second at the earliest, so that nobody takes over from a node that only "
        "gets no processor.",
        "What else runs on these machines, or on their hypervisor? In top, %st is the time that the hypervisor gives "
        "to others. Give the gateways processors of their own; with the profile fast, consider default "
        "(docs/takeover.md)"),
    # ipsec
    ("ipsec", "daemon_dead"): Entry(
        "critical", "the IPsec daemon of {node} does not run", "the IPsec daemon of {node} runs again",
        "If this node was active, all tunnels were interrupted.",
        "The other node has taken over if it was ready; the daemon is restarted.",
        f"{_IPSEC} and on the node: journalctl -u ipsec"),
    ("ipsec", "daemon_hung"): Entry(
        "critical", "the IPsec daemon of {node} does not answer", "the IPsec daemon of {node} answers again",
        "Established tunnels work for a while; no tunnel is set up or renewed.",
        "The other node takes over if it is ready, or the daemon is restarted.",
        f"{_ROLES} and on the node: journalctl -u ipsec"),
    ("ipsec", "connection_missing"): Entry(
        "warning", "{node} has not loaded the connection {subject}", "{node} has loaded the connection {subject} again",
        "On the active node: the tunnels of this connection do not come up. On the standby: they would not after a "
        "takeover.", NOTHING, "Why: salt '{id}' state.apply test=True. Often it is a certificate: salt '{id}' "
        "certs.stored"),
    ("ipsec", "tunnel_down"): Entry(
        "critical for site-to-site, info for roadwarriors", "the tunnel {subject} of {node} is down",
        "the tunnel {subject} of {node} is up again",
        "The networks behind it do not reach each other.", "The daemon keeps trying.",
        f"{_IPSEC}. Is the other side up? The reason is in the journal of the node: journalctl -u ipsec"),
    ("ipsec", "tunnel_up"): Entry(
        "info", "the roadwarrior {subject} has connected to {node}", "", "Somebody works over this gateway.", NOTHING,
        "Nothing. Who is there: salt '{id}' ipsec.status"),
    ("ipsec", "rekey_failing"): Entry(
        "warning", "the tunnel {subject} of {node} can not be renewed",
        "the tunnel {subject} of {node} is renewed again",
        "It works until its keys expire, then it is down.", "The daemon keeps trying.",
        "Compare the proposals of both sides; on the node: journalctl -u ipsec"),
    ("ipsec", "liveness_timeout"): Entry(
        "warning", "the other side of {subject} stopped answering {node}", "",
        "That tunnel was interrupted.",
        "The daemon has removed the tunnel; it sets it up again where the configuration lets it.",
        f"Once: the network of the other side. Again and again: a path that loses packets. {_IPSEC}"),
    ("ipsec", "one_way"): Entry(
        "warning", "traffic of the tunnel {subject} of {node} goes one way only",
        "traffic of the tunnel {subject} of {node} goes both ways again",
        "Users of that tunnel get no answers.", NOTHING,
        f"{_IPSEC}, then docs/troubleshooting.md, \"A tunnel\": usually a route is missing, or something on the path "
        "drops UDP 4500"),
    ("ipsec", "xfrm_errors"): Entry(
        "warning", "the kernel of {node} dropped IPsec packets ({subject})", "",
        "Some packets were lost; many at a time mean a tunnel that does not work.", NOTHING,
        "On the node, twice: cat /proc/net/xfrm_stat. The counter that grows shows a wrong policy or key"),
    ("ipsec", "replay_drops"): Entry(
        "warning", "the kernel of {node} dropped packets as replayed ({subject})", "",
        "Packets arrived far out of order, or after a takeover, or somebody sent them a second time.", NOTHING,
        f"After a takeover: nothing. Otherwise check the path, or set a larger replay window. {_IPSEC}"),
    ("ipsec", "certificate_expiring"): Entry(
        "warning, critical in the last week", "the certificate {subject} of {node} expires: {now}",
        "the certificate {subject} of {node} is valid long enough again",
        "When it has expired, no tunnel comes up any more.", NOTHING,
        "salt-run authority.renew, or a new one from your authority (docs/certificates.md); then state.apply"),
    ("ipsec", "crl_expiring"): Entry(
        "warning", "the revocation list {subject} of {node} is due: {now}",
        "the revocation list {subject} of {node} is up to date again",
        "The daemon uses the old list: a person revoked since then can still connect.", NOTHING,
        "salt-run authority.crl, or fetch the list of your authority; then state.apply"),
    ("ipsec", "wrong_listen"): Entry(
        "critical", "the IPsec daemon of {node} listens on the wrong addresses ({now})",
        "the IPsec daemon of {node} listens where it should again",
        "Nobody can connect, or the wrong node answers.",
        "The role agent restarts a daemon that listens on none of the right addresses after a takeover.",
        f"{_IPSEC}. On the node: ipsec whack --listen; if that does not help, systemctl restart ipsec"),
    ("ipsec", "connection_unserved"): Entry(
        "critical", "the IPsec daemon of {node} refuses everybody on some connections ({now})",
        "the IPsec daemon of {node} serves its connections again",
        "Nobody can connect with these connections.", NOTHING,
        "On the node: systemctl restart ipsec, or a switch-over first; docs/troubleshooting.md, \"A tunnel\""),
    ("ipsec", "address_of_node"): Entry(
        "critical", "a tunnel of {node} uses the node's own address instead of the virtual one ({subject})",
        "the tunnels of {node} use the virtual address again",
        "It would not move to the other node at a takeover.", NOTHING,
        "The client's configuration must name the virtual address; docs/troubleshooting.md, \"A tunnel\""),
    # drift
    ("drift", "file_changed"): Entry(
        "warning", "somebody changed {subject} on {node} by hand", "{subject} on {node} matches the master again",
        "Depends on the file; after a takeover the other node would behave differently.",
        "The master restores it.",
        "Why was it changed? Put the change into the site or the tree: salt '{id}' state.apply test=True"),
    ("drift", "sysctl_changed"): Entry(
        "warning", "somebody changed the kernel setting {subject} on {node} ({now})",
        "{subject} on {node} matches the master again",
        "Depends on the setting.", "The master restores it.",
        "If it is needed, put it into the site: salt '{id}' state.apply test=True"),
    ("drift", "firewall_changed"): Entry(
        "warning", "somebody changed the firewall of {node} by hand ({subject})",
        "the firewall of {node} matches the master again",
        "It may let in, or keep out, what it should not.", "The master restores it.",
        "If it is needed, put it into the site's firewall: salt '{id}' state.apply test=True"),
    ("drift", "service_changed"): Entry(
        "warning", "the service {subject} of {node} is {now}",
        "the service {subject} of {node} matches the master again",
        "Depends on the service.", "The master restores it, but never starts a heartbeat that somebody stopped.",
        "On the node: systemctl status and journalctl -u with the name of the service"),
    ("drift", "not_compared"): Entry(
        "info", "{node} was not compared with the master since it booted", "{node} was compared with the master",
        "Nobody notices. Changes made while it was down are missing on it.",
        "It does not become active before it is up to date, if the other node serves.",
        "If it lasts: salt '{id}' state.apply test=True"),
    # found by the master itself
    ("master", "rollout_failed"): Entry(
        "critical", "a change could not be rolled out to {site}: {now}", "the change is rolled out to {site}",
        "Users are served as before if this alert says that the active node was not touched. Otherwise check that "
        "node.",
        "The roll-out has stopped. The master tries again after the next change, or after salt-run resync.go {site}.",
        "salt-run gateway.validate {site}, then: salt '*.{site}' state.apply test=True"),
    ("master", "rollout_waits"): Entry(
        "warning", "a change waits to be rolled out to {site}: {now}", "the change no longer waits at {site}",
        "Users are served as before: nothing was rolled out yet.",
        "The master tries again, up to 5 minutes apart, until both nodes answer and one is active, the other standby.",
        "salt-run gateway.roles {site}, then what docs/takeover.md says of the roles that it prints"),
    ("master", "would_resync"): Entry(
        "info", "the master would roll out to {site}, if dry_run were not set: {now}", "",
        "Nothing: nothing was changed.", NOTHING, "salt-run resync.dry_run {site}"),
    ("master", "rollout_refused"): Entry(
        "critical", "a change of {site} has mistakes: {now}", "the site {site} has no mistakes any more",
        "Users are served as before: nothing was rolled out.", NOTHING,
        "For the mistakes: salt-run gateway.validate {site}"),
    ("master", "node_silent"): Entry(
        "critical", "{subject} does not answer the master", "{subject} answers the master again",
        "Perhaps nobody notices: the other node serves, or this one does and only its minion does not run. Nothing "
        "that happens on it is reported.", "The master asked it twice.",
        "Is the machine up? At its console: systemctl status salt-minion. Who is active: salt-run gateway.roles "
        "{site}"),
    ("master", "apart"): Entry(
        "critical", "the nodes of {site} both live and do not hear each other",
        "the nodes of {site} hear each other again",
        "Both may be active: users reach one or the other, or both in turn, and tunnels break and reconnect.",
        "The master asked both nodes, and both answered. When they hear each other again, the one with the older "
        "claim gives up its role within a second.",
        "Check all links between the two nodes. Who is active: salt-run gateway.roles {site}. If both are, and it "
        "lasts: on one node systemctl stop heartbeat"),
    ("master", "nodes_differ"): Entry(
        "critical", "the two nodes of {site} are not the same: {now}", "the two nodes of {site} are the same again",
        "Nobody notices until a takeover; then some or all users could not connect.", NOTHING,
        "salt '*.{site}' state.apply test=True, then state.orch orch.update"),
    ("master", "drift_fight"): Entry(
        "warning", "{subject} is changed again and again after each repair",
        "{subject} is not changed again and again any more",
        "Perhaps nobody notices.", "The master has stopped restoring it for an hour.",
        "Something else changes it: a person, a cron job, another tool. Stop that, or take it out of the site"),
    ("master", "reaction_failed"): Entry(
        "warning", "the reaction {subject} failed: {now}", "the reaction {subject} has not failed for ten minutes",
        "Depends on the reaction: it has not done its work, or only a part of it.",
        "It is not repeated. Further failures of it at this site are only counted until it has not failed for ten "
        "minutes.",
        "salt-run alerts.status counts them; the master's log names each one. For the mistake: docs/monitoring.md, "
        "\"Reactions\""),
    ("master", "reactions_left_out"): Entry(
        "warning", "events were not reacted to ({subject}): {now}",
        "all events have been reacted to for ten minutes ({subject})",
        "Depends on the reaction: it was not done for all that happened.",
        "Further events beyond the limit are only counted. The alerts themselves name all that happened.",
        "salt-run alerts.open shows what is wrong; salt-run alerts.status counts what was left out"),
    ("master", "alert_path"): Entry(
        "info", "alerts of this master reach you", "", "Nothing: this is the sign of life that you configured.",
        NOTHING,
        "When it does not come: salt-run alerts.status"),
}


def describe(line: Line, site: str) -> dict[str, str]:
    """
    Describe a condition in words.

    Args:
        line: the condition.
        site: the site's name; "" for all sites.

    Returns:
        ``happened``, ``means``, ``done``, ``todo``.
    """
    entry = CATALOGUE.get((line["beacon"], line["condition"])) or _unknown(line)
    over = not line["open"] and not line["once"]
    texts = {"happened": entry.over if over and entry.over else entry.happened, "means": entry.means,
             "done": entry.done, "todo": entry.todo}
    known = {"{node}": line["node"] or "the master", "{site}": site or "all sites", "{id}": line["id"]}
    said = known | {"{subject}": line["subject"], "{was}": line["was"], "{now}": line["is"]}
    return {name: filled(text, said if name == "happened" else known) for name, text in texts.items()}


def _unknown(line: Line) -> Entry:
    """The entry of a condition that is not in the catalogue: its beacon is newer than this file."""
    name = f"{line['beacon']}: {line['condition']}"
    return Entry(line["severity"], f"{{node}} reports {name} of {{subject}} ({{now}})",
                 f"{name} of {{subject}} on {{node}} is over", "Unknown to this master.", NOTHING,
                 "See docs/monitoring.md of the tree that the node has")


def filled(text: str, words: dict[str, str]) -> str:
    """A text with each {word} replaced, in one pass: a {word} inside a replacement stays as it is."""
    out, rest = [], text
    while rest:
        at, word = min(((rest.find(word), word) for word in words if word in rest), default=(-1, ""))
        if at < 0:
            out.append(rest)
            break
        out += [rest[:at], words[word]]
        rest = rest[at + len(word):]
    return "".join(out)
