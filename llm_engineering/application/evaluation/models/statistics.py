"""Confidence intervals over documents: one set of draws for every metric, so that systems are compared on the same ones.

Items of one document are alike, so whole documents are drawn with replacement (Davison & Hinkley, *Bootstrap Methods
and their Application*, 1997, section 3.8); percentile intervals (Efron & Tibshirani, *An Introduction to the Bootstrap*,
1993, chapter 13). With fewer than about ten documents, intervals come out too narrow.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from llm_engineering.application.evaluation.rag.statistics import LEVEL, RESAMPLES, Interval
from llm_engineering.domain.errors import InvalidInputError

_BATCH = 500
Values = npt.NDArray[np.float64]
Transform = Callable[[Values], Values]


def unchanged(values: Values) -> Values:
    """The transform of metrics that are plain means."""
    return values


def exponential(values: Values) -> Values:
    """Perplexity from the mean negative log-likelihood of a token."""
    return np.exp(values)


class DocumentBootstrap:
    """Draws documents. Bring the values of the same items in the same order to every call."""

    def __init__(self, documents: Sequence[str], *, seed: int, resamples: int = RESAMPLES) -> None:
        names = {name: number for number, name in enumerate(dict.fromkeys(documents))}
        self._numbers = np.array([names[name] for name in documents], dtype=np.int64)
        self._seed = seed
        self._resamples = resamples

    def clusters(self, values: Sequence[float | None]) -> int:
        """Documents that have a value."""
        return len(set(self._numbers[_present(values)]))

    def interval(
        self,
        values: Sequence[float | None],
        *,
        weights: Sequence[float] | None = None,
        transform: Transform = unchanged,
    ) -> Interval:
        """Weighted mean, transformed, with its 95 % interval; missing values are left out.

        Raises:
            InvalidInputError: no value is there.
        """
        return self._statistic([values], weights, lambda means: transform(means[0]))

    def difference(
        self,
        ours: Sequence[float | None],
        theirs: Sequence[float | None],
        *,
        weights: Sequence[float] | None = None,
        transform: Transform = unchanged,
    ) -> Interval:
        """``transform(mean(ours)) − transform(mean(theirs))`` over items that both have a value for.

        Raises:
            InvalidInputError: there is no such item.
        """
        return self._statistic(
            [ours, theirs], weights, lambda means: transform(means[0]) - transform(means[1])
        )

    def _statistic(
        self,
        series: Sequence[Sequence[float | None]],
        weights: Sequence[float] | None,
        statistic: Callable[[list[Values]], Values],
    ) -> Interval:
        present = np.logical_and.reduce([_present(values) for values in series])
        if not present.any():
            raise InvalidInputError(
                "Expected at least one item with a value for every system; there is none."
            )
        size = np.ones(len(present)) if weights is None else np.asarray(weights, dtype=np.float64)
        _, numbers = np.unique(self._numbers[present], return_inverse=True)
        sizes = np.bincount(numbers, weights=size[present])
        sums = [np.bincount(numbers, weights=(_numeric(values) * size)[present]) for values in series]
        point = statistic([np.array([one.sum() / sizes.sum()]) for one in sums])
        drawn = [
            statistic([(counts @ one) / (counts @ sizes) for one in sums])
            for counts in self._draws(len(sizes))
        ]
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(np.concatenate(drawn), (tail, 100 - tail))
        return Interval(float(point[0]), float(low), float(high))

    def _draws(self, clusters: int) -> Iterator[Values]:
        """How often each document is drawn, shape (batch, clusters), in batches to bound the memory."""
        random = np.random.default_rng(self._seed)
        shares = np.full(clusters, 1 / clusters)
        for start in range(0, self._resamples, _BATCH):
            yield random.multinomial(clusters, shares, size=min(_BATCH, self._resamples - start)).astype(
                np.float64
            )


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's coefficient, −1 to 1; None where one of them does not vary or there are fewer than three pairs."""
    if len(first) < 3:
        return None
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _present(values: Sequence[float | None]) -> npt.NDArray[np.bool_]:
    return np.array([value is not None and np.isfinite(value) for value in values], dtype=np.bool_)


def _numeric(values: Sequence[float | None]) -> Values:
    return np.array(
        [value if value is not None and np.isfinite(value) else 0.0 for value in values], dtype=np.float64
    )
