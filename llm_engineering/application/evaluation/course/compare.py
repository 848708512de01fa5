"""All assistants on the same questions: scores with intervals, bias, and an evaluation that promotion can decide by."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from llm_engineering.application.evaluation.course.bias import ProfessorTone, find_bias
from llm_engineering.application.evaluation.course.config import CourseRun
from llm_engineering.application.evaluation.course.measure import METRICS, Measured
from llm_engineering.application.evaluation.course.rubric import CRITERIA, Points
from llm_engineering.application.evaluation.statistics import DocumentBootstrap
from llm_engineering.domain.documents import derive_id, text_hash
from llm_engineering.domain.models import Difference, EvaluationReport, Score, SystemReport

TEMPLATE_HASH = text_hash("query, context")
"""Of what all assistants were given; how they were prompted with it is their own affair."""
ANSWERS = "answers.jsonl"
FAULTS = ("empty", "verbatim")


@dataclass(frozen=True, slots=True)
class AssistantReport:
    """One assistant."""

    name: str
    answers: tuple[Measured, ...]
    points: tuple[Points | None, ...]
    professors: tuple[ProfessorTone, ...]
    scores: Mapping[str, Score]

    @property
    def biased(self) -> list[ProfessorTone]:
        """Professors that it treats unlike the others."""
        return [one for one in self.professors if one.is_biased]

    @property
    def files(self) -> dict[str, str]:
        """What a version of it consists of, with its SHA-256."""
        return {ANSWERS: hashlib.sha256(self.write_answers().encode()).hexdigest()}

    @property
    def content_hash(self) -> str:
        """As a model's manifest has it: equal answers are the same version."""
        return text_hash(json.dumps(self.files, sort_keys=True))

    def write_answers(self) -> str:
        """Return its answers as JSON Lines, without values."""
        rows = [
            {
                "assistant": self.name,
                "professor": one.exchange.professor,
                "query": one.exchange.query,
                "context": one.exchange.context,
                "response": one.exchange.response,
            }
            for one in self.answers
        ]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@dataclass(frozen=True, slots=True)
class CourseReport:
    """All of them, with what they are worth against each other."""

    assistants: tuple[AssistantReport, ...]
    evaluation: EvaluationReport
    judged: bool


def compare_assistants(
    measured: Mapping[str, Sequence[Measured]],
    points: Mapping[str, Sequence[Points | None]],
    run: CourseRun,
    at: datetime,
) -> CourseReport:
    """Return scores, bias and paired differences of the assistants; intervals are over questions."""
    first = next(iter(measured.values()))
    questions = [text_hash(json.dumps(one.exchange.question)) for one in first]
    draws = DocumentBootstrap(questions, seed=run.seed, resamples=run.resamples)
    columns = {name: _tabulate(answers, points.get(name, ())) for name, answers in measured.items()}
    assistants = []
    for name, answers in measured.items():
        scores = {}
        for metric, values in columns[name].items():
            present = sum(value is not None for value in values)
            if not present:
                continue
            interval = draws.estimate_interval(values)
            scores[metric] = Score(
                metric=metric,
                value=interval.mean,
                low=interval.low,
                high=interval.high,
                n=present,
                missing=len(values) - present,
                higher_is_better=metric not in FAULTS,
            )
        tones = find_bias(answers, run.bias, seed=run.seed, resamples=run.resamples)
        own = tuple(points.get(name, ())) or (None,) * len(answers)
        assistants.append(AssistantReport(name, tuple(answers), own, tuple(tones), scores))
    differences = [
        _subtract(metric, ours, theirs, columns, draws)
        for ours in assistants
        for theirs in assistants
        if ours is not theirs
        for metric in ours.scores
        if metric in theirs.scores
    ]
    dataset_hash = text_hash("".join(questions))
    evaluation = EvaluationReport(
        id=derive_id(
            "course", dataset_hash, run.model_dump_json(), *(one.content_hash for one in assistants)
        ),
        dataset=run.name,
        dataset_hash=dataset_hash,
        template_hash=TEMPLATE_HASH,
        systems=tuple(
            SystemReport(system=one.name, model=one.content_hash, scores=tuple(one.scores.values()))
            for one in assistants
        ),
        differences=tuple(one for one in differences if one is not None),
        seed=run.seed,
        created_at=at,
    )
    return CourseReport(tuple(assistants), evaluation, judged=bool(points))


def _tabulate(answers: Sequence[Measured], points: Sequence[Points | None]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {name: [one.scores[name] for one in answers] for name in METRICS}
    for fault in FAULTS:
        columns[fault] = [float(one.note == fault) for one in answers]
    if points:
        for name in CRITERIA:
            columns[name] = [None if one is None else one[name] for one in points]
    return columns


def _subtract(
    metric: str,
    ours: AssistantReport,
    theirs: AssistantReport,
    columns: Mapping[str, Mapping[str, Sequence[float | None]]],
    draws: DocumentBootstrap,
) -> Difference | None:
    first, second = columns[ours.name][metric], columns[theirs.name][metric]
    both = sum(a is not None and b is not None for a, b in zip(first, second, strict=True))
    if not both:
        return None
    interval = draws.estimate_difference(first, second)
    return Difference(
        metric=metric,
        candidate=ours.name,
        reference=theirs.name,
        value=interval.mean,
        low=interval.low,
        high=interval.high,
        n=both,
        clusters=both,
        higher_is_better=metric not in FAULTS,
    )
