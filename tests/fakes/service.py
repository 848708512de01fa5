"""The inference service over fakes, and any ASGI app over real sockets.

::

    twin = TwinService(ScriptedLanguageModel(["Overlap keeps sentences whole. [1]"]))
    with serving(twin.app) as url:
        httpx.post(f"{url}/rag", json={"query": "What is overlap?"})

The pipeline is the real one; the index, the embedder, the language model and the database are fakes that keep the same
contracts as the real ones.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI

from llm_engineering.application.inference.collection import Collection
from llm_engineering.application.inference.pipeline import InferenceConfig, InferencePipeline
from llm_engineering.application.inference.records import RecordSearch
from llm_engineering.application.inference.retriever import Retriever
from llm_engineering.application.ports import LanguageModel, Message, Reranker, VectorIndex
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, Span, derive_id
from llm_engineering.infrastructure.api.app import ServiceParts, create_app
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse

STARTING_SECONDS = 30
"""Far more than a start takes, so that a busy machine does not fail a test."""


@dataclass(frozen=True)
class Writing:
    """A document of one chunk."""

    title: str
    text: str
    author: str = "Ada Winter"
    category: str = "article"
    platform: str = "ada.example"
    language: str = "en"
    published_at: datetime = datetime(2026, 3, 14, 9, tzinfo=UTC)

    @property
    def link(self) -> str:
        return f"https://{self.platform}/{self.title.lower().replace(' ', '-')}"

    def chunk(self) -> Chunk:
        """Its only chunk."""
        document = derive_id("document", self.link)
        return Chunk(
            id=Chunk.derive_id(document, 0, self.text),
            document_id=document,
            document_version="v1",
            position=0,
            span=Span(start=0, end=len(self.text)),
            text=self.text,
            tokens=len(self.text.split()) + 2,
            category=self.category,
            title=self.title,
            link=self.link,
            platform=self.platform,
            author=self.author,
            author_id=derive_id("user", self.author.casefold()),
            language=self.language,
            published_at=self.published_at,
        )


WRITINGS = (
    Writing(
        "Chunk overlap",
        "Overlap repeats the last sentences of a chunk at the start of the next chunk. "
        "So a sentence that answers a question stays whole in at least one of them.",
    ),
    Writing(
        "Hybrid search",
        "Hybrid search joins vector search with keyword search. "
        "Reciprocal rank fusion adds up the ranks of both lists, so that no score must be scaled.",
        published_at=datetime(2026, 5, 2, 12, 30, tzinfo=UTC),
    ),
    Writing(
        "Feature stores",
        "A feature store keeps what training and serving share. Both read the same features, so they cannot drift apart.",
        author="Ben Okafor",
        category="post",
        platform="ben.example",
    ),
    Writing(
        "Katzen",
        "Die Katze schläft den halben Tag. Nachts jagt die Katze Mäuse.",
        author="Ben Okafor",
        category="post",
        platform="ben.example",
        language="de",
        published_at=datetime(2025, 11, 30, 23, 15, tzinfo=UTC),
    ),
)
QUESTION = "What does overlap repeat at the start of the next chunk?"
ANSWER = "Overlap repeats the last sentences of a chunk at the start of the next chunk. [1]"


def write(index: VectorIndex, embedder: HashEmbedder, writings: Sequence[Writing] = WRITINGS) -> None:
    """Put documents into an index, as one publication."""
    chunks = [writing.chunk() for writing in writings]
    vectors = embedder.embed_documents([chunk.embedding_text for chunk in chunks])
    with index.writer(embedder.fingerprint) as writer:
        writer.upsert(
            [EmbeddedChunk(chunk=c, vector=tuple(v.tolist())) for c, v in zip(chunks, vectors, strict=True)]
        )


def first_sentence_of_the_sources(messages: Sequence[Message]) -> str:
    """What a model would say that copies from its sources: the first sentence of :data:`WRITINGS` among them."""
    asked = messages[-1].content
    stated = [(asked.find(sentence), sentence) for sentence in (w.text.split(". ")[0] for w in WRITINGS)]
    found = sorted((at, sentence) for at, sentence in stated if at >= 0)
    return f"{found[0][1].rstrip('.')}. [1]" if found else "The sources do not say."


class TwinService:
    """The app over fakes, with the fakes at hand.

    Args:
        index: filled with :data:`WRITINGS` unless one is given.
        parts: what else :class:`ServiceParts` takes.
    """

    def __init__(
        self,
        model: LanguageModel | None = None,
        *,
        index: VectorIndex | None = None,
        embedder: HashEmbedder | None = None,
        reranker: Reranker | None = None,
        config: InferenceConfig = InferenceConfig(),
        keep_answers: bool = True,
        more_models: Sequence[LanguageModel] = (),
        owner: str | None = None,
        **parts: Any,
    ) -> None:
        self.embedder = embedder or HashEmbedder()
        self.model = model or ScriptedLanguageModel(default=first_sentence_of_the_sources)
        self.warehouse = FakeWarehouse()
        if index is None:
            index = FakeVectorIndex()
            write(index, self.embedder)
        self.index = index
        feedback = self.warehouse.feedback if keep_answers else None
        drafts = self.warehouse.drafts if keep_answers else None
        retriever = Retriever(index, self.embedder, self.model, reranker, config.retrieval)
        self.pipeline = InferencePipeline(
            retriever,
            self.model,
            index,
            self.embedder,
            config=config,
            feedback=feedback,
            drafts=drafts,
            collection=Collection(self.warehouse.clean, index, self.embedder, min_similarity=0.99),
            more_models=more_models,
            owner=owner,
        )
        clean, embeddings = self.warehouse.clean, self.warehouse.embeddings
        self.parts = ServiceParts(
            pipeline=self.pipeline,
            index=index,
            records=RecordSearch(self.pipeline, clean, index, self.embedder, embeddings),
            feedback=feedback,
            drafts=drafts,
            retrieval=config.retrieval,
            embedder=self.embedder.fingerprint.model,
            version="1.2.3",
            **parts,
        )
        self.app: FastAPI = create_app(self.parts)


@contextlib.contextmanager
def serving(app: Any, *, stopping_seconds: float = 5) -> Iterator[str]:
    """Serve an ASGI app on a free port of 127.0.0.1, in a thread with an event loop of its own; yields its address.

    When the block ends, running requests get ``stopping_seconds`` to finish.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=int(stopping_seconds), ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + STARTING_SECONDS
            while not server.started:
                assert thread.is_alive(), "the server did not start; its error is in the log"
                assert time.monotonic() < deadline, f"the server did not start within {STARTING_SECONDS} s"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(STARTING_SECONDS)
