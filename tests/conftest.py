"""What all tests of the tree share."""
from __future__ import annotations

import copy
import functools
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import hypothesis
import pytest
import salt._logging
import yaml

from lab import laboratory
from tests import lanes

# Salt keeps early messages for a stderr that pytest has closed by the time they are written.
salt._logging.shutdown_temp_handler()

# The quick profile takes seconds and tries new input in each run; `--hypothesis-profile thorough` takes minutes.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=2000, deadline=None,
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("quick")

TREE = Path(__file__).resolve().parent.parent
# A folder for pillar_roots. Its sites/ has the example sites that tests use; pillar/sites has an operator's own.
EXAMPLES = TREE / "examples"


def load_module(path: str) -> ModuleType:
    """One of the tree's Python files, such as `_modules/gateway.py`, loaded as Salt's loader does: by its path."""
    name = f"tree.{'.'.join(Path(path).with_suffix('').parts)}"
    spec = importlib.util.spec_from_file_location(name, TREE / path)
    module = importlib.util.module_from_spec(spec)
    # Trap: not registered in sys.modules, as in Salt's loader. A dataclass with postponed annotations fails there.
    spec.loader.exec_module(module)
    return module


_CLOCK = {name: getattr(time, name) for name in ("monotonic", "time", "sleep")}


def give_time(monkeypatch: pytest.MonkeyPatch, module: ModuleType, **functions: Callable) -> None:
    """Give a module a clock of its own for one test: `give_time(monkeypatch, module, monotonic=lambda: 5.0)`.

    Trap: `monkeypatch.setattr(module.time, ...)` changes the clock of the whole process. The event loop of another
    thread, such as pytest-salt-factories', then sleeps for an hour, and pytest waits for it when all is done.
    """
    monkeypatch.setattr(module, "time", SimpleNamespace(**vars(module.time) | functions))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Give a lane a network of its own. Not earlier: xdist's count of second tries is reached over the old one."""
    if lanes.here() and hasattr(session.config, "workerinput"):
        laboratory.leave_network()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test fails if it leaves the process's clock replaced."""
    yield
    changed = [name for name, real in _CLOCK.items() if getattr(time, name) is not real]
    assert not changed, f"{item.name} has changed time.{changed[0]} for every thread: give_time in tests/conftest.py"


@pytest.fixture
def _restart_event_listener() -> None:
    """Replaces pytest-salt-factories' fixture, which starts a server in every run; tests/integration uses that."""


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """The function that loads a file of the tree: `load("_modules/bonding.py")`.

    Each call makes a module of its own. Salt's `__salt__`, `__opts__` and so on are set by the test:
    `monkeypatch.setattr(module, "__salt__", {...}, raising=False)`.
    """
    return load_module


@pytest.fixture(scope="session")
def gateway() -> ModuleType:
    """The module `gateway`, which derives a node's settings."""
    return load_module("_modules/gateway.py")


def copy_pillar(place: Path) -> None:
    """A copy of the tree's pillar with the example sites, and without an operator's own sites, secrets and alerts."""
    def own(folder: str, names: list[str]) -> list[str]:
        of_operator = Path(folder).name in ("sites", "secrets")
        return [name for name in names if name in ("issued", "crls", "alerts.sls")
                or of_operator and name.endswith(".sls")]
    shutil.copytree(TREE / "pillar", place, ignore=own)
    shutil.copytree(EXAMPLES / "sites", place / "sites", dirs_exist_ok=True)


@functools.cache
def _pillar(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def schema() -> dict:
    """The pillar key gateway_schema."""
    return _pillar(TREE / "pillar/schema.sls")["gateway_schema"]


@pytest.fixture
def site() -> Callable[[str], dict]:
    """A fresh copy of an example site's pillar key gateway: `site("winterthur")`."""
    return lambda name: copy.deepcopy(_pillar(EXAMPLES / f"sites/{name}.sls")["gateway"])


@pytest.fixture
def settings(gateway: ModuleType, schema: dict, site: Callable[[str], dict]) -> Callable[[str, str], dict]:
    """What gateway.settings returns on a node: `settings("winterthur", "gw1")`."""
    return lambda name, node: gateway.derive(site(name), schema, node)
