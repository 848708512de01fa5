"""Links as the user means them, and the demo's collection."""

import argparse
from pathlib import Path

import pytest

from llm_engineering.settings import load_settings
from tools.collection import spell_link
from tools.console import DEMO_COLLECTION, add_demo_option, name_demo, user_link
from tools.run import _parse as parse_run


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


def test_a_link_in_the_collection_is_found_in_any_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("POE_CWD", str(tmp_path))
    (tmp_path / "notes").mkdir()
    kept = ["~/notes", "https://example.org/notes", str(tmp_path / "other")]
    for given in ("notes", "notes/", str(tmp_path / "notes"), "~/notes"):
        found = spell_link(given, kept)
        assert "~/notes" in found
        assert (tmp_path / "notes").as_uri() in found
        assert not {*kept[1:]} & {*found}
    assert "https://example.org/notes" in spell_link("HTTPS://example.org:443/notes#top", kept)


def test_several_links_can_follow_each_other() -> None:
    given = ["end-to-end-data", "--author", "Ada", "--link", "a.example", "b.example", "--link", "c.example"]
    assert parse_run(given).link == ["a.example", "b.example", "c.example"]


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
    parser.parse_args(["--demo-crm"])
    assert load_settings(None).database.name == name_demo("crm")["DATABASE_NAME"] != demo.database.name
