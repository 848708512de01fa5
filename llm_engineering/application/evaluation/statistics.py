"""Confidence intervals and paired tests whose unit is the document.

Items about one document are alike, so whole documents are drawn with replacement (Davison & Hinkley, *Bootstrap Methods
and their Application*, 1997, section 3.8); intervals are percentiles (Efron & Tibshirani, *An Introduction to the
Bootstrap*, 1993, chapter 13). With fewer than about ten documents, intervals come out too narrow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_engineering.domain.errors import InvalidInputError

RESAMPLES = 10_000
LEVEL = 0.95
_BATCH = 1_000
"""Resamples drawn at a time, to bound the memory."""

Values = npt.NDArray[np.float64]
Transform = Callable[[Values], Values]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A configuration against another, on the same questions."""

    difference: Interval
    """Of the means, and its confidence interval."""
    p_value: float
    """Of the randomisation test, two-sided, not corrected."""
    wins: int
    losses: int
    ties: int
    p_corrected: float | None = None
    """Corrected by Holm's method for the comparisons made together; None: not corrected."""


def unchanged(values: Values) -> Values:
    """Return the transform of metrics that are plain means."""
    return values


def exponential(values: Values) -> Values:
    """Return perplexity from the mean negative log-likelihood of a token."""
    return np.exp(values)


class DocumentBootstrap:
    """Bootstrap over documents, with the same draws for every metric, so that systems are compared on the same ones.

    Pass the values of the same items in the same order to every call.
    """

    def __init__(self, documents: Sequence[str], *, seed: int, resamples: int = RESAMPLES) -> None:
        names = {name: number for number, name in enumerate(dict.fromkeys(documents))}
        self._numbers = np.array([names[name] for name in documents], dtype=np.int64)
        self._seed = seed
        self._resamples = resamples

    def count_clusters(self, values: Sequence[float | None]) -> int:
        """Return how many documents have a value."""
        return len(set(self._numbers[_present(values)]))

    def estimate_interval(
        self,
        values: Sequence[float | None],
        *,
        weights: Sequence[float] | None = None,
        transform: Transform = unchanged,
    ) -> Interval:
        """Return weighted mean, transformed, with its 95 % interval; missing values are left out.

        Raises:
            InvalidInputError: no value is there.
        """
        return self._statistic([values], weights, lambda means: transform(means[0]))

    def estimate_difference(
        self,
        ours: Sequence[float | None],
        theirs: Sequence[float | None],
        *,
        weights: Sequence[float] | None = None,
        transform: Transform = unchanged,
    ) -> Interval:
        """Return ``transform(mean(ours)) − transform(mean(theirs))`` over items that both have a value for.

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
            statistic([one[places].sum(axis=1) / sizes[places].sum(axis=1) for one in sums])
            for places in self._draws(len(sizes))
        ]
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(np.concatenate(drawn), (tail, 100 - tail))
        return Interval(float(point[0]), float(low), float(high))

    def _draws(self, clusters: int) -> Iterator[npt.NDArray[np.int64]]:
        """Numbers of the drawn documents, shape (batch, clusters), in batches to bound the memory."""
        random = np.random.default_rng(self._seed)
        for start in range(0, self._resamples, _BATCH):
            yield random.integers(0, clusters, size=(min(_BATCH, self._resamples - start), clusters))


def bootstrap_interval(
    values: Sequence[float], clusters: Sequence[str], *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Compute the mean and its bootstrap interval, drawing whole clusters; see :class:`DocumentBootstrap`.

    Args:
        clusters: the cluster (document) of each value.

    Raises:
        InvalidInputError: there are no values, or not one cluster for each.
    """
    _check_clusters(values, clusters)
    return DocumentBootstrap(clusters, seed=seed, resamples=resamples).estimate_interval(values)


def compare(
    ours: Sequence[float],
    theirs: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Test whether ``ours`` differs from ``theirs``, value by value: difference with interval, p-value, wins and losses.

    Raises:
        InvalidInputError: the lists differ in length, or are empty.
    """
    if len(ours) != len(theirs):
        raise InvalidInputError(f"A paired test needs pairs: {len(ours)} values against {len(theirs)}.")
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return Comparison(
        difference=bootstrap_interval(differences, clusters, seed=seed, resamples=resamples),
        p_value=randomisation_test(differences, clusters, seed=seed, resamples=resamples),
        wins=sum(difference > 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        ties=sum(difference == 0 for difference in differences),
    )


def randomisation_test(
    differences: Sequence[float], clusters: Sequence[str], *, seed: int, resamples: int = RESAMPLES
) -> float:
    """Compute the two-sided p-value that the mean difference is 0: the signs of whole clusters are flipped at random.

    Fisher's randomisation test as recommended for retrieval by Smucker, Allan & Carterette (CIKM 2007);
    ``p = (1 + hits) / (1 + resamples)``, which is never 0 (Phipson & Smyth, 2010).
    """
    sums, _ = _by_cluster(differences, clusters)
    observed = abs(sums.sum())
    random = np.random.default_rng(seed)
    hits = 0
    for start in range(0, resamples, _BATCH):
        signs = random.choice((-1.0, 1.0), size=(min(_BATCH, resamples - start), len(sums)))
        hits += int(np.sum(np.abs(signs @ sums) >= observed - 1e-12))
    return (1 + hits) / (1 + resamples)


def compare_groups(
    values: Sequence[float],
    members: Sequence[bool],
    strata: Sequence[str],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[Interval, float] | None:
    """Compare a group with all others, like with like: differences of means within strata, weighted by the group's size there.

    The interval draws members and others of each stratum anew; the two-sided p-value shuffles within strata who is a member.

    Returns:
        The difference with its interval, and the p-value; None where no stratum holds both.
    """
    found = np.asarray(values, dtype=np.float64)
    inside, names = np.asarray(members, dtype=np.bool_), np.asarray(strata)
    shared = [name for name in sorted(set(strata)) if 0 < inside[names == name].sum() < (names == name).sum()]
    if not shared:
        return None
    random = np.random.default_rng(seed)
    total = sum(int(inside[names == name].sum()) for name in shared)
    point, drawn, shuffled = 0.0, np.zeros(resamples), np.zeros(resamples)
    for name in shared:
        ours, theirs = found[(names == name) & inside], found[(names == name) & ~inside]
        weight = len(ours) / total
        point += weight * (ours.mean() - theirs.mean())
        drawn += weight * (_draw_means(random, ours, resamples) - _draw_means(random, theirs, resamples))
        mixed = random.permuted(np.tile(np.concatenate([ours, theirs]), (resamples, 1)), axis=1)
        shuffled += weight * (mixed[:, : len(ours)].mean(axis=1) - mixed[:, len(ours) :].mean(axis=1))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, (tail, 100 - tail))
    hits = int(np.sum(np.abs(shuffled) >= abs(point) - 1e-12))
    return Interval(float(point), float(low), float(high)), (1 + hits) / (1 + resamples)


def _draw_means(random: np.random.Generator, values: Values, resamples: int) -> Values:
    means = values[random.integers(0, len(values), size=(resamples, len(values)))].mean(axis=1)
    return np.asarray(means, dtype=np.float64)


def correct_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values for having been computed together (Holm, *Scandinavian Journal of Statistics* 6, 1979)."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, (name, value) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        largest = max(largest, min(1.0, value * (len(p_values) - rank)))
        corrected[name] = largest
    return corrected


def _by_cluster(values: Sequence[float], clusters: Sequence[str]) -> tuple[Values, Values]:
    _check_clusters(values, clusters)
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    sums, sizes = np.zeros(len(names)), np.zeros(len(names))
    for value, cluster in zip(values, clusters, strict=True):
        sums[names[cluster]] += value
        sizes[names[cluster]] += 1
    return sums, sizes


def _check_clusters(values: Sequence[float], clusters: Sequence[str]) -> None:
    if not values or len(values) != len(clusters):
        raise InvalidInputError(
            f"Expected one cluster for each of at least one value, got {len(values)} values and {len(clusters)} clusters."
        )


def pearson_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Compute Pearson's coefficient, −1 to 1; None where one of them does not vary or there are fewer than three pairs."""
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
