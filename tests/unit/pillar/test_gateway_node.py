"""What the master adds to whose pillar, by Salt's own pillar compiler with the lines of etc/salt/master.d."""
from __future__ import annotations

import pytest
import salt.config
import salt.pillar
import yaml

from alerts import authentic
from tests.conftest import EXAMPLES, TREE


@pytest.fixture
def pillar(tmp_path):
    shipped = yaml.safe_load((TREE / "etc/salt/master.d/gateway.conf").read_text())
    opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "root_dir": str(tmp_path), "cachedir": str(tmp_path / "cache"), "extension_modules": str(tmp_path / "ext"),
        "pki_dir": str(tmp_path), "pillar_roots": {"base": [str(TREE / "pillar"), str(EXAMPLES)]}, "__role": "master",
        "ext_pillar": shipped["ext_pillar"],
        "pillar_dirs": [path.replace("/srv/gateway", str(TREE)) for path in shipped["pillar_dirs"]]}
    return lambda minion_id: salt.pillar.Pillar(opts, {"id": minion_id}, minion_id, "base").compile_pillar()


@pytest.mark.parametrize("minion_id", ["gw1.winterthur", "gw2.winterthur.example.org", "gw-a.bern"])
def test_a_node_gets_its_own_key_and_number(pillar, tmp_path, minion_id):
    its = pillar(minion_id)
    assert "_errors" not in its
    assert its["gateway_inputs"] and its["gateway_tree"] and its["gateway_inputs"] != its["gateway_tree"]
    assert its["gateway_event_key"] == authentic.key_of(authentic.load_secret(tmp_path), minion_id)


@pytest.mark.parametrize("minion_id", ["laptop.winterthur", "gw1.bern", "master", "gw1.winterthur/../bern"])
def test_nobody_else_gets_any(pillar, tmp_path, minion_id):
    assert pillar(minion_id) == {}
    assert not (tmp_path / authentic.SECRET).exists()
