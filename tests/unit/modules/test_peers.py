"""Who the two ends of a connection are: what a site may say, and what becomes of it for the daemon."""
from __future__ import annotations

import pytest

from tests.conftest import load_module
from tests.unit.modules.test_gateway import GATEWAY, GONE, SCHEMA, changed, mistakes
from tests.unit.modules.test_gateway import SECRETS as SITE_SECRETS

PEERS = load_module("_modules/_peers.py")
IPSEC = load_module("_modules/ipsec.py")
IPSEC.__salt__ = {"certs.inspect": lambda _pillar: {"key": "ec 256"}}
IPSEC.version = lambda: "5.2"
PSK = {"connections/bern/auth": "psk"}
BERN = "connections/bern"
# By identity as a site has it: its kind, and how ipsec.conf and ipsec.secrets have it (atoid() in Libreswan's id.c).
IDENTITIES = [
    ("gateway.basel.example", "name", "@gateway.basel.example"),
    ("branch", "name", "@branch"),
    ("branch_7", "name", "@branch_7"),
    ("203.0.113.5", "address", "203.0.113.5"),
    ("2001:DB8:0::5", "address", "2001:db8::5"),
    ("10.0.0.4", "address", "10.0.0.4"),            # behind NAT a peer may call itself by its private address
    ("vpn@bern.example", "mail", "vpn@bern.example"),
    ("C=CH,O=Example (Bern), CN=vpn", "subject", '"C=CH, O=Example (Bern), CN=vpn"'),
    ("CN=vpn@bern.example", "subject", '"CN=vpn@bern.example"'),
    ("keyid:branch-7", "key", "@[branch-7]"),
    ("keyid:7", "key", "@[7]"),
    ("keyid:a@b/c:d", "key", "@[a@b/c:d]"),
    ("keyid:0x00FF10", "key", "@#00ff10"),
]


def derived(changes: dict[str, object], site: str = "winterthur", node: str = "gw1") -> dict:
    """A node's settings after a change that makes no mistake."""
    assert mistakes(site, changes) == []
    return GATEWAY.derive(changed(site, changes), SCHEMA, node)


@pytest.mark.parametrize(("identity", "kind", "written"), IDENTITIES, ids=[each[0] for each in IDENTITIES])
def test_each_kind_of_identity_at_both_ends(identity, kind, written):
    other = derived({**PSK, f"{BERN}/peer/id": identity})
    own = derived({**PSK, f"{BERN}/local/id": identity})
    assert other["connections"][1]["peer"]["id_kind"] == own["connections"][1]["local"]["id_kind"] == kind
    assert IPSEC.sections(other)["bern"]["rightid"] == IPSEC.sections(own)["bern"]["leftid"] == written
    assert IPSEC.sections(own)["roadwarrior"]["leftid"] == "@gateway.winterthur.example"
    assert IPSEC.shared_secrets(other) == [
        {"local": "@gateway.winterthur.example", "peer": written, "pillar": "gateway_secrets:psk:bern", "number": 0}]
    assert IPSEC.shared_secrets(own)[0]["local"] == written


@pytest.mark.parametrize(("identity", "kind", "written"), IDENTITIES, ids=[each[0] for each in IDENTITIES])
def test_the_record_of_the_loaded_file_has_the_whole_identity(identity, kind, written):
    """The bytes of a key id are @#00ff10, and a # begins a comment elsewhere."""
    text = f"conn bern   # the peer\n    rightid={written}   # it\n# auto=start\n"
    assert IPSEC.parse(text) == {"bern": {"rightid": written.strip('"')}}


@pytest.mark.parametrize(("value", "says"), [
    ("@bern.example", "does not fit; give a name such as"),
    ("%any", "does not fit; give a name such as"),
    ("%fromcert", "does not fit; give a name such as"),
    ("@[branch]", "is a key id as Libreswan writes it; give keyid:TEXT"),
    ("@#00ff", "is a key id as Libreswan writes it; give keyid:TEXT"),
    ("keyid:", "does not fit"), ("keyid:0xabc", "does not fit"), ("keyid:a=b", "does not fit"),
    ("keyid:two words", "does not fit"), ("keyid:a#b", "does not fit"), ('keyid:a"b', "does not fit"),
    ("O=a\nconn evil", "does not fit"), ('CN=a", rightca=%any', "does not fit"), ("CN=*", "does not fit"),
    ("two words", "does not fit"), ("a@b@c", "does not fit"), ("vpn@", "does not fit"), ("a..b", "does not fit"),
    ("-a.example", "does not fit"), ("999.0.0.1", "does not fit"), ("0.0.0.0", "is no address of one host"),
    ("fe80::1%eth0", "is no address of one host"), ("224.0.0.5", "is no address of one host"),
])
def test_no_identity_of_another_form(value, says):
    for path in (f"{BERN}/peer/id", f"{BERN}/local/id", "identity/id"):
        found = mistakes("winterthur", {**PSK, path: value})
        assert any(line.startswith(f"winterthur: gateway:{path.replace('/', ':')}: ") and says in line
                   for line in found), found
        assert all("\n" not in line for line in found)


@pytest.mark.parametrize(("changes", "expected"), [
    ({f"{BERN}/peer/id": "keyid:branch"},
     "connections:bern:peer:id: keyid:branch: no certificate holds a key id; give one of its names, or auth: psk"),
    ({f"{BERN}/local/id": "keyid:branch"},
     "connections:bern:local:id: keyid:branch: no certificate holds a key id; give one of its names, or auth: psk"),
    ({"connections/roadwarrior/local/id": "a.example"},
     "connections:roadwarrior:local:id: a.example: roadwarriors know the gateway by gateway:identity:id, which their "
     "bundles name; leave it out"),
    ({"identity/id": "203.0.113.1"},
     "identity:id: 203.0.113.1: roadwarriors look for a DNS name in the gateway's "
     "certificate; give that one, and this as local:id to the connections whose peers know it"),
    ({**PSK, f"{BERN}/peer/id": "203.0.113.1", f"{BERN}/local/id": "203.0.113.1"},
     "connections:bern:peer:id: 203.0.113.1 is this site's own; give the peer's"),
])
def test_identities_that_can_not_work(changes, expected):
    assert mistakes("winterthur", changes) == [f"winterthur: gateway:{expected}"]


def test_a_peer_with_a_secret_is_known_by_its_address_where_nothing_is_said():
    settings = derived({**PSK, f"{BERN}/peer": {"address": "203.0.113.5", "subnets": "10.20.0.0/16"}})
    assert IPSEC.sections(settings)["bern"]["rightid"] == "203.0.113.5"


def test_a_site_of_secrets_alone_may_be_its_address():
    settings = derived({"connections/roadwarrior": {"kind": "roadwarrior", "auth": "psk", "pool": "198.51.100.192/27"},
                        "identity/id": "192.0.2.10", **PSK})
    assert [each["leftid"] for name, each in IPSEC.sections(settings).items() if name != "config setup"] == [
        "192.0.2.10"] * 2
    assert IPSEC.shared_secrets(settings)[0]["peer"] == "%any"
    assert settings["identity"]["certified"] == []


def test_the_certificate_has_to_hold_every_name_that_a_peer_is_told():
    assert derived({})["identity"]["certified"] == ["gateway.winterthur.example"]
    settings = derived({f"{BERN}/local/id": "192.0.2.10"})
    assert settings["identity"]["certified"] == ["gateway.winterthur.example", "192.0.2.10"]
    assert derived({f"{BERN}/local/id": "192.0.2.10", **PSK})["identity"]["certified"] == ["gateway.winterthur.example"]


MORE = {"kind": "site-to-site", "auth": "psk",
        "peer": {"address": "192.0.2.74", "id": "gateway.bern.example", "subnets": "10.20.0.0/16"}}


def test_between_two_identities_there_is_one_secret():
    """Libreswan takes the last of two in the file, without a word."""
    secrets = {**SITE_SECRETS, "psk": {"bern": "one", "more": "two"}}
    changes = {**PSK, "connections/more": MORE}
    found = mistakes("winterthur", changes, secrets=secrets)
    assert len(found) == 1 and found[0].startswith("winterthur: gateway_secrets:psk:more: differs from psk:bern")
    assert "one'" not in found[0] and "two" not in found[0].replace("between", "")
    assert mistakes("winterthur", {**changes, "connections/more/local/id": "keyid:two"}, secrets=secrets) == []
    assert mistakes("winterthur", changes, secrets={**secrets, "psk": {"bern": "one", "more": "one"}}) == []


# Where the peer is

def peer(*where: str, **more: object) -> dict[str, object]:
    """bern, with a shared secret, at these places."""
    return {**PSK, f"{BERN}/peer/address": list(where) if len(where) > 1 else where[0], f"{BERN}/initiate": None,
            **{f"{BERN}/{key.replace('__', '/')}": value for key, value in more.items()}}


def gone(changes: dict[str, object]) -> dict[str, object]:
    """Without `initiate`, which the example has."""
    return {path: GONE if path == f"{BERN}/initiate" and value is None else value for path, value in changes.items()}


@pytest.mark.parametrize("written", ["any", "%any"])
def test_a_peer_from_anywhere_is_known_by_its_identity_and_only_it_calls(written):
    settings = derived(gone(peer(written)))
    found, (tunnel,) = IPSEC.sections(settings)["bern"], [
        each for each in IPSEC.tunnels(settings) if each["connection"] == "bern"]
    assert (found["right"], found["rightid"], found["auto"], found["rekey"]) == (
        "%any", "@gateway.bern.example", "add", "no")
    assert tunnel["initiate"] is False and IPSEC.tried(settings) == []
    assert IPSEC.shared_secrets(settings)[0]["peer"] == "@gateway.bern.example"


def test_several_addresses_begin_with_the_first_and_the_others_are_tried():
    settings = derived(gone(peer("203.0.113.5", "203.0.113.6")))
    found = IPSEC.sections(settings)["bern"]
    assert (found["right"], found["rightid"], found["auto"]) == ("203.0.113.5", "@gateway.bern.example", "start")
    (its,) = IPSEC.tried(settings)
    assert its["places"] == [{"host": each, "id": "@gateway.bern.example"} for each in ("203.0.113.5", "203.0.113.6")]
    assert (its["local"], its["patience"], its["tunnels"]["bern"]["auto"]) == ("192.0.2.10", 15, "start")


def test_a_name_never_reaches_the_daemon():
    """pluto looks names up in its only thread: with a name server that is silent it would stand still (ddns.c)."""
    settings = derived(gone(peer("bern.dyn.example")))
    sections = IPSEC.sections(settings)
    assert "bern.dyn.example" not in str(sections) and sections["bern"]["right"] == "%any"
    (its,) = IPSEC.tried(settings)
    assert its["places"] == [{"host": "bern.dyn.example", "id": "@gateway.bern.example"}]
    # while it is called, it is an ordinary connection
    assert its["tunnels"]["bern"]["auto"] == "start" and "rekey" not in its["tunnels"]["bern"]


def test_a_dead_peer_is_called_again_by_the_old_daemon_too(monkeypatch):
    monkeypatch.setattr(IPSEC, "version", lambda: "4.10")
    settings = derived(gone(peer("bern.dyn.example")))
    assert IPSEC.sections(settings)["bern"]["dpdaction"] == "clear"
    assert IPSEC.tried(settings)[0]["tunnels"]["bern"]["dpdaction"] == "restart"


CERTIFICATE = {f"{BERN}/peer/address": "any", f"{BERN}/initiate": None}
PERSONS = {"connections/roadwarrior/persons": {"anna": "198.51.100.129"}}


@pytest.mark.parametrize(("changes", "kind", "server", "authorities"), [
    # rsa: the daemon knows who issued a key
    (CERTIFICATE, "rsa 2048", None, ("%same", "%same")),
    # ec: each has to be reachable from the other (tried with both versions of the daemon: docs/peers.md)
    (CERTIFICATE, "ec 256", "yes", ("%any", "%any")),
    ({**CERTIFICATE, **PSK}, "ec 256", None, ("%same", None)),
    ({**CERTIFICATE, **PSK, **PERSONS}, "ec 256", "yes", ("%any", None)),
    ({**CERTIFICATE, **PSK, **PERSONS}, "rsa 2048", None, ("%same", None)),
    (PERSONS, "ec 256", None, ("%any", "%same")),
])
def test_those_who_come_from_anywhere_are_told_apart(monkeypatch, changes, kind, server, authorities):
    monkeypatch.setitem(IPSEC.__salt__, "certs.inspect", lambda _pillar: {"key": kind})
    found = IPSEC.sections(derived(gone(changes)))
    assert (found["roadwarrior"]["rightca"], found["bern"].get("rightca")) == authorities
    assert found["bern"].get("leftxauthserver") == server


@pytest.mark.parametrize(("changes", "expected"), [
    (peer("any", "203.0.113.5"),
     "bern:peer:address: any, 203.0.113.5: any is every address already; give any alone, or leave it out"),
    (peer("any", initiate=True),
     "bern:initiate: true: nobody knows where to call a peer that comes from any address; leave it out, or give the "
     "peer's address or name"),
    (peer("any", peer__id=GONE),
     "bern:peer:id: is missing; a site-to-site connection needs the peer's id"),
    (peer("bern.example", peer__id=GONE),
     "bern:peer:id: is missing; a site-to-site connection needs the peer's id"),
    (peer("any", peer__id="C=CH, CN=bern"),
     "bern:peer:id: C=CH, CN=bern: the secret of a peer from anywhere is found by its identity, and a distinguished "
     "name is for certificates; give a name, a mail address or a key id"),
    (peer("any", ike="ikev1"),
     "bern:ike: ikev1: with it the secret is chosen before the peer has said who it is; give ike: ikev2, or auth: "
     "certificate"),
    (peer("bern.example", initiate=False),
     "bern:initiate: false: this end only looks for a peer (bern.example) to call it; give address: any, or leave "
     "initiate out"),
    (peer("203.0.113.5", "203.0.113.6", initiate=False),
     "bern:initiate: false: this end only looks for a peer (203.0.113.5, 203.0.113.6) to call it; give address: any,"
     " or leave initiate out"),
    (peer("203.0.113.5", "2001:db8:9::5"),
     "bern:peer:address: 203.0.113.5, 2001:db8:9::5: these are of two IP versions, and this end of a connection has "
     "one address; give a connection for each"),
    (peer("203.0.113.5", "192.0.2.12"),
     "bern:peer:address: 192.0.2.12 is gw2's own address; give the peer's"),
    (peer("2001:db8:9::5"),
     "bern:peer:address: 2001:db8:9::5 cannot be reached from 192.0.2.10; give one of the same IP version"),
    (peer("203.0.113.5", "203.0.113.5"),
     "bern:peer:address: 203.0.113.5 occurs twice; leave one out"),
    (peer("bern"),
     "bern:peer:address: bern is no IP address; give one such as 192.0.2.11 or 2001:db8::11, a name such as "
     "branch.site.example, or any"),
    (peer("203.0.113.0/24"),
     "bern:peer:address: 203.0.113.0/24 is no IP address; give one without the prefix length"),
    (peer("169.254.1.1"),
     "bern:peer:address: 169.254.1.1 is no address of one host in a network; give one such as 192.0.2.11 or "
     "2001:db8::11"),
    (peer("any", proposals__ike="aes128-sha2_256-dh14"),
     "bern:proposals:ike: aes128-sha2_256-dh14 is not what roadwarrior has, and the daemon agrees on it before it "
     "knows who of those that come from anywhere calls; give both the same, or leave both out"),
    ({**peer("any"), "connections/more": {**MORE, "peer": {**MORE["peer"], "address": "more.example"}}},
     "more:peer:id: gateway.bern.example is the peer of the connection bern too, and a peer from anywhere is known "
     "by nothing else; give each its own, or one of them all the subnets"),
    ({**peer("any", peer__id="anna.example"), "connections/roadwarrior/persons": {"anna.example": "198.51.100.129"}},
     "bern:peer:id: anna.example is a person of the connection roadwarrior too, and whoever comes from anywhere is "
     "known by nothing else; give each its own"),
])
def test_places_that_can_not_work(changes, expected):
    found = mistakes("winterthur", gone(changes))
    assert f"winterthur: gateway:connections:{expected}" in found
    assert all("\n" not in line for line in found)


def test_every_mistake_is_told_at_once():
    changes = gone(peer("any", ike="ikev1", initiate=True, peer__id="O=Bern, CN=vpn", proposals__ike="aes256-sha2_256"))
    keys = {line.split(": ")[1].removeprefix("gateway:connections:bern:") for line in mistakes("winterthur", changes)}
    assert keys == {"ike", "initiate", "peer:id"}


SEVERAL = gone(peer("203.0.113.5", "203.0.113.6", peer__id=GONE))


def test_each_address_may_have_its_own_identity_and_secret():
    settings = derived(SEVERAL)
    assert [(each["peer"], each["number"]) for each in IPSEC.shared_secrets(settings)] == [
        ("203.0.113.5", 0), ("203.0.113.6", 1)]
    assert [place["id"] for place in IPSEC.tried(settings)[0]["places"]] == ["203.0.113.5", "203.0.113.6"]


@pytest.mark.parametrize(("changes", "secret", "says"), [
    (SEVERAL, "one", ""), (SEVERAL, ["one", "two"], ""),
    (SEVERAL, ["one"], "psk:bern: is a list; give one secret"),
    (SEVERAL, ["one", "two", "three"], "psk:bern: is a list; give one secret"),
    (SEVERAL, ["one", 'two"'], "psk:bern:1: is empty or has characters"),
    (SEVERAL, ["one", None], "psk:bern:1: is missing"),
    (PSK, ["one", "two"], "psk:bern: is a list; give one secret"),
])
def test_a_secret_for_each_address(changes, secret, says):
    found = mistakes("winterthur", changes, secrets={**SITE_SECRETS, "psk": {"bern": secret}})
    assert len(found) == bool(says) and all(line.startswith(f"winterthur: gateway_secrets:{says}") for line in found)


def test_kinds_are_told_in_words():
    assert set(PEERS.KINDS) == {kind for _, kind, _ in IDENTITIES}
