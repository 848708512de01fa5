"""What must not leave: our own rules, endless repetition, personal data. Works on a text while it is being written."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

LEAKED_WORDS = 8
"""So many words of the system prompt in a row are a leak. A word that is changed, added or left out costs one."""
_SPELLED_OUT = 40
"""Letters of the system prompt in a row, whatever stands between them."""
_LONGEST_WORD = 400
_COMPARED_LETTERS = 5
"""Words are compared by their beginning, so that a changed ending hides nothing."""


class LeakGuard:
    """Passes a text on, but for what may turn out to be the system prompt being recited, which is held back until it is clear.

    Args:
        secret: the system prompt.
        sources: texts that may be quoted; what stands in them is no leak (the collection may be about prompts).
    """

    def __init__(self, secret: str, sources: Sequence[str] = ()) -> None:
        known = _recognisable(secret)
        self._secret, self._letters, self._places, self._beginnings = known
        self._sources = sources
        self._chains: dict[tuple[int, int], tuple[int, int]] = {}
        """(place of the last word that matched, words skipped since) → (score, where its first word began)."""
        self._text = ""
        self._passed = 0
        self._word = ""
        self._word_start = 0
        self._said: list[str] = []
        self._tail = ""
        self._cut = 0
        self.leaked = False

    def feed(self, text: str) -> str:
        """What may be shown by now. Nothing any more once it has ``leaked``."""
        for character in text:
            if self.leaked:
                break
            self._text += character
            self._take(character)
        return self._release(self._cut if self.leaked else self._boundary())

    def close(self) -> str:
        """What was held back, unless it is a leak."""
        if self.leaked:
            return ""
        self._end_word()
        return self._release(self._cut if self.leaked else len(self._text))

    def _release(self, end: int) -> str:
        released = self._text[self._passed : max(end, self._passed)]
        self._passed = max(end, self._passed)
        return released

    def _boundary(self) -> int:
        """Up to where nothing can be part of a leak."""
        starts = [start for _, start in self._chains.values()]
        if self._word and (starts or _folded(self._word) in self._beginnings):
            starts.append(self._word_start)
        return min(starts, default=len(self._text))

    def _take(self, character: str) -> None:
        if unicodedata.category(character) in ("Cf", "Mn"):
            return  # invisible, and inside a word it separates nothing
        if character.isalnum():
            if not self._word:
                self._word_start = len(self._text) - 1
            self._word += character
            self._spelled(character)
        else:
            self._end_word()

    def _spelled(self, character: str) -> None:
        self._tail = (self._tail + character.casefold())[-_SPELLED_OUT:]
        if len(self._tail) == _SPELLED_OUT and self._tail in self._letters and not self._quoted_letters():
            self._cut, self.leaked = self._boundary(), True

    def _end_word(self) -> None:
        word, self._word = self._word, ""
        if not word or word.isdigit():
            return  # numbers of citations and list items
        folded = _folded(word)
        self._said.append(folded)
        chains: dict[tuple[int, int], tuple[int, int]] = {}

        def keep(place: int, skipped: int, score: int, start: int) -> None:
            if score >= 1 and chains.get((place, skipped), (0, 0))[0] < score:
                chains[place, skipped] = (score, start)

        for place in self._places.get(folded, ()):
            keep(place, 0, 1, self._word_start)
        for (place, skipped), (score, start) in self._chains.items():
            for step in (1, 2):
                if place + step < len(self._secret) and self._secret[place + step] == folded:
                    # A word of the prompt left out costs one, unless another stands in its place, which has been paid.
                    keep(place + step, 0, score + (1 if step == 1 or skipped else 0), start)
            if not skipped:
                keep(place, 1, score - 1, start)
        self._chains = chains
        for score, start in chains.values():
            if score >= LEAKED_WORDS and not self._quoted():
                self._cut, self.leaked = start, True
                return

    def _quoted(self) -> bool:
        run = " ".join(self._said[-LEAKED_WORDS:])
        if any(run in " ".join(map(_folded, _split(source))) for source in self._sources):
            self._chains = {}
            return True
        return False

    def _quoted_letters(self) -> bool:
        return any(self._tail in "".join(_split(source)) for source in self._sources)


@lru_cache(maxsize=64)
def _recognisable(secret: str) -> tuple[list[str], str, dict[str, list[int]], set[str]]:
    """What a text is held against, the same for all answers with one prompt: the secret's folded words, its letters in a
    row, where each word stands, and the beginnings of all words."""
    parts = _split(secret)
    folded = [_folded(word) for word in parts]
    places: dict[str, list[int]] = {}
    for place, word in enumerate(folded):
        places.setdefault(word, []).append(place)
    return folded, "".join(parts), places, {word[:n] for word in places for n in range(1, len(word) + 1)}


def _split(text: str) -> list[str]:
    visible = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Mn"))
    return [word.casefold() for word in re.findall(r"[^\W_]+", visible)]


def _folded(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold()[:_COMPARED_LETTERS]


class LoopGuard:
    """Notices a text that goes in circles: the same words again and again, with nothing between.

    A long run of words counts as a loop when it comes a second time, a short one when it comes a third, one or two words
    after six repetitions.
    """

    LONGEST = 40
    """Words of the longest circle that is noticed."""

    def __init__(self, patience: int = 1) -> None:
        self._patience = patience
        self._words: list[str] = []
        self._equal = [0] * (self.LONGEST + 1)
        self._word = ""

    def feed(self, text: str) -> int | None:
        """The character before which the text is to end, because it goes in circles by then; None where it does not."""
        for position, character in enumerate(text):
            wide = "\u3040" <= character <= "\u9fff"
            if character.isalnum() and not wide:
                self._word += character.casefold()
                if len(self._word) > _LONGEST_WORD:
                    return position
                continue
            word, self._word = self._word, ""
            if (word and self._ends(word)) or (wide and self._ends(character)):
                return position
        return None

    def _ends(self, word: str) -> bool:
        self._words.append(word)
        del self._words[: -self.LONGEST - 1]
        looped = False
        for period in range(1, len(self._words)):
            same = self._words[-1 - period] == word
            self._equal[period] = self._equal[period] + 1 if same else 0
            looped = looped or self._equal[period] >= self._needed(period)
        return looped

    def _needed(self, period: int) -> int:
        if period <= 2:
            return 6 * period * self._patience
        return (period if period >= 8 else 2 * period) * self._patience
