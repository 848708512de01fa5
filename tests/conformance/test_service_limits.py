"""What callers may ask of the service: rate, body, concurrency, time; and that nothing which is turned away is lost."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.infrastructure.api.metrics import ServiceMetrics
from llm_engineering.infrastructure.api.middleware import limits
from llm_engineering.infrastructure.api.middleware import slots as slot_module
from llm_engineering.infrastructure.api.middleware.limits import TokenBuckets, caller_of
from llm_engineering.infrastructure.api.middleware.slots import ConcurrencyLimiter, NoSlotError, SlotLimit
from tests.durations import allow
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.operated_service import OperatedService, eventually, metric
from tests.fakes.service import ANSWER, QUESTION, serving

ASK = {"query": QUESTION}


class SlowModel(ScriptedLanguageModel):
    """Says the same, slowly, and knows how many it is talking to at a time."""

    def __init__(self, seconds_per_word: float) -> None:
        super().__init__()
        self._seconds = seconds_per_word
        self.inside = 0
        self.most = 0

    async def stream(
        self, messages: Sequence[Message], options: GenerationOptions = GenerationOptions()
    ) -> AsyncIterator[Delta]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.queue(Reply(ANSWER, seconds_per_piece=self._seconds))
        try:
            async for delta in super().stream(messages, options):
                yield delta
        finally:
            self.inside -= 1


@contextmanager
def service(folder: Path, model: Any = None, **settings: Any) -> Iterator[httpx.Client]:
    operated = OperatedService(folder, model, **settings)
    with serving(operated.app) as url, httpx.Client(base_url=url, timeout=60) as client:
        eventually(lambda: client.get("/health/ready").status_code == 200)
        yield client


# --- rate -------------------------------------------------------------------------------------------------------------


def test_who_asks_too_often_is_told_when_to_come_again(tmp_path: Path) -> None:
    with service(tmp_path, rate_per_minute=6) as client:
        answers = [client.post("/search", json=ASK) for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429]
        left = [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers]
        assert left == [5, 4, 3, 2, 1, 0, 0]
        assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"6"}
        refused = answers[-1]
        assert 1 <= int(refused.headers["Retry-After"]) <= 10
        assert 50 <= int(refused.headers["X-RateLimit-Reset"]) <= 60
        assert refused.json()["error"]["code"] == "rate_limited"
        assert metric(client, "twin_requests_rejected_total", reason="rate") == 1
        assert client.get("/info").status_code == 200, "only answers and searches are counted"


def test_each_key_has_a_budget_of_its_own(tmp_path: Path) -> None:
    operated = OperatedService(tmp_path, rate_per_minute=2)
    first, second = (bearer(operated.keys.create(name)) for name in ("laptop", "phone"))
    with serving(operated.app) as url, httpx.Client(base_url=url) as client:
        assert [client.post("/search", json=ASK, headers=first).status_code for _ in range(3)] == [
            200,
            200,
            429,
        ]
        assert client.post("/search", json=ASK, headers=second).status_code == 200
        assert client.post("/search", json=ASK).status_code == 401, "who is nobody has no budget to use up"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@given(
    per_minute=st.integers(1, 600),
    steps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_no_caller_ever_gets_more_than_its_bucket_and_its_refill(per_minute: int, steps: list[float]) -> None:
    clock = [0.0]
    buckets = TokenBuckets(per_minute, now=lambda: clock[0])
    granted = 0
    for step in steps:
        clock[0] += step
        grant = buckets.take("somebody")
        granted += grant.allowed
        assert granted <= per_minute + clock[0] * per_minute / 60 + 1e-6
        assert 0 <= grant.remaining <= per_minute
        if not grant.allowed:
            clock[0] += grant.retry_seconds + 1e-6
            assert buckets.take("somebody").allowed, "Retry-After keeps its word"
            granted += 1


def test_the_memory_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_CALLERS", 100)
    buckets = TokenBuckets(1, now=lambda: 0.0)
    for number in range(1_000):
        assert buckets.take(f"address {number}").allowed
    assert not buckets.take("address 999").allowed, "who asked last is remembered"
    assert len(buckets._levels) == 100


@pytest.mark.parametrize(
    ("scope", "caller"),
    [
        ({"state": {"key_name": "laptop"}, "client": ("10.0.0.1", 1)}, "key laptop"),
        ({"client": ("10.0.0.1", 1)}, "address 10.0.0.1"),
        ({"client": ("2001:db8:1:2:3:4:5:6", 1)}, "address 2001:db8:1:2::/64"),
        ({"client": None}, "address "),
    ],
)
def test_whose_budget_it_is(scope: dict[str, Any], caller: str) -> None:
    assert caller_of(scope) == caller


# --- body -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/rag", "/search", "/feedback", "/v1/chat/completions", "/nothing-here"])
def test_a_body_that_says_it_is_too_large_is_not_read(tmp_path: Path, path: str) -> None:
    with service(tmp_path, max_body_bytes=2_000) as client:
        response = client.post(path, content=b"x" * 3_000_000, headers={"Content-Type": "application/json"})
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"
        assert "2,000 bytes" in response.json()["error"]["message"]
        assert client.post("/search", json=ASK).status_code == 200


def test_a_body_without_a_length_is_stopped_at_the_limit(tmp_path: Path) -> None:
    with service(tmp_path, max_body_bytes=2_000) as client:
        sent = 0

        def endless() -> Iterator[bytes]:
            nonlocal sent
            while sent < 1 << 30:
                sent += 65_536
                yield b"x" * 65_536

        with suppress(httpx.WriteError):  # the connection is closed on a sender that does not stop
            assert client.post("/rag", content=endless()).status_code == 413
        assert sent < 1 << 26, "most of it was never taken"
        assert metric(client, "twin_requests_rejected_total", reason="body") == 1
        small = client.post(
            "/search", content=iter([json.dumps(ASK).encode()]), headers={"Content-Type": "application/json"}
        )
        assert small.status_code == 200, "a chunked body within the limit is as good as another"


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_BODY_SECONDS", 0.3)
    with service(tmp_path, max_concurrent=1, max_queue=0) as client:
        host, port = client.base_url.host, client.base_url.port
        with socket.create_connection((host, port), timeout=10) as slow:
            slow.sendall(
                b"POST /rag HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
            )
            assert client.post("/search", json=ASK).status_code == 200, "it holds no slot meanwhile"
            assert slow.recv(1_000).startswith(b"HTTP/1.1 408 ")


# --- concurrency ------------------------------------------------------------------------------------------------------


async def ask_all(url: str, count: int, path: str) -> list[tuple[int, httpx.Headers, str]]:
    """That many questions at the same moment."""
    no_limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=no_limits) as client:

        async def one() -> tuple[int, httpx.Headers, str]:
            response = await client.post(path, json=ASK)
            return response.status_code, response.headers, response.text

        return await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.parametrize("path", ["/rag", "/rag/stream"])
def test_a_hundred_clients_at_once_are_all_answered_eight_at_a_time(tmp_path: Path, path: str) -> None:
    model = SlowModel(0.002)
    with service(tmp_path, model, max_concurrent=8, max_queue=100, queue_seconds=60) as client:
        answers = asyncio.run(ask_all(str(client.base_url), 100, path))
        assert [status for status, _, _ in answers] == [200] * 100
        assert all("Overlap repeats the last sentences" in text for _, _, text in answers)
        assert 1 < model.most <= 8
        assert metric(client, "twin_requests_in_progress") == 0
        assert metric(client, "twin_requests_queued") == 0


def test_a_hundred_clients_at_once_get_an_answer_or_a_time_to_come_again(tmp_path: Path) -> None:
    model = SlowModel(0.02)
    with service(tmp_path, model, max_concurrent=8, max_queue=16, queue_seconds=0.5) as client:
        answers = asyncio.run(ask_all(str(client.base_url), 100, "/rag"))
        statuses = [status for status, _, _ in answers]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 8
        for status, headers, text in answers:
            if status == 503:
                assert 1 <= int(headers["Retry-After"]) <= 60
                assert json.loads(text)["error"]["code"] == "overloaded"
        assert model.most <= 8
        turned_away = sum(
            metric(client, "twin_requests_rejected_total", reason=reason)
            for reason in ("queue_full", "queue_timeout")
        )
        assert turned_away == statuses.count(503)
        assert client.post("/rag", json=ASK).status_code == 200, "afterwards, all is as before"


def test_what_costs_nothing_is_answered_while_all_slots_are_taken(tmp_path: Path) -> None:
    model = SlowModel(0.2)
    with (
        service(tmp_path, model, max_concurrent=1, max_queue=0) as client,
        client.stream("POST", "/rag/stream", json=ASK) as running,
    ):
        _lines = begun(running)
        assert client.post("/search", json=ASK).status_code == 503
        assert client.get("/health/live").status_code == 200
        assert client.get("/info").status_code == 200
        assert metric(client, "twin_requests_in_progress") == 1


def test_a_slot_comes_back_when_a_client_leaves_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    model = SlowModel(0.3)
    with service(tmp_path, model, max_concurrent=1, max_queue=0) as client:
        with client.stream("POST", "/rag/stream", json=ASK) as running:
            _lines = begun(running)
            eventually(lambda: model.inside == 1)
        eventually(lambda: model.inside == 0)
        assert model.calls[0].cancelled
        eventually(lambda: metric(client, "twin_requests_in_progress") == 0)
        assert client.post("/search", json=ASK).status_code == 200
        gone = {"route": "/rag/stream", "method": "POST", "status": "499"}
        eventually(lambda: metric(client, "twin_requests_total", **gone) == 1)


def test_who_leaves_while_waiting_is_not_answered(tmp_path: Path) -> None:
    model = SlowModel(0.1)
    with (
        service(tmp_path, model, max_concurrent=1, max_queue=4) as client,
        client.stream("POST", "/rag/stream", json=ASK) as running,
    ):
        lines = begun(running)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/rag", json=ASK, timeout=0.2)
        eventually(lambda: metric(client, "twin_requests_queued") == 0)
        assert any("done" in line for line in lines)
        assert len(model.calls) == 1
    assert model.inside == 0


def begun(response: httpx.Response) -> Iterator[str]:
    """The lines of a stream whose first has come. Hold on to them: httpx closes a stream that nobody reads any more."""
    lines = response.iter_lines()
    assert next(lines)
    return lines


async def test_slots_are_given_in_the_order_of_asking_and_none_is_lost() -> None:
    slots = ConcurrencyLimiter(2, 10, ServiceMetrics())
    order: list[int] = []

    async def one(number: int) -> None:
        await slots.take(60)
        order.append(number)
        await asyncio.sleep(0)
        slots.give_back(0.01)

    await asyncio.gather(*(one(number) for number in range(10)))
    assert order == list(range(10))
    assert slots.inside == 0


async def test_a_slot_that_comes_as_its_taker_gives_up_is_passed_on() -> None:
    slots = ConcurrencyLimiter(1, 10, ServiceMetrics())
    await slots.take(1)
    waiting = asyncio.create_task(slots.take(60))
    await asyncio.sleep(0)
    slots.give_back()  # it is the waiting one's now
    waiting.cancel()  # in the same moment
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.inside == 0
    await slots.take(1)
    assert slots.inside == 1


async def test_the_queue_has_an_end_and_a_time() -> None:
    slots = ConcurrencyLimiter(1, 1, ServiceMetrics())
    await slots.take(1)
    waiting = asyncio.create_task(slots.take(0.05))
    await asyncio.sleep(0)
    with pytest.raises(NoSlotError, match="queue_full"):
        await slots.take(1)
    with pytest.raises(NoSlotError, match="queue_timeout"):
        await waiting
    assert slots.inside == 1


async def test_stopping_turns_away_who_waits_and_keeps_who_is_inside() -> None:
    slots = ConcurrencyLimiter(1, 5, ServiceMetrics())
    await slots.take(1)
    waiting = [asyncio.create_task(slots.take(60)) for _ in range(3)]
    await asyncio.sleep(0)
    slots.stop()
    for one in waiting:
        with pytest.raises(NoSlotError, match="stopping"):
            await one
    with pytest.raises(NoSlotError, match="stopping"):
        await slots.take(1)
    assert not await slots.wait_until_empty(0.01)
    slots.give_back(0.1)
    assert await slots.wait_until_empty(1)


# --- time -------------------------------------------------------------------------------------------------------------


def test_an_answer_that_takes_too_long_is_ended_with_504(tmp_path: Path) -> None:
    model = SlowModel(0.3)
    with service(tmp_path, model, timeout_seconds=0.6) as client:
        started = time.monotonic()
        response = client.post("/rag", json=ASK)
        assert response.status_code == 504
        assert time.monotonic() - started < allow(5)
        assert response.json()["error"]["code"] == "timeout"
        assert model.inside == 0, "its generation was ended"
        assert metric(client, "twin_requests_in_progress") == 0
        assert metric(client, "twin_errors_total", kind="RequestTimeout") == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/rag/stream", "/v1/chat/completions"])
def test_a_stream_that_takes_too_long_ends_with_an_error_event(tmp_path: Path, path: str) -> None:
    chat = {"model": "llm-twin", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    # Long enough for the stream to begin, even on a busy machine: a sentence is sent when it is whole.
    with service(tmp_path, SlowerAndSlower(), timeout_seconds=3) as client:
        response = client.post(path, json=ASK if path == "/rag/stream" else chat)
        assert response.status_code == 200
        last = response.text.strip().split("\n\n")[-1]
        data = json.loads(last.partition("data: ")[2])
        assert data["error"]["code"] == "timeout"
        assert last.startswith("event: error\n") is (path == "/rag/stream")
        assert ("request_id" in data["error"]) is (path == "/rag/stream")
        assert metric(client, "twin_requests_in_progress") == 0


async def test_a_client_that_does_not_read_holds_its_slot_no_longer_than_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A socket whose buffers are full: sending waits for a reader, for ever."""
    monkeypatch.setattr(slot_module, "_ENDING_SECONDS", 0.1)
    slots = ConcurrencyLimiter(1, 0, ServiceMetrics())
    sent: list[Any] = []

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        while True:
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})

    async def full(message: Any) -> None:
        sent.append(message["type"])
        if len(sent) > 2:
            await asyncio.sleep(3_600)

    async def body() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    guarded = SlotLimit(flood, slots, ServiceMetrics(), queue_seconds=1, timeout_seconds=0.2)
    scope = {"type": "http", "method": "POST", "path": "/rag/stream", "headers": [], "state": {}}
    await asyncio.wait_for(guarded(scope, body, full), timeout=10)
    assert slots.inside == 0


class SlowerAndSlower(ScriptedLanguageModel):
    """Begins at once and never ends."""

    async def stream(
        self, messages: Sequence[Message], options: GenerationOptions = GenerationOptions()
    ) -> AsyncIterator[Delta]:
        yield Delta(text=ANSWER + " ")
        await asyncio.sleep(3_600)
