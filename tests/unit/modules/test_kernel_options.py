"""The kernel's own configuration is read, and missing options are named."""
from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.conftest import load_module

RECORDED = Path(__file__).parent.parent / "recorded" / "kernel_options"
FEATURES = ["bonding", "openswan", "firewall"]


@pytest.fixture
def module(monkeypatch, tmp_path):
    """The module, reading files under tmp_path instead of this machine's."""
    module = load_module("_modules/kernel_options.py")
    monkeypatch.setattr(module.platform, "release", lambda: "7.2.7")
    monkeypatch.setattr(module, "Path", lambda path: tmp_path / str(path).lstrip("/"))
    (tmp_path / "boot").mkdir()
    (tmp_path / "proc").mkdir()
    (tmp_path / "lib/modules/7.2.7").mkdir(parents=True)
    for index in ("modules.dep", "modules.builtin"):
        (tmp_path / "lib/modules/7.2.7" / index).write_bytes((RECORDED / index).read_bytes())
    return module


def put_config(tmp_path: Path) -> str:
    text = gzip.decompress((RECORDED / "config.gz").read_bytes()).decode()
    (tmp_path / "boot/config-7.2.7").write_text(text)
    return text


def test_the_packaged_kernel_of_the_lab_lacks_the_inet_packet_filter_and_nothing_else(module, tmp_path):
    put_config(tmp_path)
    assert "NF_TABLES_INET" in {option["name"] for option in module.missing(FEATURES)}
    assert module.missing(["bonding", "openswan"]) == []


def test_a_compressed_configuration_of_the_kernel_itself_comes_first(module, tmp_path):
    put_config(tmp_path)
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_BONDING=y\n"))
    assert module.configuration() == {"BONDING": "y"}


def test_a_module_that_is_configured_and_not_installed_is_missing(module, tmp_path):
    put_config(tmp_path)
    dep = tmp_path / "lib/modules/7.2.7/modules.dep"
    dep.write_text("\n".join(line for line in dep.read_text().splitlines() if "/bonding.ko" not in line))
    assert [option["name"] for option in module.missing(["bonding"])] == ["BONDING"]


def test_without_any_configuration_the_installed_modules_decide(module):
    assert module.configuration() is None
    assert module.missing(["bonding"]) == []
    assert "nft_xfrm" not in {option["module"] for option in module.missing(["bonding", "openswan"])}


def test_features_that_need_nothing_of_the_kernel_are_fine(module):
    assert module.missing(["logging", "time"]) == []


def test_only_modules_outside_the_kernel_are_loaded(module, tmp_path):
    builtin = tmp_path / "lib/modules/7.2.7/modules.builtin"
    builtin.write_text("kernel/net/ipv4/esp4.ko\nkernel/net/xfrm/xfrm-user.ko\n")
    assert module.loadable(["bonding", "esp4", "xfrm_user"]) == ["bonding"]


def test_options_that_are_off_are_not_there(module):
    text = '# CONFIG_BONDING is not set\nCONFIG_NF_TABLES=m\nCONFIG_DEFAULT_HOSTNAME="(none)"\n'
    assert module.parse(text) == {"NF_TABLES": "m", "DEFAULT_HOSTNAME": "(none)"}
