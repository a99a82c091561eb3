"""A gateway with recorded answers."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.figures.node import Gateway


@pytest.fixture
def derived(gateway: ModuleType, schema: dict, site: Callable[[str], dict]) -> Callable[..., dict]:
    """The settings of gw1.winterthur with figures on; arguments are laid over the site's key `metrics`."""
    def made(**metrics: object) -> dict:
        pillar = site("winterthur") | {"features": {"metrics": True}, "metrics": metrics}
        assert gateway.find_mistakes(pillar, schema) == []
        return gateway.derive(pillar, schema, "gw1")
    return made


@pytest.fixture
def node(derived: Callable[..., dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """gw1.winterthur, active."""
    return Gateway(derived(), tmp_path, monkeypatch)
