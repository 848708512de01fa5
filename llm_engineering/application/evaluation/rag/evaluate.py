"""The evaluation as a whole: questions, the table, the recommendation, the threshold, the gate."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llm_engineering.application.evaluation.rag import gate as gates
from llm_engineering.application.evaluation.rag.answers import AnswerMetrics, Judgements
from llm_engineering.application.evaluation.rag.calibration import Calibration, Judgement, calibrate
from llm_engineering.application.evaluation.rag.config import (
    Gate,
    RagEvaluationRun,
    relax_timeouts,
    without_rerank,
)
from llm_engineering.application.evaluation.rag.questions import Resolved, count_kinds
from llm_engineering.application.evaluation.rag.recommend import Recommendation, recommend
from llm_engineering.application.evaluation.rag.retrieval import (
    ConfidenceOf,
    ConfigurationRun,
    QuestionRun,
    Row,
    by_kind,
    comparison_table,
    run_configurations,
    serving_confidence,
)
from llm_engineering.application.failures import round_values
from llm_engineering.application.inference.retriever import RetrievalConfig, Retriever
from llm_engineering.application.ports import (
    Embedder,
    LanguageModel,
    Progress,
    Reranker,
    SilentProgress,
    VectorIndex,
)
from llm_engineering.domain.errors import InvalidInputError, TwinError

WORST = 15
"""Questions that the report shows with what was found in place of the answer."""
_SILENT = SilentProgress()


class GateFailedError(TwinError):
    """Retrieval got worse than the baseline."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All results of a run."""

    corpus: str
    """What was evaluated, for people."""
    questions: Resolved
    primary: str
    ranking: str
    """The nDCG that tables show."""
    reference: str
    serving: str
    ks: tuple[int, ...]
    seed: int
    resamples: int
    rows: tuple[Row, ...]
    runs: tuple[ConfigurationRun, ...]
    recommendation: Recommendation
    calibration: Calibration | None
    """None: the set has no unanswerable questions."""
    gate: gates.Verdict | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    """Candidates for questions that were left out, by reason."""
    answers: AnswerMetrics | None = None
    judged: Judgements | None = None

    @property
    def served(self) -> ConfigurationRun:
        """The run of the serving configuration."""
        return next(run for run in self.runs if run.name == self.serving)

    def kinds(self) -> dict[str, tuple[int, float]]:
        """Return the primary metric of the serving configuration by kind of question."""
        return by_kind(self.served, self.questions.questions, self.primary)

    def list_worst(self) -> list[tuple[str, Any]]:
        """Return (question, its run) of the answerable questions that the serving configuration does worst on."""
        asked = {item.question.id: item for item in self.questions.questions}
        runs = sorted(
            self.served.select_answerable(), key=lambda run: (sum(run.metrics.values()), run.question_id)
        )
        poor = [run for run in runs if run.metrics[self.primary] < 1][:WORST]
        return [(asked[run.question_id].question.question, run) for run in poor]

    def to_metadata(self) -> dict[str, Any]:
        """Return figures for a run's log and dashboard."""
        best = next(row for row in self.rows if row.name == self.recommendation.name)
        answerable = sum(bool(item.targets) for item in self.questions.questions)
        figures: dict[str, Any] = {
            "answerable_questions": answerable,
            "unanswerable_questions": len(self.questions.questions) - answerable,
            "stale_questions": len(self.questions.stale),
            "recommended": self.recommendation.name,
            **{f"recommended_{name.replace('@', '_at_')}": value for name, value in best.means.items()},
        }
        if self.calibration is not None:
            figures |= {"threshold": self.calibration.best.threshold, "aurc": self.calibration.aurc}
        if self.gate is not None:
            figures["gate"] = "passed" if self.gate.passed else "failed"
        return round_values(figures)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, as plain values: the JSON artifact, with each question's result under each configuration."""
        return {
            "corpus": self.corpus,
            "primary": self.primary,
            "ranking": self.ranking,
            "reference": self.reference,
            "serving": self.serving,
            "ks": list(self.ks),
            "seed": self.seed,
            "resamples": self.resamples,
            "questions": [
                {**item.question.model_dump(mode="json", exclude_defaults=True), "cluster": item.cluster}
                for item in self.questions.questions
            ],
            "kinds": dict(count_kinds(item.question for item in self.questions.questions)),
            "stale": dict(self.questions.stale),
            "refused": dict(self.refused),
            "rows": [asdict(row) for row in self.rows],
            "configurations": {
                run.name: {
                    "configuration": run.configuration.model_dump(mode="json"),
                    "questions": [_plain(item, excerpts=run.name == self.serving) for item in run.runs],
                }
                for run in self.runs
            },
            "recommendation": asdict(self.recommendation),
            "calibration": asdict(self.calibration) if self.calibration else None,
            "gate": asdict(self.gate) if self.gate else None,
            "answers": asdict(self.answers) if self.answers else None,
            "judged": asdict(self.judged) if self.judged else None,
        }


def _plain(run: QuestionRun, *, excerpts: bool) -> dict[str, Any]:
    """A question's run as plain values; excerpts of twelve configurations would be most of the artifact."""
    plain = asdict(run)
    if not excerpts:
        for source in plain["sources"]:
            del source["excerpt"]
    return plain


@dataclass(frozen=True, slots=True)
class Retrievers:
    """The serving retriever under any configuration."""

    index: VectorIndex
    embedder: Embedder
    model: LanguageModel | None = None
    reranker: Reranker | None = None

    def under(self, config: RetrievalConfig) -> Retriever:
        return Retriever(self.index, self.embedder, self.model, self.reranker, relax_timeouts(config))


async def evaluate_retrieval(
    run: RagEvaluationRun,
    questions: Resolved,
    retriever: Retrievers,
    *,
    corpus: str,
    refused: Mapping[str, int] | None = None,
    confidence_of: ConfidenceOf = serving_confidence,
    by_document: bool = False,
    progress: Progress = _SILENT,
) -> Evaluation:
    """Run the table and everything that follows from it.

    Args:
        retriever: makes the retrievers.
        confidence_of: the confidence that serving holds against its threshold.

    Raises:
        InvalidInputError: no question has an answer in the corpus, or the gate's baseline is of other questions.
        StoreError: the index is not there.
        ModelError: a model that a configuration cannot do without failed.
    """
    configurations = run.table if retriever.reranker else without_rerank(run.table)
    for name in {run.reference, run.serving} - configurations.keys():
        raise InvalidInputError(
            f"The configuration '{name}' reranks, and no reranker is configured. Set RERANKER_KIND, or name "
            "configurations without one as 'reference' and 'serving'."
        )
    runs = await run_configurations(
        questions.questions,
        configurations,
        retriever.under,
        retriever.index,
        ks=run.ks,
        confidence_of=confidence_of,
        filter=run.filter,
        by_document=by_document,
        min_overlap=run.min_overlap,
        progress=progress,
    )
    rows = comparison_table(
        runs,
        questions.questions,
        primary=run.tested,
        reference=run.reference,
        seed=run.seed,
        resamples=run.resamples,
    )
    best = recommend(rows, configurations, by=(run.ranking, f"recall@{max(run.ks)}"))
    served = next(item for item in runs if item.name == run.serving)
    return Evaluation(
        corpus=corpus,
        questions=questions,
        primary=run.tested,
        ranking=run.ranking,
        reference=run.reference,
        serving=run.serving,
        ks=run.ks,
        seed=run.seed,
        resamples=run.resamples,
        rows=tuple(rows),
        runs=tuple(runs),
        recommendation=best,
        calibration=await _calibrated(
            served, questions, run, retriever.under(configurations[run.serving].retrieval)
        ),
        gate=_gated(run.gate, rows, runs, questions, run) if run.gate else None,
        refused=dict(refused or {}),
    )


async def _calibrated(
    served: ConfigurationRun, questions: Resolved, run: RagEvaluationRun, retriever: Retriever
) -> Calibration | None:
    answerable = {item.question.id: bool(item.targets) for item in questions.questions}
    if len(set(answerable.values())) < 2:
        return None
    judgements = [
        Judgement(item.confidence, answerable[item.question_id], item.covered) for item in served.runs
    ]
    configured = run.answering.min_similarity
    if configured is None:
        configured = (await asyncio.to_thread(retriever.measure_floors)).confidence
    return calibrate(judgements, configured, seed=run.seed)


def _gated(
    gate: Gate,
    rows: list[Row],
    runs: list[ConfigurationRun],
    questions: Resolved,
    run: RagEvaluationRun,
) -> gates.Verdict:
    if questions.stale:
        listing = "; ".join(f"{key}: {reason}" for key, reason in questions.stale.items())
        raise InvalidInputError(
            f"The gate needs all of its questions; some no longer fit the corpus: {listing}"
        )
    if gate.write_baseline:
        gated = next(item for item in runs if item.name == gate.configuration)
        bounds = next(row for row in rows if row.name == gate.configuration).intervals[gate.metric]
        gates.write_baseline(gate.baseline, gates.baseline_of(gated, gate.metric, bounds.low, bounds.high))
    baseline = gates.read_baseline(gate.baseline)
    return gates.check(runs, questions.questions, baseline, seed=run.seed, resamples=run.resamples)


def check_gate(gate: Mapping[str, Any] | None) -> None:
    """Let the run fail where the gate says so.

    Args:
        gate: ``Evaluation.as_dict()["gate"]``; None: there is none.

    Raises:
        GateFailedError: with the figures and the questions that got worse.
    """
    if gate is not None and not gate["passed"]:
        raise GateFailedError(f"The evaluation's gate: {gate['message']}")
