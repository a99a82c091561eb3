"""Each type of target gets its format, over a checked connection. The text of a failure has the reason, no secret."""
from __future__ import annotations

import hashlib
import hmac
import socket

import pytest

from alerts import message
from alerts.incidents import IncidentMachine
from alerts.targets import Failed, mail, slack, syslog, webhook
from tests import sinks
from tests.unit.alerts.events import T, made

SECRET = "open-sesame-4711"
PLAIN = {"type": "mail", "host": "localhost", "from": "a@example.org", "to": "b@example.org"}


@pytest.fixture
def one() -> dict:
    """A message."""
    machine = IncidentMachine()
    machine.take(T, made(1, subject="bond0/eth1", cause="<@everyone> & co"))
    return message.compose(machine.tick(T + 1)[0])


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return sinks.certificate(tmp_path_factory.mktemp("tls"))


def test_mail_by_starttls_with_a_password(one, tls):
    ca, context = tls
    with sinks.mail(tls=context, password=SECRET) as sink:
        target = {"type": "mail", "host": "localhost", "port": sink.port, "user": "vpn", "password": SECRET,
                  "from": "vpn@example.org", "to": ["a@example.org", "b@example.org"], "ca": str(ca)}
        assert mail.deliver(target, one) == "taken by the mail server"
        (got,) = sink.wait()
    assert got["Subject"] == one["subject"] and got["To"] == "a@example.org, b@example.org"
    assert got["Auto-Submitted"] == "auto-generated" and one["id"] in got["Message-ID"]
    assert "What to do" in sinks.text_of(got)
    assert sink.log.index("STARTTLS") < sink.log.index("AUTH")


def test_mail_to_a_server_that_nobody_vouches_for_is_not_sent(one, tls):
    with sinks.mail(tls=tls[1]) as sink:
        target = PLAIN | {"port": sink.port}
        with pytest.raises(Failed, match="certificate is not accepted"):
            mail.deliver(target, one)
    assert sink.got == []


def test_mail_without_starttls_is_not_sent(one):
    with sinks.mail() as sink:
        target = PLAIN | {"port": sink.port}
        with pytest.raises(Failed, match="no STARTTLS"):
            mail.deliver(target, one)
        assert mail.deliver(target | {"security": "none"}, one)
        sink.refuse = True
        with pytest.raises(Failed, match="refused: 450 later"):
            mail.deliver(target | {"security": "none"}, one)


def test_a_wrong_password_is_not_shown(one):
    with sinks.mail(password="another") as sink:
        target = PLAIN | {"port": sink.port, "security": "none", "user": "vpn", "password": SECRET}
        with pytest.raises(Failed, match="refused: 535") as caught:
            mail.deliver(target, one)
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_a_subject_can_not_add_a_header(one):
    (made_,) = [mail.compose({"from": "a@example.org", "to": "b@example.org"},
                             one | {"subject": "a" + " " * 300, "site": "winterthur"})]
    assert len(made_["Subject"]) <= 200
    with pytest.raises(ValueError):
        mail.compose({"from": "a@example.org", "to": "b@example.org"}, one | {"subject": "a\nBcc: c@example.org"})


def test_webhook_is_json_and_signed(one):
    with sinks.web() as sink:
        target = {"type": "webhook", "url": f"http://127.0.0.1:{sink.port}/hook", "secret": SECRET,
                  "headers": {"Authorization": "Bearer x"}}
        assert webhook.deliver(target, one) == "answered 200"
        (got,) = sink.wait()
    assert got.json["subject"] == one["subject"] and got.json["conditions"][0]["subject"] == "bond0/eth1"
    stamp, _, signature = got.headers["X-Gateway-Signature"].partition(",v1=")
    seconds = stamp.removeprefix("t=").encode()
    assert signature == hmac.new(SECRET.encode(), seconds + b"." + got.body, hashlib.sha256).hexdigest()
    assert got.headers["Authorization"] == "Bearer x"


@pytest.mark.parametrize("status", [302, 404, 500])
def test_webhook_that_answers_something_else_has_not_taken_it(one, status):
    with sinks.web() as sink:
        sink.status = status
        with pytest.raises(Failed, match=f"answered {status}"):
            webhook.deliver({"type": "webhook", "url": f"http://127.0.0.1:{sink.port}/{SECRET}"}, one)
    assert sink.got == []


def test_webhook_over_https_is_checked(one, tls):
    ca, context = tls
    with sinks.web(tls=context) as sink:
        target = {"type": "webhook", "url": f"https://localhost:{sink.port}/"}
        with pytest.raises(Failed, match="certificate is not accepted"):
            webhook.deliver(target, one)
        assert webhook.deliver(target | {"ca": str(ca)}, one) == "answered 200"


def test_a_dead_server_is_named_as_such_without_its_address(one):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}"
        with pytest.raises(Failed, match="Connection refused") as caught:
            webhook.deliver({"type": "webhook", "url": url}, one)
    assert SECRET not in str(caught.value)


def test_a_server_that_does_not_answer_is_given_up(one):
    with sinks.web() as sink:
        sink.slow = 3
        with pytest.raises(Failed, match="in time"):
            webhook.deliver({"type": "webhook", "url": f"http://127.0.0.1:{sink.port}/", "timeout": 0.3}, one)


def test_slack_is_not_made_to_call_everybody(one):
    with sinks.web() as sink:
        slack.deliver({"type": "slack", "url": f"http://127.0.0.1:{sink.port}/services/x", "channel": "#vpn"}, one)
        (got,) = sink.wait()
    assert got.json["channel"] == "#vpn" and got.json["text"] == one["subject"]
    (attachment,) = got.json["attachments"]
    assert "&lt;@everyone&gt; &amp; co" in attachment["text"] and "<" not in attachment["text"]


def test_syslog_is_rfc_5424(one):
    with sinks.log_udp() as sink:
        target = {"type": "syslog", "protocol": "udp", "host": "127.0.0.1", "port": sink.port, "facility": "local3"}
        syslog.deliver(target, one)
        (got,) = sink.wait()
    head, _, rest = got.decode().partition(" gateway-alerts - alert ")
    assert head.startswith("<156>1 2024-05-01T10:00:01.000Z ")       # 19 * 8 + warning
    assert rest.startswith(f'[gateway@32473 id="{one["id"]}" kind="alert" site="winterthur" severity="warning"] \ufeff')
    assert one["subject"] in rest and "\n" not in rest


def test_syslog_over_tcp_and_tls_counts_its_octets(one, tls):
    ca, context = tls
    for protocol, server in (("tcp", None), ("tls", context)):
        with sinks.log_tcp(server) as sink:
            target = {"type": "syslog", "protocol": protocol, "host": "localhost", "port": sink.port, "ca": str(ca)}
            syslog.deliver(target, one | {"brief": 'quotes " ] \\'})
            (got,) = sink.wait()
        length, _, line = got.partition(b" ")
        assert int(length) == len(line)


def test_syslog_to_the_local_daemon(one, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "log"))
        syslog.deliver({"type": "syslog", "path": str(tmp_path / "log")}, one)
        assert daemon.recv(5000).startswith(b"<28>gateway-alerts: [warning] winterthur: gw1 has lost")
    with pytest.raises(Failed):
        syslog.deliver({"type": "syslog", "path": str(tmp_path / "none")}, one)


def test_a_long_line_is_cut_where_a_letter_ends(one):
    line = syslog.line({"type": "syslog"}, one | {"brief": "\u00e4" * 3000})
    assert len(line) <= syslog.MAX_LINE_BYTES + 3 and line.decode()
