"""Choose what to quote: of the passages found, the few neighbouring sentences that answer a question best."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from llm_engineering.application.inference.grounding import split_statements
from llm_engineering.application.ports import Part, Vectors, extract_part
from llm_engineering.application.text.markdown import (
    closes_fence,
    code_blocks,
    defines_any,
    find_code_names,
    match_fence,
    show_images_as_links,
    strip_markdown,
)
from llm_engineering.application.text.words import content_stems, fold_sentence
from llm_engineering.domain.categories import is_code
from llm_engineering.domain.documents import Span, embedding_text
from llm_engineering.domain.retrieval import Citation, Passage, Support, Verdict

Rank = Callable[[str, Sequence[str], Sequence[Part]], Sequence[float]]
"""A question, texts and parts of them to a score for each part, higher is better: a reranker's."""
SENTENCES = 3
"""Neighbouring sentences of a quotation: three hold an answer about as often as the three best ones apart, and can be read."""
DEPTH = 3
"""Passages that are read for a quotation, the best first."""
# In units of how far the best part's score lies above the middle one's, since every reranker has a scale of its own. Tuned on
# the 90 questions of the sample: the best part holds the answer to 48 of them in the very words that were marked, up to three
# near ones 60, always three 68, at twice as many words.
_RANK_COSTS = 0.15
"""For each passage that search put before a part's own."""
_CODE_COSTS = 0.3
"""For code, which holds many words and few answers."""
_NEAR = 0.5
"""How far another part may lie below the best one to be quoted too."""
_SAME = 0.6
"""Share of a part's content words that stand in another one, from which it says the same."""
_LABEL_WORDS = 4
ENDS = tuple(".!?…。！？।")
_ALONE = 0.25
"""The share that a part's own words have in its score; the rest is theirs and the headings', which all parts of a section
have in common."""
_OPENS = 0.5
"""Added for the first sentences under a heading that the question names: "What is hybrid search?" is answered there."""
_BEGINNING = 0.2
"""Added for a part that begins a paragraph: it needs nothing that stands before it."""
_HANGS = 0.6
"""Taken from a part that begins by pointing at what stood before it, ends by announcing or asking, or calculates: torn out, it
hangs."""
_FIGURES = 0.15
"""Share of a part's words without a letter from which it calculates."""
_POINTS_BACK = re.compile(
    r"(?:(?:(?:because|since|while|although|if|when)\s+)?(?:this|that|these|those|it|they)|then|so|such|here|again|also|as\s+shown|in\s+(?:this|the|a)\s+(?:\w+\s+)?(?:article|lesson|post|section)"
    r"|dies\w*|das|es|dann|so|auch|hier|wie\s+gezeigt)\b",
    re.IGNORECASE,
)
_MOST_LINES = 40
"""Of a block of code that are quoted."""


@dataclass(frozen=True, slots=True)
class Quotation:
    """A part of a source, word for word."""

    citation: Citation
    span: Span
    """In the passage's text."""
    is_code: bool = False
    head: Span | None = None
    """Of a table's row: the table's header."""

    @property
    def text(self) -> str:
        """The words as they stand in the source."""
        return self.citation.passage.text[self.span.start : self.span.end]

    @property
    def plain(self) -> str:
        """The words without Markdown's marks, on one line."""
        return strip_markdown(self.text)

    @property
    def begins_paragraph(self) -> bool:
        """Whether nothing stands before it in its paragraph."""
        before = self.citation.passage.text[: self.span.start]
        return not before.strip() or "\n\n" in before[len(before.rstrip()) :]

    def opens(self, asked: frozenset[str] | set[str]) -> bool:
        """Return whether it is the beginning of a section, or of a text, whose heading says nothing but what is asked.

        Args:
            asked: stems of the question's content words.
        """
        passage = self.citation.passage
        above = passage.text[: self.span.start].rstrip().rpartition("\n")[2]
        begins = above.startswith("#") or (not above and passage.span.start == 0)
        named = content_stems(passage.headings[-1] if passage.headings else passage.title)
        return bool(named) and begins and named <= asked

    def locate(self) -> tuple[Span, ...]:
        """Return where the words stand in the passage under its headings, after those headings and a table's header."""
        above = len(_with_headings(self.citation.passage)) - len(self.citation.passage.text)
        inside = [span for span in (self.head, self.span) if span is not None]
        places = [Span(start=above + span.start, end=above + span.end) for span in inside]
        return (Span(start=0, end=above - 1), *places) if above > 1 else tuple(places)

    def render(self) -> str:
        """Return the quotation as Markdown, with its citation."""
        text, number = self.text.strip("\n"), self.citation.number
        if self.is_code:
            return f"{_fence(text)}\n[{number}]"
        head = self.citation.passage.text[self.head.start : self.head.end] if self.head else ""
        lines = [
            f"> {show_images_as_links(line)}".rstrip() for line in [*head.splitlines(), *text.splitlines()]
        ]
        # Behind a row, the marker would be one more cell.
        return "\n".join([*lines, ">", f"> [{number}]"] if head else [*lines[:-1], f"{lines[-1]} [{number}]"])

    def make_support(self, start: int, end: int, *, cited: bool = True) -> Support:
        """Return the verdict on the quotation, which stands at ``[start, end)`` of the answer: it is its own source.

        Args:
            cited: its number stands in the answer.
        """
        passage = self.citation.passage
        whole = len(passage.text) == passage.span.end - passage.span.start
        first = passage.span.start + self.span.start
        return Support(
            span=Span(start=start, end=end),
            verdict=Verdict.SUPPORTED,
            source=self.citation.number,
            source_span=self.span,
            document_span=Span(start=first, end=first + len(self.text)) if whole else None,
            lexical=1.0,
            cited=(self.citation.number,) if cited else (),
        )


def _with_headings(passage: Passage) -> str:
    """The text as it was embedded, so that what is known of its tokens holds here too."""
    return embedding_text(passage.title, passage.headings, passage.text)


def _fence(text: str) -> str:
    """Code in a fence of its own, with the language that its old one named, whether that was cut off or not."""
    lines = text.splitlines()
    language = ""
    if fence := match_fence(lines[0]):
        language = lines.pop(0).strip().lstrip(fence[0])
        if lines and closes_fence(lines[-1], fence):
            lines.pop()
    longest = max((len(mark) for line in lines if (mark := match_fence(line))), default=2)
    mark = "`" * (longest + 1)
    return "\n".join([f"{mark}{language}", *lines, mark])


def choose_quotations(
    question: str,
    sources: Sequence[Citation],
    *,
    rank: Rank | None = None,
    embed: Callable[[Sequence[str]], Vectors] | None = None,
    count: int = 1,
) -> list[Quotation]:
    """Return the parts of the sources that answer the question best, the best first. Blocking.

    Args:
        sources: best first; the first few are read.
        rank: scores texts against the question; without it they are compared by their vectors, and where there are none
            either, the first part of the best source is taken.
        embed: texts to unit vectors, shape (n, dimension).
        count: most parts; those that are much worse than the best one are left out.

    Raises:
        ModelError: the reranker or the embedder failed.
    """
    found = [
        (place, part) for place, source in enumerate(sources[:DEPTH]) for part in _parts(source, SENTENCES)
    ]
    scores = _score(question, found, rank, embed)
    asked = content_stems(question)
    scores += _OPENS * _unit(scores) * np.array([part.opens(asked) for _, part in found])
    if names := find_code_names(question):
        scores[[part.is_code and defines_any(part.text, names) for _, part in found]] = (
            scores.max(initial=0.0) + 1.0
        )
    near = [i for i in _by_score(scores) if scores[i] >= scores.max() - _NEAR * _unit(scores)]
    chosen: list[Quotation] = []
    for i in near:
        if not is_repeated(found[i][1], chosen):
            chosen = _pick([*chosen, found[i][1]], count)
    return [_without_announcement(_without_end_of_paragraph(part)) for part in join_neighbours(chosen)]


def _without_end_of_paragraph(part: Quotation) -> Quotation:
    """A quotation without a first sentence that hangs on what is not quoted, where a paragraph ends behind it."""
    sentences = split_statements(part.text) if part.head is None and not part.is_code else ()
    inside = part.span.start == 0 or not part.begins_paragraph  # a passage may begin within a paragraph
    if len(sentences) < 2 or not inside:
        return part
    first, second = sentences[0].unit, sentences[1].unit
    ends = "\n\n" in part.text[first.end : second.start]
    if not ends or not is_torn_out(strip_markdown(part.text[first.start : first.end])):
        return part
    return replace(part, span=Span(start=part.span.start + second.start, end=part.span.end))


def _without_announcement(part: Quotation) -> Quotation:
    """A quotation without a last sentence that announces or asks what is not quoted: "It printed the following:"."""
    sentences = split_statements(part.text) if part.head is None and not part.is_code else ()
    if len(sentences) < 2 or not part.plain.endswith((":", "?")):
        return part
    return replace(part, span=Span(start=part.span.start, end=part.span.start + sentences[-2].unit.end))


def choose_sentences(
    subject: str,
    sources: Sequence[Citation],
    *,
    embed: Callable[[Sequence[str]], Vectors],
    count: int,
    longest: int | None = None,
    repeated: Collection[str] = (),
) -> list[Quotation]:
    """Return sentences of prose on a subject, each saying something else, in the order of the sources. Blocking.

    Args:
        count: sentences, at most.
        longest: characters of a sentence, at most.
        repeated: what is left out, as :func:`~llm_engineering.application.text.words.fold_sentence` gives them.

    Raises:
        ModelError: the embedder failed.
    """
    found = [
        (place, part)
        for place, source in enumerate(sources)
        for part in _parts(source, 1)
        if not part.is_code
        and part.head is None
        and part.plain.endswith(ENDS)
        and (longest is None or len(part.plain) <= longest)
        and not is_run_together(part.plain)
        and not holds_any(part.plain, repeated)
    ]
    # Which passage search put first matters little for a text on the whole subject.
    scores = _score(subject, [(0, part) for _, part in found], None, embed)
    unit = _unit(scores)
    scores += _BEGINNING * unit * np.array([part.begins_paragraph for _, part in found])
    hanging = [is_torn_out(part.plain) or promises_more(part.plain) for _, part in found]
    scores -= _HANGS * unit * np.array(hanging)
    chosen: list[Quotation] = []
    for i in _by_score(scores):
        part = found[i][1]
        if content_stems(part.plain) and not is_repeated(part, chosen):
            chosen = _pick([*chosen, part], count)
    order = {source.number: place for place, source in enumerate(sources)}
    return sorted(chosen, key=lambda part: (order[part.citation.number], part.span.start))


def shorten_to_fit(part: Quotation, longest: int) -> Quotation | None:
    """Return a part's first sentences that fit into so many characters; None where the first does not."""
    end = 0
    for statement in split_statements(part.text):
        if len(strip_markdown(part.text[: statement.unit.end])) > longest:
            break
        end = statement.unit.end
    return replace(part, span=Span(start=part.span.start, end=part.span.start + end)) if end else None


_FURNITURE = re.compile(r"(?:(?:\b[a-z]{2,}[A-Z]|\s\|\s|[↓👇]).*?){3}", re.DOTALL)
"""Of menus and by-lines that an extractor ran together: "Open in appSign upSign in"."""


def is_run_together(text: str) -> bool:
    """Return whether a text is a menu or a by-line whose words lost their spaces."""
    return _FURNITURE.search(text) is not None


_PROMISE = re.compile(
    r"(?:(?:in\s[^,.]{1,40},\s*)?(?:let['’]s|let\s+us|now|next|we(?:['’]ll|\s+will|\s+are\s+going))"
    r"|in\s+the\s+(?:next|following)|afterwards?|check\s+out|subscribe|but\s+we)\b[^.!]*[.!?]$",
    re.IGNORECASE,
)


def promises_more(sentence: str) -> bool:
    """Return whether a sentence announces, asks or points to what is told elsewhere."""
    return sentence.endswith("?") or _PROMISE.match(sentence) is not None


def holds_any(text: str, sentences: Collection[str]) -> bool:
    """Return whether a text holds one of some folded sentences."""
    if not sentences:
        return False
    said = fold_sentence(text)
    return any(sentence in said for sentence in sentences)


def is_torn_out(text: str) -> bool:
    """Return whether a text cannot be read without what stands around it."""
    text = text.lstrip("*_ ")
    words = text.split()
    figures = sum(not any(map(str.isalpha, word)) for word in words)
    return (
        text[:1].islower()
        or _POINTS_BACK.match(text) is not None
        or text.endswith(("…", "..."))
        or "?" in text
        or "？" in text
        or figures > _FIGURES * len(words)
    )


def is_repeated(part: Quotation, others: Iterable[Quotation]) -> bool:
    """Whether most of what a part says stands in another one."""
    said = content_stems(part.plain)
    return any(len(said & content_stems(other.plain)) > _SAME * len(said) for other in others)


Found = Sequence[tuple[int, Quotation]]
"""Parts of sources, each with the place of its source."""


def _score(
    question: str,
    found: Found,
    rank: Rank | None,
    embed: Callable[[Sequence[str]], Vectors] | None,
) -> npt.NDArray[np.float64]:
    """How well each part answers, shape (parts,)."""
    texts, parts = _locate(part for _, part in found)
    if rank is not None and parts:
        alone = [(text, spans[-1:]) for text, spans in parts]
        both = np.array(rank(question, texts, [*parts, *alone]), dtype=np.float64).reshape(2, -1)
        scores = (1 - _ALONE) * both[0] + _ALONE * both[1]
    elif embed is not None and parts:
        vectors = embed([question, *(extract_part(texts, part) for part in parts)])
        scores = np.asarray(vectors[1:] @ vectors[0], dtype=np.float64)
    else:
        scores = np.zeros(len(parts))
    costs = [_RANK_COSTS * place + _CODE_COSTS * part.is_code for place, part in found]
    return np.asarray(scores - _unit(scores) * np.array(costs), dtype=np.float64)


def _locate(quotations: Iterable[Quotation]) -> tuple[list[str], list[Part]]:
    """The texts that the quotations stand in, and where."""
    places: dict[str, int] = {}
    parts = [
        (places.setdefault(_with_headings(one.citation.passage), len(places)), one.locate())
        for one in quotations
    ]
    return list(places), parts


def measure_closeness(question: str, passages: Sequence[Passage], rank: Rank) -> float | None:
    """Return the reranker's score of the part that answers best; None where nothing can be quoted. Blocking.

    Args:
        passages: best first; as many are read as for a quotation.

    Raises:
        ModelError: the reranker failed.
    """
    texts, parts = _locate(
        part
        for number, passage in enumerate(passages[:DEPTH], start=1)
        for part in _parts(Citation(number=number, passage=passage), SENTENCES)
    )
    return max(rank(question, texts, parts)) if parts else None


def _unit(scores: npt.NDArray[np.float64]) -> float:
    return float(scores.max() - np.median(scores)) if len(scores) else 0.0


def _by_score(scores: npt.NDArray[np.float64]) -> list[int]:
    return [int(i) for i in np.argsort(-scores, kind="stable")]


def _pick(parts: Iterable[Quotation], count: int) -> list[Quotation]:
    """The first so many parts that do not overlap."""
    chosen: list[Quotation] = []
    for part in parts:
        if len(chosen) < count and not any(_overlap(part, other) for other in chosen):
            chosen.append(part)
    return chosen


def join_neighbours(parts: Sequence[Quotation]) -> list[Quotation]:
    """Return the parts in their order, those that stand side by side in a source as one."""
    joined: list[Quotation] = []
    for part in parts:
        beside = next((i for i, other in enumerate(joined) if _touch(part, other)), None)
        if beside is None:
            joined.append(part)
        else:
            other = joined[beside]
            span = Span(start=min(part.span.start, other.span.start), end=max(part.span.end, other.span.end))
            joined[beside] = replace(other, span=span)
    return joined


def _touch(one: Quotation, other: Quotation) -> bool:
    if one.citation.number != other.citation.number or one.is_code or other.is_code or one.head != other.head:
        return False
    first, second = sorted((one.span, other.span), key=lambda span: span.start)
    return not one.citation.passage.text[first.end : second.start].strip()


def _parts(source: Citation, sentences: int) -> Iterator[Quotation]:
    """What can be quoted of a source: neighbouring sentences, rows of tables, blocks of code; no orders to machines."""
    text = source.passage.text
    if _is_source_code(source.passage):
        for block in code_blocks(text):
            lines = text[block.start : block.end].splitlines(keepends=True)[:_MOST_LINES]
            end = block.start + len("".join(lines).rstrip())
            yield Quotation(source, Span(start=block.start, end=end), is_code=True)
        return
    statements = split_statements(text)
    for (kind, is_order), group in groupby(statements, key=lambda s: (s.unit.kind, s.order)):
        units = [statement.unit for statement in group]
        if kind == "heading" or is_order:
            continue
        if kind == "sentence":
            while units and _is_label(text[units[0].start : units[0].end]):
                units = units[1:]
            width = min(sentences, len(units))
            for first in range(len(units) - width + 1 if units else 0):
                yield Quotation(source, Span(start=units[first].start, end=units[first + width - 1].end))
        elif kind == "table":
            rule = text[units[0].end : units[1].start].strip() if len(units) > 1 else ""
            head = Span(start=units[0].start, end=units[0].end + 1 + len(rule)) if "-" in rule else None
            for unit in units[1:] if head else units:
                yield Quotation(source, Span(start=unit.start, end=unit.end), head=head)
        else:
            last = units[min(len(units), _MOST_LINES) - 1]
            yield Quotation(source, Span(start=units[0].start, end=last.end), is_code=True)


def _is_label(line: str) -> bool:
    """Whether a line is a word or two that name what follows: "Models", "Step 1:"."""
    words = strip_markdown(line)
    return len(words.split()) < _LABEL_WORDS and words[-1:] not in ENDS


def _is_source_code(passage: Passage) -> bool:
    """Whether the passage is of a file of code: of what a repository holds, documents are prose."""
    return is_code(passage.category) and not passage.title.casefold().endswith((".md", ".rst", ".txt"))


def _overlap(one: Quotation, other: Quotation) -> bool:
    same = one.citation.number == other.citation.number
    return same and one.span.start < other.span.end and other.span.start < one.span.end
