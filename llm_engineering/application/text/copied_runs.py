"""Whether a text copies another: words in a row that stand in both."""

from collections.abc import Iterator

from llm_engineering.application.text.overlap import folded_words


def has_common_ngram(text: str, other: str, length: int) -> bool:
    """Whether so many words in a row stand in both. Linear, where ``longest_copy`` is quadratic."""
    runs = set(_runs(text, length))
    return any(run in runs for run in _runs(other, length))


def _runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    words = list(folded_words(text))
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))
