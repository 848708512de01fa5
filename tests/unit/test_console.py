import argparse
from pathlib import Path

import pytest

from llm_engineering.settings import load_settings
from tools.console import DEMO_COLLECTION, add_demo_option, user_link


@pytest.mark.parametrize("link", ["notes", "./notes", "notes/a.md", "notes/*.md", "notes/**/*.md"])
def test_a_link_to_this_machine_is_meant_from_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").touch()
    monkeypatch.setenv("POE_CWD", str(tmp_path))
    assert user_link(link) == str(tmp_path / link)


@pytest.mark.parametrize(
    "link", ["https://example.org/a", "git@example.org:a/b.git", "gone.md", "example.org/feed", ""]
)
def test_any_other_link_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    monkeypatch.setenv("POE_CWD", str(tmp_path))
    assert user_link(link) == link


def test_the_demo_has_its_own_database_and_index(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DEMO_COLLECTION:
        monkeypatch.setenv(name, "mine")
    parser = argparse.ArgumentParser()
    add_demo_option(parser)
    parser.parse_args([])
    mine = load_settings(None)
    parser.parse_args(["--demo"])
    demo = load_settings(None)
    assert mine.database.name == mine.vector_index.collection == "mine"
    assert demo.database.name != "mine"
    assert demo.vector_index.collection != "mine"
