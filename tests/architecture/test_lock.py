"""The lock: what a machine would install from it."""

import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker

LOCK: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "poetry.lock").read_text(encoding="utf-8"))
MACHINES = {
    "Linux, x86": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "Linux, ARM": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    "macOS, ARM": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}


def versions(machine: dict[str, str]) -> dict[str, set[str]]:
    """The versions of each package that some group brings to a machine."""
    found = defaultdict(set)
    for package in LOCK["package"]:
        if any(applies(marker, machine) for marker in markers(package)):
            found[package["name"]].add(package["version"])
    return found


def markers(package: dict[str, Any]) -> Iterator[str]:
    """One for each group that the package is in."""
    told = package.get("markers", "")
    for group in package["groups"]:
        yield told if isinstance(told, str) else told.get(group, "")


def applies(marker: str, machine: dict[str, str]) -> bool:
    if "<empty>" in marker:  # Poetry's word for: never
        return False
    return not marker or Marker(marker).evaluate({**machine, "extra": ""})


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_gets_one_version_of_a_package(machine: str) -> None:
    """Two would be written into the same files, at the same time: torch crashed in `import` on such a mixture."""
    found = versions(MACHINES[machine])
    assert len(found) > 100
    assert {name: both for name, both in found.items() if len(both) > 1} == {}
