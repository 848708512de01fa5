"""Whatever tests start ends with the run, however the run ends (``tests/guard.py``)."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.fakes.operated_service import eventually

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
import tempfile
from pathlib import Path
from tests.guard import start_guard

def pytest_configure(config):
    start_guard(Path(tempfile.mkdtemp(dir=Path(__file__).parent, prefix="home-")))
"""
TESTS = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
import pytest
from llm_engineering.domain.errors import CollectionError
from llm_engineering.infrastructure.sources.browser.chromium import Chromium
from tests.services import free_port
from tools.services import LocalMongo

@pytest.mark.parametrize("number", [1, 2])
def test_that_starts_all_kinds_of_processes(number, tmp_path):
    nap = [sys.executable, "-c", "import time; time.sleep(600)"]
    pids = [os.getpid(), subprocess.Popen(nap, start_new_session=True).pid]
    # Its own parent is gone, as that of a server which a command has started.
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    orphan = f"import subprocess; print(subprocess.Popen({nap!r}, **{quiet!r}).pid)"
    pids.append(int(subprocess.run([sys.executable, "-c", orphan], capture_output=True, check=True).stdout))
    forked = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(600,))
    forked.start()
    pids.append(forked.pid)
    if number == 1:
        pids.append(LocalMongo(tmp_path, free_port()).start().pid)
        try:
            browser = Chromium(None, None, 30)
            pids.append(browser._service.process.pid)
        except CollectionError:
            pass  # no browser on this machine
    (Path(__file__).parent / f"started-{number}").write_text(" ".join(map(str, pids)))
    time.sleep(600)
"""


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and is not yet collected by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    "ending",
    [signal.SIGKILL, *(pytest.param(s, marks=pytest.mark.nightly) for s in (signal.SIGTERM, signal.SIGINT))],
)
def test_nothing_that_tests_started_outlives_them(tmp_path: Path, ending: signal.Signals) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "test_starts.py").write_text(TESTS, encoding="utf-8")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "pytest", "-n2", "-pno:cacheprovider", "-c", ROOT / "pyproject.toml"]
    command += [f"--rootdir={tmp_path}", tmp_path]
    with log.open("w") as output:
        run = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    noted = [tmp_path / f"started-{number}" for number in (1, 2)]

    def all_started() -> bool:
        assert run.poll() is None, log.read_text()
        return all(file.exists() and file.read_text() for file in noted)

    try:
        eventually(all_started, 90)
        started = [psutil.Process(int(pid)) for file in noted for pid in file.read_text().split()]
        assert all(alive(process) for process in started)
        # With their children: a browser is a family, some of which live but for a moment.
        started += [child for process in started for child in process.children(recursive=True)]
    finally:
        run.send_signal(ending)
        run.wait(60)
    eventually(lambda: not any(map(alive, started)), 30)
    eventually(lambda: not list(tmp_path.glob("home-*")), 30)
