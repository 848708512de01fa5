"""Choose excerpts: neighbouring paragraphs of prose on a subject, which read as one text because they were written as one."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_engineering.application.inference.grounding import split_statements
from llm_engineering.application.inference.quotes import (
    ENDS,
    Quotation,
    holds_any,
    is_repeated,
    is_run_together,
    is_torn_out,
    promises_more,
)
from llm_engineering.application.ports import Vectors
from llm_engineering.application.text.markdown import Kind, markdown_blocks, strip_markdown
from llm_engineering.application.text.words import content_stems
from llm_engineering.domain.documents import Span, embedding_text
from llm_engineering.domain.retrieval import Citation

Embed = Callable[[Sequence[str]], Vectors]

_LONGEST = 90
"""Words of a piece; longer paragraphs are cut between sentences. What then is much longer is no sentence."""
_SHORTEST = 6
"""Words of a piece: what has fewer is a label."""
_ROOM = 1.3
"""How far an excerpt may go beyond the words that were asked for."""
_ENOUGH = 0.6
"""The share of the words that were asked for below which another excerpt is added."""
# In units of cosine similarity.
_SHORT = 0.35
"""Taken from an excerpt of no words, and the less of it the fuller the room that it is given."""
_HEADINGS_WEIGH = 0.4
"""What the similarity of title and headings counts beside the paragraphs' own."""
_BEGINS = 0.12
"""Added where an excerpt begins its section, and once more where it begins its text: beginnings introduce."""
_INTRODUCES = 0.2
"""Added where it begins a text whose title names the subject."""
_NAMES = 0.2
"""Added where it holds all words of the subject."""
_HANGS = 0.2
"""Taken where its first words point back at what stood before."""
_PROMISES = 0.15
"""Taken where its last sentence announces what does not follow."""
_TIED = re.compile(
    r"\b(?:figures?|fig\.|images?|screenshots?|(?:see|shown|as)\s+(?:above|below)|abbildung\w*|bild)\b",
    re.IGNORECASE,
)
"""Of a paragraph that speaks of a picture."""
_APART = 0.4
"""Taken where it names what it is compared with, too: that says little of either."""
_SHORTEST_ITEM = 20
"""Words of an item of a list that can be read alone."""
_LISTED = re.compile(r"\s{0,12}(?:[-*+•>→↳|]|\d{1,3}\\?[.)]|!?\[)")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A paragraph of prose, or so many of its sentences as can be read at once."""

    part: Quotation
    words: int
    begins: int
    """2: its text begins here; 1: its section; 0: neither."""
    ending: int
    """Where its last sentence begins, in the passage."""
    follows: bool
    """The piece before it stands directly above, in the same section."""


def choose_excerpts(
    subject: str,
    sections: Sequence[Citation],
    *,
    embed: Embed,
    words: int,
    each: int | None = None,
    most: int = 3,
    named: bool = False,
    compared: Collection[str] = (),
    repeated: Collection[str] = (),
) -> list[list[Quotation]]:
    """Return runs of neighbouring paragraphs on a subject, each saying something else, the best first. Blocking.

    Args:
        sections: where to look.
        embed: texts to unit vectors, shape (n, dimension).
        words: in all, about.
        each: words of one run, about; None: one may fill it all, and others are looked for only where it does not.
        most: runs.
        named: each must hold the subject's words.
        compared: other subjects; what names one of them is taken last.
        repeated: sentences that none may hold, as :func:`~llm_engineering.application.text.words.fold_sentence` gives them.

    Raises:
        ModelError: the embedder failed.
    """
    pieces = [piece for section in sections for piece in _split(section, repeated)]
    if not pieces:
        return []
    scores = _score(subject, pieces, embed)
    each = each or words
    asked = content_stems(subject)
    runs = [run for run in _list_runs(pieces, each) if not named or asked <= _stems(pieces, run)]
    others = [stems for subject in compared if (stems := content_stems(subject) - asked)]
    ranks = [_rank(pieces, scores, run, each, asked, others) for run in runs]
    chosen: list[list[Quotation]] = []
    said = 0
    for i in np.argsort(-np.array(ranks), kind="stable"):
        run = [pieces[place] for place in runs[i]]
        if said and said + sum(piece.words for piece in run) > _ROOM * words:
            continue
        before = [part for parts in chosen for part in parts]
        if any(is_repeated(piece.part, before) or _overlaps(piece.part, before) for piece in run):
            continue
        chosen.append([piece.part for piece in run])
        said += sum(piece.words for piece in run)
        if said >= _ENOUGH * words or len(chosen) == most:
            break
    return chosen


def _split(section: Citation, repeated: Collection[str]) -> Iterator[_Piece]:
    text = section.passage.text
    statements = split_statements(text)
    begins = 2 if section.passage.span.start == 0 else 1
    end = 0
    for block in markdown_blocks(text):
        if block.kind is not Kind.TEXT:
            begins = begins if block.kind is Kind.HEADING else 0
            continue
        inside = [s for s in statements if block.start <= s.unit.start < block.end]
        listed = _LISTED.match(text, block.start) is not None
        if any(s.order for s in inside):
            begins = 0
            continue
        for first, last in _group([text[s.unit.start : s.unit.end] for s in inside], apart=listed):
            part = Quotation(section, Span(start=inside[first].unit.start, end=inside[last].unit.end))
            alone = first == last and promises_more(part.plain)
            if not alone and _can_be_read(part.plain, _SHORTEST_ITEM if listed else _SHORTEST, repeated):
                follows = bool(end) and not listed and not text[end : part.span.start].strip()
                yield _Piece(part, len(part.plain.split()), begins, inside[last].unit.start, follows)
                end = part.span.end
            begins = 0


def _can_be_read(text: str, fewest: int, repeated: Collection[str]) -> bool:
    readable = fewest <= len(text.split()) <= _ROOM * _LONGEST and text.endswith(ENDS)
    if not readable or _TIED.search(text) or is_run_together(text):
        return False
    return not holds_any(text, repeated)


def _group(sentences: Sequence[str], *, apart: bool) -> Iterator[tuple[int, int]]:
    """First and last place of sentences that make a piece. What only announces (":") is left out at the end.

    Args:
        apart: items of a list, which say each something else.
    """
    last = len(sentences)
    while last and not strip_markdown(sentences[last - 1]).endswith(ENDS):
        last -= 1
    first = said = 0
    for place in range(last):
        said += len(sentences[place].split())
        following = len(sentences[place + 1].split()) if place + 1 < last else _LONGEST
        if said + following > _LONGEST or (apart and _LISTED.match(sentences[min(place + 1, last - 1)])):
            yield first, place
            first, said = place + 1, 0


def _score(subject: str, pieces: Sequence[_Piece], embed: Embed) -> npt.NDArray[np.float64]:
    """Similarity of each piece and of its headings to the subject, shape (pieces,)."""
    names = [
        embedding_text(p.part.citation.passage.title, p.part.citation.passage.headings, "") for p in pieces
    ]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    vectors = embed([subject, *places, *(piece.part.plain for piece in pieces)])
    near = np.asarray(vectors[1:] @ vectors[0], dtype=np.float64)
    headings = near[[places[name] for name in names]]
    return np.asarray(near[len(places) :] + _HEADINGS_WEIGH * headings, dtype=np.float64)


def _list_runs(pieces: Sequence[_Piece], words: int) -> list[list[int]]:
    """Every run of neighbouring pieces that fits into the words, the longest from each beginning."""
    runs = []
    for start in range(len(pieces)):
        run, said = [start], pieces[start].words
        while run[-1] + 1 < len(pieces) and pieces[run[-1] + 1].follows:
            said += pieces[run[-1] + 1].words
            if said > _ROOM * words:
                break
            run.append(run[-1] + 1)
        runs.append(run)
    return runs


def _rank(
    pieces: Sequence[_Piece],
    scores: npt.NDArray[np.float64],
    run: Sequence[int],
    words: int,
    asked: frozenset[str] | set[str],
    others: Sequence[frozenset[str] | set[str]],
) -> float:
    first, last = pieces[run[0]].part.plain, pieces[run[-1]]
    said = sum(pieces[place].words for place in run)
    stems = _stems(pieces, run)
    ending = last.part.citation.passage.text[last.ending : last.part.span.end]
    return float(
        np.average(scores[run], weights=[pieces[place].words for place in run])
        - _SHORT * max(0.0, 1 - said / (_ENOUGH * words))
        + _BEGINS * pieces[run[0]].begins
        + _INTRODUCES
        * (pieces[run[0]].begins == 2 and asked <= content_stems(last.part.citation.passage.title))
        + _NAMES * len(asked & stems) / max(1, len(asked))
        - _APART * any(other <= stems for other in others)
        - _HANGS * (is_torn_out(first) or promises_more(first.partition(". ")[0].rstrip(".") + "."))
        - _PROMISES * promises_more(ending)
    )


def _stems(pieces: Sequence[_Piece], run: Sequence[int]) -> frozenset[str]:
    return frozenset().union(*(content_stems(pieces[place].part.plain) for place in run))


def _overlaps(part: Quotation, others: Sequence[Quotation]) -> bool:
    one, passage = part.span, part.citation.passage
    return any(
        other.citation.passage.document_id == passage.document_id
        and other.citation.passage.span.start + other.span.start < passage.span.start + one.end
        and passage.span.start + one.start < other.citation.passage.span.start + other.span.end
        for other in others
    )
