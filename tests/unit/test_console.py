"""What the command line prints: broken between words, links and commands whole, at any width."""

import io
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from loguru import logger
from rich.table import Table

from llm_engineering.domain.errors import TwinError
from llm_engineering.settings import load_settings
from tools import console as console_module
from tools import doctor, models, twin
from tools.api_keys import make_name
from tools.checks import Finding, State
from tools.console import WordConsole, WordStream, hold_log, make_parser, show_table
from tools.twin import Part, Wish

LINK = "https://example.org/a/very/long/link/that/is/longer/than/forty/columns"
HINT = f"There is no index here yet. Build it with: ./poe run-feature-engineering-pipeline, or see {LINK} for more."


def terminal(width: int) -> tuple[WordConsole, io.StringIO]:
    file = io.StringIO()
    return WordConsole(file=file, force_terminal=True, width=width, highlight=False, color_system=None), file


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_text_is_broken_between_words_and_links_stay_whole(width: int) -> None:
    console, file = terminal(width)
    console.print(f"[bold]✗[/] {HINT}", soft_wrap=True)
    lines = file.getvalue().splitlines()
    assert " ".join(lines) == f"✗ {HINT}"
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    assert all(len(line) + 1 + len(after.split()[0]) > width for line, after in pairwise(lines)), (
        "lines are filled"
    )


def test_what_follows_is_indented_as_the_first_line() -> None:
    console, file = terminal(20)
    console.print("    one two three four five six seven")
    assert all(line.startswith("    ") and line[4] != " " for line in file.getvalue().splitlines())


def test_text_is_not_taken_for_markup_where_it_is_none() -> None:
    console, file = terminal(80)
    console.print("see [1] and [bold]", markup=False)
    assert file.getvalue() == "see [1] and [bold]\n"


def test_what_is_no_terminal_gets_whole_lines() -> None:
    file = io.StringIO()
    WordConsole(file=file, width=20, highlight=False).print(HINT)
    assert file.getvalue() == f"{HINT}\n"


def make_table(cells: int) -> Table:
    table = Table(title="Sources", title_justify="left")
    for column in ("Source", "Author", "Documents")[:cells]:
        table.add_column(column)
    for row in ((LINK, "Ada Winter", "1,200"), ("a folder of many notes and drafts", "Ben Okafor", "3")):
        table.add_row(*row[:cells])
    return table


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_a_table_breaks_no_word_at_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    console, file = terminal(width)
    monkeypatch.setattr(console_module, "console", console)
    show_table(make_table(3))
    shown = file.getvalue()
    lines = shown.splitlines()
    assert {LINK, "1,200", "notes", "Winter", "Okafor"} <= set(shown.replace("│", " ").split())
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    assert ("┃" in shown) is (width == 200)


def test_a_table_with_less_in_it_is_shown_before_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    console, file = terminal(len(LINK) + 20)
    monkeypatch.setattr(console_module, "console", console)
    show_table(make_table(3), make_table(2))
    assert "┃" in file.getvalue()
    assert "Documents" not in file.getvalue()


def test_what_is_no_terminal_gets_whole_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(console_module, "console", WordConsole(file=file, width=20, highlight=False))
    show_table(make_table(3))
    assert any(LINK in line and "1,200" in line for line in file.getvalue().splitlines())


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_stream_is_broken_between_words_however_its_pieces_fall(width: int, size: int) -> None:
    text = f"Reciprocal rank fusion looks at places only, see {LINK}\n\n- and a second, longer paragraph of words."
    console, file = terminal(width)
    stream = WordStream(console)
    for start in range(0, len(text), size):
        stream.write(text[start : start + size])
    stream.close()
    lines = file.getvalue().splitlines()
    assert file.getvalue().split() == text.split()
    assert all(len(line.rstrip()) <= width or " " not in line.strip() for line in lines)
    assert "" in lines, "paragraphs stay apart"


def test_tables_and_code_of_a_stream_stay_as_they_are() -> None:
    text = "| a | row of a table that is long |\n```\ncode that is much longer than twenty\n```\n"
    console, file = terminal(20)
    stream = WordStream(console)
    stream.write(text)
    stream.close()
    assert file.getvalue().rstrip() == text.rstrip()


def test_usage_names_the_task_without_the_marks_of_a_docstring() -> None:
    parser = make_parser("ask", "Ask: ``./poe ask WORDS``.")
    assert parser.prog.endswith("poe ask")
    assert "``" not in parser.format_help()


class TestHeldLog:
    def test_what_is_logged_stands_behind_what_is_printed_and_once(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with hold_log(load_settings(None)):
            logger.warning("The database is silent.")
            print("An answer.", file=sys.stderr)
        told = capsys.readouterr().err
        assert told.index("An answer.") < told.index("The database is silent.")

    def test_what_the_error_says_is_not_said_twice(self, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> None:
            logger.warning("self_query failed: There is no index.")
            logger.warning("Something else.")
            raise TwinError("There is no index.")

        with pytest.raises(TwinError), hold_log(load_settings(None)):
            fail()
        told = capsys.readouterr().err
        assert "no index" not in told
        assert "Something else." in told


@pytest.mark.parametrize("width", [10, 40, 59])
def test_what_stands_side_by_side_stands_in_lines_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    console, file = terminal(width)
    for module in (doctor, twin):
        monkeypatch.setattr(module, "console", console)
    hint = "./poe local-infrastructure-up"
    doctor.show_findings(
        [Finding("Services", "MongoDB", State.WARN, f"not running; see {LINK}", hint)], 1.0, "./poe ask"
    )
    wish = Wish("Ada Winter", data=None, training=None, evaluation=Path(), sample=False, serve=False)
    twin.show_plan(wish, [Part("Collection", LINK, "2 min")])
    words = file.getvalue().split()
    assert words.count(LINK) == 2
    assert "local-infrastructure-up" in words


def test_models_that_are_here_take_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["all-MiniLM-L6-v2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["✓ Models: ready"]


def test_a_name_with_spaces_is_a_name_with_hyphens() -> None:
    assert make_name(["my laptop"]) == make_name(["my", "laptop"]) == "my-laptop"
