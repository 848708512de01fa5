"""Post-process the model's stream: verify sentences, fix citations, attach a verdict to each.

What is shown does not depend on how the model's reply was cut into deltas.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from loguru import logger

from llm_engineering.application.inference.context import heading
from llm_engineering.application.inference.grounding import (
    Attribution,
    GroundingVerifier,
)
from llm_engineering.application.inference.guards import LoopGuard
from llm_engineering.application.inference.quotes import Quotation
from llm_engineering.application.ports import Delta
from llm_engineering.application.text.markdown import ImageFilter
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
from llm_engineering.application.text.words import (
    content_stems,
    language_of,
    split_words,
)
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import ModelError
from llm_engineering.domain.retrieval import Citation, FinishReason, Support, Usage, Verdict

NOTHING_FOUND = "The sources do not say."
_NOTHING_FOUND_DE = "Die Texte sagen dazu nichts."
"""The whole answer when no source bears on the question."""


_CODE_PATIENCE = 4
"""Code and tables repeat themselves more than prose does."""


@dataclass(frozen=True, slots=True)
class Written:
    """Text that was added to the answer, or the verdict on the sentence that is now complete."""

    text: str = ""
    support: Support | None = None


def decline(question: str) -> str:
    """Return what to say where the sources do not answer, in the language of the question, German or English."""
    return _NOTHING_FOUND_DE if language_of(split_words(question)) == "de" else NOTHING_FOUND


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

    def _give_up(self, error: ModelError) -> None:
        logger.warning("Sentences are judged by their words alone: {}", error)
        self.failed = True


def normalise_alnum(text: str) -> str:
    """Return letters and digits alone, folded: what stays of a sentence however it is set."""
    return "".join(character for character in text.casefold() if character.isalnum())


_SHORTEST_CLAUSE = 3
"""Content words before a citation that are held against it by themselves; fewer are read with what stands before them."""
_SHORTEST_REPEAT = 12
"""Letters of a sentence whose second coming is a loop; shorter ones may be items of a list."""


_ANNOUNCING = ("hereis", "heres", "hereare", "sure", "certainly", "hierist", "hiersind")
"""How a sentence begins that may announce what the model is about to write."""


class Writer:
    """Passes on what a model says, judged sentence by sentence, after what was quoted.

    Text is passed on as it comes. Held back are only what may be a citation until it is known to hold, white space
    behind a sentence, and words that so far repeat an earlier sentence, the question or the phrase for "nothing found".

    Args:
        cite: add a citation to a sentence that is supported and has none.
        leave_out: content words from which a sentence that the sources back too little is left out; every sentence is held
            back until it is judged. None: it is shown. A question, and what has fewer words (a greeting, a title), states
            nothing.
        lowest: the verdict that is enough.
    """

    def __init__(
        self,
        question: str,
        sources: Sequence[Citation],
        judge: Judge,
        *,
        mask: bool,
        cite: bool = True,
        leave_out: int | None = None,
        lowest: Verdict = Verdict.PARTIAL,
    ) -> None:
        self.text = ""
        self.supports: list[Support] = []
        self.unsupported = 0
        self.declined = False
        self.guard: list[str] = []
        self.finish_reason: FinishReason = "stop"
        self.usage = Usage()
        self.said = ""
        """The model's own words, as far as they were read."""
        self.shown = False
        """Some of them were shown."""
        self._question = question
        self._judge = judge
        self._mask = mask
        self._cite = cite
        self._leave_out = leave_out
        self._enough = (
            (Verdict.SUPPORTED,) if lowest is Verdict.SUPPORTED else (Verdict.SUPPORTED, Verdict.PARTIAL)
        )
        self._splitter = Splitter()
        self._images = ImageFilter()
        self._loops = {False: LoopGuard(), True: LoopGuard(_CODE_PATIENCE)}
        self._sources = {source.number: source for source in sources}
        self._over = False
        self._cut_short = False
        """The sentence under way is the last, because the reply ended early."""
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

    def quote(self, quotation: Quotation) -> Iterator[Written]:
        """Add a quotation, in a paragraph of its own."""
        text = self.masked(quotation.render())
        before = "\n\n" if self.text else ""
        start = len(self.text) + len(before)
        self.text += before + text
        self.supports.append(quotation.make_support(start, len(self.text)))
        for said in (quotation.text, heading(quotation.citation.passage)):
            self._known.setdefault(normalise_alnum(said), "echo")
        yield Written(before + text)
        yield Written(support=self.supports[-1])

    async def write(self, deltas: AsyncIterator[Delta]) -> AsyncGenerator[Written, None]:
        """Take the model's reply to its end, or as far as it is of use.

        Raises:
            ModelServiceError: the language model failed.
        """
        async for delta in deltas:
            self.usage = delta.usage or self.usage
            text = self._images.feed(delta.text)
            self.said += text
            async for written in self._take(self._splitter.feed(text)):
                yield written
            if self._over:
                return
            if delta.finish_reason == "length":
                self.finish_reason = "length"
                self.note("truncated")
        self._cut_short = self.finish_reason == "length"
        rest = self._images.close()
        self.said += rest
        async for written in self._take([*self._splitter.feed(rest), *self._splitter.close()]):
            yield written

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
        return (
            self._mask
            or self._leave_out is not None
            or any(known.startswith(self._letters) for known in self._known)
            or (not self.shown and any(w.startswith(self._letters) for w in _ANNOUNCING))
            or self._announces()
        )

    def _announces(self) -> bool:
        """Whether the model says what it is about to write: "Here is a post based on your text:"."""
        return not self.shown and self._letters.startswith(_ANNOUNCING)

    def _release(self) -> None:
        """Show what was held back."""
        if not self._held:
            return
        if not self.shown:
            self._held = self._held.lstrip()
            if self._held and self.text:
                self._held = f"\n\n{self._held}"  # the model's own words begin behind the quotation
        if not self._free:
            self._start = len(self.text) + len(self._held) - len(self._held.lstrip())
            self._free = bool(self._held)
        self.shown = self.shown or bool(self._held)
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
        first = not self.shown
        known = self._known.get(self._letters) if self._letters and not self._free else None
        claim, letters = self._claim.strip(), self._letters
        if self._announces() and claim.endswith(":"):
            known = "echo"
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

    def _declines(self, letters: str) -> bool:
        return letters.startswith(normalise_alnum(NOTHING_FOUND))

    async def _verdict(self, claim: str, kind: UnitKind) -> Support | None:
        whole = kind != "sentence" or not self._broken_off(claim)
        backing = self._by_clauses(await self._judge(claim, embed=kind != "code"))
        if not whole:
            backing = _at_most_partial(backing)
        if (
            self._leave_out is not None
            and kind == "sentence"
            and backing.verdict not in self._enough
            and not claim.rstrip().endswith("?")
            and len(content_stems(claim)) >= self._leave_out
        ):
            self.unsupported += 1
            # Its line breaks stay, so that what follows does not move up into another paragraph or list item.
            kept = self._held[len(self._held.rstrip()) :] if self.shown else ""
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
