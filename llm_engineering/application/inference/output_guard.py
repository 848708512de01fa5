"""Stop a model that repeats itself without end."""

_LONGEST_WORD = 400


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
