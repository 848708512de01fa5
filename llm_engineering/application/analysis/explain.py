"""Why a head decided as it did: what each sentence of a record adds to the class, and which one decides it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np

from llm_engineering.application.analysis.heads import LinearHead, TextEmbedder, compose_text
from llm_engineering.application.text.sentences import split_units
from llm_engineering.domain.documents import CleanDocument, Span

MOST_SENTENCES = 12
"""Of a record, that are looked at one by one."""
MOST_EXACT = 5
"""Sentences up to which their shares are exact: all 2ⁿ texts are embedded."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A class's score (before the temperature) as a sum: ``base`` and a share of each sentence."""

    label: str
    score: float
    base: float
    """What the class has without any text; of long records also what sentences do only together."""
    shares: tuple[tuple[Span, float], ...]


def list_sentences(text: str) -> list[Span]:
    """Return the places of a text's sentences, in order; of a long one the first dozen."""
    found = [(unit.start, unit.end) for unit in split_units(text) if text[unit.start : unit.end].strip()]
    return [Span(start=start, end=end) for start, end in found[:MOST_SENTENCES]]


def find_deciding_sentences(
    documents: Sequence[CleanDocument], labels: Sequence[str], head: LinearHead, embedder: TextEmbedder
) -> list[Span | None]:
    """Return the sentence of each record without which its class would lose most; None: the record has no text."""
    sentences = [list_sentences(document.text) for document in documents]
    texts = [
        _without(document, [span])
        for document, spans in zip(documents, sentences, strict=True)
        if len(spans) > 1
        for span in spans
    ]
    scores = head.compute_probabilities(embedder.embed(texts)) if texts else np.zeros((0, len(head.labels)))
    found: list[Span | None] = []
    place = 0
    for spans, label in zip(sentences, labels, strict=True):
        if len(spans) < 2:
            found.append(spans[0] if spans else None)
            continue
        left = scores[place : place + len(spans), head.labels.index(label)]
        place += len(spans)
        found.append(spans[int(left.argmin())])
    return found


def explain_class(
    document: CleanDocument, label: str, head: LinearHead, embedder: TextEmbedder
) -> Explanation:
    """Return what each sentence adds to a class. Base and shares add up to the score.

    Up to five sentences, the shares are Shapley values: a sentence's gain, over all orders in which the text could be put
    together. Of more, a share is what the score loses without the sentence.

    Raises:
        ValueError: the head does not know the class.
    """
    column = head.labels.index(label)
    spans = list_sentences(document.text)
    score = float(head.compute_logits(embedder.embed([compose_text(document)]))[0, column])
    if len(spans) > MOST_EXACT:
        texts = [_without(document, [span]) for span in spans]
        lost = score - head.compute_logits(embedder.embed(texts))[:, column]
        return Explanation(
            label, score, score - float(lost.sum()), tuple(zip(spans, map(float, lost), strict=True))
        )
    kept = [chosen for size in range(1, len(spans) + 1) for chosen in combinations(range(len(spans)), size)]
    texts = [
        _without(document, [spans[one] for one in range(len(spans)) if one not in chosen]) for chosen in kept
    ]
    values: dict[tuple[int, ...], float] = {(): float(head.bias[column])}
    if texts:
        logits = head.compute_logits(embedder.embed(texts))[:, column]
        values |= dict(zip(kept, map(float, logits), strict=True))
    count = len(spans)
    shares = []
    for one in range(count):
        gain = 0.0
        for chosen in [key for key in values if one not in key]:
            weight = factorial(len(chosen)) * factorial(count - len(chosen) - 1) / factorial(count)
            gain += weight * (values[tuple(sorted((*chosen, one)))] - values[chosen])
        shares.append((spans[one], gain))
    return Explanation(label, values[tuple(range(count))], values[()], tuple(shares))


def _without(document: CleanDocument, left_out: Sequence[Span]) -> str:
    """The record as a head would read it without some of its sentences."""
    text = document.text
    for span in sorted(left_out, key=lambda one: -one.start):
        text = text[: span.start] + text[span.end :]
    return compose_text(document.model_copy(update={"text": text.strip()}))
