"""Lists of other authorities: what is fetched, what is refused, and that the rest of the file stays."""
from __future__ import annotations

import functools
import http.server
import json
import threading

import pytest
import salt.config
import salt.loader
import yaml
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import TREE, copy_pillar, load_module
from tests.unit.modules.identities import AUTHORITY, DAY, Authority, bundle, pem

URL = "http://pki.example/example-ca.crl"


RUNNER = load_module("_runners/lists.py")
DOWNLOAD, RENDER = RUNNER._download, salt.loader.render


@functools.cache
def renderers() -> object:
    """Salt's renderers, loaded once."""
    return RENDER(salt.config.DEFAULT_MASTER_OPTS, {})


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """The runner on a master where winterthur has a certificate of AUTHORITY; `.served` is the answer of URL."""
    runner = RUNNER
    runner.pillar = tmp_path / "pillar"
    copy_pillar(runner.pillar)
    of_sites = {"winterthur": {"certificates": {"gateway": bundle()}}, "bern": {"heartbeat": {"key": "k"}}}
    for site, secrets in of_sites.items():
        (runner.pillar / f"secrets/{site}.sls").write_text("#!yaml\n" + yaml.safe_dump({"gateway_secrets": secrets}))
    runner.__opts__ = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(runner.pillar)]}, "file_roots": {"base": [str(TREE / "salt")]},
        "cachedir": str(tmp_path), "extension_modules": str(tmp_path)}
    runner.__context__ = {}
    runner.file = runner.pillar / "secrets/crls/winterthur.sls"
    runner.served = b""
    monkeypatch.setattr(runner, "_download", lambda url: runner.served)
    monkeypatch.setattr(runner.salt.loader, "render", lambda *_args: renderers())
    return runner


def der(crl) -> bytes:
    return crl.public_bytes(Encoding.DER)


def listed(lists) -> dict:
    return yaml.safe_load(lists.file.read_text())["gateway_secrets"]


def test_a_list_is_fetched_once_and_a_newer_one_takes_its_place(lists):
    lists.served = der(AUTHORITY.crl(number=7))
    done = lists.fetch("winterthur", "example-ca", URL)
    assert (done["retcode"], done["number"], done["entries"], done["changed"]) == (0, 7, 0, True)
    assert done["next"] == "salt '*.winterthur' state.apply openswan" and lists.file.stat().st_mode & 0o777 == 0o600
    before = lists.file.read_bytes()
    again = lists.fetch("winterthur", "example-ca", URL)
    assert (again["retcode"], again["changed"], lists.file.read_bytes()) == (0, False, before)
    lists.served = pem(AUTHORITY.crl(number=8)).encode()          # PEM as well as DER
    assert lists.fetch("winterthur", "example-ca", URL)["changed"]
    assert listed(lists)["crls"] == {"example-ca": lists.served.decode()}


def test_what_the_nodes_make_of_it(lists, load):
    lists.served = der(AUTHORITY.crl(number=7))
    lists.fetch("winterthur", "example-ca", URL)
    certs = load("_modules/certs.py")
    certs.__salt__ = {"pillar.get": lambda *_args, **_more: listed(lists)["crls"]["example-ca"]}
    assert certs._load_crl("gateway_secrets:crls:example-ca").is_signature_valid(AUTHORITY.key.public_key())


def test_what_this_masters_own_authority_has_there_stays(lists):
    lists.file.parent.mkdir(mode=0o700)
    own = {"crls": {"gateway-authority": pem(Authority("Own").crl(number=3))}, "revoked": [{"ids": ["CN=anna"]}]}
    lists.file.write_text("#!yaml\n" + yaml.safe_dump({"gateway_secrets": own}))
    lists.served = der(AUTHORITY.crl(number=7))
    assert lists.fetch("winterthur", "example-ca", URL)["changed"]
    found = listed(lists)
    assert found["revoked"] == own["revoked"] and found["crls"]["gateway-authority"] == own["crls"]["gateway-authority"]
    assert "example-ca" in found["crls"]


@pytest.mark.parametrize(("served", "expected"), [
    (lambda: b"", "is no readable certificate revocation list"),
    (lambda: b"<html>not found</html>", "is no readable certificate revocation list"),
    (lambda: der(AUTHORITY.crl(number=9))[:-40], "is no readable certificate revocation list"),
    (lambda: der(AUTHORITY.crl(number=9, end=-DAY / 2)), "is stale: the next list was due on"),
    (lambda: der(Authority("Test CA").crl(number=9)), 'is not signed by "CN=Test CA", which it names as its issuer'),
    (lambda: der(Authority("Other CA").crl(number=9)), 'is from "CN=Other CA", which is no authority of the site'),
    (lambda: der(AUTHORITY.crl(number=6)), "is number 6 of"),
    (lambda: der(AUTHORITY.crl(number=7, start=-2 * DAY)), "and number 7 of"),
])
def test_a_bad_one_is_one_line_and_changes_nothing(lists, served, expected):
    lists.served = der(AUTHORITY.crl(number=7))
    lists.fetch("winterthur", "example-ca", URL)
    before = {path: path.read_bytes() for path in lists.pillar.rglob("*.sls")}
    lists.served = served()
    done = lists.fetch("winterthur", "example-ca", URL)
    assert done["retcode"] == lists.__context__["retcode"] == 1
    assert len(done["mistakes"]) == 1 and expected in done["mistakes"][0], done
    assert done["mistakes"][0].startswith(f"lists: {URL} ")
    assert {path: path.read_bytes() for path in lists.pillar.rglob("*.sls")} == before


@pytest.mark.parametrize(("words", "expected"), [
    (("../x", "ca", URL), "is no site's name"), (("basel", "ca", URL), "sites/basel.sls is under none of"),
    (("winterthur", "a b", URL), "is not a valid name for a list"),
    (("winterthur", "../x", URL), "is not a valid name for a list"),
    (("winterthur", "gateway-authority", URL), "is this master's own authority"),
    (("bern", "ca", URL), "bern has no certificate in pillar")])
def test_wrong_words(lists, words, expected):
    lists.served = der(AUTHORITY.crl(number=7))
    done = lists.fetch(*words)
    assert done["retcode"] == 1 and len(done["mistakes"]) == 1 and expected in done["mistakes"][0], done
    assert not list((lists.pillar / "secrets").glob("crls/*.sls"))


def test_a_damaged_file_of_lists_is_told(lists):
    lists.file.parent.mkdir()
    lists.file.write_text("gateway_secrets: [")
    lists.served = der(AUTHORITY.crl(number=7))
    assert "is damaged; remove it, then publish and fetch" in lists.fetch("winterthur", "ca", URL)["mistakes"][0]
    assert lists.file.read_text() == "gateway_secrets: ["


def test_no_secret_is_in_what_is_told(lists):
    lists.served = der(AUTHORITY.crl(number=7))
    secrets = yaml.safe_load((lists.pillar / "secrets/winterthur.sls").read_text())["gateway_secrets"]
    told = json.dumps([lists.fetch("winterthur", "ca", URL), lists.fetch("winterthur", "ca", "x")])
    assert secrets["certificates"]["gateway"]["pkcs12"][:40] not in told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=300), st.tuples(st.integers(0, 200), st.integers(0, 7)).map(
    lambda at: bytes(octet ^ (1 << at[1]) * (place == at[0]) for place, octet in enumerate(GOOD)))))
def test_whatever_is_served_is_a_list_of_the_authority_or_one_line(lists, data):
    try:
        crl = lists._read(URL, data)
        lists._check(URL, crl, [AUTHORITY.certificate])
        assert crl.is_signature_valid(AUTHORITY.key.public_key())
    except lists.SaltRunnerError as error:
        assert "\n" not in str(error)


GOOD = der(AUTHORITY.crl(number=7))


@pytest.fixture
def server():
    """A web server; by path, the status, the length that it announces, and what it sends."""
    answers = {"/list": (200, 4, b"list"), "/cut": (200, 9, b"list"), "/gone": (404, 0, b""),
               "/large": (200, 99, b"x" * 99)}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, length, data = answers[self.path]
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_the_way_to_it(lists, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(lists, "_MAX_LIST_BYTES", 50)
    assert DOWNLOAD(f"{server}/list") == b"list"
    for url, expected in {f"{server}/cut": "broke off|IncompleteRead", f"{server}/gone": "answered 404 Not Found",
                          f"{server}/large": "has more than", "file:///etc/passwd": "no URL that begins with http",
                          "http://127.0.0.1:1/": "could not be fetched: .*refused", "http://[": "could not be|Invalid",
                          "": "no URL"}.items():
        with pytest.raises(lists.SaltRunnerError, match=expected) as told:
            DOWNLOAD(url)
        assert "\n" not in str(told.value)
