"""Asking twice: the second question goes to a process that has the models loaded, and nothing depends on that process."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, Span
from llm_engineering.settings import load_settings
from tests.durations import allow
from tests.e2e.test_ask import KEY, QUESTION, call, environment, served_by, service, start
from tests.e2e.test_serve import serve
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.operated_service import eventually
from tests.services import free_port, mongo_server

__all__ = ["environment", "mongo_server", "service"]

OTHER = "What does a KV cache hold?"


class Project:
    """A data folder of its own, over the shared index, with a model that a fake service serves."""

    def __init__(self, environment: dict[str, str], folder: Path, service: OpenAIServer) -> None:
        self.folder = folder / "local"
        self.environment = {
            **served_by(environment, service.base_url),
            "LOCAL_DATA_DIR": str(self.folder),
            "LOCAL_MONGO_PORT": str(free_port()),
            "LOCAL_ZENML_PORT": str(free_port()),
            "LLM_KEEP_WARM": "5",
            "CI": "",
        }

    def ask(self, *words: str, **settings: str) -> tuple[int, str, str]:
        return call({**self.environment, **settings}, "tools.ask", *words)

    @property
    def note(self) -> dict[str, Any]:
        """Where the process is; empty where none left a note."""
        try:
            noted: dict[str, Any] = json.loads((self.folder / "warm.json").read_text())
        except FileNotFoundError:
            return {}
        return noted

    @property
    def pid(self) -> int | None:
        return self.note.get("pid")

    @property
    def log(self) -> str:
        return (self.folder / "warm.log").read_text()

    def processes(self) -> list[psutil.Process]:
        """Processes with models loaded that belong to this folder."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("LOCAL_DATA_DIR") == str(self.folder)
                if ours and "tools.warm_server" in process.cmdline() and alive(process.pid):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def alive(pid: int | None) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def project(environment: dict[str, str], tmp_path: Path, service: OpenAIServer) -> Iterator[Project]:
    project = Project(environment, tmp_path, service)
    yield project
    for process in project.processes():
        process.kill()


def test_a_second_question_goes_to_the_process_of_the_first(project: Project) -> None:
    code, output, errors = project.ask(QUESTION)
    assert code == 0, errors
    assert "LLM_KEEP_WARM" in errors, "who starts a process in the background says so"
    first = project.pid
    code, again, errors = project.ask(QUESTION)
    assert (code, again, errors) == (0, output, "")
    assert project.pid == first
    assert [process.pid for process in project.processes()] == [first]

    code, _, errors = project.ask("--author", "Ada Wintr", QUESTION)
    assert code == 1
    assert "Closest: Ada Winter." in errors
    assert "Traceback" not in errors

    code, _, errors = project.ask(QUESTION, TWIN_AUTHOR="Ada Winter")
    assert code == 0, errors
    assert project.pid != first, "what was loaded with other settings is not used"
    assert not alive(first)

    for name in ("warm.json", "warm.log", "warm.lock"):
        assert (project.folder / name).stat().st_mode & 0o077 == 0, "for this user alone"
    assert QUESTION.split()[3] not in project.log
    assert KEY not in project.log
    assert project.note["token"] not in " ".join(psutil.Process(project.pid).cmdline())

    second = project.pid
    _, output, _ = call(project.environment, "tools.services", "status")
    assert str(second) in output
    code, _, _ = call(project.environment, "tools.services", "down")
    assert code == 0
    assert not alive(second)
    assert not (project.folder / "warm.json").exists()


def test_a_process_that_is_killed_in_the_middle_is_told_and_the_answer_is_made_without_it(
    project: Project, service: OpenAIServer
) -> None:
    code, whole, _ = project.ask(QUESTION)
    assert code == 0
    service.seconds_per_piece = 0.2
    process = start(project.environment, "tools.ask", [QUESTION])
    assert process.stdout is not None
    process.stdout.read(1)
    service.seconds_per_piece = 0.0
    psutil.Process(project.pid).kill()
    output, errors = process.communicate(timeout=allow(60))
    assert process.returncode == 0, errors
    assert "warm.log" in errors
    assert output.endswith(whole), "the whole answer, from its beginning"


def test_a_caller_that_is_killed_ends_its_generation_and_nothing_else(
    project: Project, service: OpenAIServer
) -> None:
    service.seconds_per_piece = 0.2
    process = start(project.environment, "tools.ask", [QUESTION])
    assert process.stdout is not None
    process.stdout.read(1)
    process.kill()
    process.communicate()
    eventually(lambda: service.requests[-1].broken_off, allow(15))
    service.seconds_per_piece = 0.0
    pid = project.pid
    assert project.ask(QUESTION)[0] == 0
    assert project.pid == pid


def test_the_process_ends_when_nobody_asks_any_more(project: Project) -> None:
    code, _, errors = project.ask(QUESTION, LLM_KEEP_WARM="0.02")
    assert code == 0, errors
    eventually(lambda: not project.processes(), allow(30))
    assert not (project.folder / "warm.json").exists()


@pytest.mark.slow
def test_the_process_ends_when_its_folder_is_deleted(project: Project) -> None:
    assert project.ask(QUESTION)[0] == 0
    shutil.rmtree(project.folder)
    eventually(lambda: not project.processes(), allow(30))


@pytest.mark.parametrize(("asked", "processes"), [({}, 0), ({"LLM_KEEP_WARM": "5"}, 1)])
def test_a_build_server_keeps_nothing_unless_told(
    project: Project, asked: dict[str, str], processes: int
) -> None:
    bare = {name: value for name, value in os.environ.items() if name != "LLM_KEEP_WARM"}
    own = {name: value for name, value in project.environment.items() if name != "LLM_KEEP_WARM"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.ask", QUESTION],
        env={**bare, **own, **asked, "CI": "true"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(project.processes()) == processes


@pytest.mark.slow
def test_questions_at_the_same_time_start_one_process(project: Project) -> None:
    asked = [start(project.environment, "tools.ask", [question]) for question in (QUESTION, OTHER, QUESTION)]
    for process in asked:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
    assert len(project.processes()) == 1


@pytest.mark.slow
def test_a_hanging_process_that_does_not_end_is_not_waited_for_without_end(project: Project) -> None:
    assert project.ask(QUESTION)[0] == 0
    pid = project.pid
    os.kill(pid, signal.SIGSTOP)
    code, output, errors = project.ask(QUESTION, TWIN_AUTHOR="Ada Winter")
    assert code == 0, errors
    assert "[1]" in output
    assert not alive(pid), "SIGTERM cannot reach it, SIGKILL can"


def test_nobody_is_answered_without_the_token(project: Project) -> None:
    assert project.ask(QUESTION)[0] == 0
    asked = {"token": "guessed", "ask": {"query": {"text": QUESTION}}}
    for line in (json.dumps(asked).encode(), b"GET / HTTP/1.1", b'"text"', b"{}"):
        with socket.create_connection(("127.0.0.1", project.note["port"]), timeout=allow(10)) as caller:
            caller.sendall(line + b"\n")
            assert caller.recv(1) == b""
    assert project.ask(QUESTION)[0] == 0


@pytest.mark.slow
def test_what_is_indexed_in_the_meantime_is_found(project: Project, tmp_path: Path) -> None:
    index = tmp_path / "index"
    shutil.copytree(project.environment["VECTOR_INDEX_PATH"], index)
    project.environment["VECTOR_INDEX_PATH"] = str(index)
    question = "What does the marmot of Zermatt eat?"
    assert "The sources do not say." in project.ask(question)[1]
    pid = project.pid
    text = "The marmot of Zermatt eats gentians and clover all summer long."
    settings = load_settings(None, vector_index={"kind": "qdrant_edge", "path": index})
    with open_resources(settings) as resources:
        chunk = Chunk(
            id=Chunk.derive_id("marmot", 0, text),
            document_id="marmot",
            document_version="1",
            position=0,
            text=text,
            tokens=16,
            span=Span(start=0, end=len(text)),
            title="Marmots",
            link="http://127.0.0.1/marmot",
            author="Ada Winter",
            author_id="ada",
            platform="web",
            category="article",
            language="en",
        )
        vector = resources.embedder.embed_documents([text])[0]
        with resources.index.writer(resources.embedder.fingerprint) as writer:
            writer.upsert([EmbeddedChunk(chunk=chunk, vector=tuple(vector.tolist()))])
    code, output, errors = project.ask(question)
    assert code == 0, errors
    assert "Marmots" in output
    assert project.pid == pid


@pytest.mark.slow
def test_a_running_service_takes_the_place_of_the_process(project: Project, tmp_path: Path) -> None:
    assert project.ask(QUESTION)[0] == 0
    before = project.pid
    with serve(project.environment, tmp_path) as served:
        served.ready()
        eventually(lambda: project.pid == served.process.pid, allow(15))
        assert not alive(before)
        code, _, errors = project.ask(QUESTION)
        assert (code, errors) == (0, "")
        assert not project.processes()
        code, _, errors = project.ask(QUESTION, TWIN_AUTHOR="Ada Winter")
        assert code == 0
        assert "other settings" in errors
        call(project.environment, "tools.services", "down")
        assert served.process.poll() is None, "a service is not a process of ours to end"
        assert served.stop()[0] == 0
    assert not (project.folder / "warm.json").exists()


@pytest.mark.slow
def test_ctrl_c_ends_the_question_and_not_the_process(project: Project, service: OpenAIServer) -> None:
    service.seconds_per_piece = 0.2
    process = start(project.environment, "tools.ask", [QUESTION])
    assert process.stdout is not None
    process.stdout.read(1)
    threading.Timer(0.2, process.send_signal, [signal.SIGINT]).start()
    _, errors = process.communicate(timeout=allow(30))
    assert process.returncode == 130
    assert "Traceback" not in errors
    time.sleep(0.2)
    assert alive(project.pid)
