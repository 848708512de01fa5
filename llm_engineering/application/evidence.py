"""Evidence: which source supports a sentence, how near it is to what they say, and what of them is worth quoting."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llm_engineering.application.ports import Vectors
from llm_engineering.domain.retrieval import Citation

SHORTEST, LONGEST = 30, 400
"""Characters of a sentence that is worth quoting."""

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?。!?])\s+|\n\s*\n|\n(?=[-*#|>]|\d+\.)")
_STOP_WORDS = frozenset(
    "a about all also an and any are as at be because been but by can could do does each for from had has have how if in"
    " into is it its just like make makes many may more most much no not of on one only or other our out over own same"
    " should so some such than that the their them then there these they this those through to up us use used uses using"
    " very was way we were what when where which while who why will with would you your".split()
)
_MARKUP = re.compile(r"[`*_#>|]+|!?\[([^\]]*)\]\([^)]*\)")


def content_words(text: str) -> frozenset[str]:
    """Words that carry content, folded; a plural 's' is dropped so that 'chunks' meets 'chunk'."""
    words = (word.casefold() for word in _WORD.findall(text))
    return frozenset(
        word[:-1] if len(word) > 3 and word.endswith("s") else word
        for word in words
        if word not in _STOP_WORDS and len(word) > 1
    )


def support(sentence: str, source: Citation) -> float:
    """Share of the sentence's content words that stand in the source, 0 to 1; 0 for a sentence without any."""
    return coverage(sentence, f"{source.passage.title} {source.passage.text}")


def coverage(sentence: str, text: str) -> float:
    """Share of the sentence's content words that stand in the text, 0 to 1; 0 for a sentence without any."""
    words = content_words(sentence)
    return len(words & content_words(text)) / len(words) if words else 0.0


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near a sentence is to the question, and to the nearest sentence of the sources."""

    to_question: float
    """Cosine similarity."""
    to_sources: float
    """Cosine similarity to the nearest sentence."""
    coverage: float
    """Share of its content words that stand in that one sentence, 0 to 1."""


class Evidence:
    """The question and the sentences of its sources as vectors, made once, to hold what a model says against.

    Args:
        embed: texts to unit vectors, shape (n, dimension).
    """

    def __init__(
        self, question: str, sources: Sequence[Citation], embed: Callable[[Sequence[str]], Vectors]
    ) -> None:
        candidates = [(text, source.number) for source in sources for text in sentences(source.passage.text)]
        self._candidates = list(dict.fromkeys(candidates))
        self._embed = embed
        vectors = embed([question, *(text for text, _ in self._candidates)])
        self._question, self._vectors = vectors[0], vectors[1:]

    def nearness(self, sentence: str) -> Nearness:
        [vector] = self._embed([sentence])
        to_question = float(self._question @ vector)
        if not self._candidates:
            return Nearness(to_question, 0.0, 0.0)
        similarities = self._vectors @ vector
        nearest = int(similarities.argmax())
        covered = coverage(sentence, self._candidates[nearest][0])
        return Nearness(to_question, float(similarities[nearest]), covered)

    def quotes(self, *, most: int, min_similarity: float) -> list["Quote"]:
        """The sentences closest to the question, at most so many, in the order of the sources."""
        similarities = self._vectors @ self._question
        ranked = sorted(range(len(self._candidates)), key=lambda i: (-float(similarities[i]), i))
        kept = [i for i in ranked[:most] if similarities[i] >= min_similarity]
        return [Quote(*self._candidates[i], similarity=float(similarities[i])) for i in sorted(kept)]


def best_support(sentence: str, sources: Sequence[Citation]) -> tuple[Citation | None, float]:
    """The source that supports a sentence most, and how much; the first of equals."""
    best = max(sources, key=lambda source: support(sentence, source), default=None)
    return best, support(sentence, best) if best else 0.0


@dataclass(frozen=True, slots=True)
class Quote:
    """A sentence of a source, verbatim but for Markdown's marks."""

    text: str
    number: int
    similarity: float


def sentences(text: str) -> list[str]:
    """Sentences of prose that can stand alone as an answer.

    Code, headings, table rows and fragments are left out; so are questions, which answer nothing, and runs of text whose
    sentences cannot be told apart.
    """
    prose = re.sub(r"(?ms)^(`{3,}|~{3,}).*?(^\1\s*$|\Z)", "\n\n", text)
    found = []
    for piece in _SENTENCE.split(prose):
        stripped = piece.strip()
        if stripped.startswith(("#", "|")):
            continue
        plain = " ".join(_MARKUP.sub(lambda match: match.group(1) or "", stripped).split())
        plain = re.sub(r"^[-+]\s+|^\d+[.)]\s+", "", plain)
        if SHORTEST <= len(plain) <= LONGEST and plain[-1] in ".!。!":
            found.append(plain)
    return found
