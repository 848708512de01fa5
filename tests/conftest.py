"""What holds for every test: its tier comes from its folder, and none touches this machine's own ZenML or the network.

Sockets: every tier reaches loopback only (``--allow-hosts`` in ``pyproject.toml``); a unit test reaches nothing,
unless it asks with ``@pytest.mark.allow_hosts(["127.0.0.1"])``.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
UNIT_TEST_SECONDS = 30
"""Far more than a unit test may take, so that only one that hangs is stopped, on a busy machine too."""

_zenml_home = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Give ZenML a home that ends with the run: the project's own stays as it is."""
    config.stash[_zenml_home] = tempfile.mkdtemp(prefix="twin-tests-zenml-")
    os.environ["ZENML_CONFIG_PATH"] = config.stash[_zenml_home]
    os.environ["ZENML_ANALYTICS_OPT_IN"] = "false"
    os.environ["AUTO_OPEN_DASHBOARD"] = "false"


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_zenml_home], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, and close the sockets of unit tests."""
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0]
        if tier not in {"unit", "conformance", "pipelines", "e2e", "architecture"}:
            raise pytest.UsageError(f"{item.nodeid}: a test belongs in a tier's folder, see CONTRIBUTING.md")
        item.add_marker(tier)
        if tier == "unit":
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(UNIT_TEST_SECONDS))
            if not (item.get_closest_marker("allow_hosts") or item.get_closest_marker("enable_socket")):
                item.add_marker(pytest.mark.disable_socket)
