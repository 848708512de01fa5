"""A reranker without a model: the share of a question's words that a text holds."""

import re
from collections.abc import Sequence

from llm_engineering.application.ports import Part, extract_part
from llm_engineering.domain.errors import ModelError

_WORD = re.compile(r"\w+")


class ReadsPartsAlone:
    """A reranker's second method by its first one."""

    def rerank_parts(self, query: str, texts: Sequence[str], parts: Sequence[Part]) -> list[float]:
        scores: list[float] = self.rerank(query, [extract_part(texts, part) for part in parts])  # type: ignore[attr-defined]
        return scores


class WordOverlapReranker(ReadsPartsAlone):
    """Keeps every promise of the port. ``calls`` holds the (query, texts) of each call; ``fail`` makes it raise ModelError."""

    name = "word_overlap"

    def __init__(self, *, fail: bool = False) -> None:
        self.fail = fail
        self.calls: list[tuple[str, list[str]]] = []
        self.closed = 0

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Share of the query's distinct words in each text; 0 for a query without words."""
        self.calls.append((query, list(texts)))
        if self.fail:
            raise ModelError("The reranker was told to fail.")
        asked = set(_WORD.findall(query.casefold()))
        return [
            len(asked & set(_WORD.findall(text.casefold()))) / len(asked) if asked else 0.0 for text in texts
        ]

    def close(self) -> None:
        self.closed += 1
