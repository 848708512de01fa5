"""A service under mixed load, with clients that vanish, that are slow and that are wrong: nothing grows.

``SOAK_SECONDS=1800 ./poe test-all tests/attacks/test_soak.py`` for as long as you like.
"""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.fakes.operated_service import eventually
from tests.fakes.service import QUESTION

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
CLIENTS = 6
ASK = {"query": QUESTION}


class Load:
    """Clients of every kind, at random, until the time is over."""

    def __init__(self, url: str, until: float) -> None:
        self.url = url
        self.statuses: Counter[int] = Counter()
        self._address = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._until = until

    def run(self, seed: int) -> None:
        chance = random.Random(seed)
        with httpx.Client(base_url=self.url, timeout=30) as client:
            kinds: list[Callable[[httpx.Client], None]] = [
                self._search,
                self._answer_and_vote,
                self._leave_stream,
                self._send_nonsense,
                self._hold_a_connection,
            ]
            while time.monotonic() < self._until:
                with suppress(OSError, httpx.TransportError):
                    chance.choice(kinds)(client)

    def _note(self, response: httpx.Response) -> httpx.Response:
        self.statuses[response.status_code] += 1
        return response

    def _search(self, client: httpx.Client) -> None:
        self._note(client.post("/search", json=ASK))

    def _answer_and_vote(self, client: httpx.Client) -> None:
        answer = self._note(client.post("/rag", json=ASK))
        if answer.is_success:
            vote = {"trace_id": answer.json()["trace_id"], "rating": "up"}
            self._note(client.post("/feedback", json=vote))

    def _leave_stream(self, client: httpx.Client) -> None:
        with client.stream("POST", "/rag/stream", json=ASK) as response:
            self._note(response)
            next(response.iter_bytes(), None)

    def _send_nonsense(self, client: httpx.Client) -> None:
        self._note(client.post("/rag", content=b"{" * 1_000, headers={"Origin": "http://["}))
        with socket.create_connection(self._address, 5) as wrong:
            wrong.sendall(os.urandom(200) + b"\r\n\r\n")
            wrong.recv(1_000)

    def _hold_a_connection(self, client: httpx.Client) -> None:
        with socket.create_connection(self._address, 5) as slow:
            slow.sendall(b"POST /rag HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
            time.sleep(0.05)


@pytest.mark.nightly
@pytest.mark.timeout(1.25 * SECONDS + 240)
def test_nothing_grows_under_mixed_load(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fakes.operated_process",
        str(tmp_path),
        json.dumps({"seconds_per_word": 0}),
    ]
    service = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert service.stdout is not None
        url = service.stdout.readline().strip()
        eventually(lambda: httpx.get(f"{url}/health/ready").status_code == 200, 30)
        process = psutil.Process(service.pid)
        warm_up = Load(url, time.monotonic() + SECONDS / 4)
        load = Load(url, warm_up._until + SECONDS)
        measured = []
        for part in (warm_up, load):
            threads = [threading.Thread(target=part.run, args=(seed,)) for seed in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            eventually(lambda: process.num_fds() <= 60, 30)  # connections that were left are closed
            measured.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
        assert not [status for status in load.statuses if status >= 500], load.statuses
        (memory, files, threads_before), (memory_after, files_after, threads_after) = measured
        print(load.statuses, measured)
        # The fakes keep every answer that was given: some kilobytes each.
        assert memory_after - memory < 20_000_000 + 20_000 * load.statuses[200]
        assert files_after <= files + 5
        assert threads_after <= max(threads_before, 48)
    finally:
        service.kill()
        service.communicate()
