"""Answers judged by a language model: the port, and how scores that did not come are counted and not guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol

from llm_engineering.application.ports import Progress, SilentProgress

GIVEN_UP_AFTER = 3
"""Answers in a row without any score, after which a judge is taken for broken."""
NOT_ASKED = f"not asked: no score for {GIVEN_UP_AFTER} answers in a row"
_SILENT = SilentProgress()


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """An answer with all that a judge looks at."""

    question_id: str
    question: str
    answer: str
    contexts: tuple[str, ...]
    """Texts of the sources that the answer was made from, best first."""
    reference: str
    """A right answer, or the words that hold one; empty: none is known."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a judge gave one answer; a metric stands either in ``values`` or in ``failures``."""

    values: Mapping[str, float]
    failures: Mapping[str, str]
    """Why a score is missing, by metric."""


class AnswerJudge(Protocol):
    """Scores answers, 0 to 1, higher is better. It never raises for one answer: what fails is a missing score."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    async def score(self, sample: JudgedSample) -> Scores: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class JudgedMetric:
    """A judge's metric over all answers."""

    mean: float | None
    """None: no score came."""
    scored: int
    missing: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    """How often scores were missing, by reason."""


@dataclass(frozen=True, slots=True)
class Judgements:
    """A judge's scores of all answers."""

    judge: str
    metrics: Mapping[str, JudgedMetric]
    by_question: Mapping[str, Scores]


async def judge_answers(
    samples: Sequence[JudgedSample], judge: AnswerJudge, *, progress: Progress = _SILENT
) -> Judgements:
    """Have all answers judged, one after the other: judges are rate limited more often than they are slow.

    A judge that gives no score at all several times in a row is asked no more; what is left counts as missing.
    """
    found: dict[str, Scores] = {}
    silent = 0
    for sample in samples:
        if silent >= GIVEN_UP_AFTER:
            found[sample.question_id] = Scores({}, dict.fromkeys(judge.metrics, NOT_ASKED))
        else:
            scores = found[sample.question_id] = await judge.score(sample)
            silent = 0 if scores.values else silent + 1
        progress.advance("Judge answers", total=len(samples))
    return Judgements(judge.name, {name: _summed_up(name, found) for name in judge.metrics}, found)


def _summed_up(metric: str, found: Mapping[str, Scores]) -> JudgedMetric:
    values = [s.values[metric] for s in found.values() if metric in s.values and isfinite(s.values[metric])]
    reasons: dict[str, int] = {}
    for scores in found.values():
        if metric in scores.failures:
            reasons[scores.failures[metric]] = reasons.get(scores.failures[metric], 0) + 1
    return JudgedMetric(
        mean=sum(values) / len(values) if values else None,
        scored=len(values),
        missing=len(found) - len(values),
        reasons=dict(sorted(reasons.items(), key=lambda item: -item[1])),
    )
