"""Real services that tests of several tiers share: started at the first use, in processes of their own."""

import socket
from collections.abc import Iterator
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
