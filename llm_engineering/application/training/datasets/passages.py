"""Passages: verbatim slices of a document, on sentence bounds, of a length that a model can be taught to write.

Of all ways to cut a stretch of prose at its sentences, the one that leaves out the fewest characters and cuts at
paragraphs and headings where it can is found by dynamic programming, so that every passage lies within the bounds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from llm_engineering.application.text.markdown import Kind, markdown_blocks
from llm_engineering.application.text.sentences import Unit, split_units
from llm_engineering.domain.categories import CATALOGUE, Chunking
from llm_engineering.domain.documents import CleanDocument, Model, Span

PROSE_LANGUAGES = frozenset({"markdown", "restructuredtext", "text", "asciidoc"})
"""Languages of a repository's files that are prose: its author's READMEs, but not the source code."""

_INSIDE_HEADING = 250
_MID_PARAGRAPH_START = 200
_PARAGRAPH_START = 40
_MID_PARAGRAPH_END = 120


class PassageConfig(Model):
    """How documents are cut."""

    categories: tuple[str, ...] | None = None
    """Categories to read; None: all of prose, with the prose of repositories."""
    min_characters: int = Field(default=1_000, ge=100)
    max_characters: int = Field(default=2_000, ge=200)
    shortest: int = Field(default=300, ge=40)
    """Characters of a document, or of a stretch of prose between code or tables, that makes a passage although it has fewer
    than ``min_characters``; what is shorter still is left out."""
    code: bool = False
    """Fenced code may stand inside passages; False: it ends them."""
    tables: bool = False
    """As ``code``, for tables."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_characters < 2 * self.min_characters * 0.75:
            raise ValueError(
                f"max_characters ({self.max_characters}) must be at least 1.5 times min_characters "
                f"({self.min_characters}); else many stretches of text cannot be cut within the bounds"
            )
        if self.shortest > self.min_characters:
            raise ValueError(
                f"shortest ({self.shortest}) is more than min_characters ({self.min_characters})"
            )
        for name in self.categories or ():
            if name not in CATALOGUE:
                raise ValueError(f"there is no category '{name}'; there are: {', '.join(sorted(CATALOGUE))}")
        return self

    def reads(self, document: CleanDocument) -> bool:
        """Return whether passages are made of a document: its category is asked for, it is prose, and no copy of
        another."""
        if document.duplicate_group not in (None, document.id):
            return False
        if self.categories is not None and document.category not in self.categories:
            return False
        is_code = CATALOGUE[document.category].chunking is Chunking.CODE
        return not is_code or document.language.casefold() in PROSE_LANGUAGES


@dataclass(frozen=True, slots=True)
class Passage:
    """``document.text[start:end]``, with what stands above it."""

    document: CleanDocument
    start: int
    end: int
    headings: tuple[str, ...]
    """Headings above its first sentence, outermost first."""
    sections: tuple[str, ...]
    """The innermost heading of each section that it touches, in order."""
    opens_section: bool
    """Nothing of its first section stands before it."""
    before: str
    """The sentence before it in the same section; empty where there is none."""

    @property
    def text(self) -> str:
        return self.document.text[self.start : self.end]

    @property
    def span(self) -> Span:
        return Span(start=self.start, end=self.end)

    @property
    def name(self) -> str:
        """Names the passage in logs and dead letters."""
        return f"{self.document.id}:{self.start}-{self.end}"


_DEFAULT = PassageConfig()


def split_passages(document: CleanDocument, config: PassageConfig = _DEFAULT) -> Iterator[Passage]:
    """Yield the passages of a document, in order, none overlapping another. Whether it is to be read is the caller's to
    ask."""
    atoms = list(_atoms(document.text))
    opening = {atom.start for above, atom in pairwise(atoms) if above.kind == "heading"}
    opening.update(atom.start for atom in atoms[:1])
    for run in _runs(atoms, config, document.title):
        for first, last in _cut(run, config):
            yield _passage(document, run, first, last, run[first].start in opening)


# --- what a text is made of -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Atom:
    start: int
    end: int
    kind: str
    path: tuple[str, ...]
    paragraph: int
    """Number of the block it stands in."""


def _atoms(text: str) -> Iterator[_Atom]:
    """Sentences and headings; a whole block of code or table, which is never cut."""
    blocks = markdown_blocks(text)
    inner: list[list[Unit]] = [[] for _ in blocks]
    number = 0
    for unit in split_units(text):
        while unit.start >= blocks[number].end:
            number += 1
        inner[number].append(unit)
    for number, (block, found) in enumerate(zip(blocks, inner, strict=True)):
        if block.kind is Kind.TEXT:
            for unit in found:
                yield _Atom(unit.start, unit.end, "sentence", block.path, number)
        else:
            stripped = len(text[block.start : block.end].rstrip())
            yield _Atom(block.start, block.start + stripped, block.kind.name.casefold(), block.path, number)


def _runs(atoms: Sequence[_Atom], config: PassageConfig, title: str) -> Iterator[list[_Atom]]:
    """Stretches that a passage may lie in, from their first sentence to their last.

    What stands above a heading that repeats the title is no part of the text below it.
    """
    run: list[_Atom] = []
    for atom in atoms:
        ends = (atom.kind == "code" and not config.code) or (atom.kind == "table" and not config.tables)
        repeats_title = atom.kind == "heading" and bool(atom.path) and atom.path[-1] == title
        if ends or repeats_title or atom.end - atom.start > config.max_characters:
            yield from _trimmed(run)
            run = []
        else:
            run.append(atom)
    yield from _trimmed(run)


def _trimmed(run: list[_Atom]) -> Iterator[list[_Atom]]:
    sentences = [number for number, atom in enumerate(run) if atom.kind == "sentence"]
    if sentences:
        yield run[sentences[0] : sentences[-1] + 1]


# --- where to cut ---------------------------------------------------------------------------------------------------


def _cut(run: Sequence[_Atom], config: PassageConfig) -> list[tuple[int, int]]:
    """Ranges ``[first, last]`` of atoms, cheapest together. ``best[i]``: least cost of all before atom i."""
    length = run[-1].end - run[0].start
    if length < config.min_characters:
        return [(0, len(run) - 1)] if length >= config.shortest else []
    best = [0.0] + [float("inf")] * len(run)
    came: list[int | None] = [None] * (len(run) + 1)
    for first, atom in enumerate(run):
        left_out = best[first] + (0 if atom.kind == "heading" else atom.end - atom.start)
        if left_out < best[first + 1]:
            best[first + 1], came[first + 1] = left_out, None
        if atom.kind == "heading":
            continue
        headings = 0
        for last in range(first, len(run)):
            characters = run[last].end - atom.start
            if characters > config.max_characters:
                break
            headings += run[last].kind == "heading"
            if characters < config.min_characters or run[last].kind == "heading":
                continue
            cost = best[first] + _starting(run, first) + _ending(run, last) + headings * _INSIDE_HEADING
            if cost < best[last + 1]:
                best[last + 1], came[last + 1] = cost, first
    found: list[tuple[int, int]] = []
    position = len(run)
    while position > 0:
        begun = came[position]
        if begun is None:
            position -= 1
        else:
            found.append((begun, position - 1))
            position = begun
    return found[::-1]


def _starting(run: Sequence[_Atom], first: int) -> int:
    if first == 0 or run[first - 1].kind == "heading":
        return 0
    return _MID_PARAGRAPH_START if run[first].paragraph == run[first - 1].paragraph else _PARAGRAPH_START


def _ending(run: Sequence[_Atom], last: int) -> int:
    inside = last + 1 < len(run) and run[last].paragraph == run[last + 1].paragraph
    return _MID_PARAGRAPH_END if inside else 0


def _passage(
    document: CleanDocument, run: Sequence[_Atom], first: int, last: int, opens_section: bool
) -> Passage:
    inside = run[first : last + 1]
    sections = dict.fromkeys(atom.path[-1] for atom in inside if atom.path)
    previous = run[first - 1] if first else None
    goes_on = previous is not None and previous.kind == "sentence" and previous.path == inside[0].path
    return Passage(
        document=document,
        start=inside[0].start,
        end=inside[-1].end,
        headings=inside[0].path,
        sections=tuple(sections),
        opens_section=opens_section,
        before=document.text[previous.start : previous.end] if previous is not None and goes_on else "",
    )
