"""Make a longer text from sections: a summary by document, a comparison by author, a draft from somebody's own sentences.

Each section is answered from passages of its own, by the model where it may speak for itself, else by quotation; sources are
numbered through.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from llm_engineering.application.inference.answer import AnsweringConfig, AnswerPiece, answer
from llm_engineering.application.inference.drafting import Brief
from llm_engineering.application.inference.grounding import GroundingVerifier, Quote
from llm_engineering.application.ports import LanguageModel, Vectors
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.domain.documents import Span
from llm_engineering.domain.retrieval import Answer, Citation, Passage, Support, Usage

Embed = Callable[[Sequence[str]], Vectors]
SECTION_TOKENS = 90
"""Of a section's reply: two or three sentences."""
QUOTES = 2
"""Sentences quoted in a section."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a longer text."""

    heading: str
    """Markdown that stands before it."""
    question: str
    """What the passages are asked."""
    passages: tuple[Passage, ...] = ()
    otherwise: str = ""
    """What to say where there are no passages, or nothing of them can be used."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A longer text before it is written."""

    opening: str
    sections: tuple[Section, ...]
    closing: str = ""
    brief: Brief | None = None
    """Of a draft: what was to be written."""


async def compose(
    question: str, outline: Outline, model: LanguageModel, config: AnsweringConfig, embed: Embed
) -> AsyncGenerator[AnswerPiece, None]:
    """Stream a text section by section; the last piece carries the finished :class:`Answer`.

    Raises:
        ModelError: the language model or the embedder failed.
    """
    numbered = _number(outline.sections)
    sources = tuple(citation for citations in numbered for citation in citations)
    yield AnswerPiece(sources=sources)
    run = _Text(mask=config.mask_personal_data)
    for text in run.add(outline.opening):
        yield AnswerPiece(text=text)
    for section, citations in zip(outline.sections, numbered, strict=True):
        for text in run.add(section.heading):
            yield AnswerPiece(text=text)
        if not citations:
            for text in run.add(section.otherwise):
                yield AnswerPiece(text=text)
        elif config.is_extractive:
            quotes = await asyncio.to_thread(_quote, section.question, citations, embed, config)
            for piece in run.quote(quotes, section.otherwise):
                yield piece
        else:
            async with aclosing(_ask(section, citations, model, config, embed)) as pieces:
                async for piece in pieces:
                    for shown in run.take(piece, citations[0].number - 1):
                        yield shown
        for text in run.add("\n"):
            yield AnswerPiece(text=text)
    for text in run.add(outline.closing):
        yield AnswerPiece(text=text)
    yield AnswerPiece(answer=run.finish(question, sources, model.name, quoted=config.is_extractive))


def _number(sections: Iterable[Section]) -> list[tuple[Citation, ...]]:
    """The passages of each section as sources, numbered through."""
    found, number = [], 0
    for section in sections:
        citations = tuple(
            Citation(number=number + place, passage=passage)
            for place, passage in enumerate(section.passages, start=1)
        )
        number += len(citations)
        found.append(citations)
    return found


def _quote(
    question: str, citations: Sequence[Citation], embed: Embed, config: AnsweringConfig
) -> list[tuple[Quote, Support]]:
    """The sentences closest to the question, each with its place. Blocking."""
    verifier = GroundingVerifier(citations, embed, config.evidence)
    quotes = verifier.select_quotes(question, most=QUOTES, min_similarity=-1.0)
    found = []
    for quote in quotes:
        backing = verifier.attribute_quote(quote)
        found.append(
            (
                quote,
                Support(
                    span=Span(start=0, end=0),
                    verdict=backing.verdict,
                    source=backing.source,
                    source_span=backing.source_span,
                    document_span=backing.document_span,
                    lexical=round(backing.lexical, 4),
                    cited=(quote.number,),
                ),
            )
        )
    return found


async def _ask(
    section: Section,
    citations: Sequence[Citation],
    model: LanguageModel,
    config: AnsweringConfig,
    embed: Embed,
) -> AsyncGenerator[AnswerPiece, None]:
    """The model's answer to a section's question. Its passages were chosen already, so it may not abstain."""
    own = config.model_copy(
        update={
            "min_similarity": -1.0,
            "max_tokens": min(config.reply_tokens, SECTION_TOKENS),
            "max_passages": len(citations),
        }
    )
    passages = [citation.passage for citation in citations]
    async with aclosing(answer(section.question, passages, model, own, embed=embed)) as pieces:
        async for piece in pieces:
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

    def add(self, text: str) -> list[str]:
        """Add text that needs no source."""
        self.text += text
        self._start = len(self.text)
        return [text] if text else []

    def quote(self, quotes: Sequence[tuple[Quote, Support]], otherwise: str) -> Iterable[AnswerPiece]:
        """Add quotations."""
        if not quotes:
            yield from (AnswerPiece(text=text) for text in self.add(otherwise))
        for place, (quote, support) in enumerate(quotes):
            words = mask_personal_data(quote.text) if self._mask else quote.text
            text = f"{' ' if place else ''}“{words}” [{quote.number}]"
            start = len(self.text) + (1 if place else 0)
            self.text += text
            placed = support.model_copy(update={"span": Span(start=start, end=len(self.text))})
            self._supports.append(placed)
            yield AnswerPiece(text=text)
            yield AnswerPiece(support=placed)

    def take(self, piece: AnswerPiece, offset: int) -> Iterable[AnswerPiece]:
        """Add a piece of a section's answer, whose sources are numbered from 1, as those from ``offset`` + 1 on."""
        if piece.text:
            # A marker comes whole in one piece: it is held back until it is known to hold.
            text = renumber(piece.text, offset)
            self.text += text
            yield AnswerPiece(text=text)
        if piece.support is not None:
            yield AnswerPiece(support=self._place(piece.support, offset))
        if piece.answer is not None:
            self._usage += piece.answer.usage
            self._unsupported += piece.answer.unsupported

    def _place(self, support: Support, offset: int) -> Support:
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
                "source": None if support.source is None else support.source + offset,
                "cited": tuple(number + offset for number in support.cited),
            }
        )
        self._supports.append(placed)
        return placed

    def finish(self, question: str, sources: tuple[Citation, ...], model: str, *, quoted: bool) -> Answer:
        """The finished text."""
        return Answer(
            question=question,
            text=self.text,
            citations=sources,
            cited=tuple(dict.fromkeys(number for support in self._supports for number in support.cited)),
            supports=tuple(self._supports),
            quoted=quoted and bool(self._supports),
            unsupported=self._unsupported,
            model=model,
            usage=self._usage,
        )


def renumber(text: str, offset: int) -> str:
    """Return the text with each citation ``[n]`` as ``[n + offset]``."""
    if not offset:
        return text
    parts = text.split("[")
    moved = [parts[0]]
    for part in parts[1:]:
        number, bracket, rest = part.partition("]")
        moved.append(f"[{int(number) + offset}]{rest}" if bracket and number.isdigit() else f"[{part}")
    return "".join(moved)
