"""salt/heartbeat/files/heartbeat-ended: it waits for the agent, ends one that hangs, and cleans up in any case."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import TREE


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script, with stand-ins that write down how they were called. `there`: how often pgrep finds the agent."""
    calls = tmp_path / "calls"
    text = (TREE / "salt/heartbeat/files/heartbeat-ended").read_text()
    for program in ("/etc/ha.d/resource.d/gateway stop", "/usr/local/lib/gateway/agent/run release"):
        assert text.count(f"\n{program}") + text.count(f"exec {program}") == 1
    text = text.replace("/etc/ha.d/resource.d/gateway stop", f"{tmp_path}/gateway stop")
    text = text.replace("exec /usr/local/lib/gateway/agent/run release", f"exec {tmp_path}/run release")
    place = tmp_path / "heartbeat-ended"
    place.write_text(text)
    gone = f'read -r n <{tmp_path}/there; [ "$n" -gt 0 ] && echo $((n - 1)) >{tmp_path}/there'
    for name, body in {"pgrep": gone, "pkill": f'echo "pkill $*" >>{calls}; [ "$(cat {tmp_path}/there)" -gt 0 ]',
                       "sleep": ":", "logger": f'echo "logger $*" >>{calls}', "gateway": f'echo "gateway $*" >>{calls}',
                       "run": f'echo "run $*" >>{calls}'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return place


@pytest.mark.parametrize("there, killed", [(0, False), (3, False), (1000, True)])
def test_nothing_is_left(script: Path, there: int, killed: bool) -> None:
    (script.parent / "there").write_text(f"{there}\n")
    subprocess.run(["sh", script], check=True, env={"PATH": f"{script.parent}:/usr/bin:/bin"})
    calls = (script.parent / "calls").read_text().splitlines()
    assert calls[-2:] == ["gateway stop heartbeat has ended", "run release"]
    assert any(line.startswith("logger") and "did not end" in line for line in calls) is killed
