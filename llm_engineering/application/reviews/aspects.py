"""Things that the settings name beforehand, found in a sentence by their words."""

from collections.abc import Mapping, Sequence

from llm_engineering.application.text.words import split_words, stem

ANY_END = "*"
"""Ends a word of which the beginning is enough: ``akku*`` finds ``Akkulaufzeit``."""


class AspectFinder:
    """Finds named things.

    Args:
        aspects: by name, the words by which each is known. One of several words is found where all of them stand in a sentence,
            and goes before a shorter one that is part of it: "noise cancelling" is no noise.
    """

    def __init__(self, aspects: Mapping[str, Sequence[str]]) -> None:
        self._known = {
            name: [
                [_read_word(word) for word in one.casefold().split()] for one in dict.fromkeys((name, *words))
            ]
            for name, words in aspects.items()
        }

    def find(self, text: str) -> tuple[str, ...]:
        """Return the names of what a text is about, in the order of the settings."""
        words = [(word, stem(word)) for word in split_words(text.casefold())] if self._known else []
        hits = {name: self._hit(words, terms) for name, terms in self._known.items()}
        return tuple(
            name for name, mine in hits.items() if mine and not any(mine < other for other in hits.values())
        )

    def _hit(
        self, words: Sequence[tuple[str, str]], terms: Sequence[Sequence[tuple[str, bool]]]
    ) -> frozenset[str]:
        found: set[str] = set()
        for term in terms:
            places = [
                {word for word, root in words if (word.startswith(wanted) if open_end else root == wanted)}
                for wanted, open_end in term
            ]
            if places and all(places):
                found.update(*places)
        return frozenset(found)


def _read_word(word: str) -> tuple[str, bool]:
    """The beginning or the stem that is looked for, and whether it is a beginning."""
    return (word.removesuffix(ANY_END), True) if word.endswith(ANY_END) else (stem(word), False)
