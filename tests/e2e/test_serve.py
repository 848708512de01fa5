"""Serving and calling as a user does: the real service as a process, over an index made from the sample site."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_ask import QUESTION, call, environment, served_by, service
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.operated_service import eventually
from tests.services import free_port, mongo_server

__all__ = ["environment", "mongo_server", "service"]

ROOT = Path(__file__).resolve().parents[2]
LOADING_SECONDS = 60


class Served:
    """The service, running."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, url: str) -> None:
        self.process = process
        self.log = log
        self.url = url

    def ready(self) -> "Served":
        """Itself, once it can answer."""
        eventually(
            lambda: httpx.get(f"{self.url}/health/ready", timeout=30).status_code == 200, LOADING_SECONDS
        )
        return self

    def stop(self) -> tuple[int, str]:
        """Ask it to stop; its exit code and all it said."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60), self.log.read_text()


@contextmanager
def serve(environment: Mapping[str, str], folder: Path, *arguments: str, **settings: str) -> Iterator[Served]:
    log = folder / "service.log"
    own = {"SERVICE_KEYS_FILE": str(folder / "keys.json"), "SERVICE_PORT": "0", "COLUMNS": "160"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.serve", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment, **own, **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:

        def url() -> str | None:
            assert process.poll() is None, log.read_text()
            found = re.search(r"listens on (http://[\w.]+:\d+)", log.read_text())
            return found[1] if found else None

        eventually(lambda: url() is not None, LOADING_SECONDS)
        yield Served(process, log, url() or "")
    finally:
        process.kill()
        process.wait()


def test_the_bundled_model_answers_over_http_with_sources(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with serve(
        {**environment, "LLM_KIND": "llama_cpp", "LLM_MODEL": "SmolLM2-135M-Instruct"}, tmp_path
    ) as served:
        result = httpx.post(f"{served.ready().url}/rag", json={"query": QUESTION}, timeout=120).json()
        assert result["answer"]["text"]
        assert result["answer"]["cited"]
        assert "/articles/hybrid-search.html" in result["answer"]["citations"][0]["passage"]["link"]
        ready = httpx.get(f"{served.url}/health/ready").json()
        assert ready["status"] == "ready"
        assert re.fullmatch(r"\d+ chunks", ready["dependencies"][0]["detail"])
        metrics = httpx.get(f"{served.url}/metrics").text
        assert "twin_ready 1.0" in metrics
        # A model that only quotes is not asked.
        assert re.search(r'twin_tokens_total\{kind="completion",model="SmolLM2[^"]*"\} 0\.0', metrics)
        assert "LLM twin" in httpx.get(served.url).text
        code, said = served.stop()
    assert code == 0
    for expected in (f"{served.url}/docs", "SmolLM2", "chunks", "none needed", "curl -N", "Ready to answer"):
        assert expected in said
    assert "POST /rag 200" in said
    assert "Stopped." in said
    assert "Traceback" not in said
    assert QUESTION not in said.replace('"query": "What is hybrid search?"', "")


@pytest.mark.slow
def test_the_call_tool_streams_an_answer_with_its_sources(
    environment: dict[str, str], service: OpenAIServer, tmp_path: Path
) -> None:
    with serve(served_by(environment, service.base_url), tmp_path) as served:
        there = {**environment, "SERVICE_URL": served.ready().url, "LOCAL_DATA_DIR": str(tmp_path / "asker")}
        (tmp_path / "asker").mkdir()
        code, output, errors = call(there, "tools.call_service", "--query", QUESTION, "--k", "2")
        assert code == 0, errors
        answer, _, rest = output.partition("\n\n")
        assert re.search(r"\[\d\]", answer)
        assert "/articles/hybrid-search.html" in rest
        assert re.search(r"small · hybrid search · reranked by \S+ · \d+ \+ \d+ tokens", rest)
        assert "vote up" in rest
        assert (
            call({**there, "LOCAL_DATA_DIR": str(tmp_path)}, "tools.vote", "up")[0] == 1
        )  # nothing asked from there
        assert call(there, "tools.vote", "down", "too", "short")[0] == 0

        code, whole, _ = call(there, "tools.call_service", "--query", QUESTION, "--k", "2", "--no-stream")
        assert code == 0
        assert whole.partition("\n\n")[0] == answer
        code, raw, _ = call(there, "tools.call_service", "--query", QUESTION, "--k", "2", "--json")
        assert code == 0
        assert json.loads(raw)["answer"]["text"].strip() == answer.strip()

        code, _, errors = call(there, "tools.call_service", "--query", QUESTION, "--author", "Ada Wintr")
        assert code == 1
        assert "Ada Winter" in errors


@pytest.mark.slow
def test_an_answer_that_runs_when_the_service_is_stopped_is_finished(
    environment: dict[str, str], service: OpenAIServer, tmp_path: Path
) -> None:
    service.seconds_per_piece = 0.2
    with (
        serve(served_by(environment, service.base_url), tmp_path) as served,
        httpx.stream(
            "POST", f"{served.ready().url}/rag/stream", json={"query": QUESTION}, timeout=60
        ) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "event: sources"
        eventually(lambda: len(service.requests) == 1)
        served.process.send_signal(signal.SIGTERM)
        rest = list(lines)
        done = json.loads(rest[-2].removeprefix("data: "))
        text = "".join(
            json.loads(data.removeprefix("data: "))["text"]
            for name, data in itertools.pairwise(rest)
            if name == "event: delta"
        )
        assert rest[-3] == "event: done"
        assert done["answer"]["text"] == text
        assert done["answer"]["cited"]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{served.url}/health/live")
        assert served.process.wait(30) == 0


@pytest.mark.slow
def test_it_starts_without_an_index_and_is_ready_as_soon_as_there_is_one(
    environment: dict[str, str], service: OpenAIServer, tmp_path: Path
) -> None:
    missing = {**served_by(environment, service.base_url), "VECTOR_INDEX_PATH": str(tmp_path / "index")}
    with serve(missing, tmp_path) as served:
        eventually(lambda: "Not ready yet: index" in served.log.read_text(), LOADING_SECONDS)
        told = httpx.get(f"{served.url}/health/ready")
        assert told.status_code == 503
        assert "poe run-feature-engineering-pipeline" in told.text
        assert httpx.post(f"{served.url}/rag", json={"query": QUESTION}).status_code == 503
        code, _, errors = call(
            {**environment, "SERVICE_URL": served.url}, "tools.call_service", "--query", QUESTION
        )
        assert code == 1
        assert "There is no index" in errors
        # The collection is there already: another index is built from it while the service runs.
        code, _, errors = call({**missing, "LLM_KIND": "llama_cpp"}, "tools.run", "feature-engineering")
        assert code == 0, errors
        served.ready()
        assert httpx.post(f"{served.url}/rag", json={"query": QUESTION}, timeout=60).status_code == 200


@pytest.mark.slow
def test_keys_are_made_asked_for_and_revoked_while_it_runs(
    environment: dict[str, str], service: OpenAIServer, tmp_path: Path
) -> None:
    there = {**served_by(environment, service.base_url), "SERVICE_KEYS_FILE": str(tmp_path / "keys.json")}
    code, key, told = call(there, "tools.api_keys", "create", "laptop")
    assert code == 0
    assert re.fullmatch(r"twin_[\w-]{43}\n", key)
    assert "SERVICE_API_KEY" in told
    with serve(there, tmp_path, "--host", "127.0.0.1") as served:
        asking = {**there, "SERVICE_URL": served.ready().url}
        code, _, errors = call(asking, "tools.call_service", "--query", QUESTION)
        assert code == 1
        assert "poe create-api-key NAME" in errors
        with_key = {**asking, "SERVICE_API_KEY": key.strip()}
        code, output, errors = call(with_key, "tools.call_service", "--query", QUESTION)
        assert code == 0, errors
        assert "laptop" in call(there, "tools.api_keys", "list")[1]
        assert call(there, "tools.api_keys", "revoke", "laptop")[0] == 0
        code, _, errors = call(with_key, "tools.call_service", "--query", QUESTION)
        assert code == 1
        assert "not known" in errors
        assert key.strip() not in errors + output + served.stop()[1]


@pytest.mark.slow
def test_what_cannot_be_served_is_told_in_a_line(environment: dict[str, str], tmp_path: Path) -> None:
    there = {**environment, "SERVICE_KEYS_FILE": str(tmp_path / "keys.json")}
    code, _, errors = call(there, "tools.serve", "--host", "0.0.0.0", "--port", "0")
    assert code == 1
    assert "poe create-api-key NAME" in errors
    with serve(there, tmp_path) as served:
        port = served.url.rpartition(":")[2]
        code, _, errors = call(there, "tools.serve", "--port", port)
        assert code == 1
        assert f"Port {port} of 127.0.0.1 is taken" in errors
    wrong = tmp_path / "inference.yaml"
    wrong.write_text("retrieval:\n  kk: 5\n")
    code, _, errors = call(there, "tools.serve", "--port", "0", "--config", str(wrong))
    assert code == 1
    assert "retrieval.kk: unknown key" in errors
    assert "Traceback" not in errors


def test_a_service_that_is_not_there_is_told_with_how_to_start_it() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    code, _, errors = call({"SERVICE_URL": address}, "tools.call_service", "--query", "Anybody?")
    assert code == 1
    assert address in errors
    assert "poe run-inference-ml-service" in errors
