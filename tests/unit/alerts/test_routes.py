"""Every mistake of the configuration is named at once, and an alert goes to the right targets."""
from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts import routes
from tests.conftest import TREE

GOOD = yaml.safe_load("""
targets:
  ops: {type: mail, host: mail.example.org, user: vpn, password: s3cret-9, from: vpn@example.org, to: [a@example.org]}
  chat: {type: slack, url: "https://hooks.example.org/services/T0/B0/s3cret-9"}
  log: {type: syslog, protocol: tls, host: log.example.org}
  hook: {type: webhook, url: "https://example.org/hook", secret: s3cret-9, limits: {site: 5}}
routes:
  - {sites: winterthur, severities: [critical, warning], targets: [ops, chat]}
  - {severities: critical, targets: ops}
  - {targets: [log, hook]}
flapping: {times: 3, minutes: 5}
heartbeat_hours: 24
""")
SITES = ["bern", "winterthur"]


def changed(path: str, value: object) -> dict:
    data = yaml.safe_load(yaml.safe_dump(GOOD))
    *way, last = path.split(":")
    place = data
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return data


def test_a_good_one_has_no_mistakes_and_routes_by_site_and_severity():
    its, mistakes = routes.check(GOOD, SITES)
    assert mistakes == []
    assert its.of("winterthur", "warning") == ["bus", "chat", "hook", "log", "ops"]
    assert its.of("winterthur", "info") == ["bus", "hook", "log"]
    assert its.of("bern", "critical") == ["bus", "hook", "log", "ops"]
    assert its.of("", "warning") == ["bus", "hook", "log"]
    assert (its.limits["ops"].site, its.limits["hook"].site, its.limits["hook"].digest_seconds) == (10, 5, 3)
    assert its.flapping == (3, 5) and its.heartbeat_hours == 24


def test_without_a_file_it_is_the_masters_syslog_and_the_bus():
    assert routes.default().of("winterthur", "info") == ["bus", "syslog"]


def test_the_shipped_example_is_right():
    text = (TREE / "pillar/alerts.example").read_text()
    its, mistakes = routes.check(yaml.safe_load(text)["alerts"], ["winterthur", "bern"])
    assert mistakes == [] and len(its.targets) >= 4


@pytest.mark.parametrize("path, value, words", [
    ("targets:ops:host", None, "alerts:targets:ops:host: is missing"),
    ("targets:ops:type", "pigeon", "alerts:targets:ops:type: must be one of mail, webhook, slack, syslog"),
    ("targets:ops:to", ["a@example.org\nBcc: b@example.org"], "alerts:targets:ops:to: must be a mail address"),
    ("targets:ops:password", None, "user and password go together"),
    ("targets:ops:security", "none", "none is only for the master itself"),
    ("targets:ops:port", 70000, "alerts:targets:ops:port: must be a number"),
    ("targets:ops:pasword", "s3cret-9", "alerts:targets:ops:pasword: unknown key"),
    ("targets:chat:url", "http://hooks.example.org/s3cret-9", "alerts:targets:chat:url: must be an https://"),
    ("targets:chat:url", "file:///etc/shadow", "alerts:targets:chat:url: must be an https://"),
    ("targets:log:host", None, "alerts:targets:log:host: is missing"),
    ("targets:hook:limits", {"site": 0}, "alerts:targets:hook:limits: must be"),
    ("targets:bus", {"type": "syslog"}, "alerts:targets:bus: is no name"),
    ("targets:unused", {"type": "syslog"}, "alerts:targets:unused: no route leads to it"),
    ("targets", [], "alerts:targets: must be a mapping"),
    ("routes:0:sites", ["zurich"], "'zurich' is no site; the sites are bern, winterthur"),
    ("routes:0:severities", "fatal", "'fatal' is none of info, warning, critical"),
    ("routes:0:targets", ["nobody"], "there is no target 'nobody'"),
    ("routes:1", {"severities": ["critical"]}, "alerts:routes:1:targets: is missing"),
    ("routes:1", "ops", "alerts:routes:1: must be a mapping"),
    ("routes", {}, "alerts:routes: must be a list"),
    ("flapping", {"times": 0}, "alerts:flapping: must be"),
    ("heartbeat_hours", -1, "alerts:heartbeat_hours: must be"),
    ("queue", 5, "alerts:queue: must be"),
    ("nonsense", 1, "alerts:nonsense: unknown key"),
])
def test_a_mistake_is_named_with_its_place_and_without_secrets(path, value, words):
    _, mistakes = routes.check(changed(path, value), SITES)
    assert any(words in mistake for mistake in mistakes), mistakes
    assert "s3cret" not in str(mistakes)


def test_all_mistakes_are_named_at_once():
    data = changed("targets:ops:host", None)
    data["routes"][0]["severities"] = ["fatal"]
    data["queue"] = "long"
    assert len(routes.check(data, SITES)[1]) == 3


@settings(max_examples=25, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["targets", "routes", "a", "type", "url", "sites", "flapping"]) | st.integers(),
                        inner | st.sampled_from(["mail", "webhook", "syslog"]), max_size=4), max_leaves=12))
def test_anything_at_all_is_refused_in_words(data):
    _, mistakes = routes.check(data, SITES)
    assert all(mistake.startswith("alerts:") for mistake in mistakes)
