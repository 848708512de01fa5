"""What the command-line tools share: the console, and errors shown as a person can use them."""

import argparse
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import TwinError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings


class WordConsole(Console):
    """Breaks text between words, and never inside a link or a command; what is no terminal gets whole lines."""

    def print(self, *objects: Any, **options: Any) -> None:
        if not options.get("no_wrap") and all(isinstance(part, str) for part in objects):
            options["soft_wrap"] = True
            if self.is_terminal and objects:
                markup = options.pop("markup", None)
                text = self.render_str(" ".join(objects), markup=markup, emoji=False, highlight=False)
                lines = [
                    part for line in text.split("\n", allow_blank=True) for part in _wrap(line, self.width)
                ]
                objects = (Text("\n").join(lines),)
        super().print(*objects, **options)


def _wrap(line: Text, width: int) -> Iterator[Text]:
    """The lines of a terminal that a line fills; those that follow are indented as the first."""
    indent = line.plain[: len(line.plain) - len(line.plain.lstrip())]
    breaks, column = [], len(indent)
    for word in re.finditer(r"\S+\s*", line.plain):
        if column > len(indent) and column + len(word[0].rstrip()) > width:
            breaks.append(word.start())
            column = len(indent)
        column += len(word[0])
    for number, part in enumerate(line.divide(breaks)):
        part.rstrip()
        yield Text.assemble(indent, part) if number else part


console = WordConsole(highlight=False)
errors = WordConsole(stderr=True, highlight=False)


def show_table(table: Table, narrower: Table | None = None) -> None:
    """Print a table where it fits with no word broken; where not, row by row: its first cell, and the others with their headings.

    Only the first column's cells may take several lines.

    Args:
        narrower: the same with less in it, tried in between.
    """
    for one in (table, *([narrower] if narrower else [])):
        for number, column in enumerate(one.columns):
            longest = max(console.measure(cell).maximum for cell in (column.header, *column.cells))
            column.min_width = longest if number else min(longest, _FIRST_COLUMN)
        need = Measurement.get(console, console.options.update(width=_ENDLESS), one)
        if need.minimum <= console.width or not console.is_terminal:
            one.width = min(need.maximum, console.width if console.is_terminal else _ENDLESS)
            console.print(one, crop=False)
            return
    shown = narrower or table
    if shown.title:
        console.print(f"[bold]{shown.title}[/]")
    headings = [f"[dim]{column.header}[/] " if column.header else "" for column in shown.columns]
    for row, (first, *others) in zip(
        shown.rows, zip(*(column.cells for column in shown.columns), strict=True), strict=True
    ):
        style = f"bold {row.style or ''}".strip()
        console.print(f"  [{style}]{first}[/]")
        parts = [f"{heading}{cell}" for heading, cell in zip(headings[1:], others, strict=True) if cell]
        console.print("    " + " · ".join(parts))


class WordStream:
    """Prints text that comes in pieces, broken between words where it goes to a terminal.

    Rows of tables and what stands in a code fence stay as they are.
    """

    def __init__(self, target: Console = console) -> None:
        self._target = target
        self._line = ""
        """What was printed since the last line break of the text or of ours."""
        self._held = ""
        """The beginning of a word whose end has not come."""
        self._fenced = False
        self._whole = False
        """The text's line is not to be broken."""

    def write(self, piece: str) -> None:
        """Print what of the text is complete."""
        if not self._target.is_terminal:
            self._target.out(piece, end="", highlight=False)
            return
        *complete, self._held = re.split(r"(?<=\s)(?=\S)|(?<=\n)", self._held + piece)
        for part in complete:
            self._print(part)

    def close(self) -> None:
        """Print the rest, and end the line."""
        self._print(self._held)
        self._held = ""
        self._target.out("", highlight=False)

    def _print(self, part: str) -> None:
        """A word with the space behind it."""
        word = part.rstrip()
        if not self._line and word.startswith(("```", "|")):
            self._fenced ^= word.startswith("```")
            self._whole = True
        too_long = len(self._line) + len(word) > self._target.width
        if self._line.strip() and word and too_long and not (self._whole or self._fenced):
            self._target.out("", highlight=False)
            self._line = ""
        self._target.out(part, end="", highlight=False)
        self._line += part
        if part.endswith("\n"):
            self._line, self._whole = "", False


def user_path(text: str) -> Path:
    """Return a path as the user meant it: relative to the folder the task was started from (tasks run in the project's
    root).

    A path that exists in the root alone is taken from there, so that ``configs/mine.yaml`` works from any folder.
    """
    path = Path(text).expanduser()
    started_from = os.environ.get("POE_CWD")
    if path.is_absolute() or not started_from:
        return path
    there = Path(started_from) / path
    return there if there.exists() or not path.exists() else path


def user_link(text: str) -> str:
    """Return a link as the user meant it: where it is a file, folder or pattern of this machine, its whole path."""
    if "://" in text or not text.strip():
        return text
    path = user_path(text)
    place = next(one for one in (path, *path.parents) if not set(str(one)) & set("*?["))
    return str(path.absolute()) if place != Path() and place.exists() else text


def readable_source(source: str) -> str:
    """Return a link as a person reads it: a file's URL as its path."""
    return unquote(source.removeprefix("file://")) if source.startswith("file://") else source


NARROW = 60
"""Columns below which what stands side by side elsewhere stands in lines."""
_FIRST_COLUMN = 24
"""Least width of a first column whose cells are broken between words."""
_ENDLESS = 10_000
"""Columns of what is no terminal."""
_UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT})
DEMO_COLLECTION = {"DATABASE_NAME": "twin-demo", "VECTOR_INDEX_COLLECTION": "twin-demo"}
"""Settings of the demo's own database and index, so that its sample never mixes with anybody's writing."""
_RECORD_DEMOS = ("crm", "movies", "reviews", "support")


def name_demo(demo: str) -> dict[str, str]:
    """Return the settings of the database and the index of ``demo-NAME``: each has its own."""
    return {name: f"{value}-{demo}" for name, value in DEMO_COLLECTION.items()}


def show_next(*tasks: str) -> None:
    """Print what can be done with what a demo keeps; its database is stopped with it."""
    console.print("Go on with:")
    for task in ("local-infrastructure-up", *tasks):
        console.print(f"  {POE} {task}", highlight=False)


def add_demo_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--demo``, ``--demo-crm`` and so on, which take that demo's collection in place of the user's. Read the arguments
    before the settings."""
    parser.add_argument(
        "--demo",
        *(f"--demo-{name}" for name in _RECORD_DEMOS),
        action=_UseDemo,
        nargs=0,
        help="the collection of that demo, not yours",
    )


class _UseDemo(argparse.Action):
    def __call__(self, *given: object) -> None:
        demo = str(given[-1]).removeprefix("--demo").removeprefix("-")  # the option as it was written
        os.environ.update(name_demo(demo) if demo else DEMO_COLLECTION)


def make_parser(task: str, about: str | None) -> argparse.ArgumentParser:
    """Return the parser of a task's arguments, whose usage names the task as it was called.

    Args:
        about: the module's docstring.
    """
    plain = (about or "").replace("``", "").replace("./poe ", f"{POE} ")
    return argparse.ArgumentParser(prog=f"{POE} {task}", description=plain)


@contextmanager
def show_stage(title: str, timings: dict[str, float]) -> Iterator[None]:
    """Head what follows with a title, and note the seconds that it takes."""
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left", style="cyan"))
    started = time.perf_counter()
    yield
    timings[title] = time.perf_counter() - started


@contextmanager
def hold_log(settings: Settings) -> Iterator[None]:
    """Show what is logged meanwhile afterwards, so that no line stands within what is printed; and nothing twice that the error
    says which ends it."""
    held: list[str] = []
    said = ""
    start_logging(settings, held.append)
    try:
        yield
    except TwinError as error:
        said = str(error)
        raise
    finally:
        start_logging(settings)
        for line in dict.fromkeys(held):
            if not said or said not in line:
                sys.stderr.write(line)


def run(main: Callable[[], int | None]) -> None:
    """Run a tool's main function and exit with its code.

    An error raised on purpose is shown as its message alone (exit code 1), and so is a file that cannot be written; Ctrl-C exits
    with 130. Anything else is a defect and keeps its traceback.
    """
    try:
        code = main()
    except TwinError as error:
        errors.print(f"[bold red]✗[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _UNWRITABLE or not error.filename:
            raise
        errors.print(
            f"[bold red]✗[/] {escape(os.fsdecode(error.filename))} cannot be written: {error.strerror}. What the project makes "
            "goes into data/, or to where LOCAL_DATA_DIR, VECTOR_INDEX_PATH and ZENML_CONFIG_PATH lead."
        )
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print(
            "[yellow]Interrupted. What was finished is kept; run the same command again to go on.[/]"
        )
        sys.exit(130)
    sys.exit(code or 0)
