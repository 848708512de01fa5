"""What of the passages goes into the prompt: merged, compressed if wished, as much as fits, in an order that is read well."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from loguru import logger
from pydantic import Field

from llm_engineering.application.inference.grounding import split_statements
from llm_engineering.application.ports import LanguageModel, Message, Vectors
from llm_engineering.application.text.words import char_ngrams, content_stems
from llm_engineering.domain.documents import Model, Span
from llm_engineering.domain.errors import ModelError
from llm_engineering.domain.inference import StageStatus
from llm_engineering.domain.retrieval import Citation, Passage

_FENCE_TOKENS = 16
"""The tags around a source, its number and line breaks."""
_TURN_TOKENS = 8
"""What a chat template puts around a message."""
_MARGIN = 0.9
"""Tokens are not spread evenly over characters, so a text that is cut in proportion is cut a little shorter."""
_SHORTEST = 40
"""Characters of a source below which showing it is no use."""


class ContextConfig(Model):
    """How sources are laid before the model."""

    order: Literal["edges", "rank"] = "edges"
    """``edges``: the best source first, the second best last, the weakest in the middle, which models read least well
    (Liu et al., "Lost in the Middle", TACL 2024). ``rank``: best first. Numbers go by rank either way."""
    compress: bool = False
    """Show of each passage only the sentences closest to the question, verbatim and in their order."""
    keep_share: float = Field(default=0.5, gt=0, le=1)
    """With ``compress``: the share of a passage's characters that is shown, at most; one sentence always is."""
    history_share: float = Field(default=0.33, ge=0, le=0.8)
    """Share of the room that earlier turns may take; the oldest are dropped first."""
    reserve_tokens: int = Field(default=64, ge=0)
    """Room left for the chat template's own tokens."""


@dataclass(frozen=True, slots=True)
class Source:
    """A numbered source, and what of its passage the model is shown."""

    citation: Citation
    parts: tuple[Span, ...]
    """Of ``citation.passage.text``, in order. The passage itself stays whole, so offsets into it hold."""

    @property
    def text(self) -> str:
        """The parts; where something was left out between them, an ellipsis says so."""
        text = self.citation.passage.text
        joined = ""
        end = 0
        for part in self.parts:
            gap = text[end : part.start]
            joined += (gap if not gap.strip() else "\n[…]\n") if joined else ""
            joined += text[part.start : part.end]
            end = part.end
        return joined


@dataclass(frozen=True, slots=True)
class Packed:
    """The context of one prompt."""

    sources: tuple[Source, ...]
    """By rank, numbered from 1."""
    history: tuple[Message, ...]
    """The turns that fit, oldest first."""
    order: Literal["edges", "rank"] = "rank"
    compression_status: StageStatus = StageStatus.OFF

    @property
    def laid_out(self) -> list[Source]:
        """In the order in which the model reads them."""
        return list(self.sources) if self.order == "rank" else reorder_for_long_context(self.sources)

    @property
    def citations(self) -> tuple[Citation, ...]:
        return tuple(source.citation for source in self.sources)


def reorder_for_long_context(sources: Sequence[Source]) -> list[Source]:
    """Return the best first, the second best last: ranks 1 3 5 … 6 4 2."""
    return [*sources[::2], *reversed(sources[1::2])]


def merge_overlapping(passages: Sequence[Passage]) -> list[Passage]:
    """Return passages without repetition, best first: what overlaps in one document becomes one, what stands in another
    goes.

    A merged passage takes the better rank and the better scores of its parts.
    """
    kept: list[Passage] = []
    for passage in passages:
        position, union = next(
            ((i, joined) for i, other in enumerate(kept) if (joined := _union(other, passage)) is not None),
            (None, None),
        )
        if position is None or union is None:
            kept.append(passage)
            continue
        kept[position] = union
        if union.span != passage.span and len(union.text) > len(passage.text):
            # The longer passage may now meet another that stood apart before.
            kept = merge_overlapping(kept) if len(kept) > 1 else kept
    return kept


def _union(better: Passage, other: Passage) -> Passage | None:
    """One passage for two; None where they are to stay apart."""
    same_document = better.document_id == other.document_id
    if not same_document or not (_is_slice(better) and _is_slice(other)):
        return better if other.text.strip() in better.text else None
    first, second = (better, other) if better.span.start <= other.span.start else (other, better)
    overlap = first.span.end - second.span.start
    if overlap <= 0:
        return better if other.text.strip() in better.text else None
    if overlap >= len(second.text):
        text = first.text
        if first.text[second.span.start - first.span.start :][: len(second.text)] != second.text:
            return None
    else:
        if first.text[-overlap:] != second.text[:overlap]:
            return None  # two versions of the document
        text = first.text + second.text[overlap:]
    scores = [p.dense_score for p in (better, other) if p.dense_score is not None]
    span = Span(start=first.span.start, end=max(first.span.end, second.span.end))
    return better.model_copy(
        update={
            "span": span,
            "text": text,
            "headings": first.headings,
            "score": max(better.score, other.score),
            "dense_score": max(scores, default=None),
        }
    )


def _is_slice(passage: Passage) -> bool:
    return len(passage.text) == passage.span.end - passage.span.start


def heading(passage: Passage) -> str:
    """Return title and innermost heading, on one line."""
    parts = [part for part in (passage.title, *passage.headings[-1:]) if part]
    return " > ".join(dict.fromkeys(parts))  # a text's first heading often is its title


async def fit_to_context(
    question: str,
    passages: Sequence[Passage],
    model: LanguageModel,
    config: ContextConfig,
    *,
    frame: Sequence[Message],
    max_tokens: int,
    history: Sequence[Message] = (),
    embed: Callable[[Sequence[str]], Vectors] | None = None,
) -> Packed:
    """Return the sources and earlier turns that fit the model's context beside prompt and reply.

    Everything is counted in one call. A source that does not fit is left out, and the next one tried; the best is cut
    short at the end of a sentence rather than left out.

    Args:
        passages: best first.
        frame: the prompt's messages without sources and history.
        max_tokens: what the reply may take.
        embed: for compression; texts to unit vectors, shape (n, dimension).

    Raises:
        ModelServiceError: the model could not count.
    """
    sources = [
        Source(Citation(number=number, passage=passage), (Span(start=0, end=len(passage.text)),))
        for number, passage in enumerate(merge_overlapping(passages), start=1)
    ]
    status = StageStatus.OFF
    if config.compress and sources:
        sources, status = await _compressed(question, sources, config, embed)
    turns = _turns(history)
    texts = [heading(source.citation.passage) + "\n" + source.text for source in sources]
    everything = [*(message.content for message in frame), *(turn.content for turn in turns), *texts]
    counts = await model.count_tokens(everything)
    framed, told = counts[: len(frame)], counts[len(frame) : len(frame) + len(turns)]
    room = model.context_tokens - max_tokens - config.reserve_tokens - sum(framed) - _TURN_TOKENS * len(frame)
    history_kept = _newest(turns, told, int(max(room, 0) * config.history_share))
    room -= sum(count + _TURN_TOKENS for count in told[len(turns) - len(history_kept) :])
    kept = _fitting(sources, counts[len(frame) + len(turns) :], room)
    return Packed(tuple(kept), tuple(history_kept), config.order, status)


def _turns(history: Sequence[Message]) -> list[Message]:
    return [turn for turn in history if turn.role != "system" and turn.content.strip()]


def _newest(turns: Sequence[Message], counts: Sequence[int], room: int) -> list[Message]:
    kept = len(turns)
    while kept > 0 and counts[kept - 1] + _TURN_TOKENS <= room:
        kept -= 1
        room -= counts[kept] + _TURN_TOKENS
    # A conversation begins with the user: an answer whose question was dropped says nothing.
    while kept < len(turns) and turns[kept].role != "user":
        kept += 1
    return list(turns[kept:])


def _fitting(sources: Sequence[Source], counts: Sequence[int], room: int) -> list[Source]:
    kept: list[Source] = []
    for source, tokens in zip(sources, counts, strict=True):
        needed = tokens + _FENCE_TOKENS
        if needed > room and not kept and room > _FENCE_TOKENS:
            share = (room - _FENCE_TOKENS) / max(tokens, 1) * _MARGIN
            shortened = _cut(source, int(len(source.text) * share))
            if shortened is not None:
                kept.append(shortened)
                room = 0
        elif needed <= room:
            kept.append(source)
            room -= needed
    return [
        replace(source, citation=source.citation.model_copy(update={"number": number}))
        for number, source in enumerate(kept, start=1)
    ]


def _cut(source: Source, characters: int) -> Source | None:
    """The beginning of a source, to the end of a sentence where one is near."""
    if characters < _SHORTEST:
        return None
    parts: list[Span] = []
    for part in source.parts:
        length = part.end - part.start
        if length <= characters:
            parts.append(part)
            characters -= length
            continue
        limit = part.start + characters
        ends = [
            s.unit.end
            for s in split_statements(source.citation.passage.text)
            if part.start < s.unit.end <= limit
        ]
        end = ends[-1] if ends and ends[-1] - part.start >= characters / 2 else limit
        if end > part.start:
            parts.append(Span(start=part.start, end=end))
        break
    return replace(source, parts=tuple(parts))


# --- compression --------------------------------------------------------------------------------------------------


async def _compressed(
    question: str,
    sources: list[Source],
    config: ContextConfig,
    embed: Callable[[Sequence[str]], Vectors] | None,
) -> tuple[list[Source], StageStatus]:
    try:
        return await asyncio.to_thread(compress, question, sources, config.keep_share, embed), StageStatus.OK
    except ModelError as error:
        logger.warning("Sources are shown uncompressed: {}", error)
        return sources, StageStatus.FAILED


def compress(
    question: str,
    sources: Sequence[Source],
    keep_share: float,
    embed: Callable[[Sequence[str]], Vectors] | None = None,
) -> list[Source]:
    """Reduce the sources to the sentences closest to the question, verbatim and in order. Blocking where it embeds.

    Closeness is the cosine similarity, if there is an embedder, plus half the share of the question's content words that a
    sentence holds; a heading stays where a sentence below it does.

    Raises:
        ModelError: the embedder failed.
    """
    wanted = content_stems(question)
    pieces = char_ngrams(wanted)
    places = [
        (i, statement)
        for i, source in enumerate(sources)
        for statement in split_statements(source.citation.passage.text)
    ]
    if not places:
        return list(sources)
    score = np.array(
        [
            0.5 * len(wanted & s.roots) / max(len(wanted), 1)
            + 0.15 * len(pieces & s.grams) / max(len(pieces), 1)
            for _, s in places
        ]
    )
    if embed is not None:
        texts = [sources[i].citation.passage.text[s.unit.start : s.unit.end] for i, s in places]
        vectors = embed([question, *texts])
        score = score + vectors[1:] @ vectors[0]
    kept: list[Source] = []
    for i, source in enumerate(sources):
        mine = [j for j, (owner, _) in enumerate(places) if owner == i]
        text = source.citation.passage.text
        budget = int(len(text) * keep_share)
        chosen: set[int] = set()
        for j in sorted(mine, key=lambda j: (-score[j], j)):
            length = places[j][1].unit.end - places[j][1].unit.start
            if not chosen or length <= budget:
                chosen.add(j)
                budget -= length
        parts = [Span(start=places[j][1].unit.start, end=places[j][1].unit.end) for j in sorted(chosen)]
        kept.append(replace(source, parts=tuple(_joined(parts, text))) if parts else source)
    return kept


def _joined(parts: Sequence[Span], text: str) -> list[Span]:
    """Neighbours with nothing but white space between them as one part."""
    joined: list[Span] = []
    for part in parts:
        if joined and not text[joined[-1].end : part.start].strip():
            joined[-1] = Span(start=joined[-1].start, end=part.end)
        else:
            joined.append(part)
    return joined
