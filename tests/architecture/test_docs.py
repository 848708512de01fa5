"""The docs are short, their links lead somewhere, and what they name exists."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
_TASK = re.compile(r"\./poe ([a-z]+(?:-[a-z]+)*)")
_SHELL_ONLY = {"setup"}
"""Words that the launcher itself takes, beside the tasks."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    targets = _LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tasks_that_are_named_exist(page: Path) -> None:
    named = set(_TASK.findall(page.read_text(encoding="utf-8")))
    tasks = {task for group in CONFIG["tool"]["poe"]["groups"].values() for task in group["tasks"]}
    assert named - tasks - _SHELL_ONLY == set()


def test_readme_is_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_decisions_are_short_and_complete() -> None:
    pages = sorted((ROOT / "docs/adr").glob("0*.md"))
    assert len(pages) >= 10
    index = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 25, page.name
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequence")), page.name
        assert page.name in index


def test_architecture_names_every_room() -> None:
    application = ROOT / "llm_engineering/application"
    rooms = {path.stem for path in application.iterdir() if path.suffix in ("", ".py")} - {
        "__init__",
        "__pycache__",
    }
    table = ARCHITECTURE.partition("## Rooms")[2].partition("\n## ")[0]
    assert {room for room in rooms if f"`{room}`" not in table} == set()


def test_architecture_names_contracts_that_exist() -> None:
    contracts = {contract["id"] for contract in CONFIG["tool"]["importlinter"]["contracts"]}
    sentence = next(line for line in ARCHITECTURE.splitlines() if line.startswith("The contracts"))
    assert set(re.findall(r"`([a-z-]+)`", sentence)) <= contracts
