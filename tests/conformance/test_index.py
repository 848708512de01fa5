"""The vector indexes against their contract, and what only one of them promises."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from llm_engineering.infrastructure.index.qdrant_server import MEMORY, QdrantServerIndex
from tests.conformance.index_contract import IndexContract
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
