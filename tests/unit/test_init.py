"""The wizard: what it asks, what it writes, and that it replaces nothing unasked and leaves nothing half-written."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from dotenv import dotenv_values

from llm_engineering.application.features.config import DigitalDataEtl, EndToEndData
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import load_settings
from tools import init
from tools.init import Plan, main, make_plan, set_lines, write_plan
from tools.run_config import read_run_config

FEED = "https://ada.example/feed.xml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWIN_AUTHOR", raising=False)
    monkeypatch.delenv("POE_CWD", raising=False)
    return tmp_path


def answers(*lines: str) -> Callable[[str], str]:
    waiting = iter(lines)

    def ask(_: str) -> str:
        line = next(waiting, None)
        if line is None:
            raise EOFError
        return line

    return ask


def plan(*words: str, ask: Callable[[str], str] | None = None) -> Plan:
    return make_plan(init._parse(words), load_settings(None), ask)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_asked_is_what_is_written(folder: Path) -> None:
    asked = plan(ask=answers("Ada  Winter", "htp://no", FEED, "", "small"))
    assert asked == Plan("Ada Winter", (FEED,), "SmolLM2-135M-Instruct")
    assert write_plan(asked) == [Path(".env"), Path("configs/mine.yaml")]
    assert load_settings().twin_author == "Ada Winter"
    for pipeline in (DigitalDataEtl, EndToEndData):
        read, _ = read_run_config(Path("configs/mine.yaml"), pipeline)
        assert (read.collect.author, read.collect.links[0].url) == ("Ada Winter", FEED)
    assert files(folder) == [".env", "configs/mine.yaml"]


@pytest.mark.parametrize(
    "name", ["Zoë O'Hara", 'Ada "the pen" Winter', "A # B", "back\\slash", "$HOME", "李 明", "{x}"]
)
def test_any_name_comes_back_as_it_was_given(name: str) -> None:
    write_plan(Plan(name, (FEED,), None))
    assert load_settings().twin_author == name
    read, _ = read_run_config(Path("configs/mine.yaml"), EndToEndData)
    assert read.collect.author == name


@pytest.mark.parametrize("said", [(), ("Ada",), ("Ada", FEED), ("Ada", FEED, "")], ids=len)
def test_an_interrupted_wizard_has_written_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, said: Sequence[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("".join(f"{line}\n" for line in said)))
    assert main([]) == 130
    assert files(folder) == []


def test_without_a_terminal_nothing_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Ben\n"))
    with pytest.raises(ConfigurationError, match="--author"):
        main([])
    assert main(["--author", "Ada", "--link", FEED]) == 0
    assert dotenv_values(".env") == {"TWIN_AUTHOR": "Ada"}


def test_a_second_time_changes_nothing(folder: Path) -> None:
    first = Plan("Ada", (FEED,), "auto")
    write_plan(first)
    before = Path(".env").read_text(encoding="utf-8"), Path("configs/mine.yaml").read_text(encoding="utf-8")
    assert write_plan(first) == []
    assert before == (
        Path(".env").read_text(encoding="utf-8"),
        Path("configs/mine.yaml").read_text(encoding="utf-8"),
    )


def test_what_is_there_is_replaced_only_when_told() -> None:
    old = "# mine\nTWIN_AUTHOR=Ben\nexport GITHUB_TOKEN=abc # secret\n"
    Path(".env").write_text(old, encoding="utf-8")
    new = Plan("Ada", (), None)
    with pytest.raises(ConfigurationError, match="--force"):
        write_plan(new)
    write_plan(new, ask=answers("n"))
    assert Path(".env").read_text(encoding="utf-8") == old
    write_plan(new, ask=answers("y"))
    assert Path(".env").read_text(encoding="utf-8") == old.replace("TWIN_AUTHOR=Ben", 'TWIN_AUTHOR="Ada"')


def test_links_of_an_earlier_file_are_not_lost_unasked() -> None:
    write_plan(Plan("Ada", (FEED,), None))
    other = Plan("Ada", ("https://ada.example/new",), None)
    with pytest.raises(ConfigurationError):
        write_plan(other)
    write_plan(other, ask=answers(""))
    assert FEED in Path("configs/mine.yaml").read_text(encoding="utf-8")
    write_plan(other, force=True)
    assert FEED not in Path("configs/mine.yaml").read_text(encoding="utf-8")


def test_other_lines_of_the_settings_stay() -> None:
    text = "# head\n\nLLM_BASE_URL=http://x/v1\n"
    assert set_lines(text, {"TWIN_AUTHOR": "Ada"}) == text + 'TWIN_AUTHOR="Ada"\n'


def test_a_file_of_the_users_folder_is_named_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").touch()
    monkeypatch.setenv("POE_CWD", str(tmp_path / "notes"))
    assert plan("--author", "Ada", "--link", "a.md").links == (str(tmp_path / "notes" / "a.md"),)


def test_a_model_that_was_chosen_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "http://127.0.0.1:1/v1")
    assert plan("--small", "--author", "Ada").model is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_to_is_told(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        with pytest.raises(ConfigurationError):
            write_plan(Plan("Ada", (FEED,), None))
    finally:
        folder.chmod(0o700)


def test_a_file_in_the_place_of_a_folder_is_told_and_leaves_nothing(folder: Path) -> None:
    Path("configs").touch()
    with pytest.raises(ConfigurationError):
        write_plan(Plan("Ada", (FEED,), None))
    assert files(folder) == ["configs"]
