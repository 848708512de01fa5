"""What people and other systems are told: kept before it is sent, so that it is sent once."""

from datetime import date
from functools import cached_property
from typing import Literal

from pydantic import Field

from llm_engineering.domain.documents import Model, UtcDatetime, derive_id


class Notice(Model):
    """One thing to tell. Of a subject and a rule there is one a day, however often the rule holds."""

    subject: str = Field(min_length=1)
    """What it is about: a run."""
    rule: str = Field(min_length=1)
    """Why it is told: ``run_failed``, ``run_succeeded``."""
    day: date
    title: str = Field(min_length=1, max_length=200)
    text: str = Field(default="", max_length=10_000)
    severity: Literal["info", "warning", "failure"] = "info"
    link: str = ""
    """Where to look further."""
    attachment: str = ""
    """Path of a file that goes along where the place takes files; left out where it is gone by then."""
    audience: Literal["all", "systems"] = "all"
    """``systems``: nobody is told, only systems get its facts."""
    facts: dict[str, str | int | float] = Field(default_factory=dict)
    """The same for systems: what it is about, field by field."""
    created_at: UtcDatetime

    @cached_property
    def id(self) -> str:
        """Derived from subject, rule and day: also the key by which a receiver tells a repetition."""
        return derive_id("notice", self.subject, self.rule, self.day.isoformat())


class StoredNotice(Model):
    """A notice, with what became of it."""

    id: str
    notice: Notice
    delivered: tuple[str, ...] = ()
    """Names of the notifiers that have taken it."""
    attempts: int = 0
    problem: str = ""
    """Of the last attempt that failed."""
    done: bool = False
    """Every notifier has taken it, or it was given up after too many attempts."""
