"""How a passage came to its place, told from the same searches."""

import asyncio

import pytest

from llm_engineering.application.inference.explain import list_candidates
from llm_engineering.application.inference.retriever import RetrievalConfig, Retriever
from llm_engineering.application.ports.observability import Recorder
from llm_engineering.domain.retrieval import MetadataFilter, Query, SearchMode
from tests.fakes.embedder import HashEmbedder
from tests.unit.test_retrieval import filled_index, make_chunk

CHUNKS = [
    make_chunk("Overlap keeps a sentence whole across two chunks.", document="overlap"),
    make_chunk("Gradient descent follows the slope downhill.", document="descent"),
    make_chunk("Bananas are rich in potassium.", document="bananas", author="Ben Okafor", author_id="a2"),
]


class Backwards:
    """Likes best what the search liked least."""

    name = "backwards"

    def rerank(self, query: str, texts: list[str]) -> list[float]:
        return [float(place) for place, _ in enumerate(texts)]


@pytest.mark.parametrize("mode", list(SearchMode))
def test_each_list_and_the_end_are_told(mode: SearchMode) -> None:
    embedder = HashEmbedder()
    index = filled_index(CHUNKS, embedder)
    reranker = Backwards()
    retriever = Retriever(index, embedder, reranker=reranker, config=RetrievalConfig())  # type: ignore[arg-type]
    query = Query.ask("Overlap of chunks", k=1, mode=mode)
    found = asyncio.run(retriever.retrieve(query, Recorder("search")))
    candidates = list_candidates(found, query, index, embedder, reranker, depth=10)  # type: ignore[arg-type]
    retriever.close()
    by_document = {one.hit.chunk.document_id: one for one in candidates}
    overlap = by_document["overlap"]
    lists = {"dense": overlap.dense, "sparse": overlap.words, "hybrid": overlap.fused}
    made = {name for name, place in lists.items() if place}
    assert made == ({mode.value} if mode is not SearchMode.HYBRID else set(lists))
    assert all(place.rank == 1 for place in lists.values() if place)
    assert sum(one.final is not None for one in candidates) == 1
    ranks = sorted(one.reranked.rank for one in candidates if one.reranked)
    assert ranks == list(range(1, len(candidates) + 1))


def test_the_filter_holds_for_what_came_close_too() -> None:
    embedder = HashEmbedder()
    index = filled_index(CHUNKS, embedder)
    retriever = Retriever(index, embedder)
    query = Query.ask("Bananas", filter=MetadataFilter(authors=("Ben Okafor",)))
    found = asyncio.run(retriever.retrieve(query, Recorder("search")))
    candidates = list_candidates(found, query, index, embedder, depth=10)
    retriever.close()
    assert {one.hit.chunk.author for one in candidates} == {"Ben Okafor"}
    assert all(one.reranked is None for one in candidates)
