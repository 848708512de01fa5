"""The vector indexes against their contract, and what only one of them promises."""

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llm_engineering.application.ports import SearchRequest
from llm_engineering.domain.retrieval import WeightedFusion
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from llm_engineering.infrastructure.index.qdrant_server import MEMORY, QdrantServerIndex
from tests.conformance.index_contract import FINGERPRINT, IndexContract, corpus, titled, unit, write
from tests.fakes.index import FakeVectorIndex


def remove_collections(index: QdrantServerIndex) -> None:
    """Leave nothing on a server that others may use."""
    prefix = index._alias
    for collection in index.call(lambda client: client.get_collections()).collections:
        if collection.name.startswith(f"{prefix}-"):
            index.call(lambda client, name=collection.name: client.delete_collection(name))


class TestFake(IndexContract):
    @pytest.fixture
    def index(self) -> FakeVectorIndex:
        return FakeVectorIndex()


class TestEdge(IndexContract):
    @pytest.fixture
    def index(self, tmp_path: Path) -> Iterator[QdrantEdgeIndex]:
        index = QdrantEdgeIndex(tmp_path, "twin")
        yield index
        index.close()

    def test_an_index_from_before_there_were_titles_goes_on(
        self, index: QdrantEdgeIndex, tmp_path: Path
    ) -> None:
        write(index, corpus()[:30])
        index.close()
        [manifest] = (tmp_path / "twin" / "generations").glob("*/manifest.json")
        noted = json.loads(manifest.read_text(encoding="utf-8"))
        assert noted.pop("titles") is False
        manifest.write_text(json.dumps(noted), encoding="utf-8")
        write(index, corpus()[30:])
        assert index.count() == 40

    def test_titles_outlive_the_change_to_a_graph(self, tmp_path: Path) -> None:
        index = QdrantEdgeIndex(tmp_path, "large", exact_up_to=10)
        item = titled(corpus())[:1][0].model_copy(
            update={"title_vector": tuple(float(value) for value in unit(1))}
        )
        write(index, titled(corpus())[1:], titles=True)
        write(index, [item], titles=True)
        asked = SearchRequest("absent", unit(1), k=40, fusion=WeightedFusion(alpha=1))
        with_titles, without = index.search([asked, replace(asked, titles=False)], FINGERPRINT)
        index.close()
        scores = {hit.chunk.id: hit.score for hit in with_titles}
        bodies = {hit.chunk.id: hit.score for hit in without}
        assert len(scores) == 40
        assert scores[item.chunk.id] == pytest.approx(bodies[item.chunk.id] / 2 + 0.5, abs=1e-4)


class TestServer(IndexContract):
    @pytest.fixture
    def index(self) -> Iterator[QdrantServerIndex]:
        """A real server where QDRANT_TEST_URL names one, else qdrant-client's local engine."""
        url = os.environ.get("QDRANT_TEST_URL", MEMORY)
        index = QdrantServerIndex(url, os.environ.get("QDRANT_TEST_API_KEY"), f"test-{uuid.uuid4().hex[:12]}")
        yield index
        if url != MEMORY:
            remove_collections(index)
        index.close()
