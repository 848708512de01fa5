"""The demo as a user runs it: what it shows, that a second run finds nothing to do, and that it leaves nothing behind."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.fakes.chromium import NO_CHROMIUM
from tests.services import free_port
from tools.demo import QUESTIONS, SITE_PORT

ROOT = Path(__file__).resolve().parents[2]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that were started with the settings of a project in ``folder``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (
                process.environ().get("LOCAL_DATA_DIR") == str(folder)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(" ".join(process.cmdline()))
    return found


def demo(environment: Mapping[str, str]) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "tools.demo"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    listens(SITE_PORT), reason=f"port {SITE_PORT} of the sample site is taken on this machine"
)
def test_the_demo_answers_tidies_up_and_has_nothing_to_do_the_second_time(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        "LOCAL_DATA_DIR": str(tmp_path),
        "LOCAL_MONGO_PORT": str(port),
        "DATABASE_URI": f"mongodb://127.0.0.1:{port}",
        "DATABASE_NAME": "twin",
        "VECTOR_INDEX_KIND": "qdrant_edge",
        "VECTOR_INDEX_PATH": str(tmp_path / "index"),
        "EMBEDDER_KIND": "onnx",
        "LLM_KIND": "llama_cpp",
        "MODELS_DIR": os.environ.get("MODELS_DIR", str(ROOT / "models")),
        "ZENML_CONFIG_PATH": str(tmp_path / "zenml"),
        "ZENML_LOGGING_VERBOSITY": "CRITICAL",
        "LOG_FORMAT": "human",
        "COLUMNS": "200",
    }
    first = demo(environment)
    assert "Traceback" not in first
    answers = [first.split(f"? {question}")[1] for question in QUESTIONS]
    assert re.search(r"\[1\] .*\n +\S.* · cosine 0\.\d\d · http://127\.0\.0\.1:8111/articles/", answers[0])
    assert re.search(r"\]\(http://127\.0\.0\.1:8111/articles/", answers[1])
    assert "**Ben Okafor**" in answers[2]
    assert answers[-1].lstrip().startswith("The sources do not say.")
    assert re.search(r"articles\W+15\b", first)
    assert re.search(r"left unanswered\W+1\b", first)
    assert NO_CHROMIUM or re.search(r"\bposts\W+\d{2}\b", first)
    assert "Everything that was started is stopped" in first
    assert not listens(port)
    assert not listens(SITE_PORT)
    assert processes_of(tmp_path) == []

    second = demo(environment)
    assert re.search(r"feed\.xml.*unchanged", second)
    [indexed] = re.findall(r"index documents: (.*)", second)
    documents = re.match(r"(\d+) documents, \1 unchanged$", indexed)
    assert documents, indexed
    chunks = re.compile(r"chunks\W+([\d,]+)")
    assert chunks.findall(first)[-1] == chunks.findall(second)[-1]
    assert processes_of(tmp_path) == []
