"""The server index against HTTP that fails: refused, silent, busy, or not allowed. And how many requests it makes."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from loguru import logger

from llm_engineering.application.ports import SearchRequest
from llm_engineering.domain.errors import StoreError, StoreUnavailableError
from llm_engineering.infrastructure.index.qdrant_server import BATCH_POINTS, MEMORY, QdrantServerIndex
from tests.conformance.index_contract import FINGERPRINT, chunk, embedded, unit
from tests.durations import allow

KEY = "top-secret-key"
Reply = tuple[int, dict[str, Any]]
NO_ALIASES: Reply = (200, {"result": {"aliases": []}, "status": "ok", "time": 0.0})


class Server:
    """Answers the n-th request with the n-th reply, and the last one ever after. Keeps paths and keys it has seen."""

    def __init__(self, *replies: Reply, pause: float = 0.0) -> None:
        outer = self
        self.requests: list[tuple[str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("api-key")))
                status, body = replies[min(len(outer.requests), len(replies)) - 1]
                time.sleep(pause)
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                """Silent."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*replies: Reply, pause: float = 0.0) -> Server:
        servers.append(Server(*replies, pause=pause))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_server_that_is_down_is_said_in_under_five_seconds() -> None:
    index = QdrantServerIndex("http://127.0.0.1:9", None, "twin", 60)
    start = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9 cannot be reached.*VECTOR_INDEX_URL"):
        index.count()
    assert time.monotonic() - start < allow(5)


def test_a_passing_failure_is_tried_again(serve: Callable[..., Server]) -> None:
    server = serve((503, {"status": "starting"}), (429, {"status": "slow down"}), NO_ALIASES)
    index = QdrantServerIndex(server.url, None)
    assert list(index.list_versions()) == []
    assert len(server.requests) == 3
    index.close()


def test_a_lasting_failure_ends_after_three_tries(serve: Callable[..., Server]) -> None:
    server = serve((503, {"status": "starting"}))
    index = QdrantServerIndex(server.url, None)
    with pytest.raises(StoreUnavailableError, match="status 503"):
        index.count()
    assert len(server.requests) == 3
    index.close()


def test_a_server_that_does_not_answer_is_waited_for_once(serve: Callable[..., Server]) -> None:
    server = serve(NO_ALIASES, pause=2.0)
    index = QdrantServerIndex(server.url, None, "twin", 1)
    start = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="timed out"):
        index.count()
    assert time.monotonic() - start < allow(4)
    assert len(server.requests) == 1
    index.close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_key_is_sent_and_never_shown(serve: Callable[..., Server]) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, level="TRACE")
    server = serve((503, {"status": "busy"}), (403, {"status": {"error": "forbidden"}}))
    index = QdrantServerIndex(server.url, KEY)
    with pytest.raises(StoreError, match="Set VECTOR_INDEX_API_KEY") as caught:
        index.count()
    logger.remove(sink)
    assert [key for _, key in server.requests] == [KEY, KEY]
    assert KEY not in str(caught.value) + repr(caught.value.__cause__) + "".join(lines) + repr(index)
    index.close()


def test_no_index_on_the_server_names_the_task_that_builds_it(serve: Callable[..., Server]) -> None:
    index = QdrantServerIndex(serve(NO_ALIASES).url, None)
    with pytest.raises(StoreUnavailableError, match="poe run-feature-engineering-pipeline"):
        index.search([SearchRequest("x", unit(1))], FINGERPRINT)
    index.close()


def test_a_collection_of_somebody_else_is_not_touched(serve: Callable[..., Server]) -> None:
    aliases = {
        "result": {"aliases": [{"alias_name": "twin", "collection_name": "theirs"}]},
        "status": "ok",
        "time": 0.0,
    }
    info = {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 1,
        "payload_schema": {},
        "config": {
            "params": {},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
        },
    }
    server = serve((200, aliases), (200, {"result": info, "status": "ok", "time": 0.0}))
    index = QdrantServerIndex(server.url, None)
    with pytest.raises(StoreError, match=r"'theirs'.*not made by this project"):
        index.count()
    index.close()


def test_writes_and_searches_are_batched() -> None:
    index = QdrantServerIndex(MEMORY, None)
    calls: dict[str, list[int]] = {"upsert": [], "delete": [], "query_batch_points": []}
    client = index.call(lambda client: client)
    for name, sizes in calls.items():
        setattr(client, name, _counted(getattr(client, name), sizes))
    items = [embedded(chunk(f"d{n}"), unit(1, n)) for n in range(2 * BATCH_POINTS + 3)]
    with index.writer(FINGERPRINT) as writer:
        writer.upsert(items)
        writer.delete([f"d{n}" for n in range(300)], keep_versions={f"d{n}": "v1" for n in range(150)})
    index.search([SearchRequest("some", unit(1)) for _ in range(20)], FINGERPRINT)
    assert calls["upsert"] == [BATCH_POINTS, BATCH_POINTS, 3]
    assert len(calls["delete"]) == math.ceil(300 / BATCH_POINTS)
    assert calls["query_batch_points"] == [20]
    assert index.count() == len(items) - 150
    index.close()


def _counted(method: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    def counted(name: str, what: Any, **options: Any) -> Any:
        sizes.append(len(what) if isinstance(what, list) else 1)
        return method(name, what, **options)

    return counted
