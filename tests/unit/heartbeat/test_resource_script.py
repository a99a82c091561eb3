"""salt/heartbeat/files/gateway on real interfaces, in a user and network namespace of its own.

The IPsec daemon and the announcers are stand-ins that write down how they were called and what the kernel
had at that moment; tests/lab has the real ones.
"""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import TREE

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc"]
VETH = ["ip", "link", "add", "outer", "type", "veth", "peer", "name", "far"]
pytestmark = pytest.mark.skipif(
    not shutil.which("ip") or subprocess.run([*UNSHARE, *VETH], capture_output=True, check=False).returncode != 0,
    reason="no user namespaces with interfaces here")

CONF = """# as the state writes it
address 192.0.2.10/32 outer
address 2001:db8:be::a/128 outer
address 198.51.100.10/32 inner
tunnel roadwarrior
tunnel bern
initiate bern
"""
SETUP = """
ip link add outer type veth peer name far; ip link add inner type veth peer name near
for each in lo outer far inner near; do ip link set $each up; done
ip address add 192.0.2.11/26 dev outer; ip address add 2001:db8:be::b/64 dev outer nodad
ip address add 198.51.100.11/26 dev inner
held() { echo "HELD $(ip -o address show | grep -oE '[^ ]+/(32|128) scope global' | cut -d' ' -f1 | tr '\\n' ' ')"; }
"""


class Script:
    """The resource script, set up in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        self.path, self.conf = folder / "gateway", folder / "gateway.conf"
        (folder / "run").mkdir()
        (folder / "stand-ins").mkdir()
        text = (TREE / "salt/heartbeat/files/gateway").read_text()
        stand_ins = folder / "stand-ins"
        for old, new in {"PATH=": f"PATH={stand_ins}:", "conf=/etc/ha.d/gateway.conf": f"conf={self.conf}",
                         "run=/run": f"run={folder}/run", "helpers=/usr/libexec/heartbeat": f"helpers={stand_ins}",
                         "whack=/usr/libexec/ipsec/whack": f"whack={stand_ins}/whack"}.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.path.write_text(text)
        self.path.chmod(0o755)
        self.conf.write_text(CONF)
        for name in ("logger", "send_arp", "send_ua", "systemctl", "whack"):
            self.stand_in(name, f'echo "{name} $*" >>{self.calls}')

    def stand_in(self, name: str, does: str) -> None:
        """Replace a command by one that does this."""
        path = self.folder / "stand-ins" / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)

    def __call__(self, *steps: str, **environment: str) -> list[str]:
        """Run steps on a node with its own addresses; returns the lines that they print. `gateway` is the script."""
        words = "".join(f"export {key}='{value}'\n" for key, value in environment.items())
        program = SETUP + words + "\n".join(steps).replace("gateway ", f"{self.path} ")
        done = subprocess.run([*UNSHARE, "sh", "-c", program], capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.splitlines()

    def called(self, what: str = "") -> list[str]:
        """How the stand-ins were called. None still runs: they ended with their namespace."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith(what)]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


ALL = "192.0.2.10/32 2001:db8:be::a/128 198.51.100.10/32"


def held(line: str) -> set[str]:
    """The addresses of a HELD line."""
    return set(line.removeprefix("HELD ").split())


def test_start_status_stop(script: Script) -> None:
    lines = script("gateway status; echo $?", "gateway start; echo $?", "gateway status; echo $?",
                   "gateway monitor; echo $?", "held", "gateway stop; echo $?", "gateway status; echo $?", "held")
    assert lines[:7] == ["stopped", "3", "0", "running", "0", "running", "0"]
    assert held(lines[7]) == set(ALL.split())
    assert lines[8:11] == ["0", "stopped", "3"]
    assert held(lines[11]) == set()


def test_start_announces_then_listens_then_calls(script: Script) -> None:
    script("gateway start", "sleep 0.2")
    assert script.called("whack") == ["whack --listen", "whack --asynchronous --initiate --name bern"]
    announced = sorted(" ".join(line.split()[-5:]) for line in script.called("send_arp"))
    assert announced == ["inner 198.51.100.10 auto x x", "outer 192.0.2.10 auto x x"]
    assert script.called("send_ua") == ["send_ua -i 500 -c 5 2001:db8:be::a 128 outer"]


def test_both_may_be_repeated(script: Script) -> None:
    lines = script("gateway start; echo $?", "gateway start; echo $?", "gateway stop; echo $?",
                   "gateway stop; echo $?", "held")
    assert lines[:4] == ["0", "0", "0", "0"] and held(lines[4]) == set()
    assert len(script.called("whack --terminate")) == 2


def test_own_traffic_never_leaves_from_a_virtual_address(script: Script) -> None:
    lines = script("gateway start", "ip route get 192.0.2.1 | head -1", "ip -6 route get 2001:db8:be::1 | head -1")
    assert "src 192.0.2.11" in lines[0] and "src 2001:db8:be::b" in lines[1]


def test_stop_tells_the_peers_while_it_can_send_but_no_longer_hears_them(script: Script) -> None:
    script.stand_in("whack", f"""echo "whack $*" >>{script.calls}
        case $1 in --terminate)
            ip -o address show | grep -c -e 192.0.2.10/32 -e 2001:db8:be::a/128 | sed 's/^/addresses /' >>{script.calls}
            ip route show table local type blackhole | wc -l | sed 's/^/blackholes 4: /' >>{script.calls}
            ip -6 route show table local | grep -c 'local 2001:db8:be::a' | sed 's/^/local 6: /' >>{script.calls} ;;
        esac""")
    lines = script("gateway start", f": >{script.calls}", "gateway stop", "held",
                   "ip route show table local type blackhole", "ip -6 route show table local | grep be::a")
    assert [line for line in script.called() if not line.startswith(("logger", "send"))] == [
        "whack --terminate --name roadwarrior", "addresses 2", "blackholes 4: 2", "local 6: 0",
        "whack --terminate --name bern", "addresses 2", "blackholes 4: 2", "local 6: 0",
        "whack --listen"]
    assert lines == ["HELD "]


def test_a_stop_that_was_cut_short_is_finished_by_the_next_start(script: Script) -> None:
    script.stand_in("whack", "case $1 in --terminate) kill -9 $(pgrep -f 'gateway stop') ;; esac")
    script.stand_in("timeout", 'shift; exec "$@"')
    blackholes = "ip route show table local type blackhole | wc -l"
    lines = script("gateway start", "gateway stop", blackholes, "gateway start; echo $?", blackholes, "held",
                   "ip -6 route show table local | grep -o 'local.*be::a'")
    assert lines[-5:-2] == ["2", "0", "0"]
    assert held(lines[-2]) == set(ALL.split()) and lines[-1] == "local 2001:db8:be::a"


def test_some_addresses_missing_is_not_running(script: Script) -> None:
    lines = script("gateway start", "ip address delete 198.51.100.10/32 dev inner", "gateway status; echo $?",
                   "gateway start", "gateway status")
    assert lines == ["stopped (holds 192.0.2.10/32@outer 2001:db8:be::a/128@outer, lacks 198.51.100.10/32@inner)",
                     "3", "running"]


def test_no_interface_is_a_failure_that_names_it(script: Script) -> None:
    lines = script("ip link delete inner", "gateway start; echo $?", "gateway stop; echo $?", "held")
    assert lines == ["1", "0", "HELD "]
    assert "can not hold 198.51.100.10/32@inner; is the interface up?" in script.called("logger")[0]


def test_a_dead_daemon_is_started(script: Script) -> None:
    alive = script.folder / "alive"
    script.stand_in("whack", f"test -e {alive}")
    script.stand_in("systemctl", f'echo "systemctl $*" >>{script.calls}; touch {alive}')
    assert script("gateway start; echo $?") == ["0"]
    assert script.called("systemctl") == ["systemctl restart ipsec"]


def test_without_a_daemon_start_fails_and_stop_does_not(script: Script) -> None:
    script.stand_in("whack", "exit 3")
    assert script("gateway start; echo $?", "gateway stop; echo $?", "held") == ["1", "0", "HELD "]
    assert "systemctl status ipsec" in script.called("logger")[1]


def test_a_hung_daemon_does_not_keep_the_addresses(script: Script) -> None:
    script.stand_in("whack", "case $1 in --terminate) exec sleep 60 ;; esac")
    # a tenth of the timeout that it asks for
    script.stand_in("timeout", f"""echo "timeout $*" >>{script.calls}; seconds=$1; shift
        PATH=${{PATH#*:}} exec timeout 0.$seconds "$@\"""")
    assert script("gateway start", "gateway stop; echo $?", "held") == ["0", "HELD "]
    stopping = [line.split("/whack ")[1] for line in script.called("timeout 2 ") if "--terminate" in line]
    assert stopping == ["--terminate --name roadwarrior"]          # one call of 2 s, not one for each tunnel
    assert any("hangs" in line for line in script.called("logger"))


def test_stop_ends_the_announcements(script: Script) -> None:
    for name in ("send_arp", "send_ua"):
        script.stand_in(name, "sleep 60\n:")
    lines = script("gateway start", "sleep 0.1; pgrep -c send_", "gateway stop", "sleep 0.1; pgrep -c send_")
    assert lines == ["3", "0"]


def test_reload_on_the_active_node_adds_and_removes(script: Script) -> None:
    other = CONF.replace("192.0.2.10/32", "192.0.2.20/32")
    lines = script("gateway start", f"echo '{other}' >{script.conf}", "gateway reload; echo $?", "held")
    assert lines[0] == "0"
    assert held(lines[1]) == {"192.0.2.20/32", "2001:db8:be::a/128", "198.51.100.10/32"}


def test_reload_on_the_standby_does_nothing(script: Script) -> None:
    assert script("gateway reload; echo $?", "held") == ["0", "HELD "]
    assert script.called() == []


def test_stop_gives_up_an_address_that_is_no_longer_configured(script: Script) -> None:
    other = CONF.replace("192.0.2.10/32", "192.0.2.20/32")
    assert script("gateway start", f"echo '{other}' >{script.conf}", "gateway stop; echo $?", "held") == ["0", "HELD "]


@pytest.mark.parametrize(("environment", "cause"), [
    ({}, "(by hand)"),
    ({"HA_CURHOST": "gw1"}, "(heartbeat asks)"),
    ({"HA_CURHOST": "gw1", "HA_st": "dead", "HA_src": "gw2"}, "(node gw2 is dead)")])
def test_the_log_says_who_asked(script: Script, environment: dict[str, str], cause: str) -> None:
    script("gateway start", **environment)
    line, = script.called("logger")
    assert line.startswith("logger -t gateway -p daemon.notice start: active, holds ") and line.endswith(cause)


def test_a_caller_may_say_why(script: Script) -> None:
    script("gateway start", "gateway stop 'heartbeat has ended'")
    assert script.called("logger")[-1].endswith("(heartbeat has ended)")


def test_without_tunnels_there_is_no_ipsec(script: Script) -> None:
    script.conf.write_text("address 192.0.2.10/32 outer\n")
    assert script("gateway start; echo $?", "gateway stop; echo $?") == ["0", "0"]
    assert script.called("whack") == []


def test_not_configured(script: Script) -> None:
    script.conf.unlink()
    assert script("gateway start; echo $?") == ["6"]
    assert script("gateway status; echo $?") == ["6"]


def test_wrong_use(script: Script) -> None:
    assert script("gateway restart; echo $?") == ["2"]
