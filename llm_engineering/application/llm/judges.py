"""Judges: language models that give verdicts, how far they agree, and what they cost.

Replies are cached by prompt, model and seed, so an interrupted run resumes without paying twice. Concurrency and rate hold for
each judge, the budget for the whole jury. A judge that is down is disabled while the others go on; an exhausted budget stops
requests, and nothing else.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Annotated, Any, Literal, Protocol, TypeVar

from loguru import logger
from pydantic import AfterValidator, Field

from llm_engineering.application.llm.batch import (
    BatchClient,
    BatchConfig,
    LlmRequest,
    NoAnswerError,
)
from llm_engineering.application.llm.budget import BudgetExhaustedError, CostTracker
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


class JudgeBatchConfig(BatchConfig):
    """How requests are sent to judges. Concurrency and rate hold for each judge, the budget for all together."""

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
class MissingVerdict:
    """A judge gave no verdict."""

    why: Literal["unusable", "down", "budget"]
    """``unusable``: no attempt gave a usable reply; ``down``: the judge is disabled; ``budget``: it was not asked."""
    detail: str


@dataclass(slots=True)
class JudgeRecord:
    """Counts of the verdicts that one judge was asked for."""

    judge: str
    requested: int = 0
    received: int = 0
    not_asked: int = 0
    """Verdicts that the budget left no room for."""
    replies: int = 0
    """Those from the cache and those of further attempts included."""
    from_cache: int = 0
    unusable_replies: int = 0
    missing_share: float = 0.0
    """Of the requested verdicts that the budget left room for."""
    disabled_reason: str = ""
    """Empty: the judge is not disabled."""

    @property
    def missing(self) -> int:
        """Verdicts that did not come although the budget left room for them."""
        return self.requested - self.received - self.not_asked


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
    """Why requests stopped early; empty: they did not."""

    def to_metadata(self) -> dict[str, Any]:
        """Return counts and costs for a run's report; what there is none of is left out."""
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
    """Ask several models for verdicts. For one event loop; whoever runs that closes it.

    Args:
        stage: names this use in dead letters.

    Raises:
        ConfigurationError: two judges are the same model, whose replies would be the same.
    """

    def __init__(
        self,
        judges: Sequence[LanguageModel],
        stores: JuryStores,
        config: JudgeBatchConfig,
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
        self.config = config
        self.seed = seed
        self._costs = CostTracker(config.budget)
        self._clients = {
            judge.name: BatchClient(
                judge,
                stores.generations,
                stores.dead_letters,
                config,
                stage=stage,
                seed=seed,
                costs=self._costs,
            )
            for judge in judges
        }
        self._records = {name: JudgeRecord(name) for name in names}

    @property
    def max_in_flight(self) -> int:
        """Requests to have in flight so that every judge is busy."""
        return 2 * self.config.concurrency * len(self.names) + 2

    async def request_verdict(self, judge: str, request: LlmRequest[T]) -> T | MissingVerdict:
        """Ask a judge for a verdict; return it, or why there is none.

        Raises:
            StoreError: cache or dead letters cannot be read or written.
        """
        record = self._records[judge]
        record.requested += 1
        if record.disabled_reason:
            return MissingVerdict("down", record.disabled_reason)
        try:
            verdict = await self._clients[judge].answer(request)
        except BudgetExhaustedError as error:
            record.not_asked += 1
            return MissingVerdict("budget", str(error))
        except NoAnswerError as error:
            return MissingVerdict("unusable", f"{judge}: {error}")
        except (ModelError, ConfigurationError) as error:
            if not record.disabled_reason:
                logger.warning("The judge {} is disabled: {}", judge, error)
            record.disabled_reason = str(error)
            return MissingVerdict("down", record.disabled_reason)
        record.received += 1
        return verdict

    async def finish(self) -> JuryReport:
        """Remove old dead letters of what has succeeded; report counts and costs."""
        for name, client in self._clients.items():
            await client.resolve_dead_letters()
            record, counts = self._records[name], client.report
            record.replies, record.from_cache = counts.replies, counts.from_cache
            record.unusable_replies = counts.malformed
            due = record.requested - record.not_asked
            record.missing_share = record.missing / due if due else 0.0
            logger.info(
                "The judge {} gave {} of {} verdicts ({:.0%} missing; {} of {} replies from the cache).",
                name,
                record.received,
                record.requested,
                record.missing_share,
                record.from_cache,
                record.replies,
            )
        costs = self._costs
        report = JuryReport(
            judges=tuple(self._records.values()),
            requests=costs.requests,
            tokens=costs.spent.prompt_tokens + costs.spent.completion_tokens,
            cost_usd=costs.spent.cost_usd,
            cached_tokens=costs.saved.prompt_tokens + costs.saved.completion_tokens,
            stopped=costs.stopped,
        )
        if report.stopped:
            missing = sum(record.not_asked for record in report.judges)
            logger.warning("{} {} verdicts were not asked for.", report.stopped, missing)
        return report

    async def close(self) -> None:
        """Close the judges' models."""
        for client in self._clients.values():
            await client.model.close()


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two judges on the things that both gave points to."""

    first: str
    second: str
    items: int
    exact: float
    """Share of the items with the same points."""
    difference: float
    """Mean absolute difference, in points."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """All judges. Agreement says nothing of whether they are right."""

    items: int
    """Things that at least two judges gave points to."""
    alpha: float | None
    """Krippendorff's alpha; None: fewer than two judges on anything, or all points the same."""
    pairs: tuple[PairAgreement, ...] = ()


def measure_agreement(points: Sequence[Mapping[str, float]]) -> Agreement:
    """Measure how far judges agree; each mapping holds the points of one item by judge."""
    judges = list(dict.fromkeys(name for item in points for name in item))
    pairs = []
    for first, second in combinations(judges, 2):
        both = [(item[first], item[second]) for item in points if first in item and second in item]
        if both:
            exact = fmean(one == other for one, other in both)
            difference = fmean(abs(one - other) for one, other in both)
            pairs.append(PairAgreement(first, second, len(both), exact, difference))
    values = [list(item.values()) for item in points if len(item) > 1]
    return Agreement(len(values), krippendorff_alpha(values), tuple(pairs))


def krippendorff_alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Compute Krippendorff's alpha for interval data: 1 perfect, 0 as by chance, below 0 systematic disagreement.

    One minus observed over expected disagreement, with squared differences (Krippendorff, *Content Analysis*, 3rd edition,
    2013, chapter 12). Takes any number of raters and missing ratings, which Cohen's kappa does not.

    Args:
        units: the ratings of each rated thing, in any order; those with fewer than two do not count.

    Returns:
        None where it is not defined: no pair of ratings, or ratings that do not vary.
    """
    paired = [unit for unit in units if len(unit) > 1]
    every = [value for unit in paired for value in unit]
    if len(set(every)) < 2:  # not by their differences, in which means of repeats leave a rounding error
        return None
    expected = _squared_differences(every)
    observed = sum(_squared_differences(unit) / (len(unit) - 1) for unit in paired)
    return 1 - (len(every) - 1) * observed / expected


def _squared_differences(values: Sequence[float]) -> float:
    """Over all ordered pairs of different places: 2 (n Σv² − (Σv)²)."""
    middle = fmean(values)  # about the mean, so that nothing is lost to rounding
    return 2 * len(values) * sum((value - middle) ** 2 for value in values)
