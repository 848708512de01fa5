"""``poe check-endpoint``: the configured model, over HTTP, is asked what it must know, and put under load."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.fakes.openai_server import Fault, OpenAIServer

CONFIG = """
questions:
  - {ask: "In which year?", expect: ["1911"]}
  - {ask: "Where?", expect: [tin]}
load: {requests: 8, concurrency: 3, max_p95_seconds: 20}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "check.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def check(server: OpenAIServer, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    environment = {**clean, "LLM_BASE_URL": server.base_url, "LLM_MAX_RETRIES": "0", "COLUMNS": "160"}
    command = [sys.executable, "-m", "tools.check_endpoint", "--config", str(file), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def know(messages: Sequence[Mapping[str, str]]) -> str:
    return "In 1911." if "year" in messages[-1]["content"] else "In a biscuit tin."


def test_a_model_that_knows_and_holds_passes(file: Path) -> None:
    with OpenAIServer() as server:
        server.default_reply = know
        done = check(server, file)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(server.requests) == 2 + 8
        assert "8 requests, 0 failed" in done.stdout
        check(server, file, "--without-load")
        assert len(server.requests) == 2 + 8 + 2


def test_a_model_that_answers_something_else_fails(file: Path) -> None:
    with OpenAIServer() as server:
        done = check(server, file, "--without-load")
    assert done.returncode == 1
    assert "0% of the reference answers" in done.stdout


def test_requests_that_fail_under_load_are_counted(file: Path) -> None:
    with OpenAIServer() as server:
        server.default_reply = know
        server.faults.extend([None, None, Fault("status", status=503)])  # type: ignore[list-item]
        done = check(server, file)
    assert done.returncode == 1
    assert "1 of 8 requests under load failed" in done.stdout
