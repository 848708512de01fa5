"""Judges: language models that are asked for their opinion, each reply kept, each failure counted, under one budget.

Opinions are asked for as samples are: cached by prompt, model and seed (a killed run asks nothing twice), within each judge's
limits of concurrency and rate, and with one ledger for the whole jury. A judge that is down is asked no more, and the others
go on; where the budget ends, so does the asking, and nothing else.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar

from loguru import logger
from pydantic import AfterValidator, Field

from llm_engineering.application.llm.batch import (
    Ask,
    Asker,
    Asking,
    NoAnswerError,
    UnusableReplyError,
)
from llm_engineering.application.llm.budget import BudgetSpentError, SpendingLedger
from llm_engineering.application.ports import DeadLetterStore, GenerationCache, LanguageModel
from llm_engineering.domain.errors import ConfigurationError, ModelError

T = TypeVar("T")
_JUDGE = re.compile(r"llm|judge[23]?(?::\S+)?")


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _JUDGE.fullmatch(name):
            raise ValueError(
                f"{name!r} names no judge; expected judge, judge2 or judge3 (the models of the settings JUDGE_*, JUDGE2_*, "
                "JUDGE3_*), judge:MODEL (another model at the same address), or llm (the language model of LLM_*)"
            )
    if len(set(names)) != len(names):
        raise ValueError("a judge is named twice; repeats of one judge are no jury")
    return names


JudgeNames = Annotated[tuple[str, ...], AfterValidator(_known)]
"""``judge``, ``judge2``, ``judge3``: the models of the settings ``JUDGE_*``, ``JUDGE2_*``, ``JUDGE3_*``; ``judge:MODEL``: another
model at that address, with that key; ``llm``: the language model of ``LLM_*``, which favours what it would have written."""


class JudgeAsking(Asking):
    """How judges are asked. Concurrency and rate hold for each judge, the budget for all together."""

    concurrency: int = Field(default=2, ge=1, le=256)
    attempts: int = Field(default=2, ge=1, le=10)
    timeout_seconds: float = Field(default=60.0, gt=0)


class JuryStores(Protocol):
    """Where replies are kept; the warehouse has both."""

    @property
    def generations(self) -> GenerationCache: ...

    @property
    def dead_letters(self) -> DeadLetterStore: ...


@dataclass(frozen=True, slots=True)
class Silent:
    """A judge gave no opinion."""

    why: Literal["unusable", "down", "budget"]
    """``unusable``: no attempt gave a usable reply; ``down``: the judge is asked no more; ``budget``: it was not asked."""
    detail: str


@dataclass(slots=True)
class JudgeRecord:
    """What one judge was asked for, and what came."""

    judge: str
    wanted: int = 0
    """Opinions."""
    given: int = 0
    not_asked: int = 0
    """Opinions that the budget left no room for."""
    replies: int = 0
    """Those from the cache and those of further attempts included."""
    from_cache: int = 0
    unusable_replies: int = 0
    missing_share: float = 0.0
    """Of the opinions wanted that the budget left room for."""
    down: str = ""
    """Why it is asked no more; empty: it is."""

    @property
    def missing(self) -> int:
        """Opinions that did not come although the budget left room for them."""
        return self.wanted - self.given - self.not_asked


@dataclass(frozen=True, slots=True)
class JuryReport:
    """All judges, and what they cost."""

    judges: tuple[JudgeRecord, ...]
    requests: int = 0
    tokens: int = 0
    """Of this run's requests, prompts and replies."""
    cost_usd: float | None = None
    cached_tokens: int = 0
    """What replies from the cache had cost."""
    stopped: str = ""
    """Why the asking ended early; empty: it did not."""

    def metadata(self) -> dict[str, Any]:
        """Counts and costs for a run's report; what there is none of is left out."""
        found = {
            "requests": self.requests,
            "tokens": self.tokens,
            "cost_usd": self.cost_usd,
            "cached_tokens": self.cached_tokens,
            "stopped": self.stopped,
        }
        return {
            "judges": {one.judge: _present(asdict(one)) for one in self.judges},
            **_present(found),
        }


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value not in ("", {})}


class Jury:
    """Asks several models. For one event loop; whoever runs that closes it.

    Args:
        stage: names this use in dead letters.

    Raises:
        ConfigurationError: two judges are the same model, whose replies would be the same.
    """

    def __init__(
        self,
        judges: Sequence[LanguageModel],
        stores: JuryStores,
        asking: JudgeAsking,
        *,
        stage: str,
        seed: int = 0,
    ) -> None:
        names = [judge.name for judge in judges]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationError(
                f"The jury has {', '.join(twice)} twice, whose replies would be the same. Name each model once."
            )
        self.names = tuple(names)
        self.asking = asking
        self.seed = seed
        self._ledger = SpendingLedger(asking.budget)
        self._askers = {
            judge.name: Asker(
                judge,
                stores.generations,
                stores.dead_letters,
                asking,
                stage=stage,
                seed=seed,
                ledger=self._ledger,
            )
            for judge in judges
        }
        self._records = {name: JudgeRecord(name) for name in names}

    @property
    def under_way(self) -> int:
        """How many opinions to ask for at a time, so that every judge has something to do."""
        return 2 * self.asking.concurrency * len(self.names) + 2

    async def opinion(self, judge: str, ask: Ask[T]) -> T | Silent:
        """A judge's opinion, or why there is none.

        Raises:
            StoreError: cache or dead letters cannot be read or written.
        """
        record = self._records[judge]
        record.wanted += 1
        if record.down:
            return Silent("down", record.down)
        try:
            found = await self._askers[judge].answer(ask)
        except BudgetSpentError as error:
            record.not_asked += 1
            return Silent("budget", str(error))
        except NoAnswerError as error:
            return Silent("unusable", f"{judge}: {error}")
        except (ModelError, ConfigurationError) as error:
            if not record.down:
                logger.warning("The judge {} is asked no more: {}", judge, error)
            record.down = str(error)
            return Silent("down", record.down)
        record.given += 1
        return found

    async def finish(self) -> JuryReport:
        """Forget old dead letters of what has succeeded; tell what was asked and spent."""
        for name, asker in self._askers.items():
            await asker.settle()
            record, counts = self._records[name], asker.report
            record.replies, record.from_cache = counts.replies, counts.from_cache
            record.unusable_replies = counts.malformed
            due = record.wanted - record.not_asked
            record.missing_share = record.missing / due if due else 0.0
            logger.info(
                "The judge {} gave {} of {} opinions ({:.0%} missing; {} of {} replies from the cache).",
                name,
                record.given,
                record.wanted,
                record.missing_share,
                record.from_cache,
                record.replies,
            )
        ledger = self._ledger
        report = JuryReport(
            judges=tuple(self._records.values()),
            requests=ledger.requests,
            tokens=ledger.spent.prompt_tokens + ledger.spent.completion_tokens,
            cost_usd=ledger.spent.cost_usd,
            cached_tokens=ledger.saved.prompt_tokens + ledger.saved.completion_tokens,
            stopped=ledger.stopped,
        )
        if report.stopped:
            missing = sum(record.not_asked for record in report.judges)
            logger.warning("{} {} opinions were not asked for.", report.stopped, missing)
        return report

    async def close(self) -> None:
        """Close the judges' models."""
        for asker in self._askers.values():
            await asker.model.close()


def json_object(text: str) -> dict[str, Any]:
    """A reply as a JSON object.

    Raises:
        UnusableReplyError: it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableReplyError(f"no JSON: {text[:200]!r}") from None
    if not isinstance(value, dict):
        raise UnusableReplyError(f"no JSON object: {text[:200]!r}")
    return value
