"""What ``run-rag-evaluation`` does, as its YAML says it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.evaluation.rag.make_questions import QuestionMaking
from llm_engineering.application.evaluation.rag.metrics import MIN_OVERLAP
from llm_engineering.application.evaluation.rag.retrieval import Configuration
from llm_engineering.application.evaluation.statistics import RESAMPLES
from llm_engineering.application.features.chunk import ChunkingConfig
from llm_engineering.application.inference.answer import AnsweringConfig
from llm_engineering.application.inference.config import MOST_HITS, RetrievalConfig
from llm_engineering.domain.retrieval import MetadataFilter

SERVED = "hybrid + self-query + rerank"
"""The row that runs as ``configs/inference.yaml`` does."""
PATIENCE = 120.0
"""Seconds that a stage may take in an evaluation: a busy machine must not decide how good a configuration is."""

_BARE: dict[str, Any] = {"self_query": {"kind": "off"}, "expansion": {}, "rerank": {"enabled": False}}
_RERANK: dict[str, Any] = {"rerank": {"enabled": True}}
_SELF_QUERY: dict[str, Any] = {"self_query": {"kind": "rules"}}


def standard_configurations() -> dict[str, Configuration]:
    """Return the configurations of the standard table by name, in its order. None of them asks a language model."""
    rows: dict[str, dict[str, Any]] = {
        "dense": {"mode": "dense"},
        "sparse": {"mode": "sparse"},
        "hybrid": {"mode": "hybrid"},
        **{f"weighted {alpha}": _weighted(alpha) for alpha in (0.3, 0.5, 0.7)},
        "hybrid + self-query": {"mode": "hybrid"} | _SELF_QUERY,
        "dense + rerank": {"mode": "dense"} | _RERANK,
        "hybrid + rerank": {"mode": "hybrid"} | _RERANK,
        **{f"weighted {alpha} + rerank": _weighted(alpha) | _RERANK for alpha in (0.3, 0.5)},
        SERVED: {"mode": "hybrid"} | _SELF_QUERY | _RERANK,
    }
    table = {name: Configuration(retrieval=_config(fields)) for name, fields in rows.items()}
    widened = ("hybrid", SERVED)
    parents = {
        f"{name} + parents": Configuration(retrieval=table[name].retrieval, parents=True) for name in widened
    }
    return table | parents


def with_expansion() -> dict[str, Configuration]:
    """Return rows that ask the language model for other wordings of each question, and for an invented answer."""
    rows: dict[str, dict[str, Any]] = {
        "hybrid + expansion": {"expansion": {"rewrites": 3}},
        "hybrid + hyde": {"expansion": {"hyde": True}},
        "hybrid + expansion + rerank": {"expansion": {"rewrites": 3}} | _RERANK,
    }
    return {
        name: Configuration(retrieval=_config({"mode": "hybrid"} | fields)) for name, fields in rows.items()
    }


def without_rerank(configurations: Mapping[str, Configuration]) -> dict[str, Configuration]:
    """Return the rows that can be measured where no reranker is configured."""
    return {name: item for name, item in configurations.items() if not item.retrieval.rerank.enabled}


def relax_timeouts(config: RetrievalConfig) -> RetrievalConfig:
    """Return the configuration with time-outs that a busy machine does not reach."""
    sections = {name: getattr(config, name) for name in ("self_query", "expansion", "embedding", "rerank")}
    return config.model_copy(
        update={
            name: section.model_copy(update={"timeout_seconds": PATIENCE})
            for name, section in sections.items()
        }
    )


def _config(fields: Mapping[str, Any]) -> RetrievalConfig:
    return RetrievalConfig.model_validate({**_BARE, **fields})


def _weighted(alpha: float) -> dict[str, Any]:
    return {"mode": "hybrid", "fusion": {"kind": "weighted", "alpha": alpha}}


class QuestionSet(StrictConfig):
    """Where the questions come from."""

    files: tuple[Path, ...] = ()
    """JSON Lines written by hand, or kept from an earlier run."""
    make: QuestionMaking | None = None
    """Make questions from the corpus as well; None: only those of the files."""
    made_file: Path | None = None
    """Where made questions are written, to be looked at and kept; None: only in the run's artifacts."""

    @model_validator(mode="after")
    def _some(self) -> "QuestionSet":
        if not self.files and self.make is None:
            raise ValueError("name 'files' with questions, or let some be made with 'make: {}'")
        return self


class AnswerEvaluation(StrictConfig):
    """Answers are slow with a small machine, so a part of the questions is answered."""

    questions: int = Field(default=30, ge=1)
    """At most so many, drawn by seed, answerable and unanswerable ones in the shares of the set."""
    judge: bool = False
    """Score the answers with ragas through the judge of the JUDGE_* settings too (needs the Poetry group evaluation)."""


class Gate(StrictConfig):
    """Fails the run when retrieval got worse than a baseline, beyond what chance explains."""

    baseline: Path
    configuration: str = SERVED
    metric: str = "recall@5"
    write_baseline: bool = False
    """Write the baseline from this run in place of holding the run against it."""


class BeirData(StrictConfig):
    """A data set in BEIR's format, evaluated in a throwaway index; the own index is not touched."""

    folder: Path
    """Holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv``."""
    split: str = "test"
    """Which file of ``qrels``."""
    queries: int = Field(default=300, ge=1)
    """At most so many, drawn by seed."""
    chunking: ChunkingConfig = ChunkingConfig()


class RagEvaluationRun(StrictConfig):
    """Parameters of the evaluation."""

    questions: QuestionSet = QuestionSet(make=QuestionMaking())
    filter: MetadataFilter = MetadataFilter()
    """The part of the index that the questions are about; the default is all of it."""
    configurations: dict[str, Configuration] = Field(default_factory=standard_configurations)
    """The rows of the table, by name. None given: the standard ones."""
    expansion: bool = False
    """Add rows with query expansion: up to four requests to the language model for each question."""
    ks: tuple[int, ...] = Field(default=(1, 3, 5), min_length=1)
    """Cut-offs; the largest is how many hits (of a BEIR data set: documents) are asked for. Where a BEIR data set is
    evaluated, the default is (10, 100), as others report it."""
    primary: str | None = None
    """The metric of the paired tests; None: recall at the largest cut-off, or nDCG@10 where the cut-offs of a BEIR data
    set are left at their default."""
    reference: str = "dense"
    """The configuration that the others are held against."""
    serving: str = SERVED
    """The configuration whose confidence is calibrated, and that the answers are made with."""
    answering: AnsweringConfig = AnsweringConfig()
    """The answering section that the service runs with."""
    min_overlap: float = Field(default=MIN_OVERLAP, gt=0, le=1)
    """Share of a relevant place that a source must hold to count (of the source, where the place is longer)."""
    answers: AnswerEvaluation | None = None
    """None: retrieval only."""
    gate: Gate | None = None
    beir: BeirData | None = None
    """Evaluate this data set in place of the own index."""
    seed: int = 0
    resamples: int = Field(default=RESAMPLES, ge=100, le=1_000_000)

    @field_validator("ks")
    @classmethod
    def _cut_offs(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= k <= MOST_HITS for k in value):
            raise ValueError(f"cut-offs lie between 1 and {MOST_HITS}")
        return tuple(sorted(set(value)))

    @model_validator(mode="before")
    @classmethod
    def _report_as_others_do(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping) and fields.get("beir") is not None and "ks" not in fields:
            return {"primary": "ndcg@10", **fields, "ks": (10, 100)}
        return fields

    @field_validator("configurations", mode="before")
    @classmethod
    def _standard(cls, value: object) -> object:
        return value or standard_configurations()

    @property
    def table(self) -> dict[str, Configuration]:
        """All rows."""
        return {**self.configurations, **(with_expansion() if self.expansion else {})}

    @property
    def needs_model(self) -> bool:
        """Whether a language model is asked for anything."""
        asking = (item.retrieval for item in self.table.values())
        return self.answers is not None or any(
            config.expansion.enabled or config.self_query.kind == "model" for config in asking
        )

    @model_validator(mode="after")
    def _named(self) -> "RagEvaluationRun":
        if self.beir is not None and self.answers is not None:
            raise ValueError("a BEIR data set has no answers to measure; leave 'answers' out")
        wanted: dict[str, Any] = {"reference": self.reference, "serving": self.serving}
        if self.gate is not None:
            wanted["gate.configuration"] = self.gate.configuration
        for place, name in wanted.items():
            if name not in self.table:
                raise ValueError(
                    f"{place} names '{name}', which is not among the configurations: {', '.join(self.table)}"
                )
        return self

    @property
    def tested(self) -> str:
        """The metric of the paired tests."""
        return self.primary or f"recall@{max(self.ks)}"

    @property
    def ranking(self) -> str:
        """The nDCG that tables show: the tested metric where it is one, else at the largest cut-off."""
        return self.tested if self.tested.startswith("ndcg@") else f"ndcg@{max(self.ks)}"


class RagEvaluation(StrictConfig):
    """Parameters of the pipeline ``rag_evaluation``."""

    RENAMED: ClassVar = {"evaluation": "rag_evaluation"}

    rag_evaluation: RagEvaluationRun = RagEvaluationRun()
