"""What the command-line tools share: the console, and errors shown as a person can use them."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from llm_engineering.domain.errors import TwinError

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


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


DEMO_COLLECTION = {"DATABASE_NAME": "twin-demo", "VECTOR_INDEX_COLLECTION": "twin-demo"}
"""Settings of the demo's own database and index, so that its sample never mixes with anybody's writing."""


def add_demo_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--demo``, which takes the demo's collection in place of the user's. Read the arguments before the settings."""
    parser.add_argument("--demo", action=_UseDemo, nargs=0, help="the demo's collection, not yours")


class _UseDemo(argparse.Action):
    def __call__(self, *_: object) -> None:
        os.environ.update(DEMO_COLLECTION)


@contextmanager
def show_stage(title: str, timings: dict[str, float]) -> Iterator[None]:
    """Head what follows with a title, and note the seconds that it takes."""
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left", style="cyan"))
    started = time.perf_counter()
    yield
    timings[title] = time.perf_counter() - started


def run(main: Callable[[], int | None]) -> None:
    """Run a tool's main function and exit with its code.

    An error raised on purpose is shown as its message alone (exit code 1); Ctrl-C exits with 130. Anything else is a
    defect and keeps its traceback.
    """
    try:
        code = main()
    except TwinError as error:
        errors.print(f"[bold red]✗[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print(
            "[yellow]Interrupted. What was finished is kept; run the same command again to go on.[/]"
        )
        sys.exit(130)
    sys.exit(code or 0)
