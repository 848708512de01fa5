"""The inference service under load: the real program, its index of 100,000 chunks, and a language model of half a second.

Service, language model and callers are processes of their own on this machine, and share its cores. Questions are embedded
by the bundled model; the chunks' vectors are made up, so that building the index takes seconds. Answers are kept in a local
MongoDB-wire server, as in daily use.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml
from rich.table import Table

from benchmarks.common import ROOT, Check, console, load, mongo_server, show_checks
from benchmarks.corpora import site_documents
from benchmarks.index import Corpus
from benchmarks.pipeline import bundled_embedder
from llm_engineering.domain.documents import EmbeddedChunk
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex

LLM_SECONDS = 0.5
LLM_FIRST_PIECE = 0.2 * LLM_SECONDS
START_SECONDS = 120
GROWTH = 1.10
"""Resident memory at the end of the steady load over that after its first quarter, at most."""


def main(
    chunks: int = 100_000,
    singles: int = 60,
    rate: float = 20.0,
    seconds: float = 60.0,
    mongo: str | None = None,
) -> dict[str, Any]:
    """Build the index, start the service without and with its reranker, ask; print tables and return the numbers."""
    with tempfile.TemporaryDirectory(prefix="twin-benchmark-") as name, mongo_server(mongo) as uri:
        folder = Path(name)
        words = _words()
        _build(folder / "index", chunks, words)
        questions = Questions(words)
        with _service(folder, uri, rerank=False) as (url, process):
            plain = asyncio.run(_measure(url, questions, singles))
            steady = asyncio.run(_steady(url, questions, rate, seconds, process))
        with _service(folder, uri, rerank=True) as (url, _):
            reranked = asyncio.run(_measure(url, questions, singles))
    checks = [
        Check("8 concurrent requests, wall time", plain["wall_8"], 0.75, "at most", " s"),
        Check("32 concurrent requests, wall time", plain["wall_32"], 1.5, "at most", " s"),
        Check("service overhead a request, p95, no rerank", plain["overhead_p95_ms"], 60, "at most", " ms"),
        Check("first text beyond the model's own, p95", plain["first_text_p95_ms"], 100, "at most", " ms"),
        Check(f"errors at {rate:g} requests/s for {seconds:g} s", steady["errors"], 0, "exactly"),
        Check("its memory, end over first quarter", steady["growth"], GROWTH, "at most", "×"),
    ]
    table = Table(
        "",
        "no rerank",
        "rerank",
        title=f"The service, {chunks:,} chunks, a model of {LLM_SECONDS} s (load {load()})",
    )
    for key in plain:
        table.add_row(key.replace("_", " "), *(f"{row[key]:.3g}" for row in (plain, reranked)))
    for key, value in steady.items():
        table.add_row(f"steady: {key.replace('_', ' ')}", f"{value:.3g}", "")
    console.print(table)
    shown = [check.as_dict() for check in checks]
    show_checks("The service", shown)
    return {"checks": shown, "plain": plain, "reranked": reranked, "steady": steady, "load": load()}


# --- what is asked of what ---------------------------------------------------------------------------------------------


def _words() -> list[str]:
    """The sample's words by how often they come, so that texts embed and tokenise as English does."""
    counts: dict[str, int] = {}
    for document in site_documents():
        for word in document.text.split():
            if word.isalpha():
                counts[word.lower()] = counts.get(word.lower(), 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))


class Questions:
    """Questions of eight words; none is asked twice, so that no cache answers."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._random = np.random.default_rng(7)

    def next(self) -> str:
        return f"What about {' '.join(self._random.choice(self._words, 8))}?"


def _build(folder: Path, chunks: int, words: Sequence[str]) -> None:
    """An index whose chunks are sentences of English words under made-up vectors."""
    embedder = bundled_embedder()
    random = np.random.default_rng(0)
    frequency = 1.0 / np.arange(1, len(words) + 1)
    frequency /= frequency.sum()
    vocabulary = np.array(words)
    index = QdrantEdgeIndex(folder)
    with index.writer(embedder.fingerprint) as writer:
        for batch in Corpus().batches(chunks):
            drawn = vocabulary[random.choice(len(words), (len(batch), 10, 14), p=frequency)]
            texts = [" ".join(f"{' '.join(row).capitalize()}." for row in rows) for rows in drawn]
            writer.upsert([_with_text(item, text) for item, text in zip(batch, texts, strict=True)])
    index.close()
    embedder.close()


def _with_text(item: EmbeddedChunk, text: str) -> EmbeddedChunk:
    fields = item.chunk.model_dump() | {"text": text}
    start = fields["position"] * 2_000
    fields["span"] = {"start": start, "end": start + len(text)}
    return EmbeddedChunk(chunk=type(item.chunk)(**fields), vector=item.vector)


@contextmanager
def _service(folder: Path, mongo: str, *, rerank: bool) -> Iterator[tuple[str, psutil.Process]]:
    """The service as its task starts it, and the language model beside it."""
    config = yaml.safe_load((ROOT / "configs" / "inference.yaml").read_text(encoding="utf-8")) or {}
    # The chunks' vectors are made up: by similarity, nothing would be worth answering from.
    config["answering"] = (config.get("answering") or {}) | {"min_similarity": -1.0}
    file = folder / "inference.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    llm_port, port = _free_ports(2)
    environment = os.environ | {
        "DATABASE_URI": mongo,
        "DATABASE_NAME": "benchmark_service",
        "VECTOR_INDEX_PATH": str(folder / "index"),
        "LLM_KIND": "openai_http",
        "LLM_BASE_URL": f"http://127.0.0.1:{llm_port}/v1",
        "LLM_MODEL": "fake",
        "RERANKER_KIND": "late_interaction" if rerank else "none",
        "SERVICE_PORT": str(port),
        "SERVICE_RATE_PER_MINUTE": "0",
        "SERVICE_MAX_CONCURRENT": "64",
        "SERVICE_KEYS_FILE": str(folder / "keys.json"),
        "LOG_LEVEL": "WARNING",
    }
    llm = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fake_llm", str(llm_port), str(LLM_SECONDS)], cwd=ROOT
    )
    log = (folder / "service.log").open("w+", encoding="utf-8")
    service = subprocess.Popen(
        [sys.executable, "-m", "tools.serve", "--config", str(file)],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, service, folder / "service.log")
        yield url, psutil.Process(service.pid)
    finally:
        for process in (service, llm):
            process.terminate()
        for process in (service, llm):
            process.wait(60)
        log.close()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the service did not become ready:\n{log.read_text(encoding='utf-8')[-3000:]}")


def _free_ports(count: int) -> list[int]:
    import socket

    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


# --- asking ------------------------------------------------------------------------------------------------------------


async def _measure(url: str, questions: Questions, singles: int) -> dict[str, float]:
    async with _client(url) as client:
        for _ in range(8):
            await _stream(client, questions.next())
        # One at a time: what the service adds to the model's time. The model's own end is its half second.
        runs = [await _stream(client, questions.next()) for _ in range(singles)]
        overheads = [(run["total"] - LLM_SECONDS) * 1e3 for run in runs]
        firsts = [(run["first_text"] - LLM_FIRST_PIECE) * 1e3 for run in runs]
        numbers = {
            "overhead_p50_ms": float(np.percentile(overheads, 50)),
            "overhead_p95_ms": float(np.percentile(overheads, 95)),
            "first_text_p50_ms": float(np.percentile(firsts, 50)),
            "first_text_p95_ms": float(np.percentile(firsts, 95)),
        }
        for many in (8, 32):
            walls = []
            for _ in range(5):
                start = time.perf_counter()
                await asyncio.gather(*(_whole(client, questions.next()) for _ in range(many)))
                walls.append(time.perf_counter() - start)
            numbers[f"wall_{many}"] = float(np.median(walls))
    return numbers


async def _steady(
    url: str, questions: Questions, rate: float, seconds: float, process: psutil.Process
) -> dict[str, float]:
    """Requests at a fixed rate, whether or not the earlier ones have been answered."""
    latencies: list[float] = []
    memory: list[float] = []
    errors = 0

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal errors
        start = time.perf_counter()
        try:
            await _whole(client, questions.next())
        except (httpx.HTTPError, AssertionError):
            errors += 1
        latencies.append(time.perf_counter() - start)

    async with _client(url) as client, asyncio.TaskGroup() as group:
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            group.create_task(one(client))
            if number % int(rate) == 0:
                memory.append(process.memory_info().rss / 1e6)
    quarter = memory[len(memory) // 4]
    return {
        "requests": float(len(latencies)),
        "errors": float(errors),
        "p50_s": float(np.percentile(latencies, 50)),
        "p95_s": float(np.percentile(latencies, 95)),
        "memory_mb": memory[-1],
        "growth": memory[-1] / quarter,
    }


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=url, timeout=60, limits=limits)


async def _whole(client: httpx.AsyncClient, question: str) -> None:
    response = await client.post("/rag", json={"query": question})
    response.raise_for_status()
    assert response.json()["answer"]["text"], "an answer has a text"


async def _stream(client: httpx.AsyncClient, question: str) -> dict[str, float]:
    """Seconds until the first text, and until the end."""
    start = time.perf_counter()
    first: float | None = None
    async with client.stream("POST", "/rag/stream", json={"query": question}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if first is None and line.startswith("data:") and set(json.loads(line[5:])) == {"text"}:
                first = time.perf_counter() - start
    assert first is not None, "an answer has a text"
    return {"first_text": first, "total": time.perf_counter() - start}
