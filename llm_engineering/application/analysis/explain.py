"""Why a head decided as it did: the sentence that decides it."""

from collections.abc import Sequence

import numpy as np

from llm_engineering.application.analysis.heads import LinearHead, TextEmbedder, compose_text
from llm_engineering.application.text.sentences import split_units
from llm_engineering.domain.documents import CleanDocument, Span

MOST_SENTENCES = 12
"""Of a record, that are looked at one by one."""


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


def _without(document: CleanDocument, left_out: Sequence[Span]) -> str:
    """The record as a head would read it without some of its sentences."""
    text = document.text
    for span in sorted(left_out, key=lambda one: -one.start):
        text = text[: span.start] + text[span.end :]
    return compose_text(document.model_copy(update={"text": text.strip()}))
