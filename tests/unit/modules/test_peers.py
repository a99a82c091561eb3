"""Who the two ends of a connection are: what a site may say, and what becomes of it for the daemon."""
from __future__ import annotations

import pytest

from tests.conftest import load_module
from tests.unit.modules.test_gateway import GATEWAY, SCHEMA, changed, mistakes
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
        {"local": "@gateway.winterthur.example", "peer": written, "pillar": "gateway_secrets:psk:bern"}]
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
     "connections:roadwarrior:local:id: a.example: roadwarriors know the gateway by gateway:identity:id, which their bundles name; leave it out"),
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


def test_kinds_are_told_in_words():
    assert set(PEERS.KINDS) == {kind for _, kind, _ in IDENTITIES}
