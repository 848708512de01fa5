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


def check_embedding(item: EmbeddedChunk, dimension: int, *, titles: bool = False) -> None:
    """Raise InvalidInputError where a chunk's vector, or its title's, has another dimension or numbers that are not
    finite, or where a title's vector comes to an index that holds none."""
    for name, vector in (("a vector", item.vector), ("a title vector", item.title_vector)):
        if vector is not None and (len(vector) != dimension or not math.isfinite(sum(vector))):
            raise InvalidInputError(
                f"Chunk {item.chunk.id} of {item.chunk.link} has {name} of {len(vector)} numbers; expected "
                f"{dimension} finite ones, as the embedder's fingerprint says."
            )
    if item.title_vector is not None and not titles:
        raise InvalidInputError(
            f"Chunk {item.chunk.id} of {item.chunk.link} has a title vector, but the index is written without titles. "
            "Open it with writer(fingerprint, titles=True), or leave the vector out."
        )


def check_fingerprint(stored: EmbedderFingerprint, asked: EmbedderFingerprint, collection: str) -> None:
    """Raise FingerprintMismatchError where the index was written by another embedder than the one that asks."""
    if stored != asked:
        raise FingerprintMismatchError(
            f"The index '{collection}' was written by {describe(stored)}; the embedder now configured is "
            f"{describe(asked)}. Their vectors cannot be compared. Set the old embedder back, or rebuild the index for "
            "the new one: poe run-feature-engineering-pipeline"
        )


def describe_index(fingerprint: EmbedderFingerprint, titles: bool) -> str:
    """An index's vectors in a few words, for messages."""
    return f"{describe(fingerprint)}, {'with' if titles else 'without'} title vectors"


def describe(fingerprint: EmbedderFingerprint) -> str:
    """An embedder in a few words, for messages."""
    return f"{fingerprint.model} ({fingerprint.dimension} dimensions, {fingerprint.digest})"
