"""Evaluate models: each answers the same test questions; metrics are compared in pairs, by document."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from loguru import logger

from llm_engineering.application.evaluation.models.config import JudgeConfig, ModelEvaluationRun
from llm_engineering.application.evaluation.models.contrast import StyleContrast, fit_contrast
from llm_engineering.application.evaluation.models.heldout import HeldOut
from llm_engineering.application.evaluation.models.judging import Judgeable, Judging, judge_items
from llm_engineering.application.evaluation.models.metrics import (
    BY_NAME,
    UNINTERVALLED,
    Column,
    ReferenceMetrics,
    Similarity,
    TrainingText,
    Yardsticks,
    measure_answers,
    score_authors,
)
from llm_engineering.application.evaluation.models.systems import (
    AnsweringModels,
    Harness,
    Likelihood,
    System,
    Written,
)
from llm_engineering.application.evaluation.statistics import DocumentBootstrap, exponential
from llm_engineering.application.llm.judges import Jury
from llm_engineering.application.ports import Embedder, Message, Progress
from llm_engineering.application.text.style import Calibration, Voice, pick_evenly, style_models
from llm_engineering.application.training.finetune.data import read_instruct
from llm_engineering.domain.datasets import InstructSample, Split
from llm_engineering.domain.documents import derive_id
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.models import Difference, EvaluationReport, Score, SystemReport

_LABEL = 24
"""Characters of a model's name or hash that are shown."""
FEWEST = 2
"""Samples below which a part is left out."""
_LENGTHS = ("short", "medium", "long")


def slice_samples(samples: Sequence[InstructSample], kinds: Sequence[str]) -> dict[str, list[int]]:
    """Return places of the samples by slice: ``category=article``, ``language=en``, ``length=short`` (thirds of the
    author's answers). The first key, empty, is all of them. A kind that has but one value is left out: it would be all
    again."""
    found: dict[str, list[int]] = {"": list(range(len(samples)))}
    for kind in kinds:
        values = _values(samples, kind)
        parts = {
            value: [place for place, v in enumerate(values) if v == value] for value in sorted(set(values))
        }
        if len(parts) > 1:
            found.update({f"{kind}={value}": p for value, p in parts.items() if len(p) >= FEWEST})
    return found


def _values(samples: Sequence[InstructSample], kind: str) -> list[str]:
    if kind == "category":
        return [sample.origin.category for sample in samples]
    if kind == "language":
        return [sample.origin.language for sample in samples]
    lengths = np.array([len(sample.answer) for sample in samples])
    borders = np.quantile(lengths, (1 / 3, 2 / 3)) if len(lengths) else np.zeros(2)
    return [_LENGTHS[int(number)] for number in np.searchsorted(borders, lengths)]


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system's answers, and their values in the order of the samples."""

    system: System
    written: Sequence[Written]
    likelihoods: Sequence[Likelihood | None]
    columns: Mapping[str, Column]
    corpus: Mapping[str, float]
    harness: Sequence[Score] = ()


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """All results of a run."""

    report: EvaluationReport
    held: HeldOut
    results: tuple[SystemResult, ...]
    calibrations: tuple[Calibration, ...]
    """Of the style scores, by author; authors that are missing have written too little."""
    contrasts: Mapping[Voice, StyleContrast]
    """Of the authors against the base."""
    authors: Mapping[str, float]
    """What the authors' own answers to the test questions reach in metrics of style."""
    judging: Judging | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What the evaluation is done with."""

    models: AnsweringModels
    references: ReferenceMetrics
    embedder: Embedder | None = None
    jury: Jury | None = None
    harness: Harness | None = None


async def evaluate_models(
    run: ModelEvaluationRun, held: HeldOut, systems: Sequence[System], tools: Tools, progress: Progress
) -> ModelEvaluation:
    """Have every system answer the held-out questions, and compare.

    Raises:
        InvalidInputError: there is no system.
        ConfigurationError: a task of lm-evaluation-harness cannot be had.
        ModelError: a system cannot be loaded, or failed. A judge that fails costs verdicts only.
    """
    if not systems:
        raise InvalidInputError("There is no system to evaluate; train one, or name a base model.")
    if tools.harness is not None:
        tools.harness.prepare()
    written_by: dict[str, list[str]] = {}
    voices: dict[Voice, list[str]] = {}
    once = {(sample.author, sample.answer): sample for sample in held.training}
    for sample in once.values():
        written_by.setdefault(sample.author, []).append(sample.answer)
        voices.setdefault((sample.author, sample.language), []).append(sample.answer)
    styles = style_models(voices, piece=run.style_piece)
    yardsticks = Yardsticks(
        tools.references,
        styles,
        TrainingText(text for texts in written_by.values() for text in texts),
        Similarity(tools.embedder, written_by) if tools.embedder is not None else None,
        _contrasts(run, held, voices, systems, tools, progress),
    )
    results = [_answered(run, held, system, tools, yardsticks, progress) for system in systems]
    found: Judging | None = None
    if tools.jury is not None and run.judge is not None:
        results, found = await _judged(run.judge, held, results, tools.jury, progress)
    return ModelEvaluation(
        _report(run, held, results),
        held,
        tuple(results),
        tuple(model.calibration for model in styles.values() if model.calibration is not None),
        yardsticks.contrasts,
        score_authors(held.samples, yardsticks),
        found,
    )


# --- answers ---------------------------------------------------------------------------------------------------------


def _answered(
    run: ModelEvaluationRun,
    held: HeldOut,
    system: System,
    tools: Tools,
    yardsticks: Yardsticks,
    progress: Progress,
) -> SystemResult:
    logger.info("{} ({}) answers {} questions.", system.name, system.label[:_LABEL], len(held.samples))
    named = NamedProgress(progress, system.name)
    asked = [_asked(system, sample) for sample in held.samples]
    told = [
        [*turns, Message("assistant", sample.answer)]
        for turns, sample in zip(asked, held.samples, strict=True)
    ]
    with tools.models.open(system) as model:
        written = model.generate_answers(
            asked,
            max_tokens=run.max_tokens,
            repetition_penalty=run.repetition_penalty,
            batch_size=run.batch_size,
            progress=named,
        )
        likelihoods = model.compute_likelihoods(told, batch_size=run.batch_size, progress=named)
        harness = tools.harness.compute_scores(system, model.loaded) if tools.harness is not None else []
    columns = measure_answers(held.samples, written, likelihoods, yardsticks)
    corpus = tools.references.score_corpus(
        [answer.text for answer in written], [sample.answer for sample in held.samples]
    )
    return SystemResult(system, written, likelihoods, columns, corpus, harness)


def _contrasts(
    run: ModelEvaluationRun,
    held: HeldOut,
    voices: Mapping[Voice, Sequence[str]],
    systems: Sequence[System],
    tools: Tools,
    progress: Progress,
) -> dict[Voice, StyleContrast]:
    """Have the base answer training questions, so that its style is known from others than those that are evaluated."""
    base = next((system for system in systems if system.name == "base"), None)
    asked_for = sorted({(s.origin.author, s.origin.language) for s in held.samples} & set(voices))
    if base is None or not run.base_answers or not asked_for:
        return {}
    questions: dict[Voice, list[InstructSample]] = {voice: [] for voice in asked_for}
    for sample in read_instruct(held.dataset, Split.TRAIN):
        questions.get((sample.origin.author, sample.origin.language), []).append(sample)
    each = max(1, run.base_answers // len(asked_for))
    chosen = [(voice, sample) for voice in asked_for for sample in pick_evenly(questions[voice], each)]
    logger.info("base answers {} training questions too, so that its style is known.", len(chosen))
    with tools.models.open(base) as model:
        written = model.generate_answers(
            [_asked(base, sample) for _, sample in chosen],
            max_tokens=run.max_tokens,
            repetition_penalty=run.repetition_penalty,
            batch_size=run.batch_size,
            progress=NamedProgress(progress, "base, for its style"),
        )
    found = {}
    for voice in asked_for:
        said = [answer.text for (whose, _), answer in zip(chosen, written, strict=True) if whose == voice]
        try:
            found[voice] = fit_contrast(voices[voice], said, piece=run.style_piece)
        except InvalidInputError as error:
            logger.info("No contrast of style with the base for {}: {}", voice[0], error)
    return found


class NamedProgress:
    """Progress of one system: those of several would run into one bar, beyond its end."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        """See :meth:`Progress.advance`."""
        self._progress.advance(f"{self._name}: {description.lower()}", amount, total=total)


def _asked(system: System, sample: InstructSample) -> list[Message]:
    head = [Message("system", system.system_message)] if system.system_message else []
    before = [Message(turn.role, turn.content) for turn in sample.history]
    return [*head, *before, Message("user", sample.instruction)]


# --- the judge -------------------------------------------------------------------------------------------------------


async def _judged(
    config: JudgeConfig, held: HeldOut, results: Sequence[SystemResult], jury: Jury, progress: Progress
) -> tuple[list[SystemResult], Judging]:
    # Question by question, so that a budget that ends leaves whole questions out: systems are compared on the same ones.
    groups = [
        [Judgeable(sample.instruction, sample.answer, result.written[place].text) for result in results]
        for place, sample in enumerate(held.samples)
    ]
    items = [item for group in groups for item in group]
    found = await judge_items(jury, config, items, _pairs(groups, config.swaps), progress)
    columns = [
        {
            "judge_accuracy": [verdict.accuracy for verdict in found.verdicts[number :: len(results)]],
            "judge_style": [verdict.style for verdict in found.verdicts[number :: len(results)]],
        }
        for number in range(len(results))
    ]
    with_scores = [
        replace(result, columns={**result.columns, **own})
        for result, own in zip(results, columns, strict=True)
    ]
    return with_scores, found


def _pairs(groups: Sequence[Sequence[Judgeable]], count: int) -> list[tuple[Judgeable, Judgeable]]:
    """Answers of the first and the last system to one question; equal and empty ones are left out."""
    ends = [(group[0], group[-1]) for group in groups if len(group) > 1]
    told = [
        (first, second)
        for first, second in ends
        if first.answer.strip() and second.answer.strip() and first.answer != second.answer
    ]
    return told[:count]


# --- the report ------------------------------------------------------------------------------------------------------


def _report(run: ModelEvaluationRun, held: HeldOut, results: Sequence[SystemResult]) -> EvaluationReport:
    parts = {
        name: _Part(name, places, held, run)
        for name, places in slice_samples(held.samples, run.slices).items()
    }
    template = held.dataset.manifest
    systems = tuple(
        SystemReport(
            system=result.system.name,
            model=result.system.label,
            scores=(*(s for part in parts.values() for s in part.compute_scores(result)), *_whole(result)),
        )
        for result in results
    )
    differences = tuple(
        difference
        for reference, candidate in pair_systems(results)
        for part in parts.values()
        for difference in part.differences(candidate, reference)
    )
    told = [
        held.dataset.hash,
        json.dumps(run.model_dump(mode="json"), sort_keys=True),
        *(f"{result.system.name}={result.system.label}" for result in results),
    ]
    return EvaluationReport(
        id=derive_id("evaluation", *told),
        dataset=held.dataset.label,
        dataset_hash=held.dataset.hash,
        template_hash=template.template_hash,
        systems=systems,
        differences=differences,
        seed=run.seed,
        overlap=dict(held.overlap),
        created_at=datetime.now(UTC),
    )


def pair_systems(results: Sequence[SystemResult]) -> list[tuple[SystemResult, SystemResult]]:
    """Return (reference, candidate): each trained system against base, production and what was trained before it."""
    return [
        (reference, candidate)
        for place, candidate in enumerate(results)
        for reference in results[:place]
        if candidate.system.name != "base"
    ]


def _whole(result: SystemResult) -> list[Score]:
    """Scores without an interval."""
    n = len(result.written)
    scores = [Score(metric=name, value=value, n=n) for name, value in result.corpus.items()]
    return [*scores, *result.harness]


class _Part:
    """A slice of the test split."""

    def __init__(self, name: str, places: Sequence[int], held: HeldOut, run: ModelEvaluationRun) -> None:
        self._name = name
        self._places = places
        documents = held.documents
        self._draws = DocumentBootstrap(
            [documents[place] for place in places], seed=run.seed, resamples=run.resamples
        )

    def compute_scores(self, result: SystemResult) -> list[Score]:
        """Return every metric, and perplexity."""
        found = []
        for name, column in result.columns.items():
            values = self._own(column)
            present = sum(value is not None for value in values)
            if not present:
                continue
            weights = self._tokens(result) if name == "nll" else None
            interval = self._draws.estimate_interval(values, weights=weights)
            alone = self._draws.count_clusters(values) < 2  # nothing varies between the draws of one document
            common = {"n": present, "missing": len(values) - present, "slice": self._name}
            found.append(
                Score(
                    metric=name,
                    value=interval.mean,
                    low=None if alone else interval.low,
                    high=None if alone else interval.high,
                    higher_is_better=BY_NAME[name].higher_is_better,
                    **common,
                )
            )
            if name == "nll":
                of_tokens = self._draws.estimate_interval(values, weights=weights, transform=exponential)
                found.append(
                    Score(
                        metric="perplexity",
                        value=of_tokens.mean,
                        low=None if alone else of_tokens.low,
                        high=None if alone else of_tokens.high,
                        higher_is_better=UNINTERVALLED["perplexity"].higher_is_better,
                        **common,
                    )
                )
        return found

    def differences(self, candidate: SystemResult, reference: SystemResult) -> list[Difference]:
        """Return every metric that both have values of on the same answers."""
        found = []
        for name, column in candidate.columns.items():
            ours, theirs = self._own(column), self._own(reference.columns.get(name, []))
            both = [value if other is not None else None for value, other in zip(ours, theirs, strict=False)]
            if len(theirs) != len(ours) or all(value is None for value in both):
                continue
            if name == "nll" and not self._alike(candidate, reference):
                logger.warning(
                    "{} and {} cut text into different tokens; their perplexities are not compared.",
                    candidate.system.name,
                    reference.system.name,
                )
                continue
            weights = self._tokens(candidate) if name == "nll" else None
            kinds = [(name, None)] if name != "nll" else [(name, None), ("perplexity", exponential)]
            for metric, transform in kinds:
                extra = {} if transform is None else {"transform": transform}
                interval = self._draws.estimate_difference(ours, theirs, weights=weights, **extra)
                found.append(
                    Difference(
                        metric=metric,
                        candidate=candidate.system.name,
                        reference=reference.system.name,
                        value=interval.mean,
                        low=interval.low,
                        high=interval.high,
                        n=sum(value is not None for value in both),
                        clusters=self._draws.count_clusters(both),
                        higher_is_better=BY_NAME[name].higher_is_better,
                        slice=self._name,
                    )
                )
        return found

    def _own(self, column: Column) -> Column:
        return [column[place] for place in self._places if place < len(column)]

    def _alike(self, candidate: SystemResult, reference: SystemResult) -> bool:
        """Whether both count the same tokens in what they have both scored."""
        counts = zip(self._tokens(candidate), self._tokens(reference), strict=True)
        return all(ours == theirs for ours, theirs in counts if ours and theirs)

    def _tokens(self, result: SystemResult) -> list[float]:
        """Tokens of the author's answers: perplexity is over tokens, not over answers."""
        found = (result.likelihoods[place] for place in self._places)
        return [float(one.tokens) if one is not None else 0.0 for one in found]
