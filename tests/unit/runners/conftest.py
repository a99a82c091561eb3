"""What the runners' tests have in common."""
from __future__ import annotations

import copy
import functools

import pytest
import salt.utils.yaml

from tests.unit.sites.door import master_on

_LOAD = salt.utils.yaml.safe_load
_loaded = functools.lru_cache(maxsize=64)(_LOAD)


def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema, above all: Salt's loader takes longer for it than most tests for all the rest."""
    monkeypatch.setattr(salt.utils.yaml, "safe_load",
                        lambda text: copy.deepcopy(_loaded(text)) if isinstance(text, str) else _LOAD(text))


_same_text_is_read_once = pytest.fixture(autouse=True)(read_once)
master = pytest.fixture(master_on)
