"""Schedules: runs at their times, none made up for, one at a time; and files that cannot be used."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import load_settings
from tools.run_config import read_service_config
from tools.schedule import Job, Scheduler, Schedules, hold_schedule

DAILY: dict[str, Any] = {"cron": "0 0 * * *", "pipeline": "end-to-end-data", "config": "configs/movies.yaml"}
START = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Clock:
    """Time that moves when somebody waits or runs, to an end. ``asleep``: the machine sleeps through these hours."""

    def __init__(
        self, days: float, asleep: tuple[datetime, datetime] | None = None, run_hours: float = 0.5
    ) -> None:
        self.now, self.end = START, START + timedelta(days=days)
        self._asleep = asleep
        self._run = timedelta(hours=run_hours)
        self.ran: list[tuple[str, datetime]] = []

    def wait(self, until: datetime) -> bool:
        self.now = max(self.now, until)
        if self._asleep and self._asleep[0] <= self.now < self._asleep[1]:
            self.now = self._asleep[1]
        return self.now < self.end

    def start(self, name: str, _job: Job) -> int:
        self.ran.append((name, self.now))
        self.now += self._run
        return 1 if name == "fails" else 0

    def schedule(self, **jobs: dict[str, Any]) -> Scheduler:
        scheduler = Scheduler(
            {name: Job.model_validate(job) for name, job in jobs.items()},
            self.start,
            lambda: self.now,
            self.wait,
            lambda line: None,
        )
        scheduler.run()
        return scheduler


def midnight(day: int) -> datetime:
    return datetime(2026, 5, day, tzinfo=UTC)


def test_of_three_days_of_which_the_second_is_slept_through_two_run_and_none_is_made_up_for() -> None:
    clock = Clock(3, asleep=(datetime(2026, 5, 2, 20, tzinfo=UTC), datetime(2026, 5, 3, 9, tzinfo=UTC)))
    scheduler = clock.schedule(movies=DAILY)
    assert clock.ran == [("movies", midnight(2)), ("movies", midnight(4))]
    assert scheduler.missed == [("movies", midnight(3))]


def test_a_run_that_fails_is_tried_at_its_next_time_only() -> None:
    clock = Clock(2)
    clock.schedule(fails=DAILY)
    assert clock.ran == [("fails", midnight(2)), ("fails", midnight(3))]


def test_one_run_at_a_time_and_what_passes_meanwhile_is_missed() -> None:
    clock = Clock(0.25, run_hours=2.2)
    scheduler = clock.schedule(first={**DAILY, "cron": "0 * * * *"}, second={**DAILY, "cron": "10 * * * *"})
    ends = [(began, began + timedelta(hours=2.2)) for _, began in clock.ran]
    assert all(one[1] <= other[0] for one, other in pairwise(ends))
    assert scheduler.missed


def test_times_are_of_the_jobs_time_zone_in_summer_and_winter() -> None:
    job = Job.model_validate({**DAILY, "cron": "30 2 * * *", "timezone": "Europe/Berlin"})
    assert job.find_next(datetime(2026, 7, 1, tzinfo=UTC)) == datetime(2026, 7, 1, 0, 30, tzinfo=UTC)
    assert job.find_next(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 1, 1, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cron": "every day"}, "is no time"),
        ({"cron": "0 0 * * * *"}, "five fields"),
        ({"pipeline": "end-to-end"}, "end-to-end-data"),
        ({"timezone": "Europe/Berln"}, "Berln"),
        ({"catchup": True}, "catchup"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    import yaml

    path = tmp_path / "schedules.yaml"
    path.write_text(yaml.safe_dump({"schedules": {"movies": {**DAILY, **change}}}))
    with pytest.raises(ConfigurationError, match=named):
        read_service_config(path, Schedules)


def test_the_example_can_be_read() -> None:
    assert "movies" in read_service_config(Path("configs/schedules.yaml"), Schedules).schedules


def test_of_two_schedulers_of_a_file_the_second_is_refused(tmp_path: Path) -> None:
    settings = load_settings(None, local={"data_dir": str(tmp_path)})
    with hold_schedule(settings, Path("a.yaml")):
        with pytest.raises(ConfigurationError, match="already"), hold_schedule(settings, Path("a.yaml")):
            pass
        with hold_schedule(settings, Path("b.yaml")):
            pass
    with hold_schedule(settings, Path("a.yaml")):
        pass
