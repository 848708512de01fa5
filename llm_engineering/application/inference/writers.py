"""Post-process the model's stream: verify sentences, fix citations, attach a verdict to each.

``StreamingAnnotator`` passes text on as it comes and judges each sentence once it is over. ``ExtractiveFilter`` shows a sentence
only after it was checked, and only where it nearly repeats a source: for models too small to be trusted. Neither depends
on how the model's reply was cut into deltas.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from loguru import logger

from llm_engineering.application.inference.grounding import (
    Attribution,
    GroundingVerifier,
    passage_text,
    token_overlap,
)
from llm_engineering.application.inference.guards import LoopGuard
from llm_engineering.application.ports import Delta
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.application.text.sentences import (
    End,
    Item,
    Marker,
    Splitter,
    UnitKind,
    Words,
    ends_before,
)
from llm_engineering.application.text.words import content_stems, language_of, split_words, stem
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import ModelError
from llm_engineering.domain.retrieval import Citation, FinishReason, Support, Usage, Verdict

NOTHING_FOUND = "The sources do not say."
"""The whole answer when no source bears on the question."""


_CODE_PATIENCE = 4
"""Code and tables repeat themselves more than prose does."""


class ExtractiveLimits(Protocol):
    """What :class:`ExtractiveFilter` asks of a sentence; see ``AnsweringConfig``."""

    @property
    def min_citation_overlap(self) -> float: ...
    @property
    def min_source_similarity(self) -> float: ...
    @property
    def min_token_overlap(self) -> float: ...
    @property
    def min_query_similarity(self) -> float: ...
    @property
    def max_rejected_sentences(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Written:
    """Text that was added to the answer, or the verdict on the sentence that is now complete."""

    text: str = ""
    support: Support | None = None


class Judge:
    """Verdicts by words and, while the embedder works, by similarity, off the event loop."""

    def __init__(self, evidence: GroundingVerifier) -> None:
        self.evidence = evidence
        self.failed = False

    async def __call__(self, sentence: str, only: int | None = None, *, embed: bool = True) -> Attribution:
        """The verdict on a sentence, by one source where ``only`` gives its number."""
        draft = self.evidence.verify_lexical(sentence, only)
        if draft.decided or self.failed or not embed:
            return draft.by_words
        try:
            return await asyncio.to_thread(self.evidence.verify_semantic, draft)
        except ModelError as error:
            self._give_up(error)
            return draft.by_words

    async def near(self, sentence: str, question: str, limits: ExtractiveLimits) -> bool:
        """Return whether a sentence nearly repeats a source and is about the question."""
        if self.failed or not self.evidence.embeds:
            return True
        try:
            near = await asyncio.to_thread(self.evidence.measure_similarity, sentence, question)
        except ModelError as error:
            self._give_up(error)
            return True
        return (
            near.to_sources >= limits.min_source_similarity
            and near.lexical >= limits.min_token_overlap
            and near.to_question >= limits.min_query_similarity
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
        """Return the text without personal data, where that was chosen."""
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

    def add_support(self, start: int, backing: Attribution, cited: Sequence[int]) -> Support:
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


def normalise_alnum(text: str) -> str:
    """Return letters and digits alone, folded: what stays of a sentence however it is set."""
    return "".join(character for character in text.casefold() if character.isalnum())


_SHORTEST_CLAUSE = 3
"""Content words before a citation that are held against it by themselves; fewer are read with what stands before them."""
_SHORTEST_CLAIM = 4
"""Content words of a sentence that states something."""
_SHORTEST_REPEAT = 12
"""Letters of a sentence whose second coming is a loop; shorter ones may be items of a list."""


class StreamingAnnotator(Writer):
    """Text is passed on as it comes. Held back are only what may be a citation until it is known to hold, white space
    behind a sentence, and words that so far repeat an earlier sentence, the question or the phrase for "nothing found".

    Args:
        cite: add a citation to a sentence that is supported and has none.
        leave_out: hold every sentence back until it is judged, and leave out what states something that no source backs.
    """

    def __init__(
        self,
        question: str,
        sources: Sequence[Citation],
        judge: Judge,
        *,
        mask: bool,
        cite: bool = True,
        leave_out: bool = False,
    ) -> None:
        super().__init__(question, sources, judge, mask=mask)
        self._cite = cite
        self._leave_out = leave_out
        self._known = {normalise_alnum(question): "echo", normalise_alnum(NOTHING_FOUND): "declined"}
        self._claim = ""
        self._letters = ""
        self._held = ""
        self._cited: list[int] = []
        self._since_marker = ""
        self._clauses: list[Attribution] = []
        """What backs each part of the sentence that has a citation of its own."""
        self._free = False
        """Words of this sentence have been shown, so all of it will be."""
        self._start = 0

    async def _take(self, items: Sequence[Item]) -> AsyncGenerator[Written, None]:
        shown = len(self.text)
        for item in items:
            if isinstance(item, Words):
                self._words(self._loop(item))
            elif isinstance(item, Marker):
                await self._marker(item)
            if isinstance(item, End) or self._over:
                support = await self._end(item.kind if isinstance(item, End) else "sentence")
                if len(self.text) > shown:
                    yield Written(self.text[shown:])
                    shown = len(self.text)
                if support is not None:
                    yield Written(support=support)
            if self._over:
                return
        if len(self.text) > shown:
            yield Written(self.text[shown:])

    def _words(self, item: Words) -> None:
        self._claim += item.text
        self._since_marker += item.text
        self._letters += normalise_alnum(item.text)
        self._held += item.text
        if self._free or not self._may_be_known():
            self._release()

    def _may_be_known(self) -> bool:
        return self._mask or self._leave_out or any(known.startswith(self._letters) for known in self._known)

    def _release(self) -> None:
        """Show what was held back."""
        if not self._held:
            return
        if not self.text:
            self._held = self._held.lstrip()
        if not self._free:
            self._start = len(self.text) + len(self._held) - len(self._held.lstrip())
            self._free = bool(self._held)
        self.text += self._held
        self._held = ""

    async def _marker(self, item: Marker) -> None:
        """Keep the numbers that name a source which backs what was said before them."""
        own = len(content_stems(self._since_marker)) >= _SHORTEST_CLAUSE
        claim = self._since_marker if own else self._claim
        kept: list[int] = []
        for number in dict.fromkeys(item.numbers):
            if number not in self._sources or number in self._cited[-1:]:
                continue
            backing = await self._judge(claim, number) if content_stems(claim) else None
            if backing is None or self._holds(claim, number, backing):
                kept.append(number)  # "[1] says …": there is nothing yet to hold against it
                if backing is not None and own:
                    self._clauses.append(backing)
        if kept:
            self._held += item.space + "".join(f"[{number}]" for number in kept)
            self._cited += kept
            self._since_marker = ""
            if self._free:
                self._release()

    def _holds(self, claim: str, number: int, backing: Attribution) -> bool:
        if backing.verdict is not Verdict.UNSUPPORTED:
            return True
        # Neither words nor an embedder made for one language can tell where two meet.
        said = language_of(split_words(claim))
        written = language_of(split_words(self._sources[number].passage.text[:2_000]))
        return said is not None and written is not None and said != written and not backing.lexical

    async def _end(self, kind: UnitKind) -> Support | None:
        """The sentence is over. Returns the verdict; None where it is none, or is not shown."""
        first = not self.supports and not self.text.strip()
        known = self._known.get(self._letters) if self._letters and not self._free else None
        claim, letters = self._claim.strip(), self._letters
        if known == "declined" and not first:
            known = "echo"  # the answer was given; that the rest is missing needs no such phrase
        if (
            known == "echo"
            or known == "declined"
            or (known == "repeated" and len(letters) >= _SHORTEST_REPEAT)
        ):
            self._reset()
            if known != "echo":
                self.declined = known == "declined"
                self._over = True
                if known == "repeated":
                    self.note("repeated")
            return None
        if not letters:
            self._held = self._held if claim or self._cited else ""
            self._release()
            self._reset()
            return None
        if first and self._declines(letters):
            self.declined = self._over = True
        if kind != "code":
            self._known.setdefault(letters, "repeated")
        support = await self._verdict(claim, kind)
        self._reset()
        return support

    def _states_something(self, claim: str) -> bool:
        """Whether a sentence makes a claim: a question, a greeting or a heading makes none."""
        return not claim.rstrip().endswith("?") and len(content_stems(claim)) >= _SHORTEST_CLAIM

    def _declines(self, letters: str) -> bool:
        return letters.startswith(normalise_alnum(NOTHING_FOUND))

    async def _verdict(self, claim: str, kind: UnitKind) -> Support | None:
        whole = kind != "sentence" or not self._broken_off(claim)
        backing = self._by_clauses(await self._judge(claim, embed=kind != "code"))
        if not whole:
            backing = _at_most_partial(backing)
        if (
            self._leave_out
            and kind == "sentence"
            and backing.verdict is Verdict.UNSUPPORTED
            and self._states_something(claim)
        ):
            self.unsupported += 1
            # Its line breaks stay, so that what follows does not move up into another paragraph or list item.
            kept = self._held[len(self._held.rstrip()) :] if self.text else ""
            self._held = "" if self.text.endswith(kept) else kept
            return None
        if (
            self._cite
            and backing.verdict is Verdict.SUPPORTED
            and not self._cited
            and kind == "sentence"
            and whole
        ):
            assert backing.source is not None, "what is supported has a source"
            self._held += f" [{backing.source}]"
            self._cited.append(backing.source)
        self._held = self.masked(self._held)
        self._release()
        if backing.verdict is Verdict.UNSUPPORTED:
            self.unsupported += 1
        return self.add_support(self._start, backing, self._cited)

    def _by_clauses(self, backing: Attribution) -> Attribution:
        """The verdict on a sentence that draws on several sources, each named behind its part: it holds if every part does."""
        parts = self._clauses
        all_hold = len(parts) > 1 and all(part.verdict is Verdict.SUPPORTED for part in parts)
        if backing.verdict is Verdict.SUPPORTED or not all_hold or content_stems(self._since_marker):
            return backing
        return replace(parts[0], lexical=min(part.lexical for part in parts))

    def _broken_off(self, claim: str) -> bool:
        """Whether generation ended in the middle of the sentence: half of one may say the opposite of the whole."""
        return (self._over or self._cut_short) and not ends_before(claim, " ", "A")

    def _reset(self) -> None:
        self._claim = self._letters = self._held = self._since_marker = ""
        self._cited, self._clauses, self._free = [], [], False


def _at_most_partial(backing: Attribution) -> Attribution:
    if backing.verdict is not Verdict.SUPPORTED:
        return backing
    return replace(backing, verdict=Verdict.PARTIAL)


MAX_SENTENCE_CHARACTERS = 800
"""A small model that has not ended a sentence by then is going in circles."""


class ExtractiveFilter(Writer):
    """Sentence by sentence, each shown after it was checked, on one line, with the citations that hold."""

    def __init__(
        self,
        question: str,
        sources: Sequence[Citation],
        judge: Judge,
        *,
        mask: bool,
        limits: ExtractiveLimits,
    ) -> None:
        super().__init__(question, sources, judge, mask=mask)
        self._limits = limits
        self._asked = content_stems(question)
        self._seen: set[frozenset[str]] = set()
        self._claim = ""
        self._numbers: list[int] = []

    async def _take(self, items: Sequence[Item]) -> AsyncGenerator[Written, None]:
        for item in items:
            if isinstance(item, Words):
                self._claim += self._loop(item).text
                if len(self._claim) > MAX_SENTENCE_CHARACTERS:
                    self.note("repeated")
                    self._over = True
            elif isinstance(item, Marker):
                self._numbers += item.numbers
            else:
                sentence, numbers = " ".join(self._claim.split()), self._numbers
                self._claim, self._numbers = "", []
                support = await self._checked(sentence, numbers)
                if support is not None:
                    yield Written(self.text[support.span.start - (1 if support.span.start else 0) :])
                    yield Written(support=support)
            if self._over:
                return

    async def _checked(self, sentence: str, numbers: list[int]) -> Support | None:
        said = content_stems(sentence)
        if said <= self._asked or self._broken_off(sentence) or _stutters(sentence):
            return None  # an echo of the question says nothing; half a sentence may say the opposite of the whole
        if said in self._seen:
            self.note("repeated")
            self._over = True
            return None
        self._seen.add(said)
        if normalise_alnum(sentence).startswith(normalise_alnum(NOTHING_FOUND)):
            self.declined = self._over = True
            return None
        holding = self._holding(sentence, numbers)
        backing = await self._judge(sentence)
        stands = backing.verdict is Verdict.SUPPORTED and await self._judge.near(
            sentence, self._question, self._limits
        )
        if not holding or not stands:
            self.unsupported += 1
            self._over = self.unsupported >= self._limits.max_rejected_sentences
            return None
        start = len(self.text) + (1 if self.text else 0)
        shown = " ".join([sentence, *(f"[{number}]" for number in holding)])
        self.text += (" " if self.text else "") + self.masked(shown)
        return self.add_support(start, backing, holding)

    def _broken_off(self, sentence: str) -> bool:
        return self._cut_short and not ends_before(sentence, " ", "A")

    def _holding(self, sentence: str, numbers: Sequence[int]) -> list[int]:
        """The cited sources that hold the sentence's words; else the one that holds most of them."""
        shares = {
            n: token_overlap(sentence, passage_text(source.passage)) for n, source in self._sources.items()
        }
        enough = [
            n for n in dict.fromkeys(numbers) if shares.get(n, 0.0) >= self._limits.min_citation_overlap
        ]
        if enough or not shares:
            return enough
        best = max(shares, key=lambda n: shares[n])
        return [best] if shares[best] >= self._limits.min_citation_overlap else []


def _stutters(sentence: str) -> bool:
    """Whether a word that carries content comes three times: "a format that uses a format of blocks, which is a format"."""
    said = content_stems(sentence)
    counts = Counter(stem(word) for word in split_words(sentence))
    return any(counts[word] >= 3 for word in said)
