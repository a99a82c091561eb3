"""What each event says to a person who was woken by it: what happened, what it means for users, what has been done by
itself, what to do next.

In the texts {node}, {site}, {subject}, {was}, {now} and {id} stand for what the event says; everything there is
printable text on one line (authentic.printable), and nothing of it is ever run.
"""
from __future__ import annotations

from typing import NamedTuple

from alerts.shapes import Line

NOTHING = "Nothing."


class Entry(NamedTuple):
    """One condition."""

    severity: str  # as the beacon sends it, for the reference
    happened: str
    over: str  # the same when it is over; "" for what happened once
    means: str
    done: str
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
        "The bond has gone over to its other slave.",
        f"Look at the cable, the switch port and the switch. Then: {_BONDING}"),
    ("bonding", "bond_down"): Entry(
        "critical", "{node} has no link left on {subject}", "{subject} of {node} has a link again",
        "This node is cut off from that network. If it was active, its tunnels are interrupted for a moment.",
        "If this node was active and the other one is ready, the other one has taken over.",
        f"Look at both cables and both switches. Who is active now: {_ROLES}"),
    ("bonding", "slave_missing"): Entry(
        "warning", "{node} has no network card {subject} that the site names", "{node} has {subject} again",
        "Nobody notices as long as the bond's other slave is up. There is no reserve left on this bond.",
        NOTHING, f"Has the card failed, or has its name changed? {_BONDING} and: salt '{{id}}' network.interfaces"),
    ("bonding", "not_on_primary"): Entry(
        "info", "{node} does not use the preferred card of {subject}",
        "{node} uses the preferred card of {subject} again",
        "Nobody notices. Both nodes may now depend on the same switch.",
        "The bond goes back by itself once the preferred card has had its link for a while.",
        f"If it stays so: {_BONDING}"),
    ("bonding", "active_slave_changed"): Entry(
        "info", "{subject} of {node} now uses another card ({was} before, {now} now)", "",
        "Nobody notices: at most a fraction of a second without traffic.", "The bond has changed over.",
        f"Nothing, unless nobody was working there. {_BONDING}"),
    ("bonding", "slave_flapped"): Entry(
        "warning", "{subject} of {node} lost its link and had it again at once", "",
        "At most a moment without traffic. Cables and transceivers that begin to fail do this first.",
        "The bond has gone over to its other slave and may have come back.",
        f"Change the cable or the transceiver before it fails. {_BONDING}"),
    ("bonding", "bond_missing"): Entry(
        "critical", "{node} has no bond {subject}", "{node} has the bond {subject} again",
        "This node is cut off from that network.", "If it was active and the other is ready, the other has taken over.",
        "Somebody removed it, or the network did not come up: salt '{id}' state.apply test=True, then state.apply"),
    ("bonding", "arp_silent"): Entry(
        "warning", "{subject} of {node} has a link and hears nobody", "{subject} of {node} hears its neighbours again",
        "Nobody notices as long as the other slave hears somebody.", "The bond has gone over to its other slave.",
        f"The switch behind it is cut off, or its port is in the wrong VLAN. {_BONDING}"),
    ("bonding", "lacp_partner_lost"): Entry(
        "warning", "the switch does not speak LACP with {subject} of {node} any more",
        "the switch speaks LACP with {subject} of {node} again",
        "Less bandwidth, or none over that slave.", "The bond uses the slaves that are left.",
        f"Look at the switch's port channel. {_BONDING}"),
    ("bonding", "lacp_churn"): Entry(
        "warning", "{subject} of {node} and the switch do not agree on LACP",
        "{subject} of {node} and the switch agree again",
        "That slave may carry nothing.", "The bond uses the slaves that are left.",
        f"Look at the switch's port channel: mode, members, rate. {_BONDING}"),
    # heartbeat
    ("heartbeat", "role_changed"): Entry(
        "critical, info when somebody asked for it", "{node} is {now}, it was {was}", "",
        "When the active node changes, tunnels stand still for about a second; with session takeover hardly anybody "
        "notices.", "The addresses are where the active node is.",
        f"{_ROLES} and why: salt '{{id}}' heartbeat.history 5"),
    ("heartbeat", "peer_dead"): Entry(
        "critical", "{node} hears nothing of the other node {subject}", "{node} hears the other node {subject} again",
        "Users are served by the node that is left. If that fails too, nobody is served.",
        "If the dead node was active, the other one has taken over.",
        f"Is the other machine up? Look at its console and power. {_ROLES}"),
    ("heartbeat", "link_dead"): Entry(
        "warning", "{node} does not hear the other node over {subject}",
        "{node} hears the other node over {subject} again",
        "Nobody notices. If the remaining link between the nodes fails too, both may become active.",
        "The nodes speak over the links that are left.",
        f"Look at the cable or the network of that link. {_HEARTBEAT}"),
    ("heartbeat", "ping_node_dead"): Entry(
        "warning", "the ping node {subject} does not answer {node}", "the ping node {subject} answers {node} again",
        "Nobody notices, if only the ping node itself is away. A node that reaches fewer of them than the other loses "
        "its role.", "If the other node reaches more ping nodes, it has taken over.",
        f"Is that machine up? Is there another one that could be asked? {_HEARTBEAT}"),
    ("heartbeat", "split"): Entry(
        "critical", "both nodes of {site} are active", "one node of {site} is active, one standby again",
        "Users reach either of them, or each in turn: tunnels break and come back.",
        "When they hear each other, the one with the older claim gives up within a second.",
        f"Look at all links between the nodes. {_ROLES}. If it stays: on one node systemctl stop heartbeat"),
    ("heartbeat", "none_active"): Entry(
        "critical", "no node of {site} is active", "a node of {site} is active again",
        "Nobody gets in: no tunnel works.", "A node that is ready takes over by itself; none is.",
        f"{_ROLES}, and why neither is ready: salt '*.{{site}}' heartbeat.status. If you know better: "
        "salt '{id}' heartbeat.takeover force=True"),
    ("heartbeat", "not_ready"): Entry(
        "warning", "{node} could not take over: {now}", "{node} could take over again",
        "Nobody notices. If the active node fails now, nobody is served.", NOTHING,
        f"salt '{{id}}' heartbeat.healthy standby says what is wrong. {_IPSEC}"),
    ("heartbeat", "agent_missing"): Entry(
        "critical", "the role agent of {node} does not run", "the role agent of {node} runs again",
        "If this node is the active one, users are served until something else fails.",
        "heartbeat starts the agent anew; after three failures the node gives its role away.",
        "On the node: journalctl -t gateway-agent. Then: salt '{id}' state.apply"),
    ("heartbeat", "heartbeat_stopped"): Entry(
        "critical", "heartbeat does not run on {node}", "heartbeat runs on {node} again",
        "Users are served by the other node. If that fails, nobody is.", "The other node has taken over.",
        "Was it stopped on purpose? On the node: journalctl -u heartbeat. Then: salt '{id}' service.start heartbeat"),
    ("heartbeat", "disagree"): Entry(
        "warning", "{node} is not what it says: {now}", "{node} is what it says again",
        "Perhaps nobody notices, perhaps an address is missing.",
        "The role agent puts back an address that is missing, and takes one away that a standby was given.",
        f"{_HEARTBEAT} and docs/troubleshooting.md, \"Nobody is active, or both are\""),
    ("heartbeat", "clock_offset"): Entry(
        "warning", "the clocks of the two nodes of {site} differ ({now})", "the clocks of {site} agree again",
        "Nobody notices yet. Certificates may be taken for expired, and logs can not be compared.",
        "chrony corrects it slowly, if it reaches a time server.", "salt '*.{site}' cmd.run 'chronyc tracking'"),
    ("heartbeat", "starved"): Entry(
        "warning", "{node} has no time to spare: it, or the other node, {now}", "{node} has time to spare again",
        "Each standstill interrupts them for as long as it lasts.",
        "A dead node is given a second at least, so that nobody takes over from one that only gets no processor.",
        "What else runs on these machines, or on their hypervisor? In top, %st is what the hypervisor keeps. Give the "
        "gateways processors of their own; with the profile fast, consider default (docs/takeover.md)"),
    # ipsec
    ("ipsec", "daemon_dead"): Entry(
        "critical", "the IPsec daemon of {node} does not run", "the IPsec daemon of {node} runs again",
        "If this node was active, all tunnels were interrupted.",
        "The other node has taken over if it was ready; the daemon is started anew.",
        f"{_IPSEC} and on the node: journalctl -u ipsec"),
    ("ipsec", "daemon_hung"): Entry(
        "critical", "the IPsec daemon of {node} does not answer", "the IPsec daemon of {node} answers again",
        "Tunnels that are up go on for a while; none comes up, none is renewed.",
        "The other node takes over if it is ready, or the daemon is restarted.",
        f"{_ROLES} and on the node: journalctl -u ipsec"),
    ("ipsec", "connection_missing"): Entry(
        "warning", "{node} has not loaded the connection {subject}", "{node} has loaded the connection {subject} again",
        "On the active node: this connection does not come up. On the standby: it would not after a takeover.",
        NOTHING, "salt '{id}' state.apply test=True shows why; certificates are the commonest: salt '{id}' "
        "certs.stored"),
    ("ipsec", "tunnel_down"): Entry(
        "critical for site-to-site, info for roadwarriors", "the tunnel {subject} of {node} is down",
        "the tunnel {subject} of {node} is up again",
        "The networks behind it do not reach each other.", "The daemon goes on trying.",
        f"{_IPSEC}. Is the other side up? On the node: journalctl -u ipsec names the reason"),
    ("ipsec", "tunnel_up"): Entry(
        "info", "the roadwarrior {subject} has come to {node}", "", "Somebody works over this gateway.", NOTHING,
        "Nothing. Who is there: salt '{id}' ipsec.status"),
    ("ipsec", "rekey_failing"): Entry(
        "warning", "the tunnel {subject} of {node} can not be renewed",
        "the tunnel {subject} of {node} is renewed again",
        "It works until its keys expire, then it is down.", "The daemon goes on trying.",
        "Compare the proposals of both sides; on the node: journalctl -u ipsec"),
    ("ipsec", "liveness_timeout"): Entry(
        "warning", "the other side of {subject} did not answer {node} any more", "",
        "That tunnel was interrupted.", "The daemon has cleared it and sets it up anew where it may.",
        f"Once is the other side's network; again and again is a path that loses packets. {_IPSEC}"),
    ("ipsec", "one_way"): Entry(
        "warning", "traffic of the tunnel {subject} of {node} goes one way only",
        "traffic of the tunnel {subject} of {node} goes both ways again",
        "Users of that tunnel get no answers.", NOTHING,
        f"{_IPSEC}, then docs/troubleshooting.md, \"A tunnel\": usually a route that is missing, or UDP 4500 that is "
        "dropped on the way"),
    ("ipsec", "xfrm_errors"): Entry(
        "warning", "the kernel of {node} dropped IPsec packets ({subject})", "",
        "Some packets were lost; many at a time mean a tunnel that does not work.", NOTHING,
        "On the node: cat /proc/net/xfrm_stat, twice. What grows is a wrong policy or key"),
    ("ipsec", "replay_drops"): Entry(
        "warning", "the kernel of {node} dropped packets as repeated ({subject})", "",
        "Packets that overtook each other by far, after a takeover, or that somebody sent a second time.", NOTHING,
        f"After a takeover nothing. Else look at the path, or take a larger replay window. {_IPSEC}"),
    ("ipsec", "certificate_expiring"): Entry(
        "warning, critical in the last week", "the certificate {subject} of {node} expires: {now}",
        "the certificate {subject} of {node} is good again",
        "When it has expired, no tunnel comes up any more.", NOTHING,
        "salt-run authority.renew, or a new one from your authority (docs/certificates.md); then state.apply"),
    ("ipsec", "crl_expiring"): Entry(
        "warning", "the revocation list {subject} of {node} is due: {now}",
        "the revocation list {subject} of {node} is fresh again",
        "The daemon goes on with the old one: somebody revoked since could still get in.", NOTHING,
        "salt-run authority.crl, or fetch the list of your authority; then state.apply"),
    ("ipsec", "wrong_listen"): Entry(
        "critical", "the IPsec daemon of {node} listens on the wrong addresses ({now})",
        "the IPsec daemon of {node} listens where it should again",
        "Nobody gets in, or the wrong node answers.",
        "The role agent restarts a daemon that listens on none of them after a takeover.",
        f"{_IPSEC}. On the node: ipsec whack --listen; if it stays so, systemctl restart ipsec"),
    ("ipsec", "connection_unserved"): Entry(
        "critical", "the IPsec daemon of {node} refuses whoever calls ({now})",
        "the IPsec daemon of {node} serves its connections again",
        "Nobody gets in through these connections.", NOTHING,
        "On the node: systemctl restart ipsec, or a switch-over first; docs/troubleshooting.md, \"A tunnel\""),
    ("ipsec", "address_of_node"): Entry(
        "critical", "a tunnel of {node} uses the node's own address instead of the virtual one ({subject})",
        "the tunnels of {node} use the virtual address again",
        "It would not follow a takeover.", NOTHING,
        "The client's configuration has to name the virtual address; docs/troubleshooting.md, \"A tunnel\""),
    # drift
    ("drift", "file_changed"): Entry(
        "warning", "somebody changed {subject} on {node} by hand", "{subject} on {node} is as it should be again",
        "Depends on the file; after a takeover the other node would behave differently.",
        "The master puts it right.",
        "What was it good for? Put it into the site or the tree: salt '{id}' state.apply test=True"),
    ("drift", "sysctl_changed"): Entry(
        "warning", "somebody changed the kernel setting {subject} on {node} ({now})",
        "{subject} on {node} is as it should be again",
        "Depends on the setting.", "The master puts it right.",
        "If it is needed, put it into the site: salt '{id}' state.apply test=True"),
    ("drift", "firewall_changed"): Entry(
        "warning", "somebody changed the firewall of {node} by hand ({subject})",
        "the firewall of {node} is as it should be again",
        "Something is let in, or kept out, that should not be.", "The master puts it right.",
        "If it is needed, put it into the site's firewall: salt '{id}' state.apply test=True"),
    ("drift", "service_changed"): Entry(
        "warning", "the service {subject} of {node} is {now}",
        "the service {subject} of {node} is as it should be again",
        "Depends on the service.", "The master puts it right.", "On the node: systemctl status, journalctl -u of it"),
    ("drift", "not_compared"): Entry(
        "info", "{node} was not compared with the master since it started", "{node} is as the master wants it",
        "Nobody notices. What was changed while it was away is missing on it.",
        "It does not become active before it was brought up to date, if the other node serves.",
        "If it stays so: salt '{id}' state.apply test=True"),
    # what the master itself finds
    ("master", "rollout_failed"): Entry(
        "critical", "a change could not be rolled out to {site}: {now}", "the change is rolled out to {site}",
        "Users are served as before: it stopped before it touched the active node.",
        "It stopped; nothing more is tried.",
        "salt-run gateway.validate {site}, then: salt '*.{site}' state.apply test=True"),
    ("master", "rollout_refused"): Entry(
        "critical", "a change of {site} has mistakes: {now}", "the site {site} has no mistakes any more",
        "Users are served as before: nothing was rolled out.", NOTHING, "salt-run gateway.validate {site} names them"),
    ("master", "node_silent"): Entry(
        "critical", "{subject} does not answer the master", "{subject} answers the master again",
        "Perhaps nobody notices: the other node serves, or this one does and only its minion is away. Nothing that "
        "happens on it is reported.", "It was asked twice.",
        "Is the machine up? At its console: systemctl status salt-minion. Who is active: salt-run gateway.roles "
        "{site}"),
    ("master", "apart"): Entry(
        "critical", "the nodes of {subject} both live and do not hear each other",
        "the nodes of {subject} hear each other again",
        "Both may be active: users reach either of them, or each in turn, and tunnels break and come back.",
        "Both were asked and answered. When they hear each other again the one with the older claim gives up within a "
        "second.",
        "Look at all links between the two nodes. Who is active: salt-run gateway.roles {subject}. If both are, and it "
        "lasts: on one node systemctl stop heartbeat"),
    ("master", "nodes_differ"): Entry(
        "critical", "the two nodes of {site} are not the same: {subject}", "the two nodes of {site} are the same again",
        "Nobody notices until a takeover; then some or all users would not get in.", NOTHING,
        "salt '*.{site}' state.apply test=True, then state.orch orch.update"),
    ("master", "drift_fight"): Entry(
        "warning", "{subject} is changed again and again, and put right each time", "{subject} is left alone again",
        "Perhaps nobody notices.", "The master has stopped putting it right.",
        "Something else manages it: a person, a cron job, another tool. Stop that, or take it out of the site"),
    ("master", "alert_path"): Entry(
        "info", "alerts of this master reach you", "", "None: this is the sign of life that you asked for.", NOTHING,
        "Miss it when it does not come: salt-run alerts.status"),
}


def describe(line: Line, site: str) -> dict[str, str]:
    """
    A condition in words.

    Args:
        line: of an alert (incidents.py).
        site: the alert's.

    Returns:
        ``happened``, ``means``, ``done``, ``todo``.
    """
    entry = CATALOGUE.get((line["beacon"], line["condition"])) or _unknown(line)
    over = not line["open"] and not line["once"]
    texts = {"happened": entry.over if over and entry.over else entry.happened, "means": entry.means,
             "done": entry.done, "todo": entry.todo}
    words = {"{node}": line["node"] or "the master", "{site}": site or "all sites", "{subject}": line["subject"],
             "{was}": line["was"], "{now}": line["is"], "{id}": line["id"]}
    return {name: filled(text, words) for name, text in texts.items()}


def _unknown(line: Line) -> Entry:
    """A beacon that is newer than this file."""
    name = f"{line['beacon']}: {line['condition']}"
    return Entry(line["severity"], f"{{node}} reports {name} of {{subject}} ({{now}})",
                 f"{name} of {{subject}} on {{node}} is over", "Not known here.", NOTHING,
                 "docs/monitoring.md of the tree that the node has")


def filled(text: str, words: dict[str, str]) -> str:
    """One pass: what an event says is not looked at for further {words}."""
    out, rest = [], text
    while rest:
        at, word = min(((rest.find(word), word) for word in words if word in rest), default=(-1, ""))
        if at < 0:
            out.append(rest)
            break
        out += [rest[:at], words[word]]
        rest = rest[at + len(word):]
    return "".join(out)
