"""Stylometric distances between a text and an author: character n-grams and Burrows' Delta."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_engineering.application.text.words import words
from llm_engineering.domain.errors import InvalidInputError

GRAM_SIZES = (2, 3, 4)
FREQUENT_WORDS = 100
_SENTENCE_ENDS = ".!?\n"
Values = npt.NDArray[np.float64]


def pieces(text: str, size: int) -> list[str]:
    """The text in pieces of about ``size`` characters, cut where a sentence or line ends; a short rest is left out.

    Distances depend on length, so what is compared must be about equally long.
    """
    found: list[str] = []
    start = 0
    while len(text) - start >= size:
        end = start + size
        after = next((place for place in range(end, len(text)) if text[place - 1] in _SENTENCE_ENDS), end)
        end = after if after - end < size // 4 else end
        found.append(text[start:end].strip())
        start = end
    return [piece for piece in found if piece]


def gram_frequencies(texts: Iterable[str]) -> dict[str, float]:
    """Relative frequency of each character n-gram, within each n. White space runs count as one space."""
    counts: dict[int, Counter[str]] = {size: Counter() for size in GRAM_SIZES}
    for text in texts:
        plain = f" {' '.join(text.split())} "
        for size, counter in counts.items():
            counter.update(plain[place : place + size] for place in range(len(plain) - size + 1))
    return {
        gram: count / total
        for counter in counts.values()
        if (total := counter.total())
        for gram, count in counter.items()
    }


def gram_distance(text: str, profile: dict[str, float]) -> float:
    """Distance of a text from an author's n-gram profile, 0 (equal) to 1 (nothing shared).

    ``d(T) = Σ_g (2 (f_T(g) − f_A(g)) / (f_T(g) + f_A(g)))² / (4 |P_T|)`` over the n-grams of the text alone, which holds
    for short texts against long profiles: E. Stamatatos, "Author identification using imbalanced and limited training
    texts", TIR 2007, after Kešelj et al., "N-gram-based author profiles", PACLING 2003.
    """
    own = gram_frequencies([text])
    if not own:
        return 1.0
    total = sum(
        ((frequency - (other := profile.get(gram, 0.0))) / (frequency + other)) ** 2
        for gram, frequency in own.items()
    )
    return total / len(own)


@dataclass(frozen=True, slots=True)
class WordStandard:
    """The most frequent words of a collection, with mean and spread of their frequencies over its pieces."""

    words: tuple[str, ...]
    means: Values
    deviations: Values

    def scores(self, text: str) -> Values:
        """z-scores of the words' relative frequencies, shape (words,)."""
        return (_frequencies(words(text), self.words) - self.means) / self.deviations


def word_standard(texts: Sequence[str], count: int = FREQUENT_WORDS) -> WordStandard:
    """The standard that z-scores refer to.

    Raises:
        InvalidInputError: fewer than two pieces: nothing spreads.
    """
    if len(texts) < 2:
        raise InvalidInputError(
            f"Burrows' Delta needs at least two pieces of text to know what is usual; there are {len(texts)}."
        )
    split = [words(text) for text in texts]
    totals = Counter(word for found in split for word in found)
    chosen = tuple(word for word, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:count])
    table = np.stack([_frequencies(found, chosen) for found in split])
    spread = table.std(axis=0)
    kept = spread > 0
    return WordStandard(
        tuple(word for word, keep in zip(chosen, kept, strict=True) if keep),
        table.mean(axis=0)[kept],
        spread[kept],
    )


def delta(text: str, author: Values, standard: WordStandard) -> float:
    """Burrows' Delta: mean absolute difference of z-scores, ``Δ = 1/n Σ_w |z_T(w) − z_A(w)|``; 0 is equal.

    J. Burrows, "'Delta': a measure of stylistic difference", *Literary and Linguistic Computing* 17(3), 2002.

    Args:
        author: z-scores of all of the author's text, from ``standard``.
    """
    if not standard.words:
        return 0.0
    return float(np.mean(np.abs(standard.scores(text) - author)))


def _frequencies(found: Sequence[str], chosen: Sequence[str]) -> Values:
    counts = Counter(found)
    return np.array([counts[word] for word in chosen], dtype=np.float64) / max(1, len(found))


def folds(items: Sequence[str], count: int) -> Iterator[tuple[list[str], list[str]]]:
    """(the others, the fold) for each of ``count`` folds of neighbouring items; empty folds are left out."""
    size = -(-len(items) // count)
    for start in range(0, len(items), size):
        yield [*items[:start], *items[start + size :]], list(items[start : start + size])


def evenly(items: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of the items, at even distances."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]
