"""Starting and stopping the local services as a user does, and what can stand in the way."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from llm_engineering.domain.errors import StoreUnavailableError
from tests.services import free_port
from tools.services import LocalMongo, LocalZenml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[LocalMongo]:
    server = LocalMongo(tmp_path / "data", free_port())
    yield server
    server.stop()


@pytest.fixture
def other_server() -> Iterator[int]:
    """The port of something else that listens."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def cli(mongo: LocalMongo, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LOCAL_DATA_DIR": str(mongo.storage.parent),
        "LOCAL_MONGO_PORT": str(mongo.port),
        "LOCAL_ZENML_PORT": str(free_port()),
        "DATABASE_URI": mongo.uri,
        "COLUMNS": "300",
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_up_twice_status_and_down_twice(mongo: LocalMongo) -> None:
    assert cli(mongo, "tools.services", "status").returncode == 3
    first = cli(mongo, "tools.services", "up")
    assert first.returncode == 0, first.stderr
    assert mongo.uri in first.stdout
    second = cli(mongo, "tools.services", "up")
    assert second.returncode == 0
    assert "already running" in second.stdout
    pids = [re.search(r"pid (\d+)", result.stdout) for result in (first, second)]
    assert pids[0]
    assert pids[1]
    assert pids[0][1] == pids[1][1]
    status = cli(mongo, "tools.services", "status")
    assert status.returncode == 0
    assert "DATABASE_URI" not in status.stdout, (
        "the settings lead to this server, so there is nothing to warn of"
    )
    assert "stopped" in cli(mongo, "tools.services", "down").stdout
    # Its parent is gone: where nobody collects orphans it stays a zombie.
    assert (
        not psutil.pid_exists(int(pids[0][1]))
        or psutil.Process(int(pids[0][1])).status() == psutil.STATUS_ZOMBIE
    )
    last = cli(mongo, "tools.services", "down")
    assert (last.returncode, "was not running" in last.stdout) == (0, True)


def test_it_listens_on_loopback_only(mongo: LocalMongo) -> None:
    process = psutil.Process(mongo.start().pid)
    listening = {c.laddr[0] for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
def test_two_that_start_it_at_once_start_one(mongo: LocalMongo) -> None:
    started = [LocalMongo(mongo.storage.parent, mongo.port) for _ in range(2)]
    statuses = []
    threads = [Thread(target=lambda server=server: statuses.append(server.start())) for server in started]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(statuses) == 2
    assert len({status.pid for status in statuses}) == 1


@pytest.mark.slow
def test_a_stale_pid_file_of_a_dead_process_is_no_hindrance(mongo: LocalMongo) -> None:
    mongo.start()
    mongo.kill()
    assert not mongo.status().running
    assert mongo.start().running


@pytest.mark.slow
def test_a_pid_that_now_belongs_to_another_program_is_left_alone(mongo: LocalMongo, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        try:
            created = psutil.Process(bystander.pid).create_time()
            mongo.storage.parent.mkdir(parents=True)
            pid_file = mongo.storage.parent / "mongo.pid"
            for content in (
                json.dumps({"pid": bystander.pid, "created": created, "port": mongo.port}),
                json.dumps({"pid": bystander.pid, "created": 1.0, "port": mongo.port}),
                "not json",
                "[]",
                "",
            ):
                pid_file.write_text(content)
                assert not mongo.status().running
                assert mongo.stop() is False
                assert bystander.poll() is None
            pid_file.write_text(json.dumps({"pid": bystander.pid, "created": created, "port": mongo.port}))
            assert mongo.start().pid != bystander.pid
        finally:
            bystander.kill()


@pytest.mark.slow
def test_a_server_whose_pid_file_is_lost_is_still_known_as_ours(mongo: LocalMongo) -> None:
    started = mongo.start()
    (mongo.storage.parent / "mongo.pid").unlink()
    assert mongo.status() == started
    assert mongo.start() == started
    assert mongo.stop() is True


def test_a_port_taken_by_something_else_is_said_with_its_name(tmp_path: Path, other_server: int) -> None:
    mongo = LocalMongo(tmp_path, other_server)
    assert f"pid {os.getpid()}" in mongo.status().detail
    with pytest.raises(
        StoreUnavailableError, match=rf"port {other_server} is taken by .*pid {os.getpid()}.*LOCAL_MONGO_PORT"
    ):
        mongo.start()
    assert mongo.stop() is False
    with pytest.raises(StoreUnavailableError, match=rf"port {other_server} is taken.*LOCAL_ZENML_PORT"):
        LocalZenml(other_server).start()


@pytest.mark.slow
def test_another_port_than_the_running_server_s_is_refused(mongo: LocalMongo) -> None:
    mongo.start()
    with pytest.raises(StoreUnavailableError, match=f"already runs on port {mongo.port}"):
        LocalMongo(mongo.storage.parent, free_port()).start()


@pytest.mark.slow
def test_a_server_that_dies_while_starting_shows_the_end_of_its_log(mongo: LocalMongo) -> None:
    mongo.storage.mkdir(parents=True)
    (mongo.storage / "WiredTiger").write_text("not what it should be\n")
    (mongo.storage / "WiredTiger.turtle").write_text("neither\n")
    with pytest.raises(
        StoreUnavailableError, match=r"ended while starting(?s:.*)The end of .*mongo\.log"
    ) as caught:
        mongo.start()
    assert len(str(caught.value).splitlines()) > 3
    assert not mongo.status().running


@pytest.mark.slow
def test_a_server_that_ignores_the_request_to_stop_is_ended(
    mongo: LocalMongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.services.STOP_SECONDS", 1.0)
    process = psutil.Process(mongo.start().pid)
    process.send_signal(signal.SIGSTOP)
    assert not mongo.status().running
    assert mongo.stop() is True
    # A zombie is ended too: it only waits for the machine's first process to collect it.
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_it_outlives_the_command_that_started_it_and_its_interruption(mongo: LocalMongo) -> None:
    result = cli(mongo, "tools.services", "up")
    assert result.returncode == 0, result.stderr
    pid = mongo.status().pid
    assert pid is not None
    assert os.getsid(pid) != os.getsid(0), "Ctrl-C in the terminal must not reach it"
    assert mongo.status().running


@pytest.mark.slow
def test_export_and_import_from_the_command_line(mongo: LocalMongo, tmp_path: Path) -> None:
    down = cli(mongo, "tools.warehouse", "export", str(tmp_path / "out"))
    assert down.returncode == 1
    assert "poe local-infrastructure-up" in down.stderr
    assert "Traceback" not in down.stderr
    mongo.start()
    (tmp_path / "in").mkdir()
    document = {
        "category": "article",
        "text": "A.",
        "link": "l",
        "origin": "o",
        "platform": "p",
        "author": "Ann",
    }
    (tmp_path / "in" / "documents.jsonl").write_text(json.dumps(document) + "\n{broken\n")
    imported = cli(mongo, "tools.warehouse", "import", str(tmp_path / "in"))
    assert imported.returncode == 0, imported.stderr
    assert re.search(r"documents created\W+1\b", imported.stdout)
    assert re.search(r"lines rejected\W+1\b", imported.stdout)
    exported = cli(mongo, "tools.warehouse", "export", str(tmp_path / "out"))
    assert exported.returncode == 0, exported.stderr
    (stored,) = (tmp_path / "out" / "documents.jsonl").read_text().splitlines()
    assert document.items() <= json.loads(stored).items()
    (rejected,) = (tmp_path / "out" / "dead_letters.jsonl").read_text().splitlines()
    assert json.loads(rejected)["source"].endswith("documents.jsonl:2")


@pytest.mark.nightly
def test_the_zenml_server_comes_up_is_found_and_goes_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path))
    server = LocalZenml(free_port())
    assert not server.status().running
    try:
        assert server.start().running
        assert server.start().running
        with urllib.request.urlopen(f"{server.url}/api/v1/current-user", timeout=10) as response:
            user = json.load(response)
        assert user["body"]["email_opted_in"] is False, "the dashboard asks for an e-mail address first"
    finally:
        assert server.stop() is True
    assert not server.status().running
