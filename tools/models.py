"""Fetch the bundled models: ``python -m tools.models [NAME …] [--check]``.

Files that are here and right are left alone, and a download that was interrupted goes on where it stopped. With
``--check`` nothing is fetched. Exit code 1: a model is missing, wrong or could not be fetched.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.training import open_bundled_models
from llm_engineering.domain.errors import ModelFileError
from llm_engineering.settings import LlamaCppSettings, Settings, load_settings
from tools.console import console, make_parser, run, show_table

if TYPE_CHECKING:
    from rich.progress import TaskID


_ROOMY = 100
"""Columns of a terminal that has room for speeds too."""


class DownloadBars:
    """A bar per file, in bytes and with speed."""

    def __init__(self) -> None:
        target = Console(stderr=True)
        roomy = target.width >= _ROOMY
        self._bars = Bars(
            TextColumn("  {task.description:<40}"),
            BarColumn(bar_width=24 if roomy else 8),
            DownloadColumn(),
            *([TransferSpeedColumn()] if roomy else []),
            TimeRemainingColumn(),
            console=target,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "DownloadBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        if description not in self._tasks:
            self._tasks[description] = self._bars.add_task(description, total=total)
        if total is not None:
            self._bars.update(self._tasks[description], total=total)
        self._bars.advance(self._tasks[description], amount)


def with_small_llm(settings: Settings) -> Settings:
    """Return the settings with the small language model, unless they name a service."""
    if not isinstance(settings.llm, LlamaCppSettings):
        return settings
    small = settings.llm.model_copy(update={"model": open_bundled_models(settings).small_llm})
    return settings.model_copy(update={"llm": small})


def choose_models(names: Sequence[str], settings: Settings, *, small: bool) -> list[str]:
    """Return the models to fetch: all but the larger language model where a small one was asked for, the machine has too
    little memory or disk, or this is a build server (``CI`` is set)."""
    models = open_bundled_models(settings)
    small = small or (isinstance(settings.llm, LlamaCppSettings) and settings.llm.model == models.small_llm)
    wanted = []
    for name in names:
        if name == models.default_llm and not all(path.is_file() for path in models.list_files(name)):
            size = sum(models.list_files(name).values())
            settings.models_dir.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(settings.models_dir).free
            if small or os.environ.get("CI") or not models.fits_machine(name) or free < 2.5 * size:
                continue
        wanted.append(name)
    return wanted


def ensure_models(settings: Settings, *, small: bool = False) -> list[Path]:
    """Fetch what is missing of the bundled models, with a bar per file. Returns what was fetched.

    Raises:
        ModelFileError: a file could not be had, or has another checksum than the pinned one.
    """
    models = open_bundled_models(settings)
    names = choose_models(models.names, settings, small=small)
    files = models.list_files(models.default_llm)
    if models.default_llm in names and not all(path.is_file() for path in files):
        size = sum(files.values()) / 1e9
        console.print(f"  Fetching {models.default_llm}, {size:.1f} GB (once; without it: --small)")
    with DownloadBars() as bars:
        return [file for name in names for file in models.download(name, bars)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("download-models", "Fetch the bundled models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to fetch; all when none is named")
    parser.add_argument("--check", action="store_true", help="only check what is here, fetch nothing")
    parser.add_argument("--small", action="store_true", help="without the larger language model (1.1 GB)")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    models = open_bundled_models(settings)
    names = options.names or choose_models(models.names, settings, small=options.small or options.check)
    for name in names:
        models.list_files(name)  # a wrong name is said before anything is fetched
    problems: list[str] = []
    fetched: set[Path] = set()
    with DownloadBars() as bars:
        for name in names:
            try:
                if options.check:
                    models.verify(name)
                else:
                    fetched.update(models.download(name, bars))
            except ModelFileError as error:
                problems.append(str(error))
    if not fetched and not problems and not options.check:
        console.print("[green]✓[/] Models: ready")  # other tasks begin with this one
        return 0
    table = Table("file", "model", "size", "")
    for name in names:
        for file, size in models.list_files(name).items():
            state = "fetched" if file in fetched else "here" if file.is_file() else "missing"
            table.add_row(escape(str(file)), name, f"{size / 1e6:.1f} MB", state)
    show_table(table)
    for problem in problems:
        console.print(f"[bold red]✗[/] {escape(problem)}")
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
