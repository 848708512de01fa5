"""Answers measured by rule, without a judge: do they speak when they can, keep silent when they must, and cite what holds?"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from typing import Protocol

from llm_engineering.application.evaluation.rag.metrics import MIN_OVERLAP, Source, covers
from llm_engineering.application.evaluation.rag.questions import Labelled
from llm_engineering.application.inference.pipeline import Finished, InferencePipeline, RagRequest
from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.application.ports import Progress, SilentProgress
from llm_engineering.domain.errors import InvalidInputError, ModelError
from llm_engineering.domain.inference import Intent
from llm_engineering.domain.retrieval import Answer, MetadataFilter, Query, Verdict

GIVEN_UP_AFTER = 3
"""Answers in a row without any score, after which a judge is taken for broken."""
NOT_ASKED = f"not asked: no score for {GIVEN_UP_AFTER} answers in a row"
_NO_JUDGE = SilentProgress()


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
    samples: Sequence[JudgedSample], judge: AnswerJudge, *, progress: Progress = _NO_JUDGE
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


_SILENT = SilentProgress()


@dataclass(frozen=True, slots=True)
class AnswerRun:
    """One answer and what the rules say of it. A share is None where there is nothing to share out."""

    question_id: str
    question: str
    answerable: bool
    text: str = ""
    abstained: bool = False
    quoted: bool = False
    citation_precision: float | None = None
    """Share of the sources cited that hold a place which answers the question, by its labels."""
    answer_cited: bool = False
    """A source that holds such a place is cited."""
    supported_share: float | None = None
    """Share of the sentences that the sources support, by the verdicts that come with the answer."""
    contexts: tuple[str, ...] = ()
    reference: str = ""
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class AnswerMetrics:
    """The rules' word on all answers. A value of None: no answer to measure it on."""

    answers: int
    answerable: int
    answered_share: float | None
    """Of the answerable questions."""
    declined_share: float | None
    """Of the unanswerable questions: those on which the answer abstained."""
    citation_precision: float | None
    """Mean over answered, answerable questions that cite something."""
    answer_cited_share: float | None
    """Of the answered, answerable questions: those that cite a place which answers them."""
    supported_share: float | None
    """Mean over answers that carry verdicts."""
    quoted_share: float | None
    """Of all answers given: those that quote the sources because nothing that the model said could be shown."""
    failed: int
    runs: tuple[AnswerRun, ...] = field(default=())


def sample(questions: Sequence[Labelled], most: int, seed: int) -> list[Labelled]:
    """At most so many questions, drawn by seed and id; answerable and unanswerable ones in the shares of the set."""
    if len(questions) <= most:
        return list(questions)
    chosen: set[str] = set()
    for sort in (True, False):
        members = [item for item in questions if item.question.answerable is sort]
        wanted = round(most * len(members) / len(questions))
        members.sort(key=lambda item: blake2b(f"{seed}/{item.question.id}".encode(), digest_size=8).digest())
        chosen.update(item.question.id for item in members[:wanted])
    return [item for item in questions if item.question.id in chosen]


async def answer_all(
    questions: Sequence[Labelled],
    pipeline: InferencePipeline,
    retrieval: RetrievalConfig,
    *,
    filter: MetadataFilter = MetadataFilter(),
    min_overlap: float = MIN_OVERLAP,
    progress: Progress = _SILENT,
) -> list[AnswerRun]:
    """Answer questions through the pipeline that serves. One that fails is kept with its error; the others go on.

    Raises:
        StoreError: the index is not there.
    """
    found: list[AnswerRun] = []
    for labelled in questions:
        try:
            query = retrieval.query(labelled.question.question, filter=filter)
            answer, seconds = await _answered(pipeline, query)
            found.append(_measured(labelled, answer, seconds, min_overlap))
        except (InvalidInputError, ModelError) as error:
            question = labelled.question
            found.append(AnswerRun(question.id, question.question, question.answerable, error=str(error)))
        progress.advance("Answer questions", total=len(questions))
    return found


async def _answered(pipeline: InferencePipeline, query: Query) -> tuple[Answer, float]:
    async with aclosing(pipeline.answer(RagRequest(query, intent=Intent.ANSWER))) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event.result.answer, event.result.timings.get("total", 0.0)
    raise AssertionError("an answer ends with its finished form")


def _measured(labelled: Labelled, answer: Answer, seconds: float, min_overlap: float) -> AnswerRun:
    question = labelled.question
    by_number = {citation.number: citation.passage for citation in answer.citations}
    cited = [by_number[number] for number in answer.cited if number in by_number]
    holding = [
        any(
            covers(Source(passage.document_id, passage.span), target, min_overlap)
            for target in labelled.targets
        )
        for passage in cited
    ]
    judged = labelled.targets and not answer.abstained
    verdicts = [support.verdict is Verdict.SUPPORTED for support in answer.supports]
    return AnswerRun(
        question_id=question.id,
        question=question.question,
        answerable=question.answerable,
        text=answer.text,
        abstained=answer.abstained,
        quoted=answer.quoted,
        citation_precision=sum(holding) / len(holding) if judged and holding else None,
        answer_cited=bool(judged) and any(holding),
        supported_share=sum(verdicts) / len(verdicts) if verdicts else None,
        contexts=tuple(citation.passage.text for citation in answer.citations),
        reference=question.right_answer,
        seconds=seconds,
    )


def summarise_answers(runs: Sequence[AnswerRun]) -> AnswerMetrics:
    """Return the metrics over all answers; failed ones are counted and in no average."""
    done = [run for run in runs if not run.error]
    answerable = [run for run in done if run.answerable]
    unanswerable = [run for run in done if not run.answerable]
    answered = [run for run in answerable if not run.abstained]
    given = [run for run in done if not run.abstained]
    return AnswerMetrics(
        answers=len(runs),
        answerable=len(answerable),
        answered_share=_mean([not run.abstained for run in answerable]),
        declined_share=_mean([run.abstained for run in unanswerable]),
        citation_precision=_mean(
            [run.citation_precision for run in answered if run.citation_precision is not None]
        ),
        answer_cited_share=_mean([run.answer_cited for run in answered]),
        supported_share=_mean([run.supported_share for run in given if run.supported_share is not None]),
        quoted_share=_mean([run.quoted for run in given]),
        failed=len(runs) - len(done),
        runs=tuple(runs),
    )


def select_judgeable(runs: Sequence[AnswerRun]) -> list[JudgedSample]:
    """Return the answers that a judge can say something of: given, on an answerable question, with sources."""
    return [
        JudgedSample(run.question_id, run.question, run.text, run.contexts, run.reference)
        for run in runs
        if run.answerable and not run.abstained and not run.error and run.contexts
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
