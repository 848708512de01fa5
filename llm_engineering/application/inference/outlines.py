"""Plan a longer text: which passages a summary or a comparison is made of, and under which headings."""

from collections.abc import Mapping, Sequence

from llm_engineering.application.inference.composing import Outline, Section
from llm_engineering.application.inference.search import as_passages
from llm_engineering.application.text.markdown import Kind, markdown_blocks, shorten
from llm_engineering.domain.documents import CleanDocument, Span
from llm_engineering.domain.retrieval import Hit, Passage

DOCUMENTS = 6
"""Documents that a summary tells of; the rest is named."""
PARTS = 8
"""Parts of one document that a summary of it tells of."""
PASSAGES = 6
"""Passages of a document or an author that are looked at."""
_NAME = 60
"""Characters of a text that stand for a missing title."""
_LONGEST_PART = 1_500
"""Characters of a part of a document that are read."""

Hits = Mapping[str, Sequence[Hit]]
"""Of each document those about the subject, best first; documents too."""


def outline_summary(subject: str, found: Hits, *, german: bool) -> Outline:
    """Plan a summary of what was written on a subject: a part for each document that bears on it, the best first."""
    sections = []
    for hits in list(found.values())[:DOCUMENTS]:
        chunk = hits[0].chunk
        sections.append(
            Section(
                heading=f"- **{name_text(chunk.title, chunk.text)}** ({_by(chunk.author, chunk.published_at)}): ",
                question=_ask_about(subject, german),
                passages=tuple(as_passages(hits[:PASSAGES])),
            )
        )
    rest = list(found.values())[DOCUMENTS:]
    links = "".join(f"\n- [{name_text(h[0].chunk.title, h[0].chunk.text)}]({h[0].chunk.link})" for h in rest)
    closing = f"\n{'Außerdem' if german else 'Also'}:{links}" if rest else ""
    return Outline("", tuple(sections), closing)


def outline_document(document: CleanDocument, *, german: bool) -> Outline:
    """Plan a summary of one document: a part for each of its sections."""
    parts = _split_by_headings(document)
    sections = tuple(
        Section(
            heading=f"- **{title or document.title}**: ",
            question=f"Was ist die Hauptaussage zu „{title or document.title}“?"
            if german
            else f"What is the main point about {title or document.title}?",
            passages=(passage,),
        )
        for title, passage in parts[:PARTS]
    )
    name, by = name_text(document.title, document.text), _by(document.author, document.published_at)
    opening = f"**[{name}]({document.link})** ({by})\n\n"
    return Outline(opening, sections)


def outline_comparison(subject: str, authors: Sequence[str], found: Hits, *, german: bool) -> Outline:
    """Plan a comparison: a part for each author, who may have written nothing on the subject."""
    by_author: dict[str, list[Hit]] = {author: [] for author in authors}
    for hits in found.values():
        for hit in hits:
            if hit.chunk.author in by_author:
                by_author[hit.chunk.author].append(hit)
    sections = tuple(
        Section(
            heading=f"- **{author}**: ",
            question=_ask_about(subject, german),
            passages=tuple(as_passages(_best(hits)[:PASSAGES])),
            otherwise="schreibt darüber nichts." if german else "does not write about it.",
        )
        for author, hits in by_author.items()
    )
    return Outline(f"**{subject}**\n\n" if subject else "", sections)


def _ask_about(subject: str, german: bool) -> str:
    return f"Was wird über {subject} gesagt?" if german else f"What is said about {subject}?"


def _best(hits: Sequence[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: -(hit.dense_score or 0.0))


def name_text(title: str, text: str) -> str:
    """Return a text's title, or its first words."""
    return title or shorten(text, _NAME)


def _by(author: str, published_at: object) -> str:
    return ", ".join(filter(None, (author, f"{published_at:%Y-%m-%d}" if published_at else "")))


def _split_by_headings(document: CleanDocument) -> list[tuple[str, Passage]]:
    """(heading, text below it) of each section of a document that holds prose."""
    found: list[tuple[str, Passage]] = []
    title, start = "", 0
    marks = [(b.start, b.end) for b in markdown_blocks(document.text) if b.kind is Kind.HEADING]
    bounds = [*marks, (len(document.text), len(document.text))]
    for begin, end in bounds:
        text = document.text[start:begin][:_LONGEST_PART]
        if len(text.split()) >= 20:
            found.append((title, _passage(document, start, start + len(text), title)))
        title = document.text[begin:end].strip().lstrip("#").strip()
        start = end
    return found


def _passage(document: CleanDocument, start: int, end: int, title: str) -> Passage:
    return Passage(
        document_id=document.id,
        span=Span(start=start, end=end),
        text=document.text[start:end],
        title=document.title,
        link=document.link,
        author=document.author,
        platform=document.platform,
        published_at=document.published_at,
        headings=(title,) if title else (),
        score=1.0,
    )
