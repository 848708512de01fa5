"""Curate samples: quality gates, preference lint, splits, decontamination."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from llm_engineering.application.ports import Embedder
from llm_engineering.application.training.datasets.config import QualityConfig
from llm_engineering.application.training.datasets.decontamination import (
    Decontamination,
    Protected,
    protect_samples,
)
from llm_engineering.application.training.datasets.gates import (
    Differs,
    Dropped,
    ExactDuplicates,
    Format,
    Gate,
    GateCount,
    Language,
    LanguageDetector,
    Length,
    NearDuplicates,
    Rules,
    SemanticDuplicates,
    TokenCounter,
    Verbatim,
    count_of,
    embedding_of_any_length,
    run_gates,
)
from llm_engineering.application.training.datasets.preference_lint import (
    GATE,
    PreferenceLint,
    bound_length_bias,
    lint,
)
from llm_engineering.application.training.datasets.samples import Sample
from llm_engineering.application.training.datasets.splits import split_by_document
from llm_engineering.domain.datasets import PreferenceSample, Split
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import ConfigurationError

S = TypeVar("S", bound=Sample)


@dataclass(frozen=True)
class Curated(Generic[S]):
    """A data set that may be trained on, with what was left out on the way."""

    splits: Mapping[Split, tuple[S, ...]]
    dropped: tuple[Dropped[S], ...]
    counts: tuple[GateCount, ...]
    made: int
    """Samples that went in: the kept and the dropped together."""
    lint_before: PreferenceLint | None = None
    """Of preference pairs, as they came through the gates."""
    lint_after: PreferenceLint | None = None

    @property
    def kept(self) -> tuple[S, ...]:
        """All samples, split by split."""
        return tuple(sample for split in Split for sample in self.splits.get(split, ()))


def gates_of(
    config: QualityConfig,
    documents: Mapping[str, CleanDocument],
    *,
    count: TokenCounter | None = None,
    detect: LanguageDetector | None = None,
    embedder: Embedder | None = None,
) -> list[Gate]:
    """Return the gates that the configuration names, in its order.

    Raises:
        ConfigurationError: a gate is named that needs something which is not there.
    """
    if "semantic_duplicates" in config.gates and embedder is None:
        raise ConfigurationError(
            "The gate semantic_duplicates needs an embedder; configure one or leave the gate out."
        )
    made: dict[str, Gate] = {
        "format": Format(config.rules.max_repeated_share),
        "length": Length(config.lengths, count),
        "rules": Rules(config.rules),
        "language": Language(detect) if detect is not None else Language(),
        "verbatim": Verbatim(documents),
        "differs": Differs(),
        "exact_duplicates": ExactDuplicates(),
        "near_duplicates": NearDuplicates(config.near_duplicate_similarity),
    }
    if embedder is not None:
        made["semantic_duplicates"] = SemanticDuplicates(
            embedding_of_any_length(embedder), config.semantic_similarity
        )
    return [made[name] for name in config.gates]


def curate(
    samples: Sequence[S],
    gates: Sequence[Gate],
    config: QualityConfig,
    *,
    groups: Mapping[str, str | None],
    documents: Iterable[str] = (),
    protected: Sequence[Protected] = (),
    held_out: Sequence[Protected] = (),
    seed: int = 0,
) -> Curated[S]:
    """Apply the gates and the length lint, take evaluation texts out, split, and remove what leaks between splits.

    Args:
        samples: of one kind.
        gates: see :func:`gates_of`; an opinion of judges comes as one more.
        config: bounds and shares.
        groups: duplicate group by document id.
        documents: ids of all documents that could have given samples, see :func:`split_by_document`.
        protected: texts of evaluation files; no split may hold them.
        held_out: validation and test parts of other data sets; the training split may not hold them.
        seed: of the split, and of the pairs left out for their lengths.

    Raises:
        InvalidInputError: too few documents for the splits, or the length bounds cannot be kept.
    """
    outside: list[Gate] = []
    if protected:
        outside.append(Decontamination(protected, config.decontamination, "evaluation_overlap"))
    gated = run_gates(samples, [*gates, *outside])
    kept, dropped, counts = list(gated.kept), list(gated.dropped), list(gated.counts)
    before: PreferenceLint | None = None
    if kept and isinstance(kept[0], PreferenceSample):
        pairs = cast("list[PreferenceSample]", kept)
        before = lint(pairs)
        left, out = bound_length_bias(pairs, config.length_bias, seed)
        kept = cast("list[S]", left)
        dropped += cast("list[Dropped[S]]", out)
        counts.append(count_of(GATE, len(pairs), out))
    splits = split_by_document(kept, groups, config.splits, seed, documents)
    clean, overlap = _without_leaks(splits, config, held_out)
    counts.append(count_of("split_overlap", len(kept), overlap))
    after = lint([s for part in clean.values() for s in part if isinstance(s, PreferenceSample)])
    return Curated(
        splits={split: tuple(part) for split, part in clean.items()},
        dropped=(*dropped, *overlap),
        counts=tuple(counts),
        made=len(samples),
        lint_before=before,
        lint_after=after if before is not None else None,
    )


def _without_leaks(
    splits: Mapping[Split, Sequence[S]], config: QualityConfig, held_out: Sequence[Protected]
) -> tuple[dict[Split, list[S]], list[Dropped[S]]]:
    """Training gives way to validation and test, validation to test: the test set is the dearest."""
    clean: dict[Split, list[S]] = {}
    dropped: list[Dropped[S]] = []
    protected: list[Protected] = []
    for split in (Split.TEST, Split.VALIDATION, Split.TRAIN):
        part = list(splits.get(split, ()))
        if split is Split.TRAIN:
            protected += held_out
        if protected:
            gated = run_gates(part, [Decontamination(protected, config.decontamination, "split_overlap")])
            part, out = list(gated.kept), gated.dropped
            dropped += out
        clean[split] = part
        protected += protect_samples(part, split.value)
    return clean, dropped
