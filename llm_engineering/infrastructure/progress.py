"""Progress of long work: bars on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger

from llm_engineering.application.ports import Progress

LOG_EVERY_SECONDS = 10.0


class TerminalProgress:
    """Bars drawn with rich; one per description."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("  {task.description:<24}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> "TerminalProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._bars.tasks:
            if task.total is None:  # its length was never known; now it is
                self._bars.update(task.id, total=task.completed)
        self._bars.stop()

    def write(self, line: str) -> None:
        """Print a log line above the bars."""
        from rich.text import Text

        self._bars.console.print(Text.from_ansi(line.rstrip("\n")))

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        from rich.progress import TaskID

        if description not in self._tasks:
            self._tasks[description] = self._bars.add_task(description, total=total, count="")
        number = self._tasks[description]
        shown = self._bars.tasks[number]
        known = shown.total if total is None else float(total)
        done = shown.completed + amount
        if known is not None and done > known:
            shown.total = known = None  # it was an estimate: a bar says no number that is not true
        self._bars.update(
            TaskID(number),
            completed=done,
            total=known,
            count=_describe_count(int(done), known),
            refresh=done == known,
        )


def _describe_count(done: int, total: float | None) -> str:
    return f"{done:,}" if total is None else f"{done:,}/{int(total):,}"


class LogProgress:
    """A log line per description at most every ``every_seconds``, and one when the total is reached."""

    def __init__(self, every_seconds: float = LOG_EVERY_SECONDS) -> None:
        self._every = every_seconds
        self._done: dict[str, int] = {}
        self._totals: dict[str, int] = {}
        self._logged: dict[str, float] = {}

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        done = self._done[description] = self._done.get(description, 0) + amount
        if total is not None:
            self._totals[description] = total
        now = time.monotonic()
        since = now - self._logged.setdefault(description, now)
        complete = amount > 0 and done == self._totals.get(description)
        if complete or since >= self._every:
            self._logged[description] = now
            known = self._totals.get(description, 0)
            of = f" of {known:,}" if done <= known else ""
            logger.info("{}: {:,}{}", description, done, of)


@contextmanager
def show_bars() -> Iterator[Progress]:
    """Yield bars where standard error is a terminal, else log lines."""
    if sys.stderr.isatty():
        with TerminalProgress() as bars:
            yield bars
    else:
        yield LogProgress()
