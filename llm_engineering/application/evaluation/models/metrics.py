"""Metrics of single answers. A metric that does not apply to an answer is None."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llm_engineering.application.evaluation.models.contrast import StyleContrast
from llm_engineering.application.evaluation.models.systems import Likelihood, Written
from llm_engineering.application.ports import Embedder, Vectors
from llm_engineering.application.text.style import StyleModel, Voice, pick_evenly
from llm_engineering.domain.datasets import InstructSample

GRAM_WORDS = 8
"""Runs of so many words that also stand in the training text count as copied: hardly a chance match."""
SEED_WORDS = 5
REPEATED_WORDS = 4
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Copying:
    """What a text shares with the training text."""

    longest: int
    """Words of the longest run that stands there verbatim (case and punctuation aside); below 5 counts as 0."""
    share: float
    """Share of the text's 8-word runs that stand there; 0 for shorter texts."""


class TrainingText:
    """All text that a model was trained on, indexed by runs of words.

    Memory: one list entry for each word of the text.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: list[str] = []
        self._places: defaultdict[int, list[int]] = defaultdict(list)
        self._grams: set[int] = set()
        for text in texts:
            self._add([word.casefold() for word in _WORD.findall(text)])

    def measure_copying(self, text: str) -> Copying:
        """Hold a text against it, in time linear in its words but for texts that repeat themselves."""
        found = [word.casefold() for word in _WORD.findall(text)]
        grams = _hashes(found, GRAM_WORDS)
        share = sum(gram in self._grams for gram in grams) / len(grams) if grams else 0.0
        return Copying(self._longest(found), share)

    def _add(self, found: list[str]) -> None:
        offset = len(self._words)
        self._words += [*found, ""]  # the empty word keeps runs from crossing into the next text
        for place, gram in enumerate(_hashes(found, SEED_WORDS)):
            self._places[gram].append(offset + place)
        self._grams.update(_hashes(found, GRAM_WORDS))

    def _longest(self, found: list[str]) -> int:
        longest = 0
        for start, seed in enumerate(_hashes(found, SEED_WORDS)):
            if len(found) - start <= longest:
                break
            # A run that went on from the word before was followed from its beginning already.
            for place in self._places.get(seed, ()):
                if start and place and self._words[place - 1] == found[start - 1]:
                    continue
                longest = max(longest, self._run(found, start, place))
        return longest

    def _run(self, found: list[str], start: int, place: int) -> int:
        length = 0
        while (
            start + length < len(found)
            and place + length < len(self._words)
            and found[start + length] == self._words[place + length]
        ):
            length += 1
        return length if length >= SEED_WORDS else 0


def _hashes(found: list[str], size: int) -> list[int]:
    return [hash(tuple(found[place : place + size])) for place in range(len(found) - size + 1)]


def measure_repetition(text: str) -> float:
    """Compute the share of 4-word runs that stood in the text before, 0 to 1; 0 for shorter texts.

    ``1 − |distinct 4-grams| / |4-grams|`` (Welleck et al., "Neural text generation with unlikelihood training", ICLR 2020).
    """
    grams = _hashes([word.casefold() for word in _WORD.findall(text)], REPEATED_WORDS)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


Column = list[float | None]
MOST_TEXTS = 200
"""Of an author, that the centre of their writing is made from."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric for people."""

    name: str
    meaning: str
    higher_is_better: bool = True


METRICS = (
    Metric("nll", "nats per token of the author's answer", False),
    Metric("rouge1", "words shared with the author's answer"),
    Metric("rouge2", "word pairs shared"),
    Metric("rougeL", "longest common subsequence"),
    Metric("bleu", "word sequences shared"),
    Metric("chrf", "character sequences shared"),
    Metric("bertscore", "likeness of tokens in context"),
    Metric("reference_similarity", "cosine with the author's answer"),
    Metric("author_similarity", "cosine with the centre of the author's writing"),
    Metric("style", "style score against the author"),
    Metric("style_contrast", "the author's style rather than the base model's"),
    Metric("gram_distance", "distance of character sequences", False),
    Metric("delta", "Burrows' Delta", False),
    Metric("copied_words", "longest run of words copied from training text", False),
    Metric("copied_share", "share of 8-word runs copied from training text", False),
    Metric("empty", "share of empty answers", False),
    Metric("repetition", "share of 4-word runs said before", False),
    Metric("cut", "share of answers that did not end by themselves", False),
    Metric("judge_accuracy", "accuracy, 1 to 4, by the judge"),
    Metric("judge_style", "style, 1 to 4, by the judge"),
)
BY_NAME = {metric.name: metric for metric in METRICS}
UNINTERVALLED = {
    "perplexity": Metric("perplexity", "of the author's answers", False),
    "corpus_bleu": Metric("corpus_bleu", "BLEU over all answers"),
    "corpus_chrf": Metric("corpus_chrf", "chrF over all answers"),
}


class ReferenceMetrics(Protocol):
    """Metrics of libraries, kept out of here."""

    def score_pairs(self, answers: Sequence[str], references: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """Return scores of each answer by metric."""
        ...

    def score_corpus(self, answers: Sequence[str], references: Sequence[str]) -> Mapping[str, float]:
        """Return scores over all answers."""
        ...


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """What answers are measured with."""

    references: ReferenceMetrics
    styles: Mapping[Voice, StyleModel]
    training: TrainingText
    similarity: Callable[[Sequence[InstructSample], Sequence[str]], Mapping[str, Column]] | None
    contrasts: Mapping[Voice, StyleContrast]


def measure_answers(
    samples: Sequence[InstructSample],
    written: Sequence[Written],
    likelihoods: Sequence[Likelihood | None],
    yardsticks: Yardsticks,
) -> dict[str, Column]:
    """Return all values of one system's answers, by metric, in the order of the samples."""
    texts = [answer.text for answer in written]
    columns: dict[str, Column] = {
        "nll": [one.nll / one.tokens if one is not None and one.tokens else None for one in likelihoods]
    }
    scores = yardsticks.references.score_pairs(texts, [sample.answer for sample in samples])
    columns.update({name: list(values) for name, values in scores.items()})
    if yardsticks.similarity is not None:
        columns.update(yardsticks.similarity(samples, texts))
    columns.update(_style(samples, texts, yardsticks))
    copies = [yardsticks.training.measure_copying(text) for text in texts]
    columns["copied_words"] = [float(copy.longest) for copy in copies]
    columns["copied_share"] = [copy.share for copy in copies]
    columns["empty"] = [float(not any(map(str.isalnum, text))) for text in texts]
    columns["repetition"] = [measure_repetition(text) for text in texts]
    columns["cut"] = [float(answer.cut) for answer in written]
    return columns


class Similarity:
    """Cosines with the author's answer, and with the centre of all they wrote in the training split."""

    def __init__(self, embedder: Embedder, training: Mapping[str, Sequence[str]]) -> None:
        self._embedder = embedder
        self._centres = {
            author: _centre(self._vectors(pick_evenly(texts, MOST_TEXTS)))
            for author, texts in training.items()
            if texts
        }

    def __call__(self, samples: Sequence[InstructSample], texts: Sequence[str]) -> dict[str, Column]:
        """``reference_similarity`` and ``author_similarity``; None for empty answers and unknown authors."""
        answers = self._vectors(texts)
        references = self._vectors([sample.answer for sample in samples])
        reference: Column = []
        author: Column = []
        for sample, text, own, theirs in zip(samples, texts, answers, references, strict=True):
            centre = self._centres.get(sample.origin.author)
            reference.append(float(own @ theirs) if text.strip() else None)
            author.append(float(own @ centre) if text.strip() and centre is not None else None)
        return {"reference_similarity": reference, "author_similarity": author}

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        # As queries, which are cut where they are too long: an answer may be longer than what an embedder takes.
        return self._embedder.embed_queries([text if text.strip() else "-" for text in texts])


def _centre(vectors: Vectors) -> Vectors:
    mean = vectors.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9), dtype=np.float32)


def score_authors(samples: Sequence[InstructSample], yardsticks: Yardsticks) -> dict[str, float]:
    """Return what the authors' own answers reach on average in metrics of style: no imitation can be asked for more."""
    columns = _style(samples, [sample.answer for sample in samples], yardsticks)
    scored = {name: [value for value in column if value is not None] for name, column in columns.items()}
    return {name: sum(values) / len(values) for name, values in scored.items() if values}


def _style(
    samples: Sequence[InstructSample], texts: Sequence[str], yardsticks: Yardsticks
) -> dict[str, Column]:
    found = []
    contrasted: Column = []
    for sample, text in zip(samples, texts, strict=True):
        voice = sample.origin.author, sample.origin.language
        model, contrast = yardsticks.styles.get(voice), yardsticks.contrasts.get(voice)
        found.append(model.score(text) if model is not None else None)
        contrasted.append(contrast.score(text) if contrast is not None else None)
    return {
        "style_contrast": contrasted,
        "style": [score.score if score else None for score in found],
        "gram_distance": [score.gram_distance if score else None for score in found],
        "delta": [score.delta if score else None for score in found],
    }
