"""Assign test items to slices: category, language, length."""

from collections.abc import Sequence

import numpy as np

from llm_engineering.domain.datasets import InstructSample

FEWEST = 2
"""Samples below which a part is left out."""
_LENGTHS = ("short", "medium", "long")


def sliced(samples: Sequence[InstructSample], kinds: Sequence[str]) -> dict[str, list[int]]:
    """Places of the samples by slice: ``category=article``, ``language=en``, ``length=short`` (thirds of the author's
    answers). The first key, empty, is all of them. A kind that has but one value is left out: it would be all again."""
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
