"""Streams over real sockets: text as it is made, heartbeats, clients that leave, and a loop that nothing blocks."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from loguru import logger
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_engineering.application.ports import SearchRequest
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.domain.errors import StoreUnavailableError
from llm_engineering.domain.retrieval import Hit
from tests.conformance.service_client import PATIENCE, eventually, server_sent_events
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import ANSWER, QUESTION, TwinService, serving, write

SENTENCES = [
    f"Overlap number {number} repeats the last sentences of a chunk at the start of the next chunk. [1]"
    for number in range(200)
]


def endless(seconds_per_piece: float = 0.005) -> ScriptedLanguageModel:
    """A model that would write for many seconds."""
    return ScriptedLanguageModel([Reply(" ".join(SENTENCES), seconds_per_piece=seconds_per_piece)])


@contextmanager
def posted(url: str, path: str, body: object) -> Iterator[socket.socket]:
    """A connection on which a request has been sent; it is dropped when the block ends."""
    place = urlsplit(url)
    content = json.dumps(body).encode()
    assert place.hostname
    with socket.create_connection((place.hostname, place.port or 80), timeout=PATIENCE) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        yield connection


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """What came up to the first time that ``wanted`` has come."""
    came = b""
    while wanted not in came:
        piece = connection.recv(65_536)
        assert piece, f"the connection ended without {wanted!r}: {came[-300:]!r}"
        came += piece
    return came


OPENAI = {"model": "llm-twin", "messages": [{"role": "user", "content": QUESTION}]}


@pytest.fixture(params=["routes alone", "with all layers"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., ASGIApp]:
    """Makes the app over a model: what holds for the routes must hold through keys, limits and time-outs too."""
    if request.param == "routes alone":
        return lambda model, **parts: TwinService(model, **parts).app
    return lambda model, **parts: OperatedService(tmp_path, model, **parts).app


class TestLeaving:
    @pytest.mark.parametrize(
        ("path", "body", "first"),
        [
            ("/rag/stream", {"query": QUESTION, "max_tokens": 5_000}, b"event: delta"),
            ("/v1/chat/completions", OPENAI | {"stream": True, "max_tokens": 5_000}, b'{"content":'),
        ],
    )
    def test_a_client_that_leaves_in_the_middle_ends_the_generation(
        self, service: Callable[..., ASGIApp], path: str, body: dict[str, object], first: bytes
    ) -> None:
        model = endless()
        with serving(service(model)) as url:
            with posted(url, path, body) as connection:
                read_until(connection, first)
                assert not model.calls[-1].finished
            assert eventually(lambda: model.calls[-1].cancelled)
            assert not model.calls[-1].finished
            assert httpx.get(f"{url}/info").status_code == 200

    @pytest.mark.parametrize(
        ("path", "body"), [("/rag", {"query": QUESTION}), ("/v1/chat/completions", OPENAI)]
    )
    def test_a_client_that_does_not_wait_for_its_answer_ends_the_generation(
        self, service: Callable[..., ASGIApp], path: str, body: dict[str, object]
    ) -> None:
        model = endless(seconds_per_piece=0.2)
        with serving(service(model)) as url:
            with posted(url, path, body):
                assert eventually(lambda: bool(model.calls))
            assert eventually(lambda: model.calls[-1].cancelled)

    def test_a_client_that_leaves_before_the_first_event_costs_no_generation(
        self, service: Callable[..., ASGIApp]
    ) -> None:
        model, index = endless(), Slow(0.5)
        with serving(service(model, index=index)) as url:
            with posted(url, "/rag/stream", {"query": QUESTION}):
                assert index.entered.wait(PATIENCE)
            assert index.left.wait(PATIENCE)
            time.sleep(0.2)  # time enough for a pipeline that went on to reach the model
        assert model.calls == []

    def test_clients_that_left_leave_nothing_behind(self) -> None:
        """No task of the loop, no line in the log: leaving is no failure."""
        model = ScriptedLanguageModel(default=" ".join(SENTENCES))
        watched = Watched(TwinService(model).app)
        failures: list[str] = []
        sink = logger.add(failures.append, level="WARNING", format="{message}")
        try:
            with serving(watched) as url:
                httpx.get(f"{url}/info")
                before = watched.tasks()
                for number in range(20):
                    path = ("/rag", "/rag/stream")[number % 2]
                    with posted(url, path, {"query": QUESTION}):
                        time.sleep(0.01 * (number % 5))
                assert eventually(lambda: watched.tasks() <= before)
        finally:
            logger.remove(sink)
        assert failures == []


class Watched:
    """Passes requests on, and knows the loop that serves them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        await self._app(scope, receive, send)

    def tasks(self) -> int:
        """How many tasks the loop has, this look left out."""

        async def look() -> int:
            return len(asyncio.all_tasks()) - 1

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(PATIENCE)


class TestStreaming:
    def test_text_is_shown_while_the_model_still_writes(self) -> None:
        model = endless()
        with (
            serving(TwinService(model).app) as url,
            posted(url, "/rag/stream", {"query": QUESTION}) as connection,
        ):
            head = read_until(connection, b"event: delta")
            assert not model.calls[-1].finished
        assert head.index(b"event: sources") < head.index(b"event: delta")

    def test_a_silent_stream_sends_comments_that_are_no_events(self) -> None:
        model = ScriptedLanguageModel([Reply(ANSWER, seconds_per_piece=0.15)])
        with serving(TwinService(model, heartbeat_seconds=0.04).app) as url:
            text = httpx.post(f"{url}/rag/stream", json={"query": QUESTION}).text
        assert text.count(": keep-alive\n\n") >= 3
        shown = [event.data["text"] for event in server_sent_events(text) if event.name == "delta"]
        assert "".join(shown) == ANSWER

    @pytest.mark.parametrize("question", [QUESTION, " zzz ; "])
    def test_a_slow_search_is_no_silence_either(self, question: str) -> None:
        twin = TwinService(index=Slow(0.5), heartbeat_seconds=0.1)
        with serving(twin.app) as url:
            text = httpx.post(f"{url}/rag/stream", json={"query": question}).text
        assert text.startswith(": keep-alive\n\n")
        assert server_sent_events(text)[0].name == "sources"

    def test_what_fails_after_a_long_wait_is_an_event(self) -> None:
        twin = TwinService(index=Slow(0.5, then=StoreUnavailableError("away")), heartbeat_seconds=0.1)
        with serving(twin.app) as url:
            response = httpx.post(f"{url}/rag/stream", json={"query": QUESTION})
        [error] = server_sent_events(response.text)
        assert (response.status_code, error.name) == (200, "error")
        assert error.data["error"]["code"] == "store_unavailable"

    async def test_many_streams_at_once_keep_apart(self) -> None:
        def echo(messages: Sequence[object]) -> str:
            asked = str(messages[-1])
            number = next(n for n in range(100, 130) if f"number {n}" in asked)
            return f"Overlap number {number} repeats the last sentences of a chunk. [1]"

        model = ScriptedLanguageModel(default=echo)
        with serving(TwinService(model).app) as url:
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:

                async def ask(number: int) -> str:
                    body = {"query": f"What does overlap number {number} repeat of a chunk?"}
                    return (await client.post("/rag/stream", json=body)).text

                texts = await asyncio.gather(*(ask(number) for number in range(100, 130)))
        for number, text in zip(range(100, 130), texts, strict=True):
            assert server_sent_events(text)[-1].data["answer"]["text"].startswith(f"Overlap number {number} ")

    def test_a_connection_serves_the_next_request_after_a_stream(self) -> None:
        with serving(TwinService().app) as url:
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
            for path in ("/rag/stream", "/rag", "/rag/stream"):
                body = json.dumps({"query": QUESTION})
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                assert response.status == 200
                assert ANSWER.encode() in response.read()
            connection.close()


class Slow(FakeVectorIndex):
    """An index whose search keeps its thread for a while."""

    def __init__(self, seconds: float, then: Exception | None = None) -> None:
        super().__init__()
        self._seconds = seconds
        self._then = then
        self.entered = threading.Event()
        self.left = threading.Event()
        write(self, HashEmbedder())

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        self.entered.set()
        time.sleep(self._seconds)
        self.left.set()
        if self._then is not None:
            raise self._then
        return super().search(requests, fingerprint)


class SlowEmbedder(HashEmbedder):
    """An embedder whose queries keep their thread for a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.entered = threading.Event()
        self.left = threading.Event()

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        self.entered.set()
        time.sleep(self._seconds)
        self.left.set()
        return super().embed_queries(texts)


class TestNothingBlocksTheLoop:
    @pytest.mark.slow
    @pytest.mark.parametrize("slow", ["index", "embedder"])
    @pytest.mark.parametrize("path", ["/search", "/rag", "/rag/stream"])
    def test_others_are_answered_while_one_waits_for_a_thread(self, slow: str, path: str) -> None:
        part = Slow(1.5) if slow == "index" else SlowEmbedder(1.5)
        twin = TwinService(index=part) if isinstance(part, Slow) else TwinService(embedder=part)
        with serving(twin.app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
            client.get("/info")
            waiting = threading.Thread(
                target=httpx.post, args=(url + path,), kwargs={"json": {"query": QUESTION}}
            )
            waiting.start()
            assert part.entered.wait(PATIENCE)
            for _ in range(10):
                assert client.get("/info").status_code == 200
            assert not part.left.is_set(), "ten requests took longer than one search: the loop was blocked"
            waiting.join(PATIENCE)

    def test_the_whole_service_says_that_it_lives_while_a_search_takes_long(self, tmp_path: Path) -> None:
        index = Slow(1.5)
        with serving(OperatedService(tmp_path, index=index).app) as url, httpx.Client(base_url=url) as client:
            client.get("/health/live")
            waiting = threading.Thread(
                target=httpx.post, args=(f"{url}/rag",), kwargs={"json": {"query": QUESTION}}
            )
            waiting.start()
            assert index.entered.wait(PATIENCE)
            slowest = max(
                client.get("/health/live").raise_for_status().elapsed.total_seconds() for _ in range(10)
            )
            assert not index.left.is_set(), f"the loop was blocked: one answer took {slowest:.2f} s"
            waiting.join(PATIENCE)

    def test_filters_and_votes_wait_in_threads_too(self) -> None:
        twin = TwinService()
        entered, go_on = threading.Event(), threading.Event()

        def stuck(*_: object) -> dict[str, int]:
            entered.set()
            go_on.wait(PATIENCE)
            return {}

        twin.index.count_values = stuck  # type: ignore[method-assign,assignment]
        with serving(twin.app) as url:
            waiting = threading.Thread(target=httpx.get, args=(f"{url}/filters",))
            waiting.start()
            assert entered.wait(PATIENCE)
            assert httpx.get(f"{url}/info", timeout=PATIENCE).status_code == 200
            go_on.set()
            waiting.join(PATIENCE)
