"""Statistics of a data set: lengths, sources, topics, how samples were made."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_engineering.application.training.datasets.gates import TokenCounter
from llm_engineering.application.training.datasets.samples import (
    Sample,
    answers_of,
    prompt_of,
    split_conversations,
)
from llm_engineering.domain.datasets import Split

MOST_TOPICS = 15


@dataclass(frozen=True, slots=True)
class Lengths:
    """The distribution of a length; characters, or tokens."""

    name: str
    values: tuple[int, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else 0.0

    def quantile(self, share: float) -> int:
        """Return the value that ``share`` of all do not exceed."""
        return int(np.quantile(self.values, share, method="inverted_cdf")) if self.values else 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a data set is made of."""

    samples: Mapping[Split, int]
    documents: Mapping[Split, int]
    characters: tuple[Lengths, ...]
    """Of the prompt and of each answer."""
    tokens: Lengths | None
    """Of whole conversations in the chat template; None: no counter was at hand."""
    categories: Mapping[str, int]
    languages: Mapping[str, int]
    authors: Mapping[str, int]
    made_by: Mapping[str, int]
    models: Mapping[str, int]
    topics: Mapping[str, int]
    """Samples by the title of their document, the most frequent ones."""


def compute_statistics(
    splits: Mapping[Split, Sequence[Sample]], count: TokenCounter | None = None
) -> Statistics:
    """Look at a data set."""
    samples = [sample for split in Split for sample in splits.get(split, ())]
    lengths: dict[str, list[int]] = {}
    for sample in samples:
        lengths.setdefault("prompt", []).append(len(prompt_of(sample)))
        for field in answers_of(sample):
            lengths.setdefault(field.name, []).append(len(field.text))
    tokens = None
    if count is not None:
        chats = [chat for sample in samples for chat in split_conversations(sample)]
        tokens = Lengths("tokens in the chat template", tuple(count(chats)) if chats else ())
    return Statistics(
        samples={split: len(splits.get(split, ())) for split in Split},
        documents={split: len({s.origin.document_id for s in splits.get(split, ())}) for split in Split},
        characters=tuple(Lengths(name, tuple(values)) for name, values in lengths.items()),
        tokens=tokens,
        categories=_counts(samples, lambda sample: sample.origin.category),
        languages=_counts(samples, lambda sample: sample.origin.language),
        authors=_counts(samples, lambda sample: sample.origin.author),
        made_by=_counts(samples, lambda sample: sample.provenance.made_by.replace("_", " ")),
        models=_counts(samples, lambda sample: sample.provenance.model or "none"),
        topics=_counts(samples, lambda sample: sample.origin.title or "(no title)", MOST_TOPICS),
    )


def _counts(
    samples: Sequence[Sample], key: Callable[[Sample], str], most: int | None = None
) -> dict[str, int]:
    # Sorted by name first, so that equal counts always stand in the same order.
    return dict(Counter(sorted(key(sample) for sample in samples)).most_common(most))
