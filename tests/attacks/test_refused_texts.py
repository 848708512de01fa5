"""Texts that an embedding service does not take: they fail alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx  # noqa: F401 - before times are taken: a process reads it once, whatever it embeds
import pytest

from llm_engineering.application.features.chunk import ChunkingConfig
from llm_engineering.application.features.index import EMBED_STAGE, INDEX_STAGE, IndexReport, index_documents
from llm_engineering.application.features.pipeline import clean_documents
from llm_engineering.application.ports import Vectors
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import TextRefusedError, TooManyFailuresError
from llm_engineering.infrastructure.embedders.openai_http import OpenAIEmbedder
from tests.attacks.serving_embeddings import RefusingServer
from tests.durations import allow
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.warehouse import FakeWarehouse

BAD = "unembeddable"


class RefusingEmbedder(HashEmbedder):
    """Refuses every batch that holds the word."""

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if any(BAD in text for text in texts):
            self.calls += 1
            raise TextRefusedError("The service refused the texts (400: content policy).")
        return super().embed_documents(texts)


class World:
    """Stores, an index and an embedder that refuses."""

    def __init__(self, documents: int, bad: Sequence[int] = (), words: str = BAD) -> None:
        self.warehouse, self.index = FakeWarehouse(), FakeVectorIndex()
        self.embedder: HashEmbedder = RefusingEmbedder(dimension=8, max_tokens=64)
        self.put(documents, bad, words)

    def put(self, documents: int, bad: Sequence[int], words: str = BAD) -> None:
        w = self.warehouse
        texts = [
            "\n\n".join(
                f"## Part {part}\n\n" + f"Clock {n} of tower {part} drifts. " * 6 for part in range(3)
            )
            + (f"\n\n## Last\n\nHere stands {words}, which makes it so." if n in bad else "")
            for n in range(documents)
        ]
        links = [f"https://example.org/{n}" for n in range(documents)]
        w.documents.upsert(
            [
                RawDocument(
                    category="article",
                    title=f"Clock {n}",
                    text=text,
                    link=link,
                    origin=link,
                    platform="web",
                    author="Ada",
                )
                for n, (text, link) in enumerate(zip(texts, links, strict=True))
            ]
        )
        clean_documents(w.documents, w.clean, w.dead_letters)

    def make_index(self, **options: Any) -> IndexReport:
        w = self.warehouse
        config = ChunkingConfig(overlap_tokens=0, min_tokens=0, parent_tokens=64)
        given = {"dead_letters": w.dead_letters, "window_chunks": 5, **options}
        return index_documents(w.clean, self.index, self.embedder, w.embeddings, config, **given)

    def links(self) -> set[str]:
        return {chunk.chunk.link for chunk in self.index.chunks.values()}


@pytest.mark.parametrize("window", [1, 3, 5, 1000])
def test_a_refused_text_costs_its_document_and_no_other(window: int) -> None:
    world = World(20, bad=[7])
    report = world.make_index(window_chunks=window)
    assert (report.failed, report.changed) == (1, 19)
    assert len(world.links()) == 19
    assert "https://example.org/7" not in world.links()
    (letter,) = world.warehouse.dead_letters.stream(EMBED_STAGE)
    assert BAD in letter.payload
    assert "https://example.org/7" in letter.reason
    # Every further run is as that one, and a document that was mended is indexed.
    assert world.make_index(window_chunks=window).failed == 1
    world.put(20, bad=[])
    assert world.make_index(window_chunks=window).failed == 0
    assert len(world.links()) == 20
    assert list(world.warehouse.dead_letters.stream(EMBED_STAGE)) == []
    assert list(world.warehouse.dead_letters.stream(INDEX_STAGE)) == []


def test_a_document_that_was_indexed_and_is_now_refused_goes() -> None:
    world = World(20)
    assert world.make_index().failed == 0
    world.put(20, bad=[3])
    report = world.make_index()
    assert (report.failed, report.deleted) == (1, 1)
    assert "https://example.org/3" not in world.links()


def test_a_service_that_refuses_everything_ends_the_run_after_as_many_as_it_bears() -> None:
    world = World(50, bad=range(50))
    with pytest.raises(TooManyFailuresError):
        world.make_index(max_failed_share=0.1)
    assert len(list(world.warehouse.dead_letters.stream(EMBED_STAGE))) == 6
    assert world.embedder.calls < 100


def open_embedder(server: RefusingServer, **options: Any) -> OpenAIEmbedder:
    return OpenAIEmbedder(
        base_url=server.url,
        api_key=None,
        model="m",
        dimension=4,
        max_tokens=64,
        tokenizer_path=Path("models/all-MiniLM-L6-v2/tokenizer.json"),
        sleep=lambda seconds: None,
        **options,
    )


def put_records(world: World, number: int, bad: Sequence[int] = ()) -> None:
    """Short documents of one chunk each."""
    texts = [f"Clock {n} drifts{f' for it is {BAD}' if n in bad else ''}." for n in range(number)]
    world.warehouse.documents.upsert(
        [
            RawDocument(
                category="article", text=text, link=f"https://example.org/{n}", origin="o", platform="p"
            )
            for n, text in enumerate(texts)
        ]
    )
    clean_documents(world.warehouse.documents, world.warehouse.clean, world.warehouse.dead_letters)


def test_a_busy_service_and_one_refused_text_cost_one_document_and_few_requests() -> None:
    batch = 16
    world = World(0)
    put_records(world, 480, bad=[77])
    faults = [429, 500] * 5  # a third of what 30 requests are
    with RefusingServer(BAD, 400, faults=faults) as server:
        world.embedder = embedder = open_embedder(server, batch_size=batch, max_retries=8)  # type: ignore[assignment]
        report = world.make_index(texts_at_once=batch, concurrency=4, window_chunks=1024)
        assert (report.failed, report.changed) == (1, 479)
        extra = server.requests - 480 // batch - len(faults)
        assert extra <= 2 * math.ceil(math.log2(batch))
        assert report.tokens == server.tokens
        embedder.close()
    (letter,) = world.warehouse.dead_letters.stream(EMBED_STAGE)
    assert "https://example.org/77" in letter.reason


def test_many_requests_run_at_the_same_time_and_their_cost_is_told() -> None:
    world = World(0)
    put_records(world, 5_000)
    with RefusingServer("", 400, seconds=0.2) as server:
        world.embedder = embedder = open_embedder(server, batch_size=100, price=0.02)  # type: ignore[assignment]
        report = world.make_index(texts_at_once=100, concurrency=8, window_chunks=1024)
        embedder.close()
        assert server.requests == 50
        assert report.cost_usd == pytest.approx(server.tokens * 0.02 / 1_000_000)
    assert report.embedded == 5_000
    assert report.seconds["embed"] <= allow(2.0)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_a_service_refuses_is_told_from_a_service_that_fails(status: int) -> None:
    with RefusingServer(BAD, status) as server:
        embedder = OpenAIEmbedder(
            base_url=server.url,
            api_key=None,
            model="m",
            dimension=4,
            max_tokens=64,
            tokenizer_path=Path("models/all-MiniLM-L6-v2/tokenizer.json"),
        )
        assert embedder.embed_documents(["good"]).shape == (1, 4)
        with pytest.raises(TextRefusedError):
            embedder.embed_documents(["good", BAD])
        embedder.close()
