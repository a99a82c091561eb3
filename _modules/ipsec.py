"""
The IPsec daemon of a gateway: its configuration, its connections and the traffic through them.

:depends: Libreswan 4.x or 5.x

The public functions speak of connections, tunnels, peers, up and down, so that another daemon can be put behind them.
Only this file and ``salt/openswan/files/`` know Libreswan's commands, file formats and version differences.

The site's pillar names the *connections*. A connection has one *tunnel* for each pair of a local network and a remote
network. A tunnel is a ``conn`` section of its own. It has the connection's name, with a number when the connection has
several tunnels (``bern``, or ``bern/1`` and ``bern/2``). So one section never mixes IPv4 and IPv6, and a network added
to a connection does not disturb its other tunnels.

Formats: ipsec.conf(5), ipsec_whack(8), ``programs/pluto/{connections,ikev1_ikev2_states,show}.c`` of Libreswan.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import re
import socket
import struct
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypedDict

import salt.utils.path
from salt.exceptions import CommandExecutionError

CONFIGURATION = "/etc/ipsec.conf"
# How often the daemon looks for new revocation lists, in seconds. NSS keeps in memory what it knows of a list, even
# that there is none. Neither --rereadall nor --fetchcrls makes it look again (5.2): only the daemon's timer does.
LISTS_EVERY = 15
# How long a place of a peer with several has to answer, at least, in seconds: its first packet may be lost.
_LEAST_PATIENCE_SECONDS = 10
# What gateway-peers does (peers/); `glance` reads it.
TRIED = "/etc/ipsec.d/gateway-peers.json"
# The connections that the running daemon has. Its service writes the file at each start, reload() keeps it up to date.
LOADED = "/run/pluto/gateway-loaded.conf"
SETUP = "config setup"
# How long the daemon may take, in seconds: for `--briefstatus`; for what makes it read a thousand connections again;
# and to restart, when it hangs and systemd has to kill it.
_BRIEF_SECONDS = 10
_LIMIT_SECONDS = 60
_RESTART_SECONDS = 180

# What Debian ships, for a host without a daemon (test=True before the first run).
_DEBIAN = {11: "4.3", 12: "4.10", 13: "5.2"}

_ANY = "any"        # peer:address in the settings, where no address is known

# Both ends of a pair of gateways propose the same group first, so no round trip is lost on INVALID_KE_PAYLOAD.
# Without this list 4.10 begins with MODP2048 and 5.2 with DH19.
_GROUPS = "dh19+dh20+dh14"
_PROPOSALS = {
    "ikev2": {"ike": [f"{cipher}-sha2_512+sha2_256-{_GROUPS}" for cipher in ("aes_gcm256", "aes_gcm128", "aes256")],
              "esp": ["aes_gcm256", "aes_gcm128"]},
    # Phase 1 of RFC 2409 has no AEAD and no SHA-2 signatures; the other algorithms are as strong as IKEv1 allows.
    "ikev1": {"ike": ["aes256-sha2_512-dh14", "aes256-sha2_256-dh14"],
              "esp": ["aes_gcm256", "aes256-sha2_256"]},
}


def __virtual__() -> str | tuple[bool, str]:
    if __grains__.get("kernel") != "Linux":
        return False, "ipsec: only on Linux"
    return "ipsec"


# the daemon


def version() -> str:
    """
    The version of the installed daemon, such as "5.2"; without one, the version that this Debian release ships.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.version
    """
    if salt.utils.path.which("ipsec"):
        # "Libreswan 5.2", in 4.x also "Linux Libreswan 4.10 (netkey) on ..."
        match = re.search(r"[Ll]ibreswan[ -]v?(\d+(?:\.\d+)+)", _output(["ipsec", "--version"]))
        if match:
            return match[1]
    release = __grains__.get("osmajorrelease")
    if release in _DEBIAN:
        return _DEBIAN[release]
    raise CommandExecutionError(f"ipsec: no daemon is installed, and this module does not know which version "
                                f"{__grains__.get('osfinger', 'this system')} ships; install libreswan first")


def _major() -> int:
    return int(version().split(".")[0])


def _output(argv: list[str], fail: bool = True) -> str:
    """
    The output of one of the daemon's commands. Only connections and addresses are asked for, never a secret.

    A daemon that hangs is an error, `fail` or not.
    """
    program = salt.utils.path.which(argv[0])
    if not program:
        raise CommandExecutionError(f"ipsec: {argv[0]} is not installed (Debian package libreswan)")
    done = __salt__["commands.run"]([program, *argv[1:]], timeout=_LIMIT_SECONDS)
    if fail and done["retcode"]:
        message = (done["stderr"] or done["stdout"]).strip().splitlines() or ["no reason given"]
        raise CommandExecutionError(f"ipsec: {' '.join(argv)} failed ({done['retcode']}): {message[-1]}")
    return done["stdout"]


def _whack(*arguments: str, fail: bool = True) -> list[str]:
    """
    The lines of whack's answer, without the message numbers of 4.x.

    whack exits with the message's number when its last message is an error. `fail=False` ignores that.
    """
    lines = _output(["ipsec", "whack", *arguments], fail=fail).splitlines()
    return _without_numbers(lines)


def running() -> bool:
    """
    Whether the daemon answers.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.running
    """
    if not salt.utils.path.which("ipsec"):
        return False
    try:
        return _answers()
    except CommandExecutionError:
        return False


def _answers() -> bool:
    """Whether the daemon answers, and not with an error. Raises CommandExecutionError when it hangs."""
    program = salt.utils.path.which("ipsec")
    return bool(program) and __salt__["commands.run"](
        [program, "whack", "--briefstatus"], timeout=_BRIEF_SECONDS)["retcode"] == 0


# the configuration, made from a node's settings


def sections(settings: dict[str, Any]) -> dict[str, dict[str, str]]:
    """
    The configuration of one node for its version of the daemon, as the template writes it, by section.

    settings
        What ``gateway.settings`` returns.

    Returns a mapping of sections ("config setup", then the names of the tunnels) to their options. In the file, every
    section except "config setup" begins with ``conn``.

    CLI Example:

    .. code-block:: bash

        salt-call slsutil.renderer string="{{ salt['ipsec.sections'](salt['gateway.settings']()) | yaml(false) }}"
    """
    major = _major()
    connections = settings["connections"]
    found = {SETUP: _setup(settings)}
    for connection in connections:
        found.update(_tunnels(connection, major, settings["site"], connections))
    return found


def _setup(settings: dict[str, Any]) -> dict[str, str]:
    connections = settings["connections"]
    options = {
        "uniqueids": "yes",
        "ikev1-policy": "accept" if any(each["ike"] == "ikev1" for each in connections) else "drop",
    }
    # `listen=` takes one address, in 4.x and in 5.x. With several addresses the daemon opens a socket on every address
    # of the node; on the node's own addresses it refuses every peer, as no connection uses them. See docs/openswan.md.
    addresses = {each["local"]["address"] for each in connections}
    if not connections:
        addresses = {each["address"] for each in settings["virtual"] if each["side"] == "external"}
    if len(addresses) == 1:
        options["listen"] = addresses.pop()
    if any(each["auth"] == "certificate" for each in connections):
        options["crlcheckinterval"] = f"{LISTS_EVERY}s"
    return options


def _tunnels(connection: dict[str, Any], major: int, site: str,
             connections: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The sections of one connection. `connections`: all of the site."""
    own = _as_text(connection["options"])
    common = _options(connection, major, site)
    found = {}
    branches = any(_from_anywhere(each) and each["kind"] == "site-to-site" and each["auth"] == "certificate"
                   for each in connections)
    strangers = branches or any(each["persons"] for each in connections)
    concerned = connection["auth"] == "certificate" or connection["kind"] == "site-to-site"
    if strangers and concerned and _from_anywhere(connection) and connection["ike"] == "ikev2" \
            and _has_ec_key(connections):
        # Trap: 5.2 knows the issuers of RSA keys only (get_ca() in peer_id.c). A client's first message is matched to
        # some connection; with another kind of key 5.2 would not switch to the one that the certificate fits...
        if connection["auth"] == "certificate" and (branches or connection["persons"]):
            common["rightca"] = "%any"
        # ...and a site that calls would be switched from its own connection, where the issuer counts, to this one. The
        # daemon does not switch to a connection that is another kind of server. With IKEv2 and certificates the option
        # has no other effect. (%any for the site as well would not work: the daemon then asks for no certificate, and
        # strongSwan sends none unasked.)
        common["leftxauthserver"] = "yes"
    if not _listed_only(connection):
        found.update(_numbered(connection["name"], {**common, **own}, _pairs(connection)))
    for person, addresses in connection["persons"].items():
        pairs = _pairs({**connection, "pool": [f"{address}-{address}" for address in addresses]})
        for ending, identity in _identities(person, connection["local"]["id"], site).items():
            name = f"{connection['name']}-{re.sub('[^A-Za-z0-9._-]+', '_', person)}{ending}"
            options = {**common, "rightid": identity, "connalias": _alias(connection)}
            found.update(_numbered(name, {**options, **own}, pairs))
    return found


def _from_anywhere(connection: dict[str, Any]) -> bool:
    """Whether the daemon knows no address of the other end: a roadwarrior, or a peer that may come from anywhere."""
    return connection["kind"] == "roadwarrior" or connection["peer"]["address"] == _ANY


def _has_ec_key(connections: list[dict[str, Any]]) -> bool:
    """Whether the gateway signs with ECDSA."""
    certificate = next((each["local"]["certificate"] for each in connections if each["auth"] == "certificate"), "")
    return bool(certificate) and _signature(certificate, "ikev2") == "ecdsa"


def _numbered(name: str, common: dict[str, str], pairs: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """One tunnel for each pair of networks; when there are several, their names end in /1, /2 and so on."""
    if not pairs:
        raise CommandExecutionError(f"ipsec: connection {name} has no networks of one IP version at both ends")
    return {name if len(pairs) == 1 else f"{name}/{number}": {**common, **pair} for number, pair in enumerate(pairs, 1)}


def _listed_only(connection: dict[str, Any]) -> bool:
    """Whether the connection admits only the persons that it lists."""
    return bool(connection["persons"]) and not connection["pool"]


def _alias(connection: dict[str, Any]) -> str:
    """The common name of the tunnels of all persons of a connection (ipsec.conf(5), connalias)."""
    return f"{connection['name']}-persons"


def _identities(person: str, gateway: str, site: str) -> dict[str, str]:
    """
    The identities that a person's client may use, by the ending of the tunnel's name: a name from its certificate
    (RFC 7296, 3.5), or the certificate's subject, which Windows and Libreswan use.

    A single word is a person of the master's own authority: see ``authority.issue_roadwarrior`` for the names.
    """
    if "=" in person:
        return {"": f'"{person}"'}
    if "@" in person:
        return {"": person, "-dn": f'"CN={person}"'}
    if "." in person:
        return {"": f"@{person}", "-dn": f'"CN={person}"'}
    return {"": f"@{person}.{gateway}", "-dn": f'"OU={site}, CN={person}"'}


def _pairs(connection: dict[str, Any]) -> list[dict[str, str]]:
    """Each local network with each remote network of the same IP version."""
    here = [ipaddress.ip_network(network) for network in connection["local"]["subnets"]]
    if connection["kind"] == "site-to-site":
        there = [ipaddress.ip_network(network) for network in connection["peer"]["subnets"]]
        return [{"leftsubnet": str(left), "rightsubnet": str(right)}
                for left in here for right in there if left.version == right.version]
    if connection["pool"]:
        pools = _pools(connection)
        return [{"leftsubnet": str(left), "rightaddresspool": pools[left.version]}
                for left in here if left.version in pools]
    # The remote end is the client's own address.
    outer = ipaddress.ip_address(connection["local"]["address"]).version
    return [{"leftsubnet": str(left)} for left in here if left.version == outer]


def _pools(connection: dict[str, Any]) -> dict[int, str]:
    """The pools by IP version. ipsec.conf(5): a range for IPv4, a prefix for IPv6, at most one of each."""
    found: dict[int, str] = {}
    for pool in connection["pool"]:
        if "-" in pool:
            first, last = (ipaddress.ip_address(end.strip()) for end in pool.split("-"))
        else:
            network = ipaddress.ip_network(pool)
            first, last = network[0], network[-1]
        if first.version in found:
            raise CommandExecutionError(f"ipsec: connection {connection['name']} has two IPv{first.version} pools "
                                        f"({', '.join(connection['pool'])}); the daemon takes one")
        prefixes = list(ipaddress.summarize_address_range(first, last))
        if first.version == 6 and len(prefixes) > 1:
            raise CommandExecutionError(f"ipsec: connection {connection['name']}: the pool {pool} is no IPv6 prefix; "
                                        "the daemon takes only those")
        found[first.version] = f"{first}-{last}" if first.version == 4 else str(prefixes[0])
    return found


def _options(connection: dict[str, Any], major: int, site: str) -> dict[str, str]:
    ike, local, initiates = connection["ike"], connection["local"], connection["initiate"]
    certificate = connection["auth"] == "certificate"
    options = {"keyexchange": ike} if major >= 5 else {"ikev2": "yes" if ike == "ikev2" else "no"}
    options["left"] = local["address"]
    options["leftid"] = _identity(local)
    if certificate:
        options |= {"leftcert": local["certificate"], "leftsendcert": "always"}
        options["authby"] = _signature(local["certificate"], ike)
    else:
        options["authby"] = "secret"
    # The default script sets routes that the gateway has anyway, and takes most of the time that a new tunnel needs.
    options["leftupdown"] = "%disabled"
    if connection["kind"] == "roadwarrior":
        options["right"] = "%any"
        if certificate:
            # In quotes, as it has blanks. The daemon compares the certificate's subject, whatever the client's name.
            subject = _admitted(connection, site, _own_subject(connection) if not connection["subject"] else "")
            options |= {"rightid": f'"{subject}"' if subject else "%fromcert", "rightca": "%same"}
        if connection["pool"] or connection["persons"]:
            options["narrowing"] = "yes"
        if connection.get("dns"):
            options["modecfgdns"] = ",".join(connection["dns"])
        options["rekey"] = "no"  # the client renews the keys; it may be behind NAT, and only it can call
    else:
        peer = connection["peer"]
        options |= {"right": "%any" if peer["address"] == _ANY else peer["address"], "rightid": _identity(peer)}
        if certificate:
            options["rightca"] = "%same"
        if peer["address"] == _ANY:
            options["rekey"] = "no"  # as with a roadwarrior: only the peer can call
            initiates = False
    if ike == "ikev2":
        options["mobike"] = "no"  # would announce the node's own address to the peer
    options |= _liveness(connection, major, initiates)
    options["ike"] = ",".join(connection["proposals"]["ike"] or _PROPOSALS[ike]["ike"])
    options["esp"] = ",".join(esp_proposals(connection))
    options["ikelifetime"] = f"{connection['lifetime']['ike']}s"
    options["ipsec-lifetime"] = f"{connection['lifetime']['esp']}s"
    # `start`: this end calls, but only on the node that holds the address; the other node cannot.
    options["auto"] = "start" if initiates else "add"
    return options


def esp_proposals(connection: dict[str, Any]) -> list[str]:
    """
    The algorithms that a connection allows for its traffic, best first, as ipsec.conf(5) writes them (esp=).

    connection
        One of the connections that ``gateway.settings`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call ipsec.esp_proposals '{ike: ikev2, proposals: {esp: []}}'
    """
    return connection["proposals"]["esp"] or _PROPOSALS[connection["ike"]]["esp"]


def _identity(end: dict[str, Any]) -> str:
    """
    The identity of an end (`id`, `id_kind`) as ipsec.conf and ipsec.secrets have it.

    atoid() in lib/libswan/id.c (ipsec.conf(5), leftid): "@" before a name, or it would be looked up; "@[" before the
    text of a key id and "@#" before its bytes; in quotes what has blanks.
    """
    text = end["id"]
    if end["id_kind"] == "key":
        text = text.removeprefix("keyid:")
        return f"@#{text[2:]}" if text.startswith("0x") else f"@[{text}]"
    return {"name": f"@{text}", "subject": f'"{text}"'}.get(end["id_kind"], text)


def shared_secrets(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """
    The entries of ipsec.secrets(5): ``local`` and ``peer``, between whom a secret holds; ``pillar``, its path; and
    ``number``: which one, where there is a list, one for each address of a peer that is known by its address.

    settings
        What ``gateway.settings`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call slsutil.renderer string="{{ salt['ipsec.shared_secrets'](salt['gateway.settings']()) | yaml(false) }}"
    """
    return [{"local": _identity(each["local"]), "peer": peer, "pillar": f"gateway_secrets:psk:{each['name']}",
             "number": number}
            for each in settings["connections"] if each["auth"] == "psk"
            for number, peer in enumerate(_peer_identities(each) if each["kind"] == "site-to-site" else ["%any"])]


def _peer_identities(connection: dict[str, Any]) -> list[str]:
    """Who the peer may say it is: where it is known by its addresses, any of them."""
    peer = connection["peer"]
    return peer["tried"] if peer["follows"] and peer["tried"] else [_identity(peer)]


def tried(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """
    The connections whose peer has several addresses or a name, for gateway-peers (``peers/``), which calls them.

    settings
        What ``gateway.settings`` returns.

    Returns for each ``name``; ``local``, the address of this end; ``patience``, the seconds that a place has to
    answer; ``places``, in order: ``host`` (an address, or a name to look up) and ``id`` (the peer's identity there);
    and ``tunnels``: the options of each by name, without ``right`` and ``rightid``.

    CLI Example:

    .. code-block:: bash

        salt-call slsutil.renderer string="{{ salt['ipsec.tried'](salt['gateway.settings']()) | yaml(false) }}"
    """
    found = []
    for each in settings["connections"]:
        places = each["peer"]["tried"] if each["kind"] == "site-to-site" else []
        if not places:
            continue
        # As to a peer at one address: while it is called, this is an ordinary connection.
        sections = _tunnels({**each, "peer": {**each["peer"], "address": ""}}, _major(), settings["site"], [each])
        found.append({
            "name": each["name"], "local": each["local"]["address"],
            "patience": max(each["dpd"]["timeout"], _LEAST_PATIENCE_SECONDS),
            "places": [{"host": place, "id": place if each["peer"]["follows"] else _identity(each["peer"])}
                       for place in places],
            "tunnels": {name: {key: value for key, value in options.items() if key not in ("right", "rightid")}
                        for name, options in sections.items()}})
    return found


def _own_subject(connection: dict[str, Any]) -> str:
    """The subject of the gateway's own certificate (RFC 4514)."""
    return __salt__["certs.inspect"](f"gateway_secrets:certificates:{connection['local']['certificate']}").get(
        "subject", "")


# What subject_of() in issuing/certificate.py writes, as RFC 4514 has it: from the end.
_ISSUED = re.compile(r"CN=(?P<name>[^,+\\]+),OU=(?P<site>[^,+\\]+)(,O=(?P<organization>([^,+\\]|\\.)+))?")


def _admitted(connection: dict[str, Any], site: str, own: str) -> str:
    """
    Which certificates' subjects a roadwarrior connection lets in, as ipsec.conf has it; "" for all of the authority's.

    Where the site does not say: a gateway of another site has a certificate of the same authority, and must be no
    roadwarrior here. If the gateway's own certificate (`own`, its subject) has the form in which the master's authority
    issues them, that authority's people of this site differ from it in their CN alone.

    Trap: beside `persons` a pattern would keep out whoever gives another name than the subject (docs/openswan.md,
    Limits), so there it has to be the site's own word. IKEv1 knows no pattern.
    """
    if connection["subject"]:
        return "" if connection["subject"] == "any" else connection["subject"]
    found = _ISSUED.fullmatch(own)
    if connection["ike"] != "ikev2" or connection["persons"] or not found:
        return ""
    if (found["site"], found["name"]) != (site, connection["local"]["id"]):
        return ""
    organization = found["organization"] or ""
    # What ipsec.conf could not hold, or the pattern would read otherwise, is any value.
    held = organization if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._@:/-]*", organization) else "*"
    return f"{f'O={held}, ' if organization else ''}OU={site}, CN=*"


def left_open(settings: dict[str, Any], own: str) -> list[str]:
    """
    The connections that let in whoever has a certificate of the gateway's authority, though the site does not say so.

    settings
        What ``gateway.settings`` returns.
    own
        The subject of the gateway's certificate, as RFC 4514 writes it.

    Returns a line for each: what is open, and what to write instead.

    CLI Example:

    .. code-block:: bash

        salt-call slsutil.renderer string="{{ salt['ipsec.left_open'](salt['gateway.settings'](), 'CN=gateway') }}"
    """
    site = settings["site"]
    return [f"{site}: gateway:connections:{each['name']}: lets in everybody whom the authority of the gateway's "
            f"certificate has certified, also the gateways of other sites; give it a `subject`, such as "
            f"OU={site}, CN=*, or `subject: any` if that is right (docs/certificates.md, Who gets in)"
            for each in settings["connections"]
            if each["kind"] == "roadwarrior" and each["auth"] == "certificate" and not each["subject"]
            and not _listed_only(each) and not _admitted(each, site, own)]


def open_connections(settings: dict[str, Any]) -> list[str]:
    """
    :py:func:`left_open` with this node's own certificate.

    CLI Example:

    .. code-block:: bash

        salt-call slsutil.renderer string="{{ salt['ipsec.open_connections'](salt['gateway.settings']()) }}"
    """
    asked = [each for each in settings["connections"] if each["auth"] == "certificate" and not each["subject"]]
    return left_open(settings, _own_subject(asked[0])) if asked else []


def _signature(certificate: str, ike: str) -> str:
    """
    How both ends sign. If RSA and ECDSA are both allowed, 5.2 and 4.10 always sign with RSA, and fail with an EC key.

    With IKEv2 SHA-1 is not allowed; IKEv1 has only RSA with SHA-1 (RFC 2409).
    """
    kind = __salt__["certs.inspect"](f"gateway_secrets:certificates:{certificate}")["key"].split()[0]
    if ike == "ikev2":
        return "ecdsa" if kind == "ec" else "rsa-sha2"
    if kind != "rsa":
        raise CommandExecutionError(f"ipsec: certificate {certificate} has an EC key, and IKEv1 signs with RSA only; "
                                    "give an RSA certificate, or ike: ikev2")
    return "rsasig"


def _liveness(connection: dict[str, Any], major: int, initiates: bool) -> dict[str, str]:
    """How a dead peer is noticed. IKEv1: DPD (RFC 3706). IKEv2: a request, retransmitted until retransmit-timeout."""
    dpd = connection["dpd"]
    options = {"dpddelay": f"{dpd['delay']}s"}
    if connection["ike"] == "ikev1":
        options["dpdtimeout"] = f"{dpd['timeout']}s"
    else:
        options["retransmit-timeout"] = f"{dpd['timeout']}s"
    if major < 5:
        # 5.x has no dpdaction: what this end started is started again, everything else is cleared
        options["dpdaction"] = "restart" if initiates else "clear"
    return options


def _as_text(options: dict[str, Any]) -> dict[str, str]:
    return {name: {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
            for name, value in options.items()}


def problems(sections: dict[str, dict[str, str]]) -> list[str]:
    """
    The errors that the daemon's parser of algorithms finds in a configuration, one line each; empty without errors.

    sections
        What :py:func:`sections` returned.

    ``addconn --checkconfig`` does not check algorithms: with an error the connection would be missing after the next
    start. On a host without the daemon nothing can be checked; the list is then empty.

    CLI Example:

    .. code-block:: bash

        salt-call ipsec.problems '{bern: {ike: aes_foo256-sha2_256}}'
    """
    found: dict[tuple[str, str, str], str] = {}
    if not salt.utils.path.which("ipsec"):
        return []
    for section, options in sections.items():
        old = options.get("keyexchange") == "ikev1" or options.get("ikev2") == "no"
        for key in {"ike", "esp"} & options.keys():
            asked = ("-v1" if old else "-v2", key, options[key])
            if asked not in found:
                said = _output(["ipsec", "algparse", asked[0], f"{key}={options[key]}"], fail=False)
                error = re.search(r"ERROR: (.*)", said)
                found[asked] = f"ipsec: connection {section}: {key}={options[key]}: {error[1]}" if error else ""
    return sorted(filter(None, found.values()))


def tunnels(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """
    The tunnels of a node's connections, which the resource script brings up and takes down by name. The tunnels of all
    persons of a connection share one name, NAME-persons.

    settings
        What ``gateway.settings`` returns.

    Returns a list of ``name``, ``connection`` and ``initiate`` (whether this end calls).

    CLI Example:

    .. code-block:: bash

        salt-call slsutil.renderer string="{{ salt['ipsec.tunnels'](salt['gateway.settings']()) | yaml(false) }}"
    """
    found = []
    for connection in settings["connections"]:
        pairs = [] if _listed_only(connection) else _pairs(connection)
        names = list(_numbered(connection["name"], {}, pairs)) if pairs else []
        names += [_alias(connection)] if connection["persons"] else []
        # The daemon itself can not call a peer of which the file has no address: gateway-peers does.
        initiate = connection["initiate"] and not _from_anywhere(connection)
        found += [{"name": name, "connection": connection["name"], "initiate": initiate} for name in names]
    return found


def certificates(settings: dict[str, Any]) -> list[str]:
    """
    The nicknames of the certificates that the connections need, sorted.

    settings
        What ``gateway.settings`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call slsutil.renderer string="{{ salt['ipsec.certificates'](salt['gateway.settings']()) }}"
    """
    return sorted({each["local"]["certificate"] for each in settings["connections"] if each["auth"] == "certificate"})


# the configuration on disk and the one that the daemon has loaded


def parse(text: str) -> dict[str, dict[str, str]]:
    """
    Read ipsec.conf(5): a mapping of sections to options. Skips comments and blank lines, does not follow `include`.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.parse "$(cat /etc/ipsec.conf)"
    """
    found: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in text.splitlines():
        # Trap: a "#" in a word starts no comment: the bytes of a key id are @#00ff10.
        content = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].rstrip()
        if not content:
            continue
        if not content[0].isspace():
            words = content.split()
            if words[0] in ("conn", "config"):
                section = found.setdefault(words[-1] if words[0] == "conn" else SETUP, {})
        elif "=" in content:
            name, value = content.split("=", 1)
            section[name.strip()] = value.strip().strip('"')
    return found


def pending(reissued: Collection[str] = ()) -> dict[str, Any]:
    """
    The differences between the running daemon and what the file and the certificates say.

    reissued
        Nicknames of certificates that another authority's certificates will replace in this run (`test=True`).

    Returns ``restart`` (the names of the daemon's own options that differ), ``add``, ``replace`` and ``remove``
    (tunnels, sorted), and ``authority``: those tunnels of ``replace`` that ask peers for a certificate of the wrong
    authority. The daemon resolves `rightca=%same` when it loads a connection. It does not do so again when the gateway
    gets a certificate from another authority.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.pending
    """
    wanted = parse(Path(CONFIGURATION).read_text(encoding="utf-8"))
    # Without a record the daemon started before this state existed: nothing is known of what it has loaded.
    recorded = parse(Path(LOADED).read_text(encoding="utf-8")) if Path(LOADED).exists() else {}
    lines = _whack("--status", fail=False)
    loaded = set(_connections(lines))
    setup, running_setup = wanted.pop(SETUP, {}), recorded.pop(SETUP, {})
    authority = _elsewhere(wanted, lines)
    authority += [name for name in wanted.keys() & loaded if _follows(wanted[name]) in reissued]
    changed = [name for name in wanted.keys() & loaded if wanted[name] != recorded.get(name)]
    return {
        "restart": sorted(key for key in setup | running_setup if setup.get(key) != running_setup.get(key)),
        "add": sorted(wanted.keys() - loaded),
        "replace": sorted({*changed, *authority}),
        "remove": sorted(loaded - wanted.keys()),
        "authority": sorted(set(authority)),
    }


def _follows(options: dict[str, str]) -> str:
    """The nickname of the certificate whose issuer must also have issued the peers' certificates; "" without one."""
    return options.get("leftcert", "") if options.get("rightca") == "%same" else ""


def _elsewhere(wanted: dict[str, dict[str, str]], lines: list[str]) -> list[str]:
    """
    Loaded tunnels that ask the peer for a certificate of another authority than the one that issued their own.

    Both names come from the daemon, so they are written in the same way. From `whack --status`::

        "bern":   CAs: 'CN=Our CA'...'CN=Our CA'
    """
    if not any(map(_follows, wanted.values())):
        return []
    issuers, found = _issuers(_whack("--listcerts", fail=False)), []
    for line in lines:
        match = re.match(rf"{_QUOTED}: +CAs: '.*'\.\.\.'(?P<asked>.*)'$", line)
        if match and not match["instance"] and match["name"] in wanted:
            issuer = issuers.get(_follows(wanted[match["name"]]))
            if issuer and issuer != match["asked"]:
                found.append(match["name"])
    return found


def _issuers(lines: list[str]) -> dict[str, str]:
    """
    By nickname, the issuer of the certificate that the daemon signs with. From `whack --listcerts`, for each::

        End certificate "gateway" - SN: 0x79ade508d9b375776a45c01243898e36cd3d6fef
          subject: CN=gateway.winterthur.example
          issuer: CN=Our CA
          not before: Tue Nov 24 04:04:28 2026
          not after: Thu Dec 24 05:04:28 2026
          256 bit(other): has private key

    If several have one nickname, the newest that has its key counts: see :py:mod:`certs <modules.certs>`.
    """
    found: dict[str, tuple[datetime.datetime, str]] = {}
    nickname = issuer = ""
    begins = datetime.datetime.min
    for line in lines:
        if match := re.match(r'End certificate "(.*)" - SN: ', line):
            nickname = match[1]
        elif match := re.match(r"  issuer: (.*)", line):
            issuer = match[1]
        elif match := re.match(r"  not before: (.*)", line):
            begins = datetime.datetime.strptime(match[1], "%a %b %d %H:%M:%S %Y")
        elif line.endswith(": has private key"):
            found[nickname] = max(found.get(nickname, (begins, issuer)), (begins, issuer))
    return {nickname: issuer for nickname, (_begins, issuer) in found.items()}


def reload() -> dict[str, Any]:
    """
    Make the daemon load the file's connections. Only changed connections are loaded; the others keep their tunnels.

    Changes that need a restart are not made here: see :py:func:`restart`. Returns ``add``, ``replace`` and ``remove``
    (the tunnels that were changed, sorted) and ``refused``: tunnels that the daemon did not load; its journal says why.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.reload
    """
    before = pending()
    # Whoever may not come as before, or not at all, must not go on with a tunnel that the daemon does not know.
    changed = {*before["replace"], *before["remove"]}
    over = [each["inner"] for each in adopted() if each["tunnel"] in changed or not each["tunnel"]] if changed else []
    if over:
        __salt__["sessions.end"](over)
    for name in before["remove"]:
        _whack("--delete", "--name", name, fail=False)
    refused = _load_all(sorted(before["add"] + before["replace"]))
    _record(without=refused)
    done = {key: [name for name in before[key] if name not in refused] for key in ("add", "replace", "remove")}
    return {**done, "refused": refused}


def _load_all(asked: list[str]) -> list[str]:
    """Load these tunnels from the file. Returns those that the daemon refuses."""
    # Twice: the daemon finds a certificate that is older than the previous one only after the last connection that
    # holds the previous one in its memory is loaded again. It refuses the connections before that (measured, 4.10 and
    # 5.2).
    refused = asked
    for _attempt in range(2):
        for name in refused:
            _load(name)
        refused = _refused(asked)
    return refused


def _refused(asked: list[str]) -> list[str]:
    """Those of the tunnels that are not loaded, or ask for the wrong authority."""
    if not asked:
        return []
    lines = _whack("--status", fail=False)
    wrong = _elsewhere(parse(Path(CONFIGURATION).read_text(encoding="utf-8")), lines)
    return [name for name in asked if name not in _connections(lines) or name in wrong]


def _record(without: list[str]) -> None:
    """Record what the daemon has loaded now; its own options are those from its start."""
    old = parse(Path(LOADED).read_text(encoding="utf-8")) if Path(LOADED).exists() else {}
    new = parse(Path(CONFIGURATION).read_text(encoding="utf-8"))
    new[SETUP] = old.get(SETUP, {})
    text = "".join(f"{name if name == SETUP else 'conn ' + name}\n"
                   + "".join(f"    {key}={value}\n" for key, value in options.items())
                   for name, options in new.items() if name not in without)
    descriptor, temporary = tempfile.mkstemp(dir=Path(LOADED).parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    os.replace(temporary, LOADED)


def restart() -> bool:
    """
    Restart the daemon. All tunnels are lost, so use it only on a node that holds no virtual IP.

    CLI Example:

    .. code-block:: bash

        salt 'gw2*' ipsec.restart
    """
    # Salt's service.restart has no limit. This one is above systemd's own (openswan/files/ipsec.service.conf).
    return __salt__["commands.run"](["systemctl", "restart", "ipsec"], timeout=_RESTART_SECONDS)["retcode"] == 0


# "bern": reloading leftcert='gateway' failed: left certificate 'gateway' pubkey could not be loaded
_NOT_READ = re.compile(r'"(?P<name>[^"]+)".*: reloading (?:left|right)cert\b.* failed: .* pubkey could not be loaded')


def reread() -> bool:
    """
    Make the daemon read secrets, certificates and keys again. Established tunnels stay.

    The exception is Libreswan 4.x with clients connected: it crashes (in reread_cert(), on a client's copy of a
    connection). There the connections are loaded again instead, and their tunnels are negotiated again at once.

    Trap: NSS in the daemon may still know the previous certificate and find that one. This happens when an earlier
    certificate comes back, and when a deleted key is restored. The daemon then reports that it could not read the
    certificate again and keeps what it has; from then on nobody can connect. So the connections that it names are
    loaded again. Connections that it names for another reason are not: an expired certificate stays in use as long as
    its tunnels last, and the daemon would refuse to load it again.

    Trap: the daemon keeps the authorities it knows for five minutes after it last needed them. So as long as anybody
    calls, it refuses people of a new authority. 5.x forgets the authorities together with the certificates, 4.x only
    when its timer is triggered.

    Returns False when no daemon runs: it reads everything when it starts. Raises CommandExecutionError when the daemon
    hangs, or refuses a connection afterwards.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.reread
    """
    if not _answers():
        return False
    _whack("--rereadsecrets", fail=False)
    if _major() < 5:
        _whack("--impair", "trigger:FREE_ROOT_CERTS", fail=False)
    clients = any((match := re.match(_QUOTED, line)) and match["instance"] for line in _whack("--status", fail=False))
    if _major() >= 5 or not clients:
        said = _whack("--rereadcerts", fail=False)
        asked = sorted({match["name"] for line in said if (match := _NOT_READ.match(line))})
    else:
        asked = connections()
    refused = _load_all(asked)
    if refused:
        raise CommandExecutionError(
            f"ipsec: the daemon does not load {', '.join(refused)} again with its certificate and must be restarted: "
            f"`systemctl restart ipsec`, on the active node after a switch-over; why: `journalctl -u ipsec`")
    return True


def _load(name: str) -> None:
    """
    Load a tunnel from the file, in place of the loaded tunnel of that name.

    One command does both. If the tunnel were deleted first, a peer that calls back at once would find no connection,
    or a roadwarrior connection that its certificate fits as well.
    """
    _output(["ipsec", "addconn", "--config", CONFIGURATION, name], fail=False)
    if parse(Path(CONFIGURATION).read_text(encoding="utf-8")).get(name, {}).get("auto") == "start":
        # The daemon refuses this on a node that does not hold the address.
        _whack("--asynchronous", "--initiate", "--name", name, fail=False)


# the daemon as it runs


def status() -> dict[str, Any]:
    """
    The daemon's state now.

    Returns

    - ``running``: whether the daemon answers; if not, the rest is empty
    - ``version``
    - ``listening``: as from :py:func:`listening`
    - ``connections``: by tunnel name: ``local`` and ``remote`` (addresses, "%any"), ``oriented`` (this node holds
      the local address), ``up`` (it has an SA), ``sas``: a list of ``number``, ``peer`` (address), ``peer_id``,
      ``since`` (seconds since 1970; 0 when the daemon does not know), ``in_bytes``, ``out_bytes`` and
      ``inner`` (the client's inner address, "" without one)
    - ``adopted``: the tunnels that work without the daemon knowing them, as from :py:func:`adopted`; a text that says
      why, where nobody knows. Also there when the daemon does not run

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.status
    """
    try:
        carried: list[dict[str, Any]] | str = adopted()
    except CommandExecutionError as error:
        carried = str(error)
    if not running():
        return {"running": False, "version": "", "listening": [], "connections": {}, "adopted": carried}
    lines = _whack("--status", fail=False)
    found = _connections(lines)
    for sa in _traffic(_whack("--trafficstatus", fail=False)):
        name = sa.pop("tunnel")
        if name in found:
            found[name]["sas"].append({**sa, "peer": sa["peer"] or found[name]["remote"]})
            found[name]["up"] = True
    return {"running": True, "version": version(), "listening": _sockets(lines), "connections": found,
            "adopted": carried}


def wrong(serves: bool = False) -> list[str]:
    """
    Why the daemon cannot do its work, one line for each reason. Empty when it could take over at once, or serves.

    Args:
        serves: this node is active; so the daemon must listen on the virtual IP, and must recognise its connections.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.wrong
    """
    if not running():
        return ["the IPsec daemon does not run, or does not answer: systemctl status ipsec"]
    lines = _whack("--status", fail=False)
    configured, loaded = parse(Path(CONFIGURATION).read_text(encoding="utf-8")), _connections(lines)
    found = []
    if missing := sorted(configured.keys() - loaded.keys() - {SETUP}):
        found.append(f"the IPsec daemon has not loaded {', '.join(missing)}: journalctl -u ipsec says why")
    if serves:
        unheard = _unheard(configured, _sockets(lines))
        if unheard:
            found.append(f"the IPsec daemon does not listen on {', '.join(unheard)}: ipsec whack --listen")
        if unserved := _unserved(configured, loaded, unheard):
            found.append(f"the IPsec daemon takes {', '.join(unserved)} for nobody's: journalctl -u ipsec says why, "
                         "systemctl restart ipsec helps")
    return found


def connections() -> list[str]:
    """
    The names of the tunnels that the daemon has loaded.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.connections
    """
    return sorted({_tunnel_of(name) for name in _loaded_names()})


def listening() -> list[Listening]:
    """
    The addresses on which the daemon accepts IKE: a list of ``address``, ``port`` and ``interface``.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.listening
    """
    return _sockets(_whack("--status", fail=False))


def up(name: str) -> None:
    """
    Call the peer of a tunnel. Returns at once; :py:func:`status` shows the result.

    CLI Example:

    .. code-block:: bash

        salt 'gw1*' ipsec.up bern
    """
    _known(name)
    _whack("--asynchronous", "--initiate", "--name", name, fail=False)


def down(name: str) -> None:
    """
    End a tunnel and inform the peer. For a roadwarrior connection, this ends the tunnels of all clients.

    CLI Example:

    .. code-block:: bash

        salt 'gw1*' ipsec.down bern
    """
    _known(name)
    _whack("--terminate", "--name", name, fail=False)


def expelled(pillar: str) -> list[dict[str, Any]]:
    """
    The tunnels of people whose certificate was revoked.

    pillar
        Path of a list in pillar. Each entry has ``ids`` (the names and the subject of the certificate), ``at`` (when it
        was revoked, ISO 8601) and ``again`` (whether a new certificate was issued since: then a younger tunnel stays).

    Returns ``peer_id``, ``peer`` (address) and ``tunnel`` of each; an empty list when no daemon runs.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.expelled gateway_secrets:revoked
    """
    revoked = {_plain(name): each for each in __salt__["pillar.get"](pillar, [], unmask=True) for name in each["ids"]}
    if not revoked or not running():
        return []
    sas = _traffic(_whack("--trafficstatus", fail=False))
    known = {sa["peer_id"] for sa in sas}
    sas += [sa for sa in _clients(_whack("--status", fail=False)) if sa["peer_id"] not in known]
    # Tunnels that this node has taken over: its daemon does not know them. Whose tunnel nobody knows is ended as well.
    sas += [{**each, "adopted": each["inner"]} for each in adopted()]
    found = []
    for sa in sas:
        entry = revoked.get(_plain(sa["peer_id"]))
        if "adopted" in sa and not sa["peer_id"]:
            entry = next(iter(revoked.values()))  # nobody knows whose it is: it has to call again
        if entry and not (entry["again"] and sa["since"] > datetime.datetime.fromisoformat(entry["at"]).timestamp()):
            found.append({"peer_id": sa["peer_id"], "peer": sa["peer"], "tunnel": sa["tunnel"]}
                         | ({"adopted": sa["adopted"]} if "adopted" in sa else {}))
    return found


def adopted() -> list[dict[str, Any]]:
    """
    The tunnels that this node carries and has taken over from the other one: its daemon does not know them.

    Returns:
        What :py:func:`sessions.adopted` returns. The daemon that made them says of another site's tunnel neither its
        address nor its network; by its networks or its address it is one of the connections here.

    Raises:
        CommandExecutionError: the process that has them does not run or does not answer.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.adopted
    """
    found: list[dict[str, Any]] = __salt__["sessions.adopted"]() if "sessions.adopted" in __salt__ else []
    sections: dict[str, dict[str, str]] = {}
    for path in (CONFIGURATION, LOADED):  # what the daemon has loaded comes last, and counts
        if found and Path(path).exists():
            sections |= parse(Path(path).read_text(encoding="utf-8"))
    for each in found:
        # By the networks: a peer may be at another address than the file has, and two of them behind one router.
        behind = [name for name, its in sections.items() if its.get("rightsubnet") == _as_network(each["inner"])]
        at = [name for name, its in sections.items() if its.get("right") == each["peer"]]
        name = next(iter([name for name in behind if name in at] or behind or ([] if each["tunnel"] else at)), "")
        if name:
            each |= {"tunnel": name, "peer_id": sections[name].get("rightid", name)}
    return found


def _as_network(text: str) -> str:
    """An inner address or network as ipsec.conf has networks; "" for anything else."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        return ""


def _clients(lines: list[str]) -> list[dict[str, Any]]:
    """
    From `whack --status`, the connected clients, including those that have only an IKE SA and could ask for a tunnel::

        "roadwarrior"[1]: 198.51.100.0/26===192.0.2.10[@gateway]...192.0.2.50[CN=anna,+MC+S=C]===198.51.100.192/32; ...
        "roadwarrior"[1]:   our idtype: ID_FQDN; our id=@gateway; their idtype: ID_DER_ASN1_DN; their id=CN=anna
    """
    peers, found = {}, []
    for line in lines:
        match = re.match(rf"{_QUOTED}: (?P<rest>.*)", line)
        if not match or not match["instance"]:
            continue
        key, rest = (match["name"], match["instance"]), match["rest"]
        if "..." in rest and not rest.startswith(" "):
            peers[key] = _address(rest.split("...", 1)[1].split("===")[0])
        elif "; their id=" in rest:
            found.append({"tunnel": match["name"], "peer": peers.get(key, ""), "since": 0,
                          "peer_id": rest.split("; their id=", 1)[1].strip()})
    return found


def expel(pillar: str) -> list[dict[str, Any]]:
    """
    End the tunnels of :py:func:`expelled` and inform the clients. Returns what :py:func:`expelled` returned before.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.expel gateway_secrets:revoked
    """
    found = expelled(pillar)
    taken_over = [each["adopted"] for each in found if "adopted" in each]
    if taken_over:
        __salt__["sessions.end"](taken_over)
    for name in sorted({each["peer_id"] for each in found if "adopted" not in each}):
        # The IKE SA with all its tunnels: if only the tunnel were ended, the client would ask for another. The name is
        # the one that the daemon shows: with %fromcert the certificate's subject, whatever identity the client used.
        _whack("--deleteid", "--name", name, fail=False)
    return found


def take_lists(revoked: str = "") -> int:
    """
    Wait until the daemon has read the revocation lists that are in its database now.

    revoked
        Path of a list in pillar, as for :py:func:`expelled`. These people's clients call again at once, and get in
        until the daemon has read the list; so their tunnels are ended once a second until then.

    Returns how long it waited, in seconds: 0 where nobody can connect, because no daemon runs or this node does not
    hold the virtual IP. (It is no bool, as module.run takes False for a failure.)

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.take_lists gateway_secrets:revoked
    """
    if not running():
        return 0
    # Do the timer's work now; on the standby too, which may take over before its timer is due. A daemon that does not
    # know this word does it a little later, by its timer.
    _whack("--impair", "trigger:CHECK_CRLS", fail=False)
    if not any(each["oriented"] for each in status()["connections"].values()):
        return 0
    end = time.monotonic() + LISTS_EVERY + 1
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(1, left))
        if revoked:
            expel(revoked)
    return LISTS_EVERY + 1


def _plain(name: str) -> frozenset[str]:
    """An identity in comparable form: "@name" equals "name"; a DN in either order (RFC 4514 puts the last first)."""
    return frozenset(part.strip() for part in re.split(r"(?<!\\),", name.removeprefix("@")))


def _known(name: str) -> None:
    loaded = connections()
    if name not in loaded:
        raise CommandExecutionError(f"ipsec: no connection {name} is loaded; there are {', '.join(loaded) or 'none'}")


def _tunnel_of(name: str) -> str:
    """The tunnel's name. The daemon calls a client's copy of a roadwarrior connection NAME[3]."""
    return name.split("[", 1)[0]


_QUOTED = r'"(?P<name>[^"]+)"(?P<instance>\[\d+\])?'


def _loaded_names() -> list[str]:
    return list(_connections(_whack("--status", fail=False)))


def _connections(lines: list[str]) -> dict[str, dict[str, Any]]:
    """
    From `whack --status`, for each connection::

        "bern": 198.51.100.0/26===192.0.2.10[@one]...192.0.2.74[@other]===198.51.100.64/26; unrouted; ...
        "bern":   host: oriented; local: 192.0.2.10; remote: 192.0.2.74;          (5.x)
        "bern":     unoriented; my_ip=unset; their_ip=unset; ...                  (4.x, "oriented" likewise)

    When a connection is unoriented, 4.x does not say which end is local. The left one is printed first; ours is left.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        match = re.match(rf"{_QUOTED}: (?P<rest>\S.*\.\.\..*)", line)
        if match and not match["instance"]:
            ends = re.split(r"\.\.\.", match["rest"].split(";")[0])
            local = ends[0].split("===")[-1]
            found[match["name"]] = {"local": _address(local), "remote": _address(ends[1].split("===")[0]),
                                    "oriented": False, "up": False, "sas": []}
            continue
        match = re.match(rf"{_QUOTED}: +(?:host: )?(?P<oriented>oriented|unoriented);", line)
        if match and not match["instance"]:
            found[match["name"]]["oriented"] = match["oriented"] == "oriented"
    return found


def _address(end: str) -> str:
    """The address in "192.0.2.10[@gateway,MS+S=C]:17/500" or "192.0.2.10<192.0.2.10>[...]"."""
    return re.match(r"[^\[<]*", end)[0]  # type: ignore[index]


def _traffic(lines: list[str]) -> list[dict[str, Any]]:
    """
    From `whack --trafficstatus`, one line for each SA::

        #4: "roadwarrior"[1] 192.0.2.50, type=ESP, add_time=1795467000, inBytes=168, outBytes=168, maxBytes=2^63B,
            id='CN=road1.example', lease=198.51.100.192/32
    """
    found = []
    for line in lines:
        match = re.match(rf"#(?P<number>\d+): {_QUOTED}(?: (?P<peer>[0-9a-fA-F.:]+))?, (?P<rest>.*)", line)
        if match:
            fields = dict(re.findall(r"(\w+)=('[^']*'|[^,]*)", match["rest"]))
            found.append({
                "tunnel": match["name"],
                "number": int(match["number"]),
                "peer": match["peer"] or "",
                "peer_id": fields.get("id", "").strip("'"),
                "since": int(fields.get("add_time", 0)),
                "in_bytes": int(fields.get("inBytes", 0)),
                "out_bytes": int(fields.get("outBytes", 0)),
                "inner": fields.get("lease", "").split("/")[0],
            })
    return found


def _sockets(lines: list[str]) -> list[Listening]:
    """
    From `whack --status`: "interface bond0 192.0.2.10:UDP/500" (5.x), "interface bond0 UDP 192.0.2.10:500" (4.x);
    IPv6 addresses are in brackets.
    """
    found: list[Listening] = []
    for line in lines:
        match = re.match(r"interface (\S+) (?:UDP )?\[?([0-9a-fA-F.:]+?)\]?:(?:UDP/)?(\d+)(?: |$)", line)
        if match:
            found.append({"interface": match[1], "address": match[2], "port": int(match[3])})
    return sorted(found, key=lambda each: (each["address"], each["port"]))


# what a beacon needs: looking without waiting


class _Watch:
    """What is remembered from one look to the next."""

    def __init__(self) -> None:
        self.file: tuple = ()                           # stat of the files that the next two were read from
        self.configured: dict[str, dict[str, str]] = {}
        self.tried: set[str] = set()                    # tunnels whose peers gateway-peers looks for
        self.listener: Any = None
        self.heard = True                               # something happened, so the daemon is to be asked
        self.jobs: dict[str, Any] = {}
        self.begun = self.ended = float("-inf")         # of the last round of questions
        self.silent = 0                                 # rounds in a row without an answer
        self.spis: dict[str, set[int]] = {}             # by tunnel, as the daemon reported them
        self.peers: dict[str, bytes] = {}
        self.fresh: set[bytes] = set()                  # addresses with a new SA that the daemon has not reported yet
        self.gone: set[str] = set()                     # tunnels that lost their last SA since the questions were asked
        self.cursor = ""                                # of the journal
        self.counted = float("-inf")
        self.dated: tuple = ()
        self.pid = 0
        self.started = False                            # whether a daemon has been seen
        self.serves = False
        self.again = float("inf")                       # when the daemon is asked even if nothing happens


class Listening(TypedDict):
    """An address on which the daemon accepts IKE."""

    address: str
    port: int
    interface: str


class Tunnel(TypedDict):
    """What the configuration says about a tunnel."""

    peer: str           # "%any" for roadwarriors, and for peers that may come from anywhere
    calls: bool         # whether this end calls
    site: bool          # whether a network is behind the peer: no roadwarrior
    moves: bool         # whether the peer may be at another address when it comes back


class Answer(TypedDict):
    """What the daemon has answered; see :func:`glance`."""

    connections: dict[str, dict[str, Any]]
    listening: list[Listening]
    fixed: str
    unheard: list[str]
    unserved: list[str]
    late: list[str]
    replays: dict[str, int]
    foreign: list[str]
    states: list[State]


class State(TypedDict):
    """One ESP state of the kernel."""

    tunnel: str         # "" when the daemon does not know it: a tunnel taken over from the other node
    spi: int
    reqid: int
    out: bool           # from this node to the peer
    bytes: int
    replays: int        # packets dropped as replayed


class Glance(TypedDict):
    """What one look has seen; see :func:`glance`."""

    process: bool | None
    pid: int
    hung: bool
    serves: bool
    addresses: list[str]
    tunnels: dict[str, Tunnel]
    gone: list[str]
    answer: Answer | None
    journal: list[str]
    counters: dict[str, int] | None
    dates: dict[str, dict[str, Any]] | None     # as from `nss.dates`


def glance() -> Glance | None:
    """
    What the beacon needs each second. It never waits, and it starts no command while nothing happens.

    The kernel reports SAs that come and go (NETLINK_XFRM). After such a report, once after this node began to serve,
    and every 30 s, commands that run beside the minion ask the daemon; a later look has the answer. While the daemon
    does not serve as it must, or has not loaded all that is configured, as just after its start, it is asked every 6 s.

    Returns None on a node without connections; else

    - ``process``: whether the daemon's process exists, None while it need not exist yet; ``pid``; ``hung``: True when
      the daemon left two rounds of questions in a row without an answer
    - ``serves``: whether this node holds an address that the connections use; ``addresses``: all these addresses
    - ``tunnels``: by name ``peer`` ("%any" where its address is not known), ``calls`` (whether this end calls),
      ``site`` (whether it leads to another site) and ``moves`` (whether the peer may come back at another address)
    - ``gone``: tunnels whose last SA has certainly gone since the last look
    - ``answer``: what the daemon has answered since the last look, None without an answer: ``connections`` as in
      :py:func:`status`, ``listening``, ``fixed`` (the one address that it must listen on, "" when there are several),
      ``unheard`` (addresses that it must listen on to serve, and does not),
      ``unserved`` (tunnels that it does not recognise as its own, though it listens on their address),
      ``late`` (tunnels that are past the time at which their keys are renewed), ``replays`` (by tunnel, the number of
      packets that the kernel dropped as replayed), ``foreign`` (local ends of SAs that are none of the addresses),
      ``states`` (the kernel's ESP states, see :class:`State`)
    - ``journal``: new lines of the daemon's journal, read when an SA has gone
    - ``counters``: of /proc/net/xfrm_stat, every fifth second, else None
    - ``dates``: as from ``nss.dates``, when they have changed and once an hour, else None

    CLI Example: none, as it depends on what this process saw a second ago; see :py:func:`status`.
    """
    watch = __context__.setdefault("ipsec.watch", _Watch())
    now = time.monotonic()
    _read_configuration(watch)
    if not watch.configured:
        return None
    tunnels = _configured_tunnels(watch)
    addresses = sorted(_local_addresses(watch.configured))
    pid, serves = _pid(), any(map(_is_held, addresses))
    if serves and (not watch.serves or pid != watch.pid):
        # In its first seconds the daemon cannot be blamed yet, and if nothing happens the next question is far away.
        watch.again = now + _ASK_AGAIN_SECONDS
    watch.serves = serves
    if pid != watch.pid:
        # Nothing is known of a new daemon.
        watch.pid, watch.heard, watch.silent, watch.spis = pid, True, 0, {}
        watch.started |= bool(pid)
    gone = _hear(watch)
    answer, lines = _ask(watch, now) if pid else (None, [])
    if answer and watch.gone:
        # SAs went while the questions were out, so the answer may be outdated.
        watch.heard, answer = True, None
    if answer and ((answer["unheard"] or answer["unserved"]) and serves
                   or tunnels.keys() - answer["connections"].keys()):
        # No event reports when the daemon serves, or when it has loaded all its connections.
        watch.again = now + _ASK_AGAIN_SECONDS
    counters = None
    if now - watch.counted >= _COUNTERS_SECONDS:
        watch.counted, counters = now, _counters()
    return {"process": True if pid else _has_to_run(watch), "pid": pid, "hung": watch.silent >= 2,
            "serves": serves, "addresses": addresses, "tunnels": tunnels,
            "gone": sorted(gone), "answer": answer, "journal": lines, "counters": counters,
            "dates": _dates(watch, now)}


def look() -> Glance | None:
    """
    As :py:func:`glance`, for callers that may wait: it asks the daemon now and waits for the answer, 5 s at most for
    each of its three questions.

    ``hung`` is True when a question gets no answer in time; ``gone`` and ``journal`` are empty; ``dates`` is None.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' ipsec.look
    """
    watch = _Watch()
    _read_configuration(watch)
    if not watch.configured:
        return None
    pid, answer, hung = _pid(), None, False
    if pid:
        try:
            said = {name: __salt__["commands.run"](argv, timeout=_COMMAND_SECONDS)
                    for name, argv in _QUESTIONS.items()}
            if said["status"]["retcode"] == 0:
                answer = _understood(watch, {name: each["stdout"].splitlines() for name, each in said.items()})
        except CommandExecutionError:
            hung = True
    addresses = sorted(_local_addresses(watch.configured))
    return {"process": True if pid else _has_to_run(watch), "pid": pid, "hung": hung,
            "serves": any(map(_is_held, addresses)), "addresses": addresses, "tunnels": _configured_tunnels(watch),
            "gone": [], "answer": answer, "journal": [], "counters": _counters(), "dates": None}


def _configured_tunnels(watch: _Watch) -> dict[str, Tunnel]:
    return {name: {"peer": options.get("right", ""), "calls": options.get("auto") == "start" or name in watch.tried,
                   "site": "rightsubnet" in options, "moves": options.get("right") == "%any" or name in watch.tried}
            for name, options in watch.configured.items() if name != SETUP}



_ASK_SECONDS = 30.0             # between two times the daemon is asked, when nothing happens
_COMMAND_SECONDS = 5.0          # that a command may take
_COUNTERS_SECONDS = 5.0         # between two looks at the kernel's counters
_DATES_SECONDS = 3600.0         # between two looks at the dates of certificates
_ASK_AGAIN_SECONDS = 6.0        # the beacon reports a daemon that does not listen after 5 s
_BOOT_SECONDS = 90.0            # after the kernel's start, when all services have been started
_STARTED_AT_BOOT = "/etc/systemd/system/multi-user.target.wants/ipsec.service"
_PIDFILE = "/run/pluto/pluto.pid"
_XFRM_STAT = "/proc/net/xfrm_stat"
# linux/xfrm.h, linux/netlink.h
_NETLINK_XFRM, _EXPIRE, _SA = 6, 2, 3
_NEWSA, _DELSA, _EXPIRED, _UPDSA, _FLUSHSA = 0x10, 0x11, 0x18, 0x1a, 0x1c
_USERSA_ID = struct.Struct("!16sI")             # xfrm_usersa_id: daddr, spi
_USERSA_INFO = struct.Struct("!56x16s8x16s")    # xfrm_usersa_info: after the selector, id.daddr, spi and proto, saddr
_QUESTIONS = {
    "status": ["ipsec", "whack", "--status"],
    "traffic": ["ipsec", "whack", "--trafficstatus"],
    "states": ["ip", "-s", "xfrm", "state", "list", "nokeys"],
}
_JOURNAL = ["journalctl", "--unit=ipsec", "--output=cat", "--no-pager", "--show-cursor"]


def _read_configuration(watch: _Watch) -> None:
    try:
        files = [os.stat(path) for path in (CONFIGURATION, TRIED) if path == CONFIGURATION or os.path.exists(path)]
        sign = tuple((found.st_ino, found.st_mtime_ns, found.st_size) for found in files)
        if sign != watch.file:
            sections = parse(Path(CONFIGURATION).read_text(encoding="utf-8"))
            # The file that Debian's package installs has no connection.
            watch.file, watch.configured = sign, sections if sections.keys() - {SETUP, "%default"} else {}
            watch.tried = _sought()
    except (OSError, KeyError):
        watch.file, watch.configured = (), {}


def _sought() -> set[str]:
    """The tunnels whose peers gateway-peers looks for, of its file."""
    try:
        return {name for each in json.loads(Path(TRIED).read_text(encoding="utf-8")) for name in each["tunnels"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _pid() -> int:
    """The process ID of the daemon, 0 when it does not run."""
    try:
        pid = int(Path(_PIDFILE).read_text(encoding="ascii"))
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return 0
    return 0 if state in "ZX" else pid


def _has_to_run(watch: _Watch) -> bool | None:
    """False: a daemon that does not run is dead. None: it need not run yet (boot, or Salt has not started it)."""
    booting = time.clock_gettime(time.CLOCK_BOOTTIME) < _BOOT_SECONDS
    return False if os.path.lexists(_STARTED_AT_BOOT) and (watch.started or not booting) else None


def _is_held(address: str) -> bool:
    """Whether this node has the address: only then can a socket be bound to it (ip(7), without ip_nonlocal_bind)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _hear(watch: _Watch) -> set[str]:
    """
    Read the kernel's reports about SAs. Returns the tunnels whose last SA has certainly gone.

    Certainly: all SAs that the daemon reported for the tunnel are gone, and there is no new SA between its addresses,
    as there is when one SA replaces another.
    """
    if watch.listener is None:
        try:
            watch.listener = __salt__["watching.listen"](_NETLINK_XFRM, _SA, _EXPIRE)
        except OSError:
            return set()        # a kernel without IPsec, on which the daemon does not run either
    messages, lost = __salt__["watching.heard"](watch.listener)
    gone: set[str] = set()
    for kind, content in messages:
        if kind in (_NEWSA, _UPDSA) and len(content) >= _USERSA_INFO.size:
            watch.fresh.update(_USERSA_INFO.unpack_from(content))
        elif kind == _DELSA and len(content) >= _USERSA_ID.size:
            _address, spi = _USERSA_ID.unpack_from(content)
            for name, spis in watch.spis.items():
                if spi in spis:
                    spis.discard(spi)
                    if not spis and watch.peers.get(name) not in watch.fresh:
                        gone.add(name)
    watch.heard |= lost or bool(messages)
    if watch.jobs:
        watch.gone |= gone
    return gone


def _ask(watch: _Watch, now: float) -> tuple[Answer | None, list[str]]:
    """Start a round of questions, or collect its answers. Returns the daemon's answer and new lines of its journal."""
    lines: list[str] = []
    if not watch.jobs:
        again = now >= watch.again
        if again or now - watch.begun >= _ASK_SECONDS or watch.heard and now - watch.ended >= 0.5 or watch.silent == 1:
            questions = dict(_QUESTIONS)
            if watch.heard:
                questions["journal"] = [*_JOURNAL, f"--after-cursor={watch.cursor}"] if watch.cursor else \
                    [*_JOURNAL, "--lines=0"]
            watch.begun, watch.heard, watch.gone, watch.fresh = now, False, set(), set()
            watch.again = float("inf") if again else watch.again
            started = {name: __salt__["watching.start"](argv, _COMMAND_SECONDS) for name, argv in questions.items()}
            watch.jobs = {name: (job, None) for name, job in started.items() if job}
        return None, lines
    for name, (job, said) in watch.jobs.items():
        if said is None:
            watch.jobs[name] = (job, __salt__["watching.answer"](job))
    answers = {name: said for name, (_job, said) in watch.jobs.items()}
    if None in answers.values():
        return None, lines
    watch.jobs, watch.ended = {}, now
    if "journal" in answers:
        lines = _new_lines(watch, answers.pop("journal")["stdout"])
    if any(answers[name]["retcode"] is None for name in ("status", "traffic") if name in answers):
        watch.silent += 1
        return None, lines
    watch.silent = 0
    if answers.get("status", {}).get("retcode") != 0:
        watch.again = now + _ASK_AGAIN_SECONDS
        return None, lines      # the daemon is just starting, or ending
    return _understood(watch, {name: each["stdout"].splitlines() for name, each in answers.items()}), lines


def _new_lines(watch: _Watch, text: str) -> list[str]:
    """journalctl(1), --show-cursor: the last line is "-- cursor: ..."."""
    *lines, last = text.splitlines() or [""]
    if last.startswith("-- cursor: "):
        watch.cursor = last.removeprefix("-- cursor: ")
        return lines
    return []


def _understood(watch: _Watch, said: dict[str, list[str]]) -> Answer:
    status, traffic = (_without_numbers(said.get(name, [])) for name in ("status", "traffic"))
    found = _connections(status)
    for sa in _traffic(traffic):
        name = sa.pop("tunnel")
        if name in found:
            found[name]["sas"].append({**sa, "peer": sa["peer"] or found[name]["remote"]})
            found[name]["up"] = True
    states = _states(status)
    watch.spis = {name: set(spis) for name, spis in states["spis"].items()}
    watch.peers = {name: _packed(each["remote"]) for name, each in found.items()}
    kernel = _kernel_states(said.get("states", []))
    addresses = _local_addresses(watch.configured)
    tunnel_of = {spi: name for name, spis in states["spis"].items() for spi in spis}
    replays: dict[str, int] = {}
    for spi, each in kernel.items():
        if spi in tunnel_of:
            replays[tunnel_of[spi]] = replays.get(tunnel_of[spi], 0) + each["replays"]
    # Each SA has one local end; the daemon says which of the two addresses that is.
    foreign = sorted(states["local"] - addresses)
    listening = _sockets(status)
    unheard = _unheard(watch.configured, listening)
    return {"connections": found, "listening": listening, "late": states["late"], "replays": replays,
            "fixed": watch.configured.get(SETUP, {}).get("listen", ""), "unheard": unheard,
            "unserved": _unserved(watch.configured, found, unheard), "foreign": foreign,
            "states": [{"tunnel": tunnel_of.get(spi, ""), "spi": spi, "reqid": each["reqid"],
                        "out": each["source"] in addresses, "bytes": each["bytes"], "replays": each["replays"]}
                       for spi, each in kernel.items()]}


def _local_addresses(configured: dict[str, dict[str, str]]) -> set[str]:
    return {options["left"] for name, options in configured.items() if name != SETUP and "left" in options}


def _unheard(configured: dict[str, dict[str, str]], listening: list[Listening]) -> list[str]:
    """The addresses that the daemon must listen on to serve, and does not; with `listen=` only that one."""
    fixed = configured.get(SETUP, {}).get("listen", "")
    return sorted(({fixed} if fixed else _local_addresses(configured)) - {each["address"] for each in listening})


def _unserved(configured: dict[str, dict[str, str]], loaded: dict[str, dict[str, Any]],
              unheard: Collection[str]) -> list[str]:
    """
    Tunnels that the daemon does not recognise as its own, though it listens on their address; never any on a standby.

    The daemon then sees the address on two interfaces: `connection matches both left lo ... and left bond0 ...`
    (programs/pluto/orient.c). It refuses every peer that calls.
    """
    return sorted(name for name, each in loaded.items()
                  if name in configured and not each["oriented"] and configured[name].get("left") not in unheard)


def _without_numbers(lines: list[str]) -> list[str]:
    """whack's lines without the message number that 4.x puts before each ("000 ", "006 ")."""
    return [re.sub(r"^\d{3} ?", "", line) for line in lines]


def _states(lines: list[str]) -> dict[str, Any]:
    """
    From `whack --status`, the SAs::

        #2: "bern":500 ESTABLISHED_CHILD_SA (established Child SA); LIVENESS in 2s; REKEY in 3292s; REPLACE in 3562s;
            newest; eroute owner; IKE SA #1; idle;                          (one line; STATE_V2_... in 4.x)
        #2: "bern" esp.3212eafa@192.0.2.74 esp.ed1a4b97@192.0.2.10 tun.0@192.0.2.74 tun.0@192.0.2.10 Traffic: ...

    Returns ``spis`` by tunnel; ``late``: the tunnels whose newest SA this end should have renewed already (its next
    event is REPLACE, no longer REKEY); and ``local``: the local ends of the SAs.
    """
    spis: dict[str, list[int]] = {}
    late, local = set(), set()
    for line in lines:
        match = re.match(rf"#\d+: {_QUOTED}(?P<rest>.*)", line)
        if not match:
            continue
        if pair := re.search(r" esp\.([0-9a-f]+)@(\S+) esp\.([0-9a-f]+)@(\S+) ", match["rest"]):
            spis.setdefault(match["name"], []).extend((int(pair[1], 16), int(pair[3], 16)))
            local.add(pair[4])
        elif "ESTABLISHED_CHILD_SA" in match["rest"] and "; newest;" in match["rest"] \
                and "; REPLACE in " in match["rest"] and "; REKEY in " not in match["rest"]:
            late.add(match["name"])
    return {"spis": spis, "late": sorted(late), "local": local}


def _kernel_states(lines: list[str]) -> dict[int, dict[str, Any]]:
    """
    From `ip -s xfrm state` (ip-xfrm(8)), by SPI::

        src 192.0.2.74 dst 192.0.2.10
                proto esp spi 0xed1a4b97(3977923479) reqid 16389(0x00004005) mode tunnel
                ...
                lifetime current:
                  2268(bytes), 27(packets)
                ...
                stats:
                  replay-window 0 replay 3 failed 0
    """
    found: dict[int, dict[str, Any]] = {}
    spi, source = 0, ""
    for line in lines:
        if match := re.match(r"src (\S+) dst \S+", line):
            spi, source = 0, match[1]
        elif match := re.match(r"\s+proto esp spi 0x([0-9a-f]+)\(\d+\) reqid (\d+)", line):
            spi = int(match[1], 16)
            found[spi] = {"replays": 0, "bytes": 0, "source": source, "reqid": int(match[2])}
        elif spi and (match := re.match(r"\s+(\d+)\(bytes\), \d+\(packets\)", line)):
            found[spi]["bytes"] = int(match[1])
        elif spi and (match := re.match(r"\s+replay-window \d+ replay (\d+) failed (\d+)", line)):
            found[spi]["replays"] = int(match[1])
    return found


def _packed(address: str) -> bytes:
    """An address as xfrm_address_t has it: 16 bytes, an IPv4 address in the first four."""
    try:
        return ipaddress.ip_address(address).packed.ljust(16, b"\0")
    except ValueError:      # %any
        return b""


def _counters() -> dict[str, int]:
    """The kernel's counters (Documentation/networking/xfrm_proc: a name and a number on each line), {} without them."""
    try:
        lines = Path(_XFRM_STAT).read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in map(str.split, lines) if len(words) == 2}


def _dates(watch: _Watch, now: float) -> dict[str, dict[str, Any]] | None:
    """`nss.dates` when the database has changed, and once an hour; else None. Looks at most once a minute."""
    if watch.dated and now - watch.dated[0] < 60:
        return None
    sign = __salt__["nss.sign"]()
    if watch.dated and sign == watch.dated[2] and now - watch.dated[1] < _DATES_SECONDS:
        watch.dated = (now, *watch.dated[1:])
        return None
    found = __salt__["nss.dates"]()
    if found is not None:
        watch.dated = (now, now, sign)
    return found
