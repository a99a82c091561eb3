"""A node gets its own site's pillar; a machine that is not a node gets none, whatever its grains say."""
from __future__ import annotations

import hashlib
import json

import pytest
import salt.crypt
import salt.defaults.exitcodes

OUTSIDERS = ["laptop.winterthur", "web.elsewhere"]
# A digest instead of pillar itself: returns are kept in the job cache, and test_secrets.py searches that.
DIGEST = """#!jinja|json
{{ {'site': pillar.gateway.site, 'secrets': pillar.gateway_secrets | json(sort_keys=True) | sha256} | json }}"""


@pytest.mark.parametrize("minion, site", [
    ("gw1.winterthur", "winterthur"), ("gw2.winterthur", "winterthur"), ("gw-a.bern", "bern")])
def test_a_node_gets_its_own_site_and_its_secrets_decrypted(salt_, minion, site):
    assert sorted(salt_.call(minion, "pillar.ls")) == [
        "beacons", "gateway", "gateway_event_key", "gateway_inputs", "gateway_schema", "gateway_secrets",
        "gateway_tree"]
    digest = hashlib.sha256(json.dumps(salt_.secrets[site], sort_keys=True).encode()).hexdigest()
    assert salt_.call(minion, "slsutil.renderer", string=DIGEST) == {"site": site, "secrets": digest}


def test_the_secrets_lie_encrypted(salt_):
    """Otherwise the test above would not show that they are decrypted."""
    for site, secrets in salt_.secrets.items():
        text = (salt_.tree / f"pillar/secrets/{site}.sls").read_text()
        assert text.count("BEGIN PGP MESSAGE") >= 3
        assert secrets["heartbeat"]["key"] not in text


@pytest.mark.parametrize("minion", OUTSIDERS)
def test_a_machine_that_is_no_node_gets_nothing_and_no_error(salt_, minion):
    """The laptop's grains claim that it is gw1.winterthur."""
    assert salt_.call(minion, "grains.get", "nodename") in ("gw1", "web")
    assert salt_.call(minion, "pillar.items") == {}
    assert salt_.ask_pillar(minion, minion) == {}


def test_an_override_is_given_back_and_nothing_with_it(salt_):
    wish = {"gateway": {"site": "winterthur", "nodes": {"laptop": {}}}}
    assert list(salt_.call("laptop.winterthur", "pillar.items", pillar=wish)) == ["gateway"]
    for load in ({"pillar_override": wish}, {"pillarenv": "prod"}, {"extra_minion_data": wish}, {"ext": "schema"}):
        answer = salt_.ask_pillar("laptop.winterthur", "laptop.winterthur", **load)
        assert answer == load.get("pillar_override", {}), load


def test_nobody_gets_the_pillar_of_another_by_asking_in_its_name(salt_):
    assert salt_.ask_pillar("gw1.winterthur", "gw1.winterthur")["gateway"]["site"] == "winterthur"
    assert salt_.ask_pillar("laptop.winterthur", "gw1.winterthur") == {}
    assert salt_.ask_pillar("gw-a.bern", "gw1.winterthur")["gateway"]["site"] == "bern"


def test_a_node_s_id_without_its_key_gets_nothing(salt_, monkeypatch):
    """The laptop claims to be gw1.winterthur where it counts, in its minion id: the master refuses it."""
    monkeypatch.setattr(salt.crypt.random, "randint", lambda *_: 0)       # retry at once, not after seconds
    with pytest.raises(SystemExit) as error:
        salt_.ask_pillar("laptop.winterthur", "gw1.winterthur", called="gw1.winterthur")
    assert error.value.code == salt.defaults.exitcodes.EX_NOPERM


def test_a_machine_that_is_no_node_has_an_empty_highstate(salt_):
    for minion in OUTSIDERS:
        assert salt_.call(minion, "state.show_top") == {}
