"""What the command-line tools share: the console, and errors shown as a person can use them."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from llm_engineering.domain.errors import TwinError
from llm_engineering.domain.hints import POE

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
