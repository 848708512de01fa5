"""The vector indexes against their contract, and what only one of them promises."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from tests.conformance.index_contract import IndexContract
from tests.fakes.index import FakeVectorIndex


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
