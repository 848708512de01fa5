"""Showing what a capable model says as it comes, with a verdict on each sentence."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from llm_engineering.application.inference.evidence import Backing
from llm_engineering.application.inference.grounded_writing import (
    NOTHING_FOUND,
    Judge,
    Writer,
    Written,
    squeezed,
)
from llm_engineering.application.text.sentences import End, Item, Marker, UnitKind, Words, ends_before
from llm_engineering.application.text.words import content, language_of, words
from llm_engineering.domain.retrieval import Citation, Support, Verdict

_SHORTEST_CLAUSE = 3
"""Content words before a citation that are held against it by themselves; fewer are read with what stands before them."""
_SHORTEST_REPEAT = 12
"""Letters of a sentence whose second coming is a loop; shorter ones may be items of a list."""


class LenientWriter(Writer):
    """Text is passed on as it comes. Held back are only what may be a citation until it is known to hold, white space
    behind a sentence, and words that so far repeat an earlier sentence, the question or the phrase for "nothing found"."""

    def __init__(self, question: str, sources: Sequence[Citation], judge: Judge, *, mask: bool) -> None:
        super().__init__(question, sources, judge, mask=mask)
        self._known = {squeezed(question): "echo", squeezed(NOTHING_FOUND): "declined"}
        self._claim = ""
        self._letters = ""
        self._held = ""
        self._cited: list[int] = []
        self._since_marker = ""
        self._clauses: list[Backing] = []
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
        self._letters += squeezed(item.text)
        self._held += item.text
        if self._free or not self._may_be_known():
            self._release()

    def _may_be_known(self) -> bool:
        return self._mask or any(known.startswith(self._letters) for known in self._known)

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
        own = len(content(self._since_marker)) >= _SHORTEST_CLAUSE
        claim = self._since_marker if own else self._claim
        kept: list[int] = []
        for number in dict.fromkeys(item.numbers):
            if number not in self._sources or number in self._cited[-1:]:
                continue
            backing = await self._judge(claim, number) if content(claim) else None
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

    def _holds(self, claim: str, number: int, backing: Backing) -> bool:
        if backing.verdict is not Verdict.UNSUPPORTED:
            return True
        # Neither words nor an embedder made for one language can tell where two meet.
        said = language_of(words(claim))
        written = language_of(words(self._sources[number].passage.text[:2_000]))
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

    def _declines(self, letters: str) -> bool:
        return letters.startswith(squeezed(NOTHING_FOUND))

    async def _verdict(self, claim: str, kind: UnitKind) -> Support:
        whole = kind != "sentence" or not self._broken_off(claim)
        backing = self._by_clauses(await self._judge(claim, embed=kind != "code"))
        if not whole:
            backing = _at_most_partial(backing)
        if backing.verdict is Verdict.SUPPORTED and not self._cited and kind == "sentence" and whole:
            assert backing.source is not None, "what is supported has a source"
            self._held += f" [{backing.source}]"
            self._cited.append(backing.source)
        self._held = self.masked(self._held)
        self._release()
        if backing.verdict is Verdict.UNSUPPORTED:
            self.unsupported += 1
        return self.add_support(self._start, backing, self._cited)

    def _by_clauses(self, backing: Backing) -> Backing:
        """The verdict on a sentence that draws on several sources, each named behind its part: it holds if every part does."""
        parts = self._clauses
        all_hold = len(parts) > 1 and all(part.verdict is Verdict.SUPPORTED for part in parts)
        if backing.verdict is Verdict.SUPPORTED or not all_hold or content(self._since_marker):
            return backing
        return replace(parts[0], lexical=min(part.lexical for part in parts))

    def _broken_off(self, claim: str) -> bool:
        """Whether generation ended in the middle of the sentence: half of one may say the opposite of the whole."""
        return (self._over or self._cut_short) and not ends_before(claim, " ", "A")

    def _reset(self) -> None:
        self._claim = self._letters = self._held = self._since_marker = ""
        self._cited, self._clauses, self._free = [], [], False


def _at_most_partial(backing: Backing) -> Backing:
    if backing.verdict is not Verdict.SUPPORTED:
        return backing
    return replace(backing, verdict=Verdict.PARTIAL)
