"""Showing only what nearly repeats a source: for models too small to be taken at their word."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence

from llm_engineering.application.inference.evidence import coverage, passage_text
from llm_engineering.application.inference.grounded_writing import (
    NOTHING_FOUND,
    Judge,
    StrictLimits,
    Writer,
    Written,
    squeezed,
)
from llm_engineering.application.text.sentences import Item, Marker, Words, ends_before
from llm_engineering.application.text.words import content, root, words
from llm_engineering.domain.retrieval import Citation, Support, Verdict

MAX_SENTENCE_CHARACTERS = 800
"""A small model that has not ended a sentence by then is going in circles."""


class StrictWriter(Writer):
    """Sentence by sentence, each shown after it was checked, on one line, with the citations that hold."""

    def __init__(
        self,
        question: str,
        sources: Sequence[Citation],
        judge: Judge,
        *,
        mask: bool,
        limits: StrictLimits,
    ) -> None:
        super().__init__(question, sources, judge, mask=mask)
        self._limits = limits
        self._asked = content(question)
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
        said = content(sentence)
        if said <= self._asked or self._broken_off(sentence) or _stutters(sentence):
            return None  # an echo of the question says nothing; half a sentence may say the opposite of the whole
        if said in self._seen:
            self.note("repeated")
            self._over = True
            return None
        self._seen.add(said)
        if squeezed(sentence).startswith(squeezed(NOTHING_FOUND)):
            self.declined = self._over = True
            return None
        holding = self._holding(sentence, numbers)
        backing = await self._judge(sentence)
        stands = backing.verdict is Verdict.SUPPORTED and await self._judge.near(
            sentence, self._question, self._limits
        )
        if not holding or not stands:
            self.unsupported += 1
            self._over = self.unsupported >= self._limits.max_left_out
            return None
        start = len(self.text) + (1 if self.text else 0)
        shown = " ".join([sentence, *(f"[{number}]" for number in holding)])
        self.text += (" " if self.text else "") + self.masked(shown)
        return self.add_support(start, backing, holding)

    def _broken_off(self, sentence: str) -> bool:
        return self._cut_short and not ends_before(sentence, " ", "A")

    def _holding(self, sentence: str, numbers: Sequence[int]) -> list[int]:
        """The cited sources that hold the sentence's words; else the one that holds most of them."""
        shares = {n: coverage(sentence, passage_text(source.passage)) for n, source in self._sources.items()}
        enough = [n for n in dict.fromkeys(numbers) if shares.get(n, 0.0) >= self._limits.min_support]
        if enough or not shares:
            return enough
        best = max(shares, key=lambda n: shares[n])
        return [best] if shares[best] >= self._limits.min_support else []


def _stutters(sentence: str) -> bool:
    """Whether a word that carries content comes three times: "a format that uses a format of blocks, which is a format"."""
    said = content(sentence)
    counts = Counter(root(word) for word in words(sentence))
    return any(counts[word] >= 3 for word in said)
