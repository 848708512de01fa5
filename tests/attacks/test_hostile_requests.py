"""Connections and requests of strangers, before and behind the key."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_engineering.infrastructure.api import protocol
from llm_engineering.infrastructure.api.middleware import slots
from llm_engineering.infrastructure.api.protocol import BACKLOG, HEAD_BYTES, GuardedProtocol, LogThrottle
from tests.durations import allow
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.operated_service import OperatedService, eventually
from tests.fakes.service import ANSWER, QUESTION, serving

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20


@pytest.fixture(scope="module")
def guarded() -> Iterator[int]:
    """The port of a server that answers everything, behind the service's own protocol."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=GuardedProtocol,
            h11_max_incomplete_event_size=HEAD_BYTES,
            backlog=BACKLOG,
            lifespan="off",
            log_config=None,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        eventually(lambda: server.started, PATIENCE)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(PATIENCE)


@contextmanager
def connect(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        yield client


def read_status(client: socket.socket) -> int:
    """The status that came; 0 where the connection was closed without one."""
    try:
        first = client.recv(4096)
    except ConnectionError:
        return 0
    return int(first.split()[1]) if first else 0


# --- S2: heads and connections -----------------------------------------------------------------------------------------


def test_a_head_without_end_is_refused_when_it_is_too_long(guarded: int) -> None:
    with connect(guarded) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        with suppress(ConnectionError):
            while sent < 50_000_000:
                client.sendall(b"X-A: " + b"a" * 1_000 + b"\r\n")
                sent += 1_000
        assert sent < 10_000_000  # buffers of the two sockets


@pytest.mark.parametrize("size", [HEAD_BYTES // 2, 3 * HEAD_BYTES])
def test_a_head_is_taken_or_refused_by_its_size_also_where_it_comes_at_once(guarded: int, size: int) -> None:
    with connect(guarded) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * size + b"\r\n\r\n")
        assert read_status(client) == (200 if size < HEAD_BYTES else 431)


def test_an_unfinished_head_and_an_unfinished_body_are_given_up(
    guarded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.2)
    for beginning, status in (
        (b"", 408),
        (b"GET / HT", 408),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 408),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", 0),
    ):
        with connect(guarded) as client:
            client.sendall(beginning)
            assert read_status(client) == status


def test_a_head_that_trickles_in_is_given_up(guarded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with connect(guarded) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ")
        client.settimeout(0.05)
        deadline = time.monotonic() + PATIENCE
        ended = False
        while not ended and time.monotonic() < deadline:
            try:
                client.sendall(b"a")
                ended = read_status(client) in (408, 0)
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended


def test_a_second_request_on_a_connection_has_its_own_time(
    guarded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    with connect(guarded) as client:
        for _ in range(3):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_status(client) == 200
            time.sleep(0.5)


def test_who_holds_connections_is_pushed_out_by_who_asks(
    guarded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "count_connections_allowed", lambda: 20)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(guarded)) for _ in range(60)]
        for client in held:
            client.sendall(b"GET / HT")
        assert httpx.get(f"http://127.0.0.1:{guarded}/").status_code == 200
        assert read_status(held[0]) == 0


def test_more_connections_than_descriptors_leave_the_service_alive(tmp_path: Path) -> None:
    command = f"ulimit -n 256; exec {sys.executable} -m tests.fakes.operated_process {tmp_path} '{{\"seconds_per_word\": 0}}'"
    process = subprocess.Popen(
        ["sh", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        port = int(url.rpartition(":")[2])
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(connect(port)).sendall(b"GET / HT")
            for _ in range(5):
                assert httpx.get(f"{url}/health/live", timeout=allow(5)).status_code == 200
    finally:
        process.kill()
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert len(errors) < 20_000


def test_a_line_that_anybody_can_cause_is_written_once_a_second() -> None:
    throttle = LogThrottle(seconds=1000)
    assert throttle.take_turn() == ""
    assert [throttle.take_turn() for _ in range(100)] == [None] * 100
    throttle._last = float("-inf")
    assert "100" in str(throttle.take_turn())


# --- S6: headers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    operated = OperatedService(tmp_path_factory.mktemp("open"))
    with serving(operated.app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        eventually(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.mark.parametrize(
    "origin", ["http://[", "http://[::1", "null", "http://]", "//", "http://a\tb", "http://evil.test"]
)
def test_an_origin_that_is_none_is_refused_and_breaks_nothing(
    open_service: httpx.Client, origin: str
) -> None:
    answer = open_service.post("/rag", json={"query": QUESTION}, headers={"Origin": origin})
    assert answer.status_code == 403


@given(
    name=st.sampled_from(
        ["Origin", "Host", "Authorization", "X-API-Key", "X-Request-ID", "Content-Type", "Accept"]
    ),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_header_breaks_the_service(open_service: httpx.Client, name: str, value: str) -> None:
    answer = open_service.post(
        "/search", content=json.dumps({"query": QUESTION}), headers={name: value.strip()}
    )
    assert answer.status_code < 500


# --- S11: keys and votes -----------------------------------------------------------------------------------------------


@contextmanager
def keyed_service(
    folder: Path, model: Any = None, **options: Any
) -> Iterator[tuple[OperatedService, str, list[str]]]:
    """A service with two keys: itself, its address, the keys."""
    operated = OperatedService(folder, model, **options)
    keys = [operated.keys.create(name) for name in ("ada", "eve")]
    with serving(operated.app) as url:
        eventually(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        yield operated, url, keys


@pytest.mark.parametrize("path", ["/rag/stream", "/rag"])
def test_a_revoked_key_ends_what_runs_with_it(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "KEY_CHECK_SECONDS", 0.1)
    model = ScriptedLanguageModel([Reply(ANSWER, seconds_per_piece=5.0)] * 5)
    with keyed_service(tmp_path, model) as (operated, url, (ada, eve)):

        def revoke() -> None:
            eventually(lambda: bool(model.calls))  # by then its sources are sent
            operated.keys.revoke("ada")

        threading.Thread(target=revoke, daemon=True).start()
        headers = {"Authorization": f"Bearer {ada}"}
        answer = httpx.post(f"{url}{path}", json={"query": QUESTION}, headers=headers, timeout=PATIENCE)
        assert "api_key_invalid" in answer.text
        assert answer.status_code == (401 if path == "/rag" else 200)
        assert httpx.get(f"{url}/info", headers={"X-API-Key": eve}).status_code == 200


def test_a_vote_belongs_to_the_key_that_gave_it(tmp_path: Path) -> None:
    with keyed_service(tmp_path) as (operated, url, (ada, eve)):

        def call(key: str, path: str, body: dict[str, str]) -> httpx.Response:
            return httpx.post(f"{url}{path}", json=body, headers={"X-API-Key": key}, timeout=PATIENCE)

        trace = call(ada, "/rag", {"query": QUESTION}).json()["trace_id"]
        vote = {"trace_id": trace, "rating": "up"}
        assert call(ada, "/feedback", vote).status_code == 201
        assert call(eve, "/feedback", {**vote, "rating": "down"}).status_code == 409
        assert call(ada, "/feedback", {**vote, "rating": "down"}).status_code == 201
        assert [kept.rating for _, kept in operated.warehouse.feedback.read_votes()] == ["down"]


def test_votes_count_against_the_rate(tmp_path: Path) -> None:
    with keyed_service(tmp_path, rate_per_minute=3) as (_, url, (ada, _eve)):
        answers = [
            httpx.post(f"{url}/feedback", json={"trace_id": "x", "rating": "up"}, headers={"X-API-Key": ada})
            for _ in range(6)
        ]
        assert [answer.status_code for answer in answers].count(429) >= 2
