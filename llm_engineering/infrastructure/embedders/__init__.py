"""Embedders, and the tokenizer that they share: the model's own for ONNX, a yardstick for services."""

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_engineering.domain.errors import ModelError, ModelFileError
from llm_engineering.domain.hints import POE
from llm_engineering.infrastructure.shared.token_batches import Ids


class WordPieceTokenizer:
    """A ``tokenizer.json``, opened on first use. Counts leave out the special tokens.

    Raises:
        ModelFileError: from every method, when the file is missing or broken.
    """

    special_tokens = 2
    splits_at_blank_space = True
    """BERT splits words at blank space before all else, so the counts of words add up to that of the text."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._tokenizer: Any = None

    def find_offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text the (start, end) characters of each token, in order."""
        return [
            encoding.offsets for encoding in self._open().encode_batch(list(texts), add_special_tokens=False)
        ]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [
            len(encoding.ids)
            for encoding in self._open().encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def refuse_long(self, texts: Sequence[str], limit: int) -> None:
        """Refuse texts of more tokens than the limit, special ones included: nothing is cut silently.

        Raises:
            ModelError: names the first.
        """
        for position, count in enumerate(self.counts(texts)):
            if count + self.special_tokens > limit:
                raise ModelError(
                    f"Text {position} has {count + self.special_tokens} tokens, prefix and special ones included; the "
                    f"embedder takes at most {limit}, and nothing is cut silently. Chunk it smaller."
                )

    def shorten(self, texts: Sequence[str], limit: int) -> list[str]:
        """Return texts of at most so many tokens, special ones included."""
        most = limit - self.special_tokens
        return [
            text[: spans[most - 1][1]] if len(spans) > most else text
            for text, spans in zip(texts, self.find_offsets(texts), strict=True)
        ]

    def encode_with_starts(self, texts: Sequence[str]) -> list[tuple[Ids, Ids]]:
        """Return what the model is fed for each text, and the character at which each token begins; 0 for special ones."""
        return [
            (
                np.array(encoding.ids, dtype=np.int64),
                np.array([start for start, _ in encoding.offsets], dtype=np.int64),
            )
            for encoding in self._open().encode_batch(list(texts))
        ]

    def encode_ids(self, texts: Sequence[str]) -> list[Ids]:
        """Return what the model is fed for each text: its token ids between the special tokens."""
        return [
            np.array(encoding.ids, dtype=np.int64) for encoding in self._open().encode_batch_fast(list(texts))
        ]

    @cached_property
    def marks(self) -> Ids:
        """Ids of the tokens without a letter or digit: punctuation, symbols."""
        vocabulary: dict[str, int] = self._open().get_vocab()
        marks = [number for token, number in vocabulary.items() if not any(map(str.isalnum, token))]
        return np.array(sorted(marks), dtype=np.int64)

    def _open(self) -> Any:
        with self._lock:
            if self._tokenizer is None:
                from tokenizers import Tokenizer

                try:
                    tokenizer = Tokenizer.from_buffer(self._file.read_bytes())
                except (OSError, ValueError) as error:
                    raise ModelFileError(
                        f"The tokenizer {self._file} cannot be used ({error}). "
                        f"Delete it and run: {POE} download-models"
                    ) from error
                # The file asks for cutting and padding to 128 tokens: nothing may be cut silently.
                tokenizer.no_truncation()
                tokenizer.no_padding()
                self._tokenizer = tokenizer
            return self._tokenizer
