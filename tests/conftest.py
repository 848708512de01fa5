"""What holds for every test: its tier comes from its folder, and none touches this machine's own ZenML or the network.

Sockets: every tier reaches loopback only (``--allow-hosts`` in ``pyproject.toml``); a unit test reaches nothing,
unless it asks with ``@pytest.mark.allow_hosts(["127.0.0.1"])``.

``poe test`` spreads files over the cores. Each worker is a process with its own ZenML home, temporary folders and
session fixtures, so servers are a worker's own; tests of one file stay together, so a fixed port belongs to one file.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.durations import Durations, read_durations
from tests.guard import start_guard

TESTS = Path(__file__).parent
TIERS = ("e2e", "pipelines", "conformance", "attacks", "architecture", "unit")
"""The tiers' folders."""
MOST_WORKERS = 8
"""A worker may hold a database server, a browser and a model: memory ends before many cores do."""
UNIT_TEST_SECONDS = 30
"""Far more than a unit test may take, so that only one that hangs is stopped, on a busy machine too."""

_zenml_home = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("durations")
    group.addoption("--store-durations", action="store_true", help="write tests/durations.json from this run")
    group.addoption(
        "--check-budgets", action="store_true", help="fail where a tier takes far more than its budget"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give ZenML a home that ends with the run, and end with it what tests start."""
    config.stash[_zenml_home] = tempfile.mkdtemp(prefix="twin-tests-zenml-")
    start_guard(Path(config.stash[_zenml_home]))
    os.environ["ZENML_CONFIG_PATH"] = config.stash[_zenml_home]
    os.environ["ZENML_ANALYTICS_OPT_IN"] = "false"
    os.environ["AUTO_OPEN_DASHBOARD"] = "false"
    os.environ["LLM_KEEP_WARM"] = "0"  # models that stay loaded are for the tests of just that
    if hasattr(config, "workerinput"):
        _be_started_as_pytest()
    else:
        store, check = config.option.store_durations, config.option.check_budgets
        config.pluginmanager.register(Durations(store=store, check=check))


def _be_started_as_pytest() -> None:
    """A worker's main program is no file, but ZenML looks for the source code beside that file: name pytest's own."""
    spec = importlib.util.find_spec("pytest.__main__")
    assert spec is not None
    main = sys.modules["__main__"]
    main.__spec__, main.__file__ = (
        spec,
        spec.origin,
    )  # the spec too: processes that are started find it by its name


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_zenml_home], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """``-n auto``: a worker a core and one more, since many tests wait for a server or for time to pass; none where a file or
    two were named, or output was asked for (``-s``)."""
    named = [Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args]
    if config.option.capture == "no" or (len(named) <= 2 and all(path.is_file() for path in named)):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 1, MOST_WORKERS) if cores > 1 else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its tier, and close the sockets of unit tests."""
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0]
        if tier not in TIERS:
            raise pytest.UsageError(f"{item.nodeid}: a test belongs in a tier's folder, see CONTRIBUTING.md")
        item.add_marker(tier)
        if tier == "unit":
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(UNIT_TEST_SECONDS))
            if not (item.get_closest_marker("allow_hosts") or item.get_closest_marker("enable_socket")):
                item.add_marker(pytest.mark.disable_socket)
    if hasattr(config, "workerinput"):
        # The longest files first, so that no worker is left with one of them at the end.
        seconds = read_durations()["files"]
        items.sort(key=lambda item: -seconds.get(item.path.relative_to(TESTS.parent).as_posix(), 0))
