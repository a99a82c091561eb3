"""docs/install.md word by word, on a master that runs under a user of its own, as Salt's packages have it.

Its commands run as they stand there, in a mount namespace with a bare /etc/salt and a user `salt`; what needs a service
manager, a mirror or the internet is named below.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import TREE

INSTALL = (TREE / "docs/install.md").read_text(encoding="utf-8")
# Instead of what this machine has not: Salt's packages make the user and these folders, and restart the service.
_PACKAGES = """
set -eu
trap 'status=$?; [ $status = 0 ] || cat /var/log/salt/master /var/log/salt/out >&2' EXIT
mount -t tmpfs none /srv
mount -t tmpfs none /mnt
for place in /etc/salt /var/cache/salt /var/log/salt /run/salt /root; do
    mkdir -p $place
    mount -t tmpfs none $place
done
cd /root
for file in passwd group; do cp /etc/$file /mnt/$file; done
echo 'salt:x:64990:64990::/var/cache/salt:/usr/sbin/nologin' >>/mnt/passwd
echo 'salt:x:64990:' >>/mnt/group
for file in passwd group; do mount --bind /mnt/$file /etc/$file; done
install -d -o salt -g salt /etc/salt/pki /etc/salt/pki/master /etc/salt/master.d
install -d -o salt -g salt /var/cache/salt/master /var/log/salt /run/salt /run/salt/master
cat >/etc/salt/master <<EOF
user: salt
interface: 127.0.0.1
sock_dir: /run/salt/master
pidfile: /run/salt/master.pid
log_level_logfile: warning
EOF
systemctl() {
    salt-master >/var/log/salt/out 2>&1 &
    for _ in $(seq 120); do sleep 0.5; if [ -e /var/cache/salt/master/gateway_resync/status ]; then break; fi; done
}
git() { cp -a "$TREE_COPY" /srv/gateway; }
say() { echo "=== $*"; }
"""


def block(holding: str) -> str:
    """The shell commands of the one block that has this piece."""
    (found,) = [each for each in re.findall(r"^```sh\n(.*?)^```", INSTALL, re.DOTALL | re.MULTILINE) if holding in each]
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each step printed."""
    if os.geteuid() != 0:
        pytest.fail("this test needs root: another user, and mounts")
    copy = tmp_path_factory.mktemp("clone") / "gateway"
    shutil.copytree(TREE, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.pyc"))
    for own in (*copy.glob("pillar/sites/*.sls"), *copy.glob("pillar/secrets/*.sls")):
        own.unlink()            # an operator's own
    site = re.search(r"^```yaml\n(gateway:.*?)^```", INSTALL, re.DOTALL | re.MULTILINE)[1]
    steps = {
        "clone": block("git clone URL"),
        "key": block("--quick-generate-key"),
        "files": block("install -d -m 0700 -o salt -g salt /srv/gateway/pillar/secrets/issued"),
        "certificate": f"cat >/srv/gateway/pillar/sites/winterthur.sls <<'EOF'\n{site}EOF\n" + block("-keyout ca.key"),
        "missing": "salt-run --out=yaml gateway.validate winterthur || true",
        "secrets": block("seal() {"),
        "validate": "salt-run --out=yaml gateway.validate winterthur",
        "authority": "salt-run --out=yaml authority.create 'Example authority'\n"
                     "salt-run --out=yaml authority.issue_roadwarrior winterthur anna\n"
                     "stat -c '%U %a %n' /etc/salt/gateway-authority /etc/salt/gateway-authority/*.gpg",
        "engines": "salt-run --out=yaml resync.status\nsalt-run --out=yaml alerts.status || true",
        "users": "ps -eo user:20,args | grep 'bin/[s]alt-master' | awk '{print $1}' | sort -u",
        "log": "cat /var/log/salt/master /var/log/salt/out",
    }
    script = _PACKAGES + "".join(f"say {name}\n{commands}\n" for name, commands in steps.items())
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
         "bash", "-c", script], capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin", "TREE_COPY": str(copy),
             "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    parts = re.split(r"^=== (\w+)\n", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_fresh_clone_has_no_site_yet_and_says_what_to_do(said):
    its = yaml.safe_load(said["clone"])
    assert not its["valid"] and not its["mistakes"] and "pillar/sites" in str(its["next"])


def test_the_user_can_use_what_the_page_gives_it(said):
    assert "salt-master" in said["key"]
    assert said["files"].splitlines() == [(TREE / "VERSION").read_text().strip(), "the rest too"]


def test_before_the_secrets_are_there_they_are_what_is_missing(said):
    its = yaml.safe_load(said["missing"])
    assert not its["valid"] and len(its["mistakes"]) == 2, its
    assert "heartbeat" in str(its["mistakes"]) and "certificate" in str(its["mistakes"])


def test_the_site_with_its_secrets_is_valid(said):
    its = yaml.safe_load(said["validate"])
    assert its["valid"] == ["winterthur"] and not its["mistakes"], its


def test_the_authority_writes_as_that_user_and_for_nobody_else(said):
    owners = re.findall(r"^(\w+) (\d+) /", said["authority"], re.MULTILINE)
    assert len(owners) == 2 and {user for user, _ in owners} == {"salt"}, owners
    assert {mode[-2:] for _, mode in owners} == {"00"}, owners


def test_both_engines_run_under_it(said):
    assert "engine: running" in said["engines"] and "runs (process" in said["engines"], said["engines"]
    assert said["users"].split() == ["salt"]
    assert "Permission denied" not in said["log"] and "Traceback" not in said["log"], said["log"]
