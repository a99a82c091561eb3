"""
The paper's own values through today's formulas, held against the listings that the paper prints.

Both sides are read into options, file by file. What differs is in DELIBERATE with its reason, and nothing else
differs: a difference that is not there fails, an entry that is no difference any more fails as well.
"""
from __future__ import annotations

import functools
import ipaddress
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import salt.config
import salt.utils.templates
import yaml

from tests.conftest import TREE, load_module

HERE = Path(__file__).parent
SITE = yaml.safe_load((HERE / "site.sls").read_text(encoding="utf-8"))["gateway"]
SCHEMA = yaml.safe_load((TREE / "pillar/schema.sls").read_text(encoding="utf-8"))["gateway_schema"]
MASTER, SLAVE = SITE["nodes"]
KEY = "s3cr3t.p4sswd"
SECRETS = {"heartbeat": {"key": KEY}, "certificates": {"ha_gateway_cert": {"pkcs12": "MIIB", "passphrase": ""}}}
GATEWAY = load_module("_modules/gateway.py")
MODES = ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"]
Options = dict[str, str]


def settings(node: str) -> dict:
    """A node's settings."""
    return GATEWAY.derive(SITE, SCHEMA, node)


def test_the_papers_site_is_a_valid_one():
    assert GATEWAY.find_mistakes(SITE, SCHEMA, MASTER, SECRETS, f"{MASTER}.zhwin") == []


def test_the_papers_second_ping_node_is_refused():
    """It is the slave: its own answer proves nothing to it, and its death would look like the network's."""
    site = {**SITE, "ping_nodes": ["160.85.160.1", "10.0.0.12"]}
    assert any("10.0.0.12 is gw-slave-dl380's own address" in line for line in GATEWAY.find_mistakes(site, SCHEMA))


# What the formulas write

@functools.cache
def functions(node: str) -> dict[str, Callable]:
    """`salt[...]` of a node whose daemons are Debian 13's."""
    ipsec = load_module("_modules/ipsec.py")
    ipsec.version = lambda: "5.2"
    ipsec.__salt__ = {"certs.inspect": lambda name: {"key": "rsa 2048"}}
    heartbeat = load_module("_modules/heartbeat.py")
    return {
        "gateway.settings": lambda: settings(node),
        "ipsec.sections": ipsec.sections,
        "ipsec.tunnels": ipsec.tunnels,
        "ipsec.shared_secrets": ipsec.shared_secrets,
        "heartbeat.haresources": heartbeat.haresources,
        "heartbeat.agent_json": heartbeat.agent_json,
        "kernel_options.loadable": list,
        "pillar.get": lambda path, default="": {"gateway_secrets:heartbeat:key": KEY}.get(path, default),
    }


def rendered(path: str, node: str, context: dict) -> str:
    """A template of the tree, rendered by Salt."""
    result = salt.utils.templates.JINJA(
        str(TREE / "salt" / path), to_str=True, opts=dict(salt.config.DEFAULT_MINION_OPTS), saltenv="",
        context={**context, "salt": functions(node)})
    assert result["result"], result["data"]
    return result["data"]


def states(formula: str, node: str = MASTER) -> dict[str, dict]:
    """The states of one sls, by the name of what they manage: function and arguments."""
    found = {}
    for state_id, body in yaml.safe_load(rendered(f"{formula}.sls", node, {})).items():
        for function, arguments in body.items() if isinstance(body, dict) else ():
            flat = {key: value for part in arguments for key, value in part.items()}
            found[str(flat.get("name", state_id))] = {"fun": function, **flat}
    return found


def managed(formula: str, path: str, node: str = MASTER) -> str:
    """The text that a formula gives a file."""
    state = states(formula, node)[path]
    if "contents" in state:
        return state["contents"]
    return rendered(state["source"].removeprefix("salt://"), node, state.get("context", {}))


def interfaces(node: str) -> str:
    """The stanzas of the bonds for ifupdown, one after the other."""
    files = load_module("_modules/_network_files.py")
    cards = {f"eth{number}": {"mac": f"02:00:00:00:00:0{number}"} for number in range(3)}
    return "".join(files.stanzas(bond, cards) for bond in settings(node)["bonds"])


def ipsec_conf() -> str:
    """The node's ipsec.conf, as its state renders it."""
    sections = functions(MASTER)["ipsec.sections"](settings(MASTER))
    return rendered("openswan/files/ipsec.conf.jinja", MASTER, {"site": SITE["site"], "sections": sections})


def roadwarrior_conf() -> str:
    """The client's ipsec.conf, as the runner gives it."""
    client = {"name": "ha_gateway", "certificate": "roadwarrior01_cert", "key": "rsa", "version": "5.2"}
    return rendered("openswan/files/roadwarrior.conf.jinja", MASTER, {
        "client": client, "connection": settings(MASTER)["connections"][0]})


# Both sides as options

def paper(name: str) -> list[str]:
    """The lines of a listing, without comments and blank ones."""
    return lines((HERE / "paper" / f"{name}.txt").read_text(encoding="utf-8"))


def lines(text: str) -> list[str]:
    """A text's lines, without comments and blank ones."""
    return [line.rstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def of_ipsec(text: list[str]) -> Options:
    """ipsec.conf with one connection, for which %default holds too."""
    sections: dict[str, Options] = {}
    for line in text:
        if not line[0].isspace():
            section = sections.setdefault(line, {})
        else:
            key, value = line.strip().split("=", 1)
            section[key] = value.strip('"')
    default = sections.pop("conn %default", {})
    found = {}
    for name, options in sections.items():
        for key, value in (options if name == "config setup" else {**default, **options}).items():
            found[f"{'setup' if name == 'config setup' else 'conn'} {key}"] = value
    return found


def of_modutils(text: list[str]) -> Options:
    """The bonding driver's options, those of each bond."""
    found = {}
    for line in text:
        words = line.split()
        if words[0] == "options":
            for key, value in (word.split("=") for word in words if "=" in word):
                found[f"{words[1]} {key}"] = MODES[int(value)] if key == "mode" else value
    return found


def of_bond_commands(text: list[str]) -> Options:
    """The same in the stanzas' `ip link` commands."""
    found = {}
    for line in text:
        if " type bond " in line:
            name = re.search(r"dev (\S+)", line)[1]
            words = line.split(" type bond ")[1].removesuffix(" || true").split()
            found |= {f"{name} {key}": value for key, value in zip(words[::2], words[1::2], strict=True)}
    return found


def of_interfaces(text: list[str]) -> Options:
    """Addresses, gateways and slaves of /etc/network/interfaces."""
    found, name, address = {}, "", ""
    for words in (line.split() for line in text):
        rest = " ".join(words[1:])
        if words[0] == "iface":
            name = words[1]
            found[f"{name} method"] = " ".join(words[2:])
        elif words[0] == "address":
            address = words[1]
            found[f"{name} address"] = address
        elif words[0] == "netmask":
            found[f"{name} address"] = str(ipaddress.ip_interface(f"{address}/{words[1]}"))
        elif words[:3] == ["up", "ifenslave", "-E"]:
            found[f"{name} slaves"] = " ".join(words[4:])
        elif " master " in rest:
            slave = re.search(r"dev (\S+) master", rest)[1]
            found[f"{name} slaves"] = f"{found.get(f'{name} slaves', '')} {slave}".strip()
        elif "route replace default" in rest:
            found[f"{name} gateway"] = re.search(r"via (\S+)", rest)[1]
        elif words[0] in ("gateway", "network", "broadcast"):
            found[f"{name} {words[0]}"] = words[1]
    return found


def of_words(text: list[str]) -> Options:
    """A directive and its arguments on each line; a directive that comes again adds to the first."""
    found: Options = {}
    for line in text:
        key, _, value = line.partition(" ")
        found[key] = f"{found[key]} {value.strip()}" if key in found else value.strip()
    return found


def of_haresources(text: list[str]) -> Options:
    """The preferred node, the addresses and the services; mails by themselves."""
    node, *resources = " ".join(text).split()
    found = {"node": node}
    for resource in resources:
        if resource.lower().startswith("mailto::"):
            found["mail"] = resource[len("mailto::"):]
        else:
            key = "addresses" if re.match(r"[0-9.]+$", resource) else "services"
            found[key] = f"{found.get(key, '')} {resource}".strip()
    return found


def our_haresources() -> Options:
    """haresources, and the addresses that its one resource holds."""
    held = [line.split()[1].split("/")[0] for line in lines(managed("heartbeat/resource", "/etc/ha.d/gateway.conf"))
            if line.startswith("address ")]
    written = lines(managed("heartbeat/configuration", "/etc/ha.d/haresources"))
    return of_haresources(written) | {"addresses": " ".join(held)}


def our_sysctls() -> Options:
    """The kernel's parameters, in the paper's words where it has one."""
    values = {name: str(state["value"]) for name, state in states("kernel/init").items()
              if state["fun"] == "sysctl.present"}
    found = {"console": values.pop("kernel.printk").split()[0],
             "ip_forward": {"1": "yes", "0": "no"}[values.pop("net.ipv4.ip_forward")],
             "spoofprotect": {"0": "no", "1": "yes", "2": "loose"}[values.pop("net.ipv4.conf.all.rp_filter")]}
    return found | values


def papers_sysctls() -> Options:
    """/etc/network/options, and klogd's level."""
    level = re.search(r"-c (\d)", paper("klogd")[0])[1]
    return {"console": level} | dict(line.split("=") for line in paper("network-options"))


def papers_time() -> Options:
    """When ntpdate asks whom."""
    return {"server": re.search(r"ntpdate -u (\S+)", paper("crontab-ntpdate")[0])[1], "crontab": "11 11 * * *"}


def our_key() -> Options:
    """authkeys, as its state writes it on a node that has none yet."""
    module, state = load_module("_states/heartbeat.py"), states("heartbeat/configuration")["/etc/ha.d/authkeys"]
    module.__opts__ = {"test": False}
    module.__salt__ = {"pillar.get": lambda path, default=None, **_: {"gateway_secrets:heartbeat:key": KEY}[path],
                       "heartbeat.running": lambda: False,
                       "commands.run": lambda *_, **__: {"retcode": 0, "stdout": ""}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "authkeys"
        result = module.authkeys(str(file), state["key_pillar"], state["method"], state["peer"])
        assert result["result"], result["comment"]
        return of_words(lines(file.read_text(encoding="utf-8")))


def listing(name: str, read: Callable[[list[str]], Options]) -> Callable[[], Options]:
    """A listing of the paper, read into options."""
    return lambda: read(paper(name))


def written(formula: str, path: str) -> Callable[[], Options]:
    """A file of a formula, read into options."""
    return lambda: of_words(lines(managed(formula, path)))


# By file: how the paper's listing is read, and how the tree's file.
FILES: dict[str, tuple[Callable[[], Options], Callable[[], Options]]] = {
    "bonding, master": (listing("modutils-aliases", of_modutils), lambda: of_bond_commands(lines(interfaces(MASTER)))),
    "bonding, slave": (listing("modutils-aliases-slave", of_modutils),
                       lambda: of_bond_commands(lines(interfaces(SLAVE)))),
    "interfaces, master": (listing("interfaces-master", of_interfaces),
                           lambda: of_interfaces(lines(interfaces(MASTER)))),
    "interfaces, slave": (listing("interfaces-slave", of_interfaces), lambda: of_interfaces(lines(interfaces(SLAVE)))),
    "ipsec.conf": (listing("ipsec.conf", of_ipsec), lambda: of_ipsec(lines(ipsec_conf()))),
    "ipsec.secrets": (listing("ipsec.secrets", of_words), written("openswan/configuration", "/etc/ipsec.secrets")),
    "roadwarrior": (listing("roadwarrior.conf", of_ipsec), lambda: of_ipsec(lines(roadwarrior_conf()))),
    "sysctl": (papers_sysctls, our_sysctls),
    "syslog": (listing("syslog.conf", of_words), written("logging/init", "/etc/rsyslog.d/60-gateway.conf")),
    "ha.cf": (listing("ha.cf", of_words), written("heartbeat/configuration", "/etc/ha.d/ha.cf")),
    "haresources": (listing("haresources", of_haresources), our_haresources),
    "authkeys": (listing("authkeys", of_words), our_key),
    "sshd": (listing("sshd_config", of_words), written("sshd/init", "/etc/ssh/sshd_config.d/10-gateway.conf")),
    "time": (papers_time, written("time/init", "/etc/chrony/chrony.conf")),
}

# Why the tree differs, in which files, and each option with what the paper has and what the tree has (None: nothing).
DELIBERATE: list[tuple[str, list[str], dict[str, tuple[str | None, str | None]]]] = [
    # 4.3 network
    ("multicast was an option of Linux 2.4's driver; today group membership follows the active slave by itself",
     ["bonding, master", "bonding, slave"],
     {"bond0 multicast": ("1", None), "bond1 multicast": ("1", None)}),
    ("one lost announcement would leave the switches with the old slave; the driver's default is a single one",
     ["bonding, master", "bonding, slave"],
     {"bond0 num_grat_arp": (None, "3"), "bond1 num_grat_arp": (None, "3")}),
    ("they follow from the address and its prefix length",
     ["interfaces, master", "interfaces, slave"],
     {"bond0 network": ("160.85.160.0", None), "bond0 broadcast": ("160.85.191.255", None),
      "bond1 network": ("10.0.0.0", None), "bond1 broadcast": ("10.0.0.255", None)}),
    ("each bond has a file of its own in interfaces.d; the loopback stays in the installer's file",
     ["interfaces, master", "interfaces, slave"],
     {"lo method": ("inet loopback", None)}),
    # 4.4 Openswan
    ("options of KLIPS, the IPsec stack of Linux 2.4, and of Openswan's start script; Libreswan refuses them",
     ["ipsec.conf", "roadwarrior"],
     {"setup klipsdebug": ("none", None), "setup plutoload": ("%search", None), "setup plutostart": ("%search", None),
      "setup plutowait": ("no", None)}),
    ("none is the default, and the only value that a gateway keeps",
     ["ipsec.conf", "roadwarrior"], {"setup plutodebug": ("none", None)}),
    ("a revocation list counts at once, without a restart; the paper fetched one with wget",
     ["ipsec.conf"], {"setup crlcheckinterval": (None, "15s")}),
    ("there is no ipsec0: the daemon is told the virtual address to listen on, whichever interface has it",
     ["ipsec.conf"], {"setup interfaces": ("ipsec0=bond0:0", None), "setup listen": (None, "160.85.178.167")}),
    ("there is no ipsec0: left=%defaultroute says all",
     ["roadwarrior"], {"setup interfaces": ("%defaultroute", None)}),
    ("IKEv2 is today's default, IKEv1 has to be asked for by both the daemon and the connection",
     ["ipsec.conf", "roadwarrior"], {"setup ikev1-policy": (None, "accept"), "conn keyexchange": (None, "ikev1")}),
    ("certificates are in the NSS database, by nickname",
     ["ipsec.conf"], {"conn leftcert": ("certs/ha_gateway_cert.pem", "ha_gateway_cert")}),
    ("certificates are in the NSS database, by nickname",
     ["roadwarrior"], {"conn leftcert": ("certs/roadwarrior01_cert.pem", "roadwarrior01_cert")}),
    ("the private key is in the NSS database; the file has preshared secrets only",
     ["ipsec.secrets"], {":": ("RSA ha_gateway_key.pem", None)}),
    ("certificates are sent and believed for their authority, nobody keeps the other's key",
     ["ipsec.conf", "roadwarrior"],
     {"conn rightrsasigkey": ("%cert", None), "conn leftsendcert": (None, "always"), "conn rightca": (None, "%same")}),
    ("a client is known by its certificate's name, whatever that is",
     ["ipsec.conf"], {"conn rightid": (None, "%fromcert")}),
    ("a client is known by its certificate's name, whatever that is",
     ["roadwarrior"], {"conn leftid": (None, "%fromcert")}),
    ("disablearrivalcheck was KLIPS's; keyingtries=0, for ever, is the default",
     ["ipsec.conf", "roadwarrior"], {"conn disablearrivalcheck": ("no", None), "conn keyingtries": ("0", None)}),
    ("the same times, with their unit",
     ["ipsec.conf", "roadwarrior"], {"conn dpddelay": ("5", "5s"), "conn dpdtimeout": ("15", "15s")}),
    ("5.x has no dpdaction: a connection that was started is started again",
     ["roadwarrior"], {"conn dpdaction": ("hold", None)}),
    ("written down, so that both ends and both versions of the daemon agree",
     ["ipsec.conf", "roadwarrior"], {"conn ikelifetime": (None, "28800s"), "conn ipsec-lifetime": (None, "3600s")}),
    ("the gateway names its algorithms too; its defaults would refuse SHA-1",
     ["ipsec.conf"], {"conn ike": (None, "aes256-sha1-dh14"), "conn esp": (None, "aes256-sha1")}),
    ("Libreswan has no Twofish any more; the group is named, as versions differ in what they begin with",
     ["roadwarrior"],
     {"conn ike": ("aes256-sha,twofish256-sha", "aes256-sha1-dh14"),
      "conn esp": ("aes256-sha1,twofish256-sha1", "aes256-sha1")}),
    ("the client may be behind NAT, where only the client can call",
     ["ipsec.conf"], {"conn rekey": (None, "no")}),
    ("the script only sets routes that the gateway has anyway, and makes a tunnel slower to come up",
     ["ipsec.conf"], {"conn leftupdown": (None, "%disabled")}),
    ("loose instead of off: what came out of a tunnel is not looked at (secpath_exists), all else has to be reachable",
     ["sysctl"], {"spoofprotect": ("no", "loose"), "net.ipv4.conf.default.rp_filter": (None, "2")}),
    ("left to the kernel, which has used cookies only under attack for twenty years",
     ["sysctl"], {"syncookies": ("no", None)}),
    ("a redirect would lead hosts past the tunnel or show them one node's own address; source routes are an attack",
     ["sysctl"],
     {f"net.ipv4.conf.{which}.{what}": (None, "0") for which in ("all", "default")
      for what in ("accept_redirects", "send_redirects", "accept_source_route")}),
    ("asked on the external side for an internal address, a node is silent",
     ["sysctl"], {"net.ipv4.conf.all.arp_ignore": (None, "1")}),
    ("a node that asks with the virtual address while it leaves would draw its neighbours back to itself",
     ["sysctl"], {"net.ipv4.conf.all.arp_announce": (None, "2")}),
    ("no program leaves a core on the disk, with the keys that were in its memory",
     ["sysctl"], {"kernel.core_pattern": (None, "|/bin/false")}),
    # 4.6 heartbeat
    ("10.0.0.12 is the slave's own address: see test_the_papers_second_ping_node_is_refused",
     ["ha.cf"], {"ping": ("160.85.160.1 10.0.0.12", "160.85.160.1 10.0.0.2")}),
    ("where Debian keeps it now",
     ["ha.cf"], {"respawn": ("root /usr/lib/heartbeat/ipfail", "root /usr/libexec/heartbeat/ipfail")}),
    ("written down for the paths over the network, of which this site has none",
     ["ha.cf"], {"udpport": (None, "694")}),
    ("a number is only the key's name in the file", ["authkeys"],
     {"auth": ("2", "1"), "2": (f"sha1 {KEY}", None), "1": (None, f"sha1 {KEY}")}),
    ("one resource for both addresses and the daemon that runs already: a tenth of a second instead of several",
     ["haresources"], {"services": ("ipsec", "gateway")}),
    # 4.8 the bag of tricks
    ("chrony keeps the time all day; a step once a day would look like an expired timer to every daemon",
     ["time"],
     {"crontab": ("11 11 * * *", None), "server": ("time.ethz.ch", "time.ethz.ch iburst"),
      "driftfile": (None, "/var/lib/chrony/chrony.drift"), "ntsdumpdir": (None, "/var/lib/chrony"),
      "logdir": (None, "/var/log/chrony"), "makestep": (None, "1 3"), "rtcsync": (None, "")}),
]
DIFFERENCES = [(file, key, *values) for _, files, options in DELIBERATE for file in files
               for key, values in options.items()]


@pytest.mark.parametrize("name", FILES)
def test_a_file_differs_only_where_it_is_said_and_why(name):
    theirs, ours = (side() for side in FILES[name])
    assert theirs, "nothing was read from the paper's listing"
    differing = {key: (theirs.get(key), ours.get(key)) for key in theirs.keys() | ours.keys()
                 if theirs.get(key) != ours.get(key)}
    assert differing == {key: (before, now) for file, key, before, now in DIFFERENCES if file == name}


def test_every_difference_has_one_reason_and_a_file():
    named = [(file, key) for file, key, _, _ in DIFFERENCES]
    assert len(named) == len(set(named))
    assert {file for file, _ in named} <= FILES.keys()
