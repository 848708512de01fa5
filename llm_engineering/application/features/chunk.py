"""Chunking: verbatim slices that fit the embedding model, cut where the text itself has a joint.

A document is measured once; every count after that is a difference of two sums. Cuts are tried in this order: headings,
blocks (paragraphs, code, tables, definitions), list items or lines, sentences, words, characters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field

from llm_engineering.application.features.clean import PROSE_LANGUAGES
from llm_engineering.application.ports import Tokenizer
from llm_engineering.application.text.markdown import (
    Block,
    Kind,
    code_blocks,
    find_signature,
    group_starts,
    item_starts,
    line_starts,
    markdown_blocks,
    sentence_starts,
)
from llm_engineering.application.text.tokens import TokenCounts
from llm_engineering.domain.categories import Chunking, category_spec, hide_writer
from llm_engineering.domain.documents import Chunk, CleanDocument, Span, embedding_text
from llm_engineering.domain.errors import InvalidInputError

CHUNKING_VERSION = "1"
"""Part of every chunk's version: raise it with every change of the rules, and everything is chunked again."""

TRAIL_SHARE = 4
"""Title and headings take at most one part in so many of the limit."""


class ChunkingConfig(BaseModel):
    """How documents are cut. All sizes in tokens of the embedder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(default=None, ge=32)
    """Most tokens of a chunk with its title and headings; None, or more than the embedder's limit: that limit."""
    overlap_tokens: int = Field(default=32, ge=0)
    """Whole sentences up to this are repeated at the start of the next chunk of a section."""
    parent_tokens: int = Field(default=1024, ge=64)
    """Size of the wider passage that neighbouring chunks form (small-to-big)."""
    min_tokens: int = Field(default=48, ge=0)
    """A chunk smaller than this joins a neighbour under the same parent heading where both fit."""


@dataclass(frozen=True, slots=True)
class _Atom:
    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Draft:
    start: int
    end: int
    path: tuple[str, ...]


def chunk_document(
    document: CleanDocument,
    tokenizer: Tokenizer | TokenCounts,
    config: ChunkingConfig,
    max_tokens: int,
    version: str,
) -> list[Chunk]:
    """Cut a document into chunks, in the order of its text.

    Every character that is not blank lies in at least one chunk. Hand in a ``TokenCounts`` that is kept between
    documents: it remembers words.

    Args:
        max_tokens: the embedder's limit, special tokens included.
        version: what the chunks carry as ``document_version``.

    Raises:
        InvalidInputError: not even one character fits the limit.
    """
    counts = tokenizer if isinstance(tokenizer, TokenCounts) else TokenCounts(tokenizer)
    return _Chunker(document, counts, config, min(config.max_tokens or max_tokens, max_tokens)).chunks(
        version
    )


class _Chunker:
    def __init__(
        self, document: CleanDocument, counts: TokenCounts, config: ChunkingConfig, limit: int
    ) -> None:
        self._document = document
        self._text = document.text
        self._counts = counts
        self._measured = counts.measure(document.text)
        self._config = config
        self._limit = limit - counts.tokenizer.special_tokens
        self._trail_limit = limit // TRAIL_SHARE
        self._trails: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = {}
        self._title = self._shortened(document.title, self._trail_limit // 2)

    def chunks(self, version: str) -> list[Chunk]:
        drafts = self._merged([draft for section in self._sections() for draft in self._packed(*section)])
        fitting = self._fitting(drafts)
        parents = self._parents([draft for draft, _ in fitting])
        return [
            self._chunk(draft, tokens, position, parent, version)
            for position, ((draft, tokens), parent) in enumerate(zip(fitting, parents, strict=True))
        ]

    def _chunk(self, draft: _Draft, tokens: int, position: int, parent: int, version: str) -> Chunk:
        document = self._document
        text = self._text[draft.start : draft.end]
        return Chunk(
            id=Chunk.derive_id(document.id, position, text),
            document_id=document.id,
            document_version=version,
            position=position,
            span=Span(start=draft.start, end=draft.end),
            text=text,
            tokens=tokens + self._counts.tokenizer.special_tokens,
            headings=self._trail(draft.path)[0],
            parent=parent,
            category=document.category,
            title=self._title,
            link=document.link,
            platform=document.platform,
            author=document.author,
            author_id=document.author_id,
            language=document.language,
            published_at=document.published_at,
            duplicate_group=document.duplicate_group,
            metadata=hide_writer(document.category, document.metadata),
        )

    # --- the trail of title and headings

    def _trail(self, path: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """The headings that are kept of a path, and the tokens of the trail that they make with the title.

        The innermost heading says most, so the outer ones give way first.
        """
        known = self._trails.get(path)
        if known is None:
            known = self._trails[path] = self._make_trail(path)
        return known

    def _make_trail(self, path: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        for first in range(len(path)):
            kept = path[first:]
            tokens = self._trail_tokens(kept)
            if tokens <= self._trail_limit:
                return kept, tokens
        if path:
            # A title may take half of the trail; a separator is a token, and both ends of a cut may become one more.
            room = self._trail_limit - self._counts.count(self._title) - 3
            kept = (self._shortened(path[-1], room),)
            tokens = self._trail_tokens(kept)
            if kept[0] and tokens <= self._trail_limit:
                return kept, tokens
        return (), self._trail_tokens(())

    def _trail_tokens(self, headings: tuple[str, ...]) -> int:
        return self._counts.count(embedding_text(self._title, headings, ""))

    def _shortened(self, text: str, limit: int) -> str:
        """A text of at most so many tokens: the text itself, or its beginning with an ellipsis."""
        if self._counts.count(text) <= limit:
            return text
        measured = self._counts.measure(text)
        for keep in range(limit - 1, 0, -1):
            short = text[: measured.cut_after(0, keep, len(text))].rstrip() + "…"
            if self._counts.count(short) <= limit:
                return short
        return ""

    def _budget(self, path: tuple[str, ...]) -> int:
        return self._limit - self._trail(path)[1]

    # --- sections

    def _sections(self) -> list[tuple[tuple[str, ...], list[Block]]]:
        """Blocks that share their headings, in order."""
        chunking = category_spec(self._document.category).chunking
        measured, text = self._measured, self._text
        if chunking is Chunking.RECORD and measured.count(0, len(text)) <= self._budget(()):
            start, end = _trimmed(text, 0, len(text))
            return [((), [Block(start, end, Kind.TEXT)])] if start < end else []
        if chunking is Chunking.CODE and self._document.language.casefold() not in PROSE_LANGUAGES:
            return self._definitions()
        sections: list[tuple[tuple[str, ...], list[Block]]] = []
        for block in markdown_blocks(text):
            if not sections or block.kind is Kind.HEADING:
                sections.append((block.path, []))
            sections[-1][1].append(block)
        return sections

    def _definitions(self) -> list[tuple[tuple[str, ...], list[Block]]]:
        """Small definitions together; one that must be cut by itself, under its signature."""
        sections: list[tuple[tuple[str, ...], list[Block]]] = []
        for block in code_blocks(self._text):
            large = self._measured.count(block.start, block.end) > self._budget(())
            name = find_signature(self._text, block) if large else ""
            path = (name,) if name else ()
            if path or not sections or sections[-1][0]:
                sections.append((path, []))
            sections[-1][1].append(block)
        return sections

    def _packed(self, path: tuple[str, ...], blocks: Sequence[Block]) -> list[_Draft]:
        """Fill chunks with a section's atoms, evening out the last two so that no crumb is left."""
        budget = self._budget(path)
        groups: list[list[_Atom]] = []
        starts: list[int] = []
        for atom in self._atoms(blocks, budget):
            if groups and self._measured.count(starts[-1], atom.end) <= budget:
                groups[-1].append(atom)
            else:
                starts.append(self._overlapped(groups[-1], atom, atom.end, budget) if groups else atom.start)
                groups.append([atom])
        if len(groups) > 1:
            last = groups[-1]
            groups[-2:] = self._evened(groups[-2], last, budget)
            if groups[-1] is not last:
                starts[-1] = self._overlapped(groups[-2], groups[-1][0], last[-1].end, budget)
        return [_Draft(start, group[-1].end, path) for start, group in zip(starts, groups, strict=True)]

    def _evened(self, left: list[_Atom], right: list[_Atom], budget: int) -> list[list[_Atom]]:
        count, atoms = self._measured.count, left + right
        if count(right[0].start, right[-1].end) >= self._config.min_tokens:
            return [left, right]

        def imbalance(cut: int) -> int:
            before, after = count(atoms[0].start, atoms[cut].start), count(atoms[cut].start, atoms[-1].end)
            return abs(before - after) if after <= budget else 2 * budget

        best = min(range(1, len(left) + 1), key=imbalance)
        return [atoms[:best], atoms[best:]]

    def _overlapped(self, previous: list[_Atom], first: _Atom, end: int, budget: int) -> int:
        """Where a chunk that ends at ``end`` begins, to repeat the last whole sentences of the one before it, if there
        is room for them."""
        wanted = self._config.overlap_tokens
        if not wanted or first.kind is not Kind.TEXT or previous[-1].kind is not Kind.TEXT:
            return first.start
        count, last = self._measured.count, previous[-1].end
        window = max(previous[0].start + 1, last - 10 * wanted)
        for start in sorted(
            {*sentence_starts(self._text, window, last), *item_starts(self._text, window, last)}
        ):
            if start < last and count(start, last) <= wanted:
                return start if count(start, end) <= budget else first.start
        return first.start

    # --- atoms: what a chunk is filled with

    def _atoms(self, blocks: Sequence[Block], budget: int) -> list[_Atom]:
        """A section's blocks, each cut until its parts fit; a heading stays with what it heads."""
        count = self._measured.count
        atoms: list[_Atom] = []
        pending: Block | None = None
        for block in blocks:
            start, kind = block.start, block.kind
            if kind is Kind.HEADING and block is not blocks[-1]:
                pending = block
                continue
            if pending is not None:
                # Code and tables that fit only without their heading are kept whole without it.
                if kind is Kind.TEXT or not count(start, block.end) <= budget < count(
                    pending.start, block.end
                ):
                    start = pending.start
                else:
                    atoms += self._cut(pending.start, pending.end, Kind.TEXT, budget)
                pending = None
            atoms += self._cut(start, block.end, Kind.TEXT if kind is Kind.HEADING else kind, budget)
        return atoms

    def _cut(self, start: int, end: int, kind: Kind, budget: int, level: int = 0) -> list[_Atom]:
        if self._measured.count(start, end) <= budget:
            start, end = _trimmed(self._text, start, end, keep_indentation=True)
            return [_Atom(start, end, kind)] if start < end else []
        levels = _TEXT_LEVELS if kind is Kind.TEXT else _CODE_LEVELS
        atoms: list[_Atom] = []
        if level == len(levels):
            while start < end:
                cut = self._measured.cut_after(start, budget, end)
                first, last = _trimmed(self._text, start, cut)
                atoms += [_Atom(first, last, kind)] if first < last else []
                start = cut
            return atoms
        places = [start, *levels[level](self._text, start, end), end]
        for begin, stop in pairwise(places):
            atoms += self._cut(begin, stop, kind, budget, level + 1)
        return atoms

    # --- the whole document

    def _merged(self, drafts: list[_Draft]) -> list[_Draft]:
        """Join small chunks with a neighbour under the same parent heading, where both fit into one."""
        count, smallest = self._measured.count, self._config.min_tokens
        merged: list[_Draft] = []
        for draft in drafts:
            if merged:
                last = merged[-1]
                path = _common(last.path, draft.path)
                related = len(path) + 1 >= max(len(last.path), len(draft.path)) or path in (
                    last.path,
                    draft.path,
                )
                if related and min(count(last.start, last.end), count(draft.start, draft.end)) < smallest:
                    joined = replace(last, end=draft.end, path=path)
                    if count(joined.start, joined.end) <= self._budget(path):
                        merged[-1] = joined
                        continue
            merged.append(draft)
        return merged

    def _parents(self, drafts: Sequence[_Draft]) -> list[int]:
        """Numbers of the wider passages: up to ``parent_tokens``, ended early at a heading once half full."""
        count, size = self._measured.count, self._config.parent_tokens
        parents: list[int] = []
        begin = 0
        for i, draft in enumerate(drafts):
            full = count(drafts[begin].start, draft.end) > size
            at_heading = i > 0 and draft.path != drafts[i - 1].path
            if i > begin and (full or (at_heading and count(drafts[begin].start, draft.start) >= size // 2)):
                begin = i
                parents.append(parents[-1] + 1)
            else:
                parents.append(parents[-1] if parents else 0)
        return parents

    # --- the last word is the tokenizer's

    def _fitting(self, drafts: Sequence[_Draft]) -> list[tuple[_Draft, int]]:
        """Each draft with its tokens (title and headings included); one that has too many is cut again."""
        measured = self._measured
        tokens = [measured.count(draft.start, draft.end) + self._trail(draft.path)[1] for draft in drafts]
        doubtful = [
            i
            for i, draft in enumerate(drafts)
            if not self._counts.exact or measured.is_estimate(draft.start, draft.end)
        ]
        for i, exact in zip(doubtful, self._exact_tokens([drafts[i] for i in doubtful]), strict=True):
            tokens[i] = exact
        fitting: list[tuple[_Draft, int]] = []
        covered = 0
        for draft, total in zip(drafts, tokens, strict=True):
            # What it repeats of its neighbour goes first where it is too long, or where that neighbour was cut again.
            repeats = draft.start < covered
            if repeats and (total > self._limit or draft.start <= fitting[-1][0].start):
                draft = replace(draft, start=_trimmed(self._text, covered, draft.end)[0])
                total = self._exact_tokens([draft])[0]
            fitting += [(draft, total)] if total <= self._limit else self._repaired(draft)
            covered = draft.end
        return fitting

    def _exact_tokens(self, drafts: Sequence[_Draft]) -> list[int]:
        if not drafts:
            return []
        texts = [
            embedding_text(self._title, self._trail(d.path)[0], self._text[d.start : d.end]) for d in drafts
        ]
        return self._counts.tokenizer.counts(texts)

    def _repaired(self, draft: _Draft) -> list[tuple[_Draft, int]]:
        """Halve a chunk until its parts fit by the tokenizer's own count."""
        if draft.end - draft.start <= 1:
            raise InvalidInputError(
                f"The character at {draft.start} of document {self._document.id} ({self._document.link}) has more than "
                f"the {self._limit} tokens a chunk may have. Raise `chunking.max_tokens`."
            )
        middle = (draft.start + draft.end) // 2
        reach = (draft.end - draft.start) // 4
        space = next((i for i in range(middle, middle - reach, -1) if self._text[i].isspace()), middle)
        halves = [_trimmed(self._text, draft.start, space), _trimmed(self._text, space, draft.end)]
        parts = [replace(draft, start=start, end=end) for start, end in halves if start < end]
        fitting: list[tuple[_Draft, int]] = []
        for part, tokens in zip(parts, self._exact_tokens(parts), strict=True):
            fitting += [(part, tokens)] if tokens <= self._limit else self._repaired(part)
        return fitting


_TEXT_LEVELS: tuple[Callable[[str, int, int], list[int]], ...] = (item_starts, sentence_starts)
_CODE_LEVELS: tuple[Callable[[str, int, int], list[int]], ...] = (group_starts, line_starts)


def _common(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    length = 0
    while length < min(len(left), len(right)) and left[length] == right[length]:
        length += 1
    return left[:length]


def _trimmed(text: str, start: int, end: int, *, keep_indentation: bool = False) -> tuple[int, int]:
    """The range without blank space at its ends; with ``keep_indentation`` from the start of its first line on."""
    inner = text[start:end]
    first = start + len(inner) - len(inner.lstrip())
    last = max(first, start + len(inner.rstrip()))
    if keep_indentation:
        first = max(start, text.rfind("\n", start, first) + 1)
    return first, last
