"""Style score against an author, calibrated on text by the author and by others.

A distance says little by itself. The score is what a logistic regression, fitted to pieces known to be by the author
(held out of the profile that they are compared with) and by others, makes of both distances: 0.5 stands between the
two kinds. Where nobody else's text is at hand it is the share of the author's own pieces that lie as far away or
farther, and the calibration says so. Copying maximises either: read it beside ``memorisation``.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from loguru import logger

from llm_engineering.application.text.markdown import Kind, markdown_blocks, strip_markdown
from llm_engineering.application.text.sentences import split_units
from llm_engineering.application.text.words import split_words
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.voices import StyleFit, VoiceProfile, VoiceScore

GRAM_SIZES = (2, 3, 4)
FREQUENT_WORDS = 100
_SENTENCE_ENDS = ".!?\n"
Values = npt.NDArray[np.float64]
Item = TypeVar("Item")


Paragraphs = tuple[tuple[str, ...], ...]
"""Sentences by paragraph."""


def split_prose(text: str) -> Paragraphs:
    """Return the sentences of a Markdown text by paragraph, without marks: no code, no tables, no headings."""
    paragraphs = []
    for block in markdown_blocks(text):
        if block.kind is not Kind.TEXT:
            continue
        part = text[block.start : block.end]
        sentences = (strip_markdown(part[unit.start : unit.end]) for unit in split_units(part))
        if said := tuple(sentence for sentence in sentences if sentence):
            paragraphs.append(said)
    return tuple(paragraphs)


def join_prose(paragraphs: Paragraphs) -> str:
    """Return paragraphs as one text."""
    return "\n\n".join(" ".join(sentences) for sentences in paragraphs)


def score_voice(voice: VoiceProfile, text: str) -> VoiceScore | None:
    """Return how much a Markdown text sounds like an author; None: it is too short, or too little is known of them."""
    if voice.style is None:
        return None
    found = StyleModel.from_fit(voice.style).score(join_prose(split_prose(text)))
    if found is None:
        return None
    return VoiceScore(author=voice.author, score=found.score, low=voice.style.low, high=voice.style.high)


def split_pieces(text: str, size: int) -> list[str]:
    """Return the text in pieces of about ``size`` characters, cut where a sentence or line ends; a short rest is left
    out.

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
    """Return relative frequency of each character n-gram, within each n. White space runs count as one space."""
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
    """Return distance of a text from an author's n-gram profile, 0 (equal) to 1 (nothing shared).

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

    def compute_scores(self, text: str) -> Values:
        """Return z-scores of the words' relative frequencies, shape (words,)."""
        return (_frequencies(split_words(text), self.words) - self.means) / self.deviations


def word_standard(texts: Sequence[str], count: int = FREQUENT_WORDS) -> WordStandard:
    """Return the standard that z-scores refer to.

    Raises:
        InvalidInputError: fewer than two pieces: nothing spreads.
    """
    if len(texts) < 2:
        raise InvalidInputError(
            f"Burrows' Delta needs at least two pieces of text to know what is usual; there are {len(texts)}."
        )
    split = [split_words(text) for text in texts]
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


def burrows_delta(text: str, author: Values, standard: WordStandard) -> float:
    """Return Burrows' Delta: mean absolute difference of z-scores, ``Δ = 1/n Σ_w |z_T(w) − z_A(w)|``; 0 is equal.

    J. Burrows, "'Delta': a measure of stylistic difference", *Literary and Linguistic Computing* 17(3), 2002.

    Args:
        author: z-scores of all of the author's text, from ``standard``.
    """
    if not standard.words:
        return 0.0
    return float(np.mean(np.abs(standard.compute_scores(text) - author)))


def _frequencies(found: Sequence[str], chosen: Sequence[str]) -> Values:
    counts = Counter(found)
    return np.array([counts[word] for word in chosen], dtype=np.float64) / max(1, len(found))


def split_folds(items: Sequence[str], count: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (the others, the fold) for each of ``count`` folds of neighbouring items; empty folds are left out."""
    size = -(-len(items) // count)
    for start in range(0, len(items), size):
        yield [*items[:start], *items[start + size :]], list(items[start : start + size])


def pick_evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` of the items, at even distances."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


PIECE_CHARACTERS = 500
SHORTEST = 200
"""Characters below which a text has no style to speak of, and no score."""
FEWEST_PIECES = 6
MOST_PIECES = 400
"""More tell no more of a style, and cost time; taken evenly over the text."""
FOLDS = 5
_RIDGE = 1.0
Voice = tuple[str, str]
"""An author, and the language that they write in."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well known text was told apart."""

    author: str
    same: int
    """Pieces by the author."""
    other: int
    """Pieces by others; 0: the score is the share of the author's own pieces that lie as far away."""
    auc: float | None
    """Probability that a piece by the author gets a higher score than one by another; 0.5 is chance. None: no others.
    What is scored was held out of the profile (the author's pieces) and of the regression (all pieces)."""
    same_mean: float
    """Mean score of the author's own held-out pieces: what a perfect imitation would reach."""
    other_mean: float | None
    same_low: float = 0.0
    """Score below which a twentieth of the author's own held-out pieces lies."""
    same_high: float = 1.0
    """Score above which a twentieth of them lies."""


@dataclass(frozen=True, slots=True)
class StyleScore:
    """A text held against an author."""

    score: float
    """0 to 1; higher is more like the author."""
    gram_distance: float
    delta: float


class StyleModel:
    """An author's style. Make it with :func:`fit_style`."""

    def __init__(
        self,
        profile: dict[str, float],
        standard: WordStandard,
        author_scores: Values,
        weights: Values | None,
        same: Values,
        piece: int,
    ) -> None:
        self._profile = profile
        self._standard = standard
        self._author = author_scores
        self._weights = weights
        self._same = same
        self._piece = piece
        self.calibration: Calibration | None = None

    @classmethod
    def from_fit(cls, fit: StyleFit) -> "StyleModel":
        """Rebuild a style from its stored numbers; without its calibration."""
        standard = WordStandard(fit.words, np.array(fit.means), np.array(fit.deviations))
        profile = dict(zip(fit.grams, fit.gram_frequencies, strict=True))
        weights = None if fit.weights is None else np.array(fit.weights)
        return cls(profile, standard, np.array(fit.author), weights, np.array(fit.same), fit.piece)

    def to_fit(self) -> StyleFit:
        """Return the style in numbers that can be stored."""
        assert self.calibration is not None, "only a calibrated style is kept"
        return StyleFit(
            grams=tuple(self._profile),
            gram_frequencies=tuple(self._profile.values()),
            words=self._standard.words,
            means=tuple(self._standard.means.tolist()),
            deviations=tuple(self._standard.deviations.tolist()),
            author=tuple(self._author.tolist()),
            weights=None if self._weights is None else tuple(self._weights.tolist()),
            same=tuple((float(gram), float(delta)) for gram, delta in self._same),
            piece=self._piece,
            low=self.calibration.same_low,
            high=self.calibration.same_high,
        )

    def find_unusual_words(self, count: int) -> list[str]:
        """Return the words among the most frequent ones that the author uses more than is usual, the most unusual first."""
        order = np.argsort(-self._author)[:count]
        return [self._standard.words[place] for place in order if self._author[place] > 0]

    def score(self, text: str) -> StyleScore | None:
        """Return the mean over the text's pieces; None: it is too short."""
        text = text.strip()
        if len(text) < SHORTEST:
            return None
        parts = split_pieces(text, self._piece) or [text]
        found = np.array([self.measure_distances(part) for part in parts])
        means = found.mean(axis=0)
        return StyleScore(float(np.mean(self.compute_scores(found))), float(means[0]), float(means[1]))

    def measure_distances(self, text: str) -> tuple[float, float]:
        """n-gram distance and Delta of one piece."""
        return gram_distance(text, self._profile), burrows_delta(text, self._author, self._standard)

    def compute_scores(self, distances: Values) -> Values:
        """Return scores of distances, shape (n, 2) to (n,)."""
        if self._weights is None:
            # Ranks of both distances among the author's own, the mean of the two.
            farther = self._same[None, :, :] >= distances[:, None, :]
            return np.asarray(farther.mean(axis=1).mean(axis=1), dtype=np.float64)
        return _probabilities(_standardised(distances, self._same), self._weights)


def fit_style(
    author: str, own: Sequence[str], others: Sequence[str], *, piece: int = PIECE_CHARACTERS
) -> StyleModel:
    """Learn an author's style from texts of theirs, and calibrate it on texts by others.

    Args:
        own: texts by the author, none of which is evaluated.
        others: texts by other people, in the same language and of the same kind.

    Raises:
        InvalidInputError: there is too little text by the author.
    """
    mine = pick_evenly([part for text in own for part in split_pieces(text, piece)], MOST_PIECES)
    theirs = pick_evenly([part for text in others for part in split_pieces(text, piece)], MOST_PIECES)
    if len(mine) < FEWEST_PIECES:
        raise InvalidInputError(
            f"The style of {author} cannot be learned from {len(mine)} pieces of {piece} characters; at least {FEWEST_PIECES} "
            "are needed. Collect more of their writing."
        )
    same = _held_out(mine, theirs)
    model = _model(mine, theirs, None, same, piece)
    if len(theirs) < FEWEST_PIECES:
        scores = model.compute_scores(same)
        model.calibration = Calibration(
            author, len(mine), 0, None, float(scores.mean()), None, *_range_of(scores)
        )
        return model
    other = np.array([model.measure_distances(part) for part in theirs])
    own_features, other_features = _standardised(same, same), _standardised(other, same)
    model = _model(mine, theirs, _weights(own_features, other_features), same, piece)
    high, low = _held_out_scores(own_features, other_features)
    model.calibration = Calibration(
        author,
        len(mine),
        len(theirs),
        compute_auc(high, low),
        float(high.mean()),
        float(low.mean()),
        *_range_of(high),
    )
    return model


def _range_of(scores: Values) -> tuple[float, float]:
    """Between which nine tenths lie."""
    low, high = np.quantile(scores, [0.05, 0.95])
    return float(low), float(high)


def _held_out(mine: Sequence[str], theirs: Sequence[str]) -> Values:
    """Distances of the author's pieces from profiles made without them, shape (n, 2)."""
    found: list[tuple[float, float]] = []
    for rest, fold in split_folds(mine, min(FOLDS, len(mine))):
        model = _model(rest, theirs, None, np.zeros((1, 2)), 1)
        found += [model.measure_distances(part) for part in fold]
    return np.array(found)


def _weights(own: Values, other: Values) -> Values:
    """Of both distances and the bias. A distance that would count for the author the larger it is counts nothing: where
    authors are hardly told apart, chance would have text like nobody's seem to be theirs."""
    labels = np.array([1.0] * len(own) + [0.0] * len(other))
    features = np.concatenate([own, other])
    kept = list(range(features.shape[1]))
    while True:
        found = logistic_regression(features[:, kept], labels)
        wrong = [column for column, weight in zip(kept[:-1], found[:-1], strict=True) if weight > 0]
        if not wrong:
            break
        kept = [column for column in kept if column not in wrong]
    weights = np.zeros(features.shape[1])
    weights[kept] = found
    return weights


def _held_out_scores(own: Values, other: Values) -> tuple[Values, Values]:
    """Scores of the author's pieces and of others', each by a regression that has not seen it."""
    high, low = np.zeros(len(own)), np.zeros(len(other))
    for number in range(FOLDS):
        mine, theirs = _fold(len(own), number), _fold(len(other), number)
        weights = _weights(own[~mine], other[~theirs])
        high[mine] = _probabilities(own[mine], weights)
        low[theirs] = _probabilities(other[theirs], weights)
    return high, low


def _fold(count: int, number: int) -> npt.NDArray[np.bool_]:
    """Neighbouring places, as they come from one document."""
    return np.asarray(np.arange(count) * FOLDS // count == number, dtype=np.bool_)


def _model(
    mine: Sequence[str], theirs: Sequence[str], weights: Values | None, same: Values, piece: int
) -> StyleModel:
    standard = word_standard([*mine, *theirs])
    return StyleModel(
        gram_frequencies(mine), standard, standard.compute_scores(" ".join(mine)), weights, same, piece
    )


def _standardised(distances: Values, same: Values) -> Values:
    """In units of the author's own spread, with a column of ones for the bias."""
    spread = np.maximum(same.std(axis=0), 1e-9)
    return np.column_stack([(distances - same.mean(axis=0)) / spread, np.ones(len(distances))])


def logistic_regression(features: Values, labels: Values, *, steps: int = 50) -> Values:
    """Return weights by Newton's method with a ridge penalty, both classes weighing equally.

    Hastie, Tibshirani & Friedman, *The Elements of Statistical Learning*, 2009, sections 4.4.1 and 18.3.2. The last
    column is the bias, which is not penalised.
    """
    shares = np.where(labels == 1, 1 / labels.sum(), 1 / (1 - labels).sum()) * len(labels) / 2
    ridge = np.diag([_RIDGE] * (features.shape[1] - 1) + [0.0])
    weights = np.zeros(features.shape[1])
    for _ in range(steps):
        found = _probabilities(features, weights)
        gradient = features.T @ (shares * (labels - found)) - ridge @ weights
        spread = shares * np.maximum(found * (1 - found), 1e-6)
        step = np.linalg.solve((features.T * spread) @ features + ridge, gradient)
        weights = weights + np.clip(step, -2, 2)  # far from the optimum, a whole step may overshoot
        if np.abs(step).max() < 1e-8:
            break
    return weights


def compute_auc(high: Values, low: Values) -> float:
    """Return share of pairs in the right order, ties half: the area under the ROC curve (Mann & Whitney, 1947)."""
    above = (high[:, None] > low[None, :]).mean()
    return float(above + 0.5 * (high[:, None] == low[None, :]).mean())


def style_models(
    texts: Mapping[Voice, Sequence[str]], *, piece: int = PIECE_CHARACTERS
) -> dict[Voice, StyleModel]:
    """Return a model for each author and language with enough text; what others wrote in that language calibrates it.

    By language, because anything in the only author's second language would seem to be theirs.

    Args:
        texts: by author and language.
    """
    found: dict[Voice, StyleModel] = {}
    for (author, language), own in texts.items():
        others = [
            text
            for (name, spoken), group in texts.items()
            if name != author and spoken == language
            for text in group
        ]
        try:
            found[author, language] = fit_style(f"{author} ({language})", own, others, piece=piece)
        except InvalidInputError as error:
            logger.info("No style score: {}", error)
    return found


def _probabilities(features: Values, weights: Values) -> Values:
    return np.asarray(1 / (1 + np.exp(-np.clip(features @ weights, -30, 30))), dtype=np.float64)
