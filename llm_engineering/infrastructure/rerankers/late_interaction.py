"""MaxSim over the token vectors of a model that is there anyway: reranking without other weights.

The bundled MiniLM was trained for one vector a text, not for this, and it works all the same: its token vectors are
what that one vector is the mean of. What it costs is a forward pass for each passage (about 25 ms of one core for 200
tokens), which is why vectors are cached: passages that are found once are found again.
"""

from collections.abc import Sequence

from llm_engineering.application.ports import Part, TokenEncoder, TokenVectors
from llm_engineering.domain.documents import text_hash
from llm_engineering.infrastructure.shared.late_interaction import (
    TokenVectorCache,
    halve_precision,
    score_passages,
    select_tokens,
)

CACHE_BYTES = 256 << 20


class LateInteractionReranker:
    """A :class:`~llm_engineering.application.ports.Reranker` over an encoder that somebody else opens and closes.

    The same question and passages always get the same scores, whatever is cached. Threads may share an instance.

    Args:
        encoder: gives the token vectors.
        cache_bytes: memory for passages' vectors; about 1,700 passages of 200 tokens in 256 MB. 0 keeps none.
    """

    def __init__(self, encoder: TokenEncoder, cache_bytes: int = CACHE_BYTES) -> None:
        self._encoder = encoder
        self._cache = TokenVectorCache(cache_bytes)

    @property
    def name(self) -> str:
        return f"late_interaction/{self._encoder.model}"

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return weighted mean of the best cosines of the query's tokens, in [-1, 1], for each text in the order given.

        A token's weight is its rarity among the texts, so scores of different calls cannot be compared.

        Raises:
            ModelFileError: the model's files are missing or broken.
        """
        if not texts:
            return []
        asked, passages = self._read(query, texts)
        return [float(score) for score in score_passages(asked, passages)]

    def rerank_parts(self, query: str, texts: Sequence[str], parts: Sequence[Part]) -> list[float]:
        """Return the score of each part, whose words are seen in the context of the whole text; a text is read once.

        Raises:
            ModelFileError: the model's files are missing or broken.
        """
        if not parts:
            return []
        asked, passages = self._read(query, texts)
        chosen = [select_tokens(passages[place], spans) for place, spans in parts]
        return [float(score) for score in score_passages(asked, chosen)]

    def _read(self, query: str, texts: Sequence[str]) -> tuple[TokenVectors, list[TokenVectors]]:
        """The token vectors of the question and of each text."""
        keys = [text_hash(text) for text in texts]
        known = {key: self._cache.get(key) for key in keys}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if known[key] is None}
        # The question goes along with the passages, so that it does not wait for a worker of its own.
        asked, *fresh = self._encoder.token_vectors([_valid(text) for text in (query, *missing.values())])
        found = {key: vectors for key, vectors in known.items() if vectors is not None}
        for key, vectors in zip(missing, fresh, strict=True):
            found[key] = self._cache.put(key, vectors)
        return halve_precision(asked), [found[key] for key in keys]

    def close(self) -> None:
        """Forget the cached vectors. Safe to call twice; the encoder stays open."""
        self._cache.clear()


def _valid(text: str) -> str:
    """Half a surrogate pair, which no tokenizer takes, becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")
