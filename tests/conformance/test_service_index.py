"""The service over the real embedded index: missing, published and replaced while it serves."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from llm_engineering.application.ports import SearchRequest
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.domain.retrieval import Hit
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from tests.conformance.service_client import server_sent_events
from tests.fakes.embedder import HashEmbedder
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.service import ANSWER, QUESTION, WRITINGS, TwinService, Writing, serving, write

NEWS = Writing("Late news", "Zanzibar publishes its own vector index.", author="Cleo Brandt")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[QdrantEdgeIndex]:
    index = QdrantEdgeIndex(tmp_path, "twin")
    yield index
    index.close()


def replace(folder: Path, writings: Sequence[Writing]) -> None:
    """Publish a generation that holds these documents alone, as the feature pipeline in its own process does."""
    writer = QdrantEdgeIndex(folder, "twin")
    embedder = HashEmbedder()
    gone = [document for document, _ in writer.list_versions()]
    with writer.writer(embedder.fingerprint) as writing:
        writing.delete(gone)
    write(writer, embedder, writings)
    writer.close()


def test_a_missing_index_is_503_with_the_task_and_found_once_it_is_there(
    index: QdrantEdgeIndex, tmp_path: Path
) -> None:
    with serving(TwinService(index=index).app) as url, httpx.Client(base_url=url) as client:
        for path in ("/search", "/rag", "/rag/stream"):
            response = client.post(path, json={"query": QUESTION})
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert "poe run-feature-engineering-pipeline" in response.json()["error"]["message"]
            assert str(tmp_path) not in response.text
        assert client.get("/filters").status_code == 503
        write(QdrantEdgeIndex(tmp_path, "twin"), HashEmbedder())
        assert client.post("/rag", json={"query": QUESTION}).json()["answer"]["text"] == ANSWER


def test_a_new_generation_is_picked_up_without_a_restart(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, HashEmbedder())
    with serving(TwinService(index=index).app) as url, httpx.Client(base_url=url) as client:
        before = client.get("/filters").json()["authors"]
        replace(tmp_path, [*WRITINGS, NEWS])
        after = client.get("/filters").json()["authors"]
        hits = client.post(
            "/search", json={"query": "Zanzibar", "filter": {"authors": ["Cleo Brandt"]}}
        ).json()["hits"]
    assert before == {"Ada Winter": 2, "Ben Okafor": 2}
    assert after == before | {"Cleo Brandt": 1}
    assert [hit["chunk"]["title"] for hit in hits] == ["Late news"]


def test_an_answer_that_is_being_written_keeps_its_sources_when_the_index_is_replaced(
    index: QdrantEdgeIndex, tmp_path: Path
) -> None:
    write(index, HashEmbedder())
    model = ScriptedLanguageModel([Reply(ANSWER, seconds_per_piece=0.05)], default=ANSWER)
    with (
        serving(TwinService(model, index=index).app) as url,
        httpx.Client(base_url=url) as client,
        client.stream("POST", "/rag/stream", json={"query": QUESTION}) as response,
    ):
        chunks = response.iter_text()
        text = next(chunks)
        replace(tmp_path, [NEWS])
        text += "".join(chunks)
        later = httpx.post(f"{url}/search", json={"query": QUESTION}).json()["hits"]
    done = server_sent_events(text)[-1]
    assert done.name == "done"
    assert done.data["answer"]["text"] == ANSWER
    assert done.data["answer"]["citations"][0]["passage"]["title"] == "Chunk overlap"
    assert [hit["chunk"]["title"] for hit in later] == ["Late news"]


class Replaced(QdrantEdgeIndex):
    """Is replaced by another process right after each search, before the passages around the hits are read."""

    folder: Path

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        found = super().search(requests, fingerprint)
        replace(self.folder, [NEWS])
        return found


def test_hits_whose_documents_vanish_in_the_same_request_still_make_an_answer(tmp_path: Path) -> None:
    write(QdrantEdgeIndex(tmp_path, "twin"), HashEmbedder())
    index = Replaced(tmp_path, "twin")
    index.folder = tmp_path
    with serving(TwinService(index=index).app) as url:
        response = httpx.post(f"{url}/rag", json={"query": QUESTION}, timeout=30)
    index.close()
    assert response.status_code == 200, response.text
    assert response.json()["answer"]["citations"][0]["passage"]["title"] == "Chunk overlap"
