"""Stopping: running answers are finished, nobody new is let in, and the process ends well; or it ends in its own time."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_engineering.bootstrap.service import open_listener
from llm_engineering.domain.errors import ConfigurationError
from tests.durations import allow
from tests.fakes.operated_service import eventually, metric
from tests.fakes.service import QUESTION

ROOT = Path(__file__).resolve().parents[2]
ASK = {"query": QUESTION}


class Running:
    """A service in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url

    def stop(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.process.pid, number)

    def ended(self) -> tuple[int, str, str]:
        """Exit code, output and errors, once it has ended."""
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors

    def refuses(self) -> bool:
        """Whether nobody listens at its address any more."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.url.rpartition(":")[2]))) != 0


@contextmanager
def running(folder: Path, **given: Any) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.operated_process", str(folder), json.dumps(given)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.communicate()[1]
        with httpx.Client(base_url=url) as client:
            eventually(lambda: client.get("/health/ready").status_code == 200)
        yield Running(process, url)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def test_an_idle_service_ends_soon_and_well(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(tmp_path, seconds_per_word=0) as service:
            with httpx.Client(
                base_url=service.url
            ) as client:  # a connection that is kept open does not hold it up
                client.get("/info")
                started = time.monotonic()
                service.stop(number)
                code, output, errors = service.ended()
            assert time.monotonic() - started < allow(10)
            assert (code, output) == (0, "ended, model closed 1 time(s)\n"), errors
            assert "Traceback" not in errors


@pytest.mark.parametrize("path", ["/rag", "/rag/stream"])
def test_a_running_answer_is_finished_and_nobody_new_is_let_in(tmp_path: Path, path: str) -> None:
    with running(tmp_path, seconds_per_word=0.15) as service:
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{service.url}{path}", json=ASK, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        with httpx.Client(base_url=service.url) as client:
            eventually(lambda: metric(client, "twin_requests_in_progress") == 1)
            service.stop()
        eventually(service.refuses)
        assert service.process.poll() is None, "it is still at work on the answer"
        asking.join(30)
        code, output, errors = service.ended()
    assert answers[0].status_code == 200
    assert "Overlap repeats the last sentences of a chunk at the start of the next chunk." in answers[0].text
    assert "event: done" in answers[0].text or path == "/rag"
    assert (code, output) == (0, "ended, model closed 1 time(s)\n"), errors


@pytest.mark.slow
def test_who_waits_for_a_slot_is_turned_away_at_once(tmp_path: Path) -> None:
    with running(tmp_path, seconds_per_word=0.15, max_concurrent=1, queue_seconds=60) as service:
        answers: dict[int, list[httpx.Response]] = {200: [], 503: []}

        def ask() -> None:
            answer = httpx.post(f"{service.url}/rag", json=ASK, timeout=60)
            answers[answer.status_code].append(answer)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for one in asking:
            one.start()
        with httpx.Client(base_url=service.url) as client:
            eventually(lambda: metric(client, "twin_requests_queued") == 3)
            service.stop()
        for one in asking:
            one.join(30)
        assert service.ended()[0] == 0
    assert len(answers[200]) == 1
    assert len(answers[503]) == 3
    for refused in answers[503]:
        assert refused.json()["error"]["code"] == "stopping"
        assert int(refused.headers["Retry-After"]) >= 1


@pytest.mark.slow
def test_an_answer_that_outlasts_its_patience_is_told_so(tmp_path: Path) -> None:
    with (
        running(tmp_path, seconds_per_word=3_600, shutdown_seconds=1) as service,
        httpx.stream("POST", f"{service.url}/rag/stream", json=ASK, timeout=60) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "event: sources"
        service.stop()
        rest = list(lines)
        code, output, errors = service.ended()
    assert rest[-3] == "event: error"
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "stopping"
    assert code == 0
    assert "closed 1 time" in output
    assert "A request was cut" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    with (
        running(tmp_path, seconds_per_word=3_600, shutdown_seconds=600) as service,
        httpx.stream("POST", f"{service.url}/rag/stream", json=ASK, timeout=60) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "event: sources"
        service.stop(signal.SIGINT)
        eventually(service.refuses)
        service.stop(signal.SIGINT)
        service.process.wait(30)


def test_an_address_that_is_taken_is_told_with_what_to_do() -> None:
    with open_listener("127.0.0.1", 0) as first:
        port = int(first.url.rpartition(":")[2])
        with (
            pytest.raises(ConfigurationError, match=rf"Port {port} .* taken .*--port"),
            open_listener("127.0.0.1", port),
        ):
            pass
    with open_listener("127.0.0.1", port) as again:
        assert again.url == f"http://127.0.0.1:{port}", "what is given back can be had at once"


@pytest.mark.parametrize("host", ["256.1.1.1", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(host)), open_listener(host, 0):
        pass


def test_ports_of_the_system_are_told() -> None:
    if os.geteuid() == 0:
        pytest.skip("root may listen anywhere")
    with pytest.raises(ConfigurationError, match="above 1023"), open_listener("127.0.0.1", 80):
        pass
