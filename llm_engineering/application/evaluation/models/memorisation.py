"""Measure how much of an answer is copied from training text. Reported next to the style score, which copying maximises."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

GRAM_WORDS = 8
"""Runs of so many words that also stand in the training text count as copied: hardly a chance match."""
SEED_WORDS = 5
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Copying:
    """What a text shares with the training text."""

    longest: int
    """Words of the longest run that stands there verbatim (case and punctuation aside); below 5 counts as 0."""
    share: float
    """Share of the text's 8-word runs that stand there; 0 for shorter texts."""


class TrainingText:
    """All text that a model was trained on, indexed by runs of words.

    Memory: one list entry for each word of the text.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: list[str] = []
        self._places: defaultdict[int, list[int]] = defaultdict(list)
        self._grams: set[int] = set()
        for text in texts:
            self._add([word.casefold() for word in _WORD.findall(text)])

    def copying(self, text: str) -> Copying:
        """Hold a text against it, in time linear in its words but for texts that repeat themselves."""
        found = [word.casefold() for word in _WORD.findall(text)]
        grams = _hashes(found, GRAM_WORDS)
        share = sum(gram in self._grams for gram in grams) / len(grams) if grams else 0.0
        return Copying(self._longest(found), share)

    def _add(self, found: list[str]) -> None:
        offset = len(self._words)
        self._words += [*found, ""]  # the empty word keeps runs from crossing into the next text
        for place, gram in enumerate(_hashes(found, SEED_WORDS)):
            self._places[gram].append(offset + place)
        self._grams.update(_hashes(found, GRAM_WORDS))

    def _longest(self, found: list[str]) -> int:
        longest = 0
        for start, seed in enumerate(_hashes(found, SEED_WORDS)):
            if len(found) - start <= longest:
                break
            # A run that went on from the word before was followed from its beginning already.
            for place in self._places.get(seed, ()):
                if start and place and self._words[place - 1] == found[start - 1]:
                    continue
                longest = max(longest, self._run(found, start, place))
        return longest

    def _run(self, found: list[str], start: int, place: int) -> int:
        length = 0
        while (
            start + length < len(found)
            and place + length < len(self._words)
            and found[start + length] == self._words[place + length]
        ):
            length += 1
        return length if length >= SEED_WORDS else 0


def _hashes(found: list[str], size: int) -> list[int]:
    return [hash(tuple(found[place : place + size])) for place in range(len(found) - size + 1)]
