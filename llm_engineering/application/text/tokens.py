"""Counting tokens of many slices of one text without tokenising any of it twice."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence, Set
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from llm_engineering.application.ports import Tokenizer

_LONGEST_WORD = 48
"""Longer runs without blank space (other scripts, addresses, encoded data) are tokenised by themselves, so that
they can be cut inside, and are not remembered."""
_REMEMBERED_WORDS = 400_000
_WORDS_AT_ONCE = 1_000
_CHARACTERS_PER_TOKEN = 4
_LONGEST_TOKEN = 32

_SPACES = [code for code in range(0x3001) if chr(code).isspace()]
_IS_SPACE = np.zeros(0x3002, dtype=bool)
_IS_SPACE[_SPACES] = True


class TokenCounts:
    """Counts tokens word by word, and remembers each word.

    A tokenizer that splits at blank space before all else (WordPiece does, and says so by an attribute
    ``splits_at_blank_space = True``) gets exact counts this way, at a small part of the cost of tokenising.
    For others they are an estimate, and ``exact`` is False.

    Not for use by several threads at once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.exact: bool = getattr(tokenizer, "splits_at_blank_space", False)
        self._known: dict[str, int] = {}

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, special tokens left out."""
        return sum(self._words(text.split()))

    def measure(self, text: str) -> "MeasuredText":
        """Prepare a text for counting the tokens of any of its slices."""
        words = text.split()
        starts = word_starts(text).tolist()
        if max(map(len, words), default=0) <= _LONGEST_WORD:
            return MeasuredText(starts, self._words(words))
        counts = self._words([word if len(word) <= _LONGEST_WORD else "" for word in words])
        return self._with_long_words(words, starts, counts)

    def _words(self, words: Sequence[str]) -> list[int]:
        known = self._known
        try:
            return [known[word] for word in words]
        except KeyError:
            if len(known) > _REMEMBERED_WORDS:
                known.clear()
        missing = [word for word in dict.fromkeys(words) if word not in known]
        known.update(zip(missing, self._new_counts(missing), strict=True))
        return [known[word] for word in words]

    def _new_counts(self, words: list[str]) -> list[int]:
        if not self.exact:
            return self.tokenizer.counts(words)
        # Many words as one text cost a tokenizer less than half of what they cost one by one.
        counts: list[int] = []
        for start in range(0, len(words), _WORDS_AT_ONCE):
            part = words[start : start + _WORDS_AT_ONCE]
            begins = list(accumulate((len(word) + 1 for word in part[:-1]), initial=0))
            [offsets] = self.tokenizer.find_offsets([" ".join(part)])
            owners = np.searchsorted(begins, [token for token, _ in offsets], side="right") - 1
            counts += np.bincount(owners, minlength=len(part)).tolist()
        return counts

    def _with_long_words(self, words: list[str], starts: list[int], counts: list[int]) -> "MeasuredText":
        """Give words that are long a start for each of their tokens, so that they can be cut there."""
        tokens = iter(self.tokenizer.find_offsets([word for word in words if len(word) > _LONGEST_WORD]))
        all_starts: list[int] = []
        all_counts: list[int] = []
        estimated: list[int] = []
        inner: set[int] = set()
        for word, start, count in zip(words, starts, counts, strict=True):
            if len(word) <= _LONGEST_WORD:
                all_starts.append(start)
                all_counts.append(count)
                continue
            offsets = next(tokens)
            pieces = [start + offset for offset in _pieces(offsets, len(word))]
            all_starts += pieces
            all_counts += [1] * len(pieces)
            inner.update(pieces[1:])
            if len(pieces) != len(offsets):
                estimated += pieces
        return MeasuredText(all_starts, all_counts, inner, estimated)


def _pieces(offsets: Sequence[tuple[int, int]], length: int) -> list[int]:
    """Starts of the tokens of a word, from 0, ascending.

    What the tokenizer gives up on (one token for all of a long word) counts by its characters, since its parts
    will not be given up on.
    """
    starts = [0]
    ends = [start for start, _ in offsets[1:]] + [length]
    for (start, _), end in zip(offsets or [(0, length)], ends, strict=True):
        if start > starts[-1]:
            starts.append(start)
        if end - start > _LONGEST_TOKEN:
            starts += range(start + _CHARACTERS_PER_TOKEN, end, _CHARACTERS_PER_TOKEN)
    return starts


class MeasuredText:
    """Prefix sums of tokens over the places where a text may be cut.

    ``starts`` are those places: the starts of words, and within long words those of their tokens (``inner``). Where
    the tokenizer had no tokens for a long word, places and counts are ``estimated``.
    """

    def __init__(
        self,
        starts: list[int],
        counts: list[int],
        inner: Set[int] = frozenset(),
        estimated: Sequence[int] = (),
    ) -> None:
        self.starts = starts
        self._inner = inner
        self._estimated = estimated
        self._sums = list(accumulate(counts, initial=0))

    def count(self, start: int, end: int) -> int:
        """Return the number of tokens of the units that begin in ``[start, end)`` (characters)."""
        starts = self.starts
        return self._sums[bisect_left(starts, end)] - self._sums[bisect_left(starts, start)]

    def cut_after(self, start: int, budget: int, end: int) -> int:
        """Return the furthest place in ``(start, end]`` to cut so that at most ``budget`` tokens lie before it.

        At least one unit always does, even where it alone has more.
        """
        first = bisect_left(self.starts, start)
        unit = bisect_right(self._sums, self._sums[first] + budget) - 1
        unit = max(unit, first + 1)
        return min(self.starts[unit], end) if unit < len(self.starts) else end

    def is_estimate(self, start: int, end: int) -> bool:
        """Return whether the count of this slice may not be the tokenizer's: it begins or ends within a word, or holds
        one that had no tokens."""
        if start in self._inner or end in self._inner:
            return True
        return bisect_left(self._estimated, start) < bisect_left(self._estimated, end)


def word_starts(text: str) -> npt.NDArray[np.int64]:
    """Return positions where the words of ``text.split()`` begin."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    spaces = _IS_SPACE[np.minimum(codes, 0x3001)]
    begins = ~spaces
    begins[1:] &= spaces[:-1]
    return np.flatnonzero(begins)
