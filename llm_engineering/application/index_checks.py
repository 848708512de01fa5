"""What every index refuses, in the same words."""

import math

from llm_engineering.application.ports import SearchRequest
from llm_engineering.domain.documents import EmbeddedChunk, EmbedderFingerprint
from llm_engineering.domain.errors import FingerprintMismatchError, InvalidInputError
from llm_engineering.domain.retrieval import SearchMode

BUILD = "Build it with: poe run-feature-engineering-pipeline"


def check_request(request: SearchRequest, dimension: int) -> None:
    """Raise InvalidInputError where a search by meaning has no vector of shape (dimension,)."""
    if request.mode is SearchMode.SPARSE:
        return
    shape = None if request.vector is None else request.vector.shape
    if shape != (dimension,):
        raise InvalidInputError(
            f"A {request.mode} search needs a vector of shape ({dimension},); got {shape}."
        )


def check_embedding(item: EmbeddedChunk, dimension: int) -> None:
    """Raise InvalidInputError where a chunk's vector has another dimension, or numbers that are not finite."""
    if len(item.vector) != dimension or not math.isfinite(sum(item.vector)):
        raise InvalidInputError(
            f"Chunk {item.chunk.id} of {item.chunk.link} has a vector of {len(item.vector)} numbers; expected "
            f"{dimension} finite ones, as the embedder's fingerprint says."
        )


def check_fingerprint(stored: EmbedderFingerprint, asked: EmbedderFingerprint, collection: str) -> None:
    """Raise FingerprintMismatchError where the index was written by another embedder than the one that asks."""
    if stored != asked:
        raise FingerprintMismatchError(
            f"The index '{collection}' was written by {describe(stored)}; the embedder now configured is "
            f"{describe(asked)}. Their vectors cannot be compared. Set the old embedder back, or rebuild the index for "
            "the new one: poe run-feature-engineering-pipeline"
        )


def describe(fingerprint: EmbedderFingerprint) -> str:
    """An embedder in a few words, for messages."""
    return f"{fingerprint.model} ({fingerprint.dimension} dimensions, {fingerprint.digest})"
