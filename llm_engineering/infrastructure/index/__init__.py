"""Vector indexes: Qdrant in this process, or on a server; and the BM25 encoder that both share.

BM25 word vectors come from Qdrant's own encoder. It computes term-frequency weights (Robertson & Zaragoza, "The
Probabilistic Relevance Framework: BM25 and Beyond", 2009); the index multiplies them by the inverse document frequency,
which it knows and the encoder does not.
"""

import re
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qdrant_edge import Bm25, SparseVector

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Kana and Han: scripts that put no space between words."""

AVERAGE_WORDS = 120
"""Expected words of a chunk after stop words are gone. BM25 wants the corpus mean, which changes with every write; a
constant keeps stored vectors valid, and it only scales how strongly length counts."""


class Bm25Encoder:
    """Texts to sparse vectors. Building one costs nothing; the encoder is made on first use.

    Text in many languages goes through one set of options, because a question does not say its language:

    - Identifiers matter as much as words here, so the *code* tokenizer is used: it cuts at punctuation, and splits
      ``snake_case`` and ``camelCase`` too (keeping the whole beside its parts). Where a text holds a script without
      spaces, the *multilingual* tokenizer segments it.
    - Lower case and accents folded: people type "cafe" for "café".
    - English stop words and the English stemmer. The stemmer treats both sides alike, so other languages lose nothing
      by it; stop words of other languages are left to the inverse document frequency, since "die" or "war" mean
      something in English.
    """

    def encode_document(self, text: str) -> "SparseVector":
        """Return term weights of an indexed text."""
        return self._model_for(text).embed_document(text)

    def query(self, text: str) -> "SparseVector":
        """Return each distinct word of a question with weight 1. Half a surrogate pair, which is no text, becomes "?"."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._model_for(text).embed_query(text)

    def _model_for(self, text: str) -> "Bm25":
        return self._unspaced if not text.isascii() and _UNSPACED.search(text) else self._spaced

    @cached_property
    def _spaced(self) -> "Bm25":
        from qdrant_edge import TokenizerType

        return _model(TokenizerType.Code)

    @cached_property
    def _unspaced(self) -> "Bm25":
        from qdrant_edge import TokenizerType

        return _model(TokenizerType.Multilingual)


def _model(tokenizer: object) -> "Bm25":
    from qdrant_edge import Bm25, Bm25Config

    return Bm25(
        Bm25Config(
            avg_len=AVERAGE_WORDS,
            tokenizer=tokenizer,  # type: ignore[arg-type]  # an enum member
            language="english",
            lowercase=True,
            ascii_folding=True,
        )
    )
