"""Real services that tests of several tiers share: started at the first use, in processes of their own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from tools.services import LocalMongo


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMongo]:
    """A MongoDB-wire server for the whole run, started the way ``poe local-infrastructure-up`` does."""
    server = LocalMongo(tmp_path_factory.mktemp("mongo"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_mongo_server(tmp_path: Path) -> Iterator[LocalMongo]:
    """A server for one test, which may stop, kill and restart it. Not yet started."""
    server = LocalMongo(tmp_path / "data", free_port())
    yield server
    server.stop()


@pytest.fixture
def mongo_database() -> str:
    """A database name that no other test uses."""
    return f"test_{uuid4().hex[:12]}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 300 MB."""
    if os.geteuid() != 0 or sys.platform != "linux" or shutil.which("mkfs.ext4") is None:
        pytest.skip("making a small disk needs root on Linux, and mkfs.ext4")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(300 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    yield folder
    deadline = time.monotonic() + 20
    while subprocess.run(["umount", str(folder)], capture_output=True).returncode:
        assert time.monotonic() < deadline, "the disk is still in use"
        time.sleep(0.2)  # what was stopped lets go of its files a moment later


def fill(folder: Path) -> Path:
    """Write a file until the disk of the folder is full; returns the file, whose removal makes room again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * (1 << 20))
    return filler
