"""Run pipelines at their times: ``./poe run-schedule [configs/schedules.yaml]``. Ends at once on SIGTERM or Ctrl-C.

A time that passed while nothing ran, or while another run was under way, is not made up for: the next one counts. One run at a
time, and one scheduler for a file.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator
from rich.markup import escape

from llm_engineering.application.config import StrictConfig
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import console, make_parser, run, user_path
from tools.run import PIPELINES
from tools.run_config import read_run_config, read_service_config

DEFAULT = Path("configs/schedules.yaml")
GRACE_SECONDS = 300.0
"""A run that could not begin within so long of its time is missed."""


class Job(StrictConfig):
    """A pipeline's run, at times."""

    cron: str
    """Minute, hour, day of month, month, day of week: ``0 0 * * *`` is every midnight."""
    pipeline: str
    """The task's name without ``run-`` and ``-pipeline``: ``end-to-end-data``."""
    config: Path
    timezone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        from croniter import croniter

        if not croniter.is_valid(value) or len(value.split()) != 5:
            raise ValueError(
                f"{value!r} is no time: expected five fields, such as '0 0 * * *' for every midnight"
            )
        return value

    @field_validator("pipeline")
    @classmethod
    def _is_pipeline(cls, value: str) -> str:
        if value not in PIPELINES:
            raise ValueError(f"there is no pipeline {value!r}; there are {', '.join(sorted(PIPELINES))}")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                f"there is no time zone {value!r}; expected a name such as Europe/Berlin"
            ) from None
        return value

    def find_next(self, after: datetime) -> datetime:
        """Return the first time of the job after a moment, in UTC."""
        from croniter import croniter

        local = after.astimezone(ZoneInfo(self.timezone))
        found: datetime = croniter(self.cron, local).get_next(datetime)
        return found.astimezone(UTC)


class Schedules(StrictConfig):
    """A file of schedules."""

    schedules: dict[str, Job] = Field(min_length=1)


@dataclass
class Scheduler:
    """Runs jobs at their times, one after the other.

    Args:
        start: runs a job to its end, and returns its exit code.
        now: the time.
        wait: waits until a moment; False: it is time to end.
    """

    jobs: dict[str, Job]
    start: Callable[[str, Job], int]
    now: Callable[[], datetime]
    wait: Callable[[datetime], bool]
    tell: Callable[[str], None] = print
    missed: list[tuple[str, datetime]] = field(default_factory=list)
    """Times that passed without a run."""

    def run(self) -> None:
        """Run until it is time to end."""
        due = {name: job.find_next(self.now()) for name, job in self.jobs.items()}
        while True:
            name = min(due, key=lambda one: (due[one], one))
            self.tell(f"Next: {name} at {due[name]:%Y-%m-%d %H:%M} UTC")
            if not self.wait(due[name]):
                return
            now = self.now()
            if (
                now - due[name]
            ).total_seconds() > GRACE_SECONDS:  # this machine slept, or was busy with another run
                self.missed.append((name, due[name]))
                self.tell(f"Missed: {name} of {due[name]:%Y-%m-%d %H:%M} UTC; it is not made up for")
            else:
                code = self.start(name, self.jobs[name])
                self.tell(f"{name} {'finished' if code == 0 else f'failed (exit code {code})'}")
            due[name] = self.jobs[name].find_next(self.now())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("run-schedule", __doc__)
    parser.add_argument("file", type=user_path, nargs="?", default=DEFAULT, help=f"default: {DEFAULT}")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    jobs = read_service_config(options.file, Schedules).schedules
    for job in jobs.values():  # all of them now, rather than at midnight
        read_run_config(job.config, PIPELINES[job.pipeline].parameters)
    ending = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def end(*_: Any) -> None:
        ending.set()
        for process in running:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)

    def start(name: str, job: Job) -> int:
        console.print(f"[bold]{escape(name)}[/] …")
        command = [sys.executable, "-m", "tools.run", job.pipeline, "--config", str(job.config)]
        with subprocess.Popen(command) as process:
            running[:] = [process]
            if ending.is_set():
                process.terminate()
            return process.wait()

    def wait(until: datetime) -> bool:
        while (left := (until - datetime.now(UTC)).total_seconds()) > 0:
            if ending.wait(
                min(left, 30.0)
            ):  # in parts: a clock that is set, or a machine that sleeps, is noticed
                return False
        return not ending.is_set()

    with hold_schedule(settings, options.file):
        Scheduler(
            jobs, start, lambda: datetime.now(UTC), wait, lambda line: console.print(escape(line))
        ).run()
    return 0


@contextmanager
def hold_schedule(settings: Settings, file: Path) -> Iterator[None]:
    """Be the only scheduler of a file.

    Raises:
        ConfigurationError: another one runs.
    """
    import fcntl

    place = settings.local.data_dir / f"schedule-{file.stem}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"The schedules of {file} are run already by another {POE} run-schedule. End that one first."
            ) from None
        yield


if __name__ == "__main__":
    run(main)
