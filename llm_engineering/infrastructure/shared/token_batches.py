"""Token ids of many texts to a model's inputs: cut, put together by length, padded. Shared by what runs models."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


def batches_by_length(lengths: Sequence[int], budget: int) -> Iterator[Ids]:
    """Yield positions of texts in batches of like length, longest first, of at most ``budget`` padded tokens (or one
    text).

    Longest first: the long batches start early, so that the workers end together.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad_rows(rows: Sequence[Ids], value: int = 0) -> Ids:
    """Return rows of unequal length as one array of shape (len(rows), longest), filled up with ``value``."""
    result = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for i, row in enumerate(rows):
        result[i, : len(row)] = row
    return result


def split_windows(row: Ids, limit: int) -> list[Ids]:
    """Return a row of token ids between two special tokens, in windows of at most ``limit`` that each have both."""
    if len(row) <= limit:
        return [row]
    inner, step = row[1:-1], limit - 2
    return [
        np.concatenate([row[:1], inner[start : start + step], row[-1:]])
        for start in range(0, len(inner), step)
    ]
