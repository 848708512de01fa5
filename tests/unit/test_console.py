from pathlib import Path

import pytest

from tools.console import user_link


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
