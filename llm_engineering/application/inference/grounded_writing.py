"""From what a model says to what is shown of it: checked, cited, with a verdict on every sentence.

Two ways. ``LenientWriter`` passes text on as it comes and judges each sentence once it is over. ``StrictWriter`` shows a
sentence only after it was checked, and only where it nearly repeats a source. Neither depends on how the model's reply was
cut into deltas. This module holds what both share.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from loguru import logger

from llm_engineering.application.inference.evidence import Backing, Evidence
from llm_engineering.application.inference.output_guard import LoopGuard
from llm_engineering.application.ports import Delta
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.application.text.sentences import Item, Splitter, Words
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import ModelError
from llm_engineering.domain.retrieval import Citation, FinishReason, Support, Usage

NOTHING_FOUND = "The sources do not say."
"""The whole answer when no source bears on the question."""


_CODE_PATIENCE = 4
"""Code and tables repeat themselves more than prose does."""


class StrictLimits(Protocol):
    """What :class:`StrictWriter` asks of a sentence; see ``AnsweringConfig``."""

    @property
    def min_support(self) -> float: ...
    @property
    def min_nearness(self) -> float: ...
    @property
    def min_coverage(self) -> float: ...
    @property
    def min_relevance(self) -> float: ...
    @property
    def max_left_out(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Written:
    """Text that was added to the answer, or the verdict on the sentence that is now complete."""

    text: str = ""
    support: Support | None = None


class Judge:
    """Verdicts by words and, while the embedder works, by similarity, off the event loop."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.failed = False

    async def __call__(self, sentence: str, only: int | None = None, *, embed: bool = True) -> Backing:
        """The verdict on a sentence, by one source where ``only`` gives its number."""
        draft = self.evidence.draft(sentence, only)
        if draft.decided or self.failed or not embed:
            return draft.by_words
        try:
            return await asyncio.to_thread(self.evidence.settle, draft)
        except ModelError as error:
            self._give_up(error)
            return draft.by_words

    async def near(self, sentence: str, question: str, limits: StrictLimits) -> bool:
        """Whether a sentence nearly repeats a source and is about the question."""
        if self.failed or not self.evidence.embeds:
            return True
        try:
            near = await asyncio.to_thread(self.evidence.closest, sentence, question)
        except ModelError as error:
            self._give_up(error)
            return True
        return (
            near.to_sources >= limits.min_nearness
            and near.lexical >= limits.min_coverage
            and near.to_question >= limits.min_relevance
        )

    def _give_up(self, error: ModelError) -> None:
        logger.warning("Sentences are judged by their words alone: {}", error)
        self.failed = True


class Writer(ABC):
    """What both ways share: the text so far, and how the reply ended."""

    def __init__(self, question: str, sources: Sequence[Citation], judge: Judge, *, mask: bool) -> None:
        self.text = ""
        self.supports: list[Support] = []
        self.unsupported = 0
        self.declined = False
        self.guard: list[str] = []
        self.finish_reason: FinishReason = "stop"
        self.usage = Usage()
        self.said = ""
        """The model's own words, as far as they were read."""
        self._question = question
        self._judge = judge
        self._mask = mask
        self._splitter = Splitter()
        self._loops = {False: LoopGuard(), True: LoopGuard(_CODE_PATIENCE)}
        self._sources = {source.number: source for source in sources}
        self._over = False
        self._cut_short = False
        """The sentence under way is the last, because the reply ended early."""

    async def write(self, deltas: AsyncIterator[Delta]) -> AsyncGenerator[Written, None]:
        """Take the model's reply to its end, or as far as it is of use.

        Raises:
            ModelServiceError: the language model failed.
        """
        async for delta in deltas:
            self.usage = delta.usage or self.usage
            self.said += delta.text
            async for written in self._take(self._splitter.feed(delta.text)):
                yield written
            if self._over:
                return
            if delta.finish_reason == "length":
                self.finish_reason = "length"
                self.note("truncated")
        self._cut_short = self.finish_reason == "length"
        async for written in self._take(self._splitter.close()):
            yield written

    @abstractmethod
    def _take(self, items: Sequence[Item]) -> AsyncGenerator[Written, None]:
        """What may be shown now that these items came."""

    def note(self, what: str) -> None:
        """Note what the guard did, once."""
        if what not in self.guard:
            self.guard.append(what)

    def masked(self, text: str) -> str:
        """The text without personal data, where that was chosen."""
        if not self._mask:
            return text
        masked = mask_personal_data(text)
        if masked != text:
            self.note("personal_data")
        return masked

    def _loop(self, item: Words) -> Words:
        """The words up to where they begin to go in circles, which ends the answer."""
        end = self._loops[item.code].feed(item.text)
        if end is None:
            return item
        logger.debug("The model goes in circles; generation ends.")
        self.note("repeated")
        self._over = True
        return Words(item.text[:end], item.code)

    def add_support(self, start: int, backing: Backing, cited: Sequence[int]) -> Support:
        """Note the verdict on what stands from ``start`` to the end of the text."""
        support = Support(
            span=Span(start=start, end=len(self.text)),
            verdict=backing.verdict,
            source=backing.source,
            source_span=backing.source_span,
            document_span=backing.document_span,
            lexical=round(backing.lexical, 4),
            similarity=None if backing.similarity is None else round(backing.similarity, 4),
            cited=tuple(dict.fromkeys(cited)),
        )
        self.supports.append(support)
        return support


def squeezed(text: str) -> str:
    """Letters and digits alone, folded: what stays of a sentence however it is set."""
    return "".join(character for character in text.casefold() if character.isalnum())
