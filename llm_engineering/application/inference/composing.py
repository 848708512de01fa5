"""Make a longer text from sections: a summary by document, a comparison by author, a draft from somebody's own sentences.

Each section is made from passages of its own, by the model where it may speak for itself, else by quotation; sources are
numbered through. Code lays the sections out, so that a small model need not keep a thread.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from llm_engineering.application.inference.answer import (
    AnsweringConfig,
    AnswerPiece,
    build_messages,
    write_part,
)
from llm_engineering.application.inference.briefs import Brief
from llm_engineering.application.inference.context import Source
from llm_engineering.application.inference.excerpts import choose_excerpts
from llm_engineering.application.inference.quotes import ENDS, Quotation, choose_quotations, join_neighbours
from llm_engineering.application.ports import LanguageModel, Message, Vectors
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.application.text.style import score_voice
from llm_engineering.domain.documents import Span
from llm_engineering.domain.retrieval import Answer, Citation, FinishReason, Passage, Support, Usage
from llm_engineering.domain.voices import VoiceProfile

Embed = Callable[[Sequence[str]], Vectors]
SECTION_TOKENS = 90
"""Of a section's reply: two or three sentences."""
_QUOTED_WORDS = 60
"""Of a section's quotation, about."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a model is told to write."""

    messages: tuple[Message, ...]
    template: str
    """Name of the prompt that the messages were made from."""
    max_tokens: int
    free: bool = False
    """Its sentences are shown whatever backs them: titles; and a given text in other words, of which none may be lost."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a longer text."""

    heading: str
    """Markdown that stands before it."""
    question: str
    """What the passages are asked."""
    subject: str = ""
    """What a quotation is to be about; empty: the question."""
    passages: tuple[Passage, ...] = ()
    otherwise: str = ""
    """What to say where there are no passages, or nothing of them can be used."""
    order: Order | None = None
    """None, and there are no notes: the question is answered from the passages."""
    notes: tuple[Quotation, ...] = ()
    """What stands here, word for word, where no model was ordered to write, or nothing that it wrote may be shown."""
    bullets: bool = False
    """The notes as bullet points."""
    named: bool = False
    """A quotation must hold the subject's words."""
    compared: tuple[str, ...] = ()
    """Other subjects, which it had better not name."""
    repeated: tuple[str, ...] = ()
    """Sentences that are not quoted, since its author says them everywhere."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A longer text before it is written."""

    opening: str
    sections: tuple[Section, ...]
    closing: str = ""
    voice: VoiceProfile | None = None
    """Whose voice the finished text is held against."""
    notes: tuple[str, ...] = ()
    """What the caller should know of it: ``shortened`` to the most words that are written."""
    brief: Brief | None = None
    """Of a draft: what was to be written."""


async def compose(
    question: str,
    outline: Outline,
    model: LanguageModel,
    config: AnsweringConfig,
    embed: Embed,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
) -> AsyncGenerator[AnswerPiece, None]:
    """Stream a text section by section; the last piece carries the finished :class:`Answer`.

    Args:
        max_tokens: of all that the model writes; None: as much as the sections want.

    Raises:
        ModelError: the language model or the embedder failed.
    """
    parts = [await asyncio.to_thread(_read, section, config, embed) for section in outline.sections]
    # One text among others may have nothing to quote.
    parts = [part for part in parts if part.asks or part.quotations or part.section.otherwise] or parts[-1:]
    numbered = _number(part.passages for part in parts)
    sources = tuple({c.number: c for citations in numbered for c in citations}.values())
    yield AnswerPiece(sources=sources)
    run = _Text(mask=config.mask_personal_data)
    for text in run.add(outline.opening):
        yield AnswerPiece(text=text)
    for place, (part, citations) in enumerate(zip(parts, numbered, strict=True)):
        section, written = part.section, 0
        left = None if max_tokens is None else max_tokens - run.written_tokens
        for text in run.add(f"{chr(10) if place else ''}{section.heading}"):
            yield AnswerPiece(text=text)
        if part.asks and (left is None or left > 0):
            asked = _write(section, citations, model, config, embed, left, temperature, seed)
            async with aclosing(asked) as pieces:
                async for piece in pieces:
                    for shown in run.take(piece, [citation.number for citation in citations]):
                        written += len(shown.text.strip())
                        yield shown
        if not written:
            quotations: Sequence[Quotation] = part.quotations
            if not quotations:
                quotations = await asyncio.to_thread(_quote, section, embed)
            placed = [replace(one, citation=citations[one.citation.number - 1]) for one in quotations]
            for piece in run.quote(placed, section):
                yield piece
    if outline.closing:
        for text in run.add(f"\n{outline.closing}"):
            yield AnswerPiece(text=text)
    finished = run.finish(question, sources, model.name)
    if outline.voice is not None:
        score = await asyncio.to_thread(score_voice, outline.voice, finished.text)
        finished = finished.model_copy(update={"voice": score})
    yield AnswerPiece(answer=finished)


@dataclass(frozen=True, slots=True)
class _Part:
    """A section, and what is known of it before it is shown."""

    section: Section
    asks: bool
    """A model writes it."""
    passages: tuple[Passage, ...]
    """Its sources: of what is quoted those that are, so that no other is shown as one."""
    quotations: tuple[Quotation, ...] = ()
    """Of these passages, by their places from 1."""


def _read(section: Section, config: AnsweringConfig, embed: Embed) -> _Part:
    """Find out who writes a section, and what is quoted where nobody does. Blocking."""
    # A small model makes little of a summary, slowly, where a part of the source says it at once.
    asks = section.order is not None or (bool(section.passages) and not section.notes and not config.quotes)
    if asks and config.may_rewrite:
        return _Part(section, asks=True, passages=section.passages)
    quotations = _quote(section, embed)
    used = {one.citation.number: one.citation.passage for one in quotations}
    places = {number: place for place, number in enumerate(used, start=1)}
    renumbered = tuple(
        replace(one, citation=one.citation.model_copy(update={"number": places[one.citation.number]}))
        for one in quotations
    )
    return _Part(section, asks=False, passages=tuple(used.values()), quotations=renumbered)


def _number(parts: Iterable[Sequence[Passage]]) -> list[tuple[Citation, ...]]:
    """The passages of each part as sources, numbered through; a passage of several parts is one source."""
    numbers: dict[tuple[str, int, int], int] = {}
    return [
        tuple(
            Citation(
                number=numbers.setdefault(
                    (passage.document_id, passage.span.start, passage.span.end), len(numbers) + 1
                ),
                passage=passage,
            )
            for passage in passages
        )
        for passages in parts
    ]


def _quote(section: Section, embed: Embed) -> list[Quotation]:
    """A section's notes, or the part of its passages that is closest to what it is about. Blocking."""
    if section.notes:
        return list(section.notes)
    citations = [Citation(number=n, passage=passage) for n, passage in enumerate(section.passages, start=1)]
    runs = choose_excerpts(
        section.subject or section.question,
        citations,
        embed=embed,
        words=_QUOTED_WORDS,
        most=1,
        named=section.named,
        compared=section.compared,
        repeated=section.repeated,
    )
    if runs:
        return join_neighbours(runs[0])
    parts = choose_quotations(section.question, citations, embed=embed)
    # Better nothing than a label or a piece of a list where prose was looked for.
    return [part for part in parts if section.named or not section.subject or part.plain.endswith(ENDS)]


async def _write(
    section: Section,
    citations: Sequence[Citation],
    model: LanguageModel,
    config: AnsweringConfig,
    embed: Embed,
    left: int | None,
    temperature: float | None,
    seed: int | None,
) -> AsyncGenerator[AnswerPiece, None]:
    """What the model writes for a section: as it was ordered to, or its answer to the section's question."""
    order = section.order
    if order is None:
        local = [citation.model_copy(update={"number": n}) for n, citation in enumerate(citations, start=1)]
        sources = [Source(one, (Span(start=0, end=len(one.passage.text)),)) for one in local]
        messages = build_messages(section.question, sources, config)
        order = Order(tuple(messages), config.prompt, min(config.reply_tokens, SECTION_TOKENS))
    if order.free:
        config = config.model_copy(update={"leave_out_unsupported": False})
    pieces = write_part(
        section.question,
        order.messages,
        [citation.passage for citation in citations],
        order.template,
        model,
        config,
        embed,
        max_tokens=order.max_tokens if left is None else min(left, order.max_tokens),
        cite=section.order is None,
        temperature=temperature,
        seed=seed,
    )
    async with aclosing(pieces) as stream:
        async for piece in stream:
            yield piece


class _Text:
    """The text so far, with the verdicts on its sentences at their places."""

    def __init__(self, *, mask: bool) -> None:
        self.text = ""
        self._mask = mask
        self._supports: list[Support] = []
        self._usage = Usage()
        self._unsupported = 0
        self._start = 0
        """Where the section under way begins."""
        self._said = False
        """The model said some of it."""
        self._finish_reason: FinishReason = "stop"
        self._prompt_hash = ""

    @property
    def written_tokens(self) -> int:
        """Tokens that the model has written so far."""
        return self._usage.completion_tokens

    def add(self, text: str) -> list[str]:
        """Add text that needs no source."""
        self.text += text
        self._start = len(self.text)
        return [text] if text else []

    def quote(self, quotations: Sequence[Quotation], section: Section) -> Iterable[AnswerPiece]:
        """Add notes as the text itself, quotations as what they are, with their sources."""
        if not quotations:
            yield from (AnswerPiece(text=text) for text in self.add(section.otherwise))
        for place, quotation in enumerate(quotations):
            words = mask_personal_data(quotation.plain) if self._mask else quotation.plain
            between = "\n\n" if place and not section.bullets else "\n" if place else ""
            before = f"{between}- " if section.bullets else between
            text = words if section.notes else f"“{words}” [{quotation.citation.number}]"
            start = len(self.text) + len(before)
            self.text += before + text
            support = quotation.make_support(start, len(self.text), cited=not section.notes)
            self._supports.append(support)
            yield AnswerPiece(text=before + text)
            yield AnswerPiece(support=support)

    def take(self, piece: AnswerPiece, numbers: Sequence[int]) -> Iterable[AnswerPiece]:
        """Add a piece of a section's answer, whose sources are numbered from 1, under the numbers that they have in all."""
        if piece.text:
            # A marker comes whole in one piece: it is held back until it is known to hold.
            text = renumber(piece.text, numbers)
            self.text += text
            self._said = True
            yield AnswerPiece(text=text)
        if piece.support is not None:
            yield AnswerPiece(support=self._place(piece.support, numbers))
        if piece.answer is not None:
            self._usage += piece.answer.usage
            self._unsupported += piece.answer.unsupported
            self._prompt_hash = piece.answer.prompt_hash
            if piece.answer.finish_reason == "length":
                self._finish_reason = "length"

    def _place(self, support: Support, numbers: Sequence[int]) -> Support:
        # Numbers may have become longer, so the sentence ends where the text does now.
        start = (
            self._supports[-1].span.end
            if self._supports and self._supports[-1].span.end > self._start
            else self._start
        )
        while start < len(self.text) and self.text[start].isspace():
            start += 1
        placed = support.model_copy(
            update={
                "span": Span(start=start, end=len(self.text.rstrip())),
                "source": None if support.source is None else numbers[support.source - 1],
                "cited": tuple(numbers[number - 1] for number in support.cited),
            }
        )
        self._supports.append(placed)
        return placed

    def finish(self, question: str, sources: tuple[Citation, ...], model: str) -> Answer:
        """The finished text."""
        return Answer(
            question=question,
            text=self.text,
            citations=sources,
            cited=tuple(dict.fromkeys(number for support in self._supports for number in support.cited)),
            supports=tuple(self._supports),
            quoted=not self._said and bool(self._supports),
            unsupported=self._unsupported,
            finish_reason=self._finish_reason,
            model=model,
            prompt_hash=self._prompt_hash,
            usage=self._usage,
        )


def renumber(text: str, numbers: Sequence[int]) -> str:
    """Return the text with each citation ``[n]`` under its new number, ``[numbers[n - 1]]``."""
    parts = text.split("[")
    renumbered = [parts[0]]
    for part in parts[1:]:
        number, bracket, rest = part.partition("]")
        known = bracket and number.isdigit() and 0 < int(number) <= len(numbers)
        renumbered.append(f"[{numbers[int(number) - 1]}]{rest}" if known else f"[{part}")
    return "".join(renumbered)
