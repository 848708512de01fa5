"""Adapt a transformers tokenizer to the protocol that training labels need."""

from typing import Any


class HuggingFaceTokenizer:
    """Implements :class:`~llm_engineering.application.training.finetune.labels.ChatTokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos: str = tokenizer.eos_token
        self.bos_id: int | None = tokenizer.bos_token_id
        added = tokenizer("x", add_special_tokens=True)["input_ids"]
        self.adds_bos = self.bos_id is not None and added[:1] == [self.bos_id]

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and offsets; nothing is added, so that BOS is not there twice."""
        # Not verbose: it warns of texts longer than the model was made for, and those are counted and told by us.
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(encoded["input_ids"]), [(start, end) for start, end in encoded["offset_mapping"]]
