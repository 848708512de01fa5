"""Gates for duplicates: exact, near (MinHash) and semantic. The first sample of a group is kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_engineering.application.ports import Embedder, Vectors
from llm_engineering.application.text.minhash import group, signature
from llm_engineering.application.training.datasets.chat_samples import (
    Sample,
    answer_of,
    normalised,
    prompt_of,
)
from llm_engineering.application.training.datasets.gates import Reasons
from llm_engineering.domain.datasets import PreferenceSample

_BLOCK = 2_048
"""Rows compared at a time: a block of similarities takes 16 MiB, whatever the number of samples."""


@dataclass(frozen=True, slots=True)
class ExactDuplicates:
    """The same words in all texts. Case, punctuation and spacing do not count."""

    name: str = "exact_duplicates"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        seen: set[int] = set()
        reasons = {}
        for position, sample in enumerate(samples):
            # A hash in place of the text: 64 bits are enough to tell millions apart, at a hundredth of the memory.
            texts = [prompt_of(sample), answer_of(sample)]
            if isinstance(sample, PreferenceSample):
                texts.append(sample.rejected)
            key = hash(tuple(normalised(text) for text in texts))
            if key in seen:
                reasons[position] = "the same words as an earlier sample"
            seen.add(key)
        return reasons


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Prompt and answer share most of their five-word sequences with an earlier sample's (MinHash).

    Samples of one and the same passage are kept: they are its instructions in several wordings, made on purpose.
    """

    similarity: float = 0.8
    name: str = "near_duplicates"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        # Numbers of equal width sort as they count, so a group's root is its first sample.
        rows = (
            (f"{position:09}", signature(f"{prompt_of(sample)}\n{answer_of(sample)}"), None)
            for position, sample in enumerate(samples)
        )
        groups = group(rows, self.similarity)
        return {
            int(member): "nearly the words of an earlier sample"
            for member, root in groups.items()
            if root is not None and passage_of(samples[int(root)]) != passage_of(samples[int(member)])
        }


@dataclass(frozen=True, slots=True)
class SemanticDuplicates:
    """The embedding lies close to that of an earlier, kept sample of another passage."""

    embed: Callable[[Sequence[str]], Vectors]
    """Unit-length vectors, shape (n, dimension), of texts of any length; see :func:`embedding_of_any_length`."""
    similarity: float = 0.95
    block: int = _BLOCK
    name: str = "semantic_duplicates"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        vectors = self.embed([f"{prompt_of(sample)}\n{answer_of(sample)}" for sample in samples])
        numbers: dict[tuple[str, int, int], int] = {}
        families = np.array([numbers.setdefault(passage_of(s), len(numbers)) for s in samples])
        return dict.fromkeys(
            close_rows(vectors, self.similarity, families, self.block),
            "means nearly the same as an earlier sample",
        )


def passage_of(sample: Sample) -> tuple[str, int, int]:
    """The place that a sample was made from."""
    return sample.origin.document_id, sample.origin.span.start, sample.origin.span.end


def close_rows(
    vectors: Vectors, similarity: float, families: npt.NDArray[np.int64], block: int = _BLOCK
) -> list[int]:
    """Rows whose cosine with an earlier row of another family that is itself kept is at least ``similarity``, ascending.

    Args:
        vectors: unit-length rows, shape (n, dimension).
        similarity: the least cosine.
        families: a number for each row; rows of one family drop each other never.
        block: rows compared at a time; memory beside the vectors is a few times ``block**2`` bytes.
    """
    dropped = np.zeros(len(vectors), dtype=bool)
    for start in range(0, len(vectors), block):
        end = start + block
        for before in range(0, start, block):
            rows = np.flatnonzero(~dropped[before : before + block]) + before
            alike = vectors[start:end] @ vectors[rows].T >= similarity
            alike &= families[start:end, None] != families[None, rows]
            dropped[start:end] |= alike.any(axis=1)
        # Inside the block one after the other, since a row that is dropped drops no other.
        inside = np.tril(vectors[start:end] @ vectors[start:end].T >= similarity, k=-1)
        inside &= families[start:end, None] != families[None, start:end]
        for i in np.flatnonzero(inside.any(axis=1)):
            if not dropped[start + i]:
                dropped[start + i] = bool((inside[i] & ~dropped[start:end]).any())
    return [int(row) for row in np.flatnonzero(dropped)]


def embedding_of_any_length(embedder: Embedder) -> Callable[[Sequence[str]], Vectors]:
    """An embedding function that cuts texts to what the model reads, which the embedder itself refuses to do."""

    def embed(texts: Sequence[str]) -> Vectors:
        room = embedder.fingerprint.max_tokens - embedder.tokenizer.special_tokens
        cut = []
        for text, offsets in zip(texts, embedder.tokenizer.offsets(texts), strict=True):
            cut.append(text[: offsets[room - 1][1]] if len(offsets) > room else text)
        return embedder.embed_documents(cut)

    return embed
