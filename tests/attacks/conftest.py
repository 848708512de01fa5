"""What the tests of attacks share."""

from collections.abc import AsyncIterator

import pytest

from llm_engineering.infrastructure.shared.web_client import WebClient
from tests.fakes.fault_server import FaultServer


@pytest.fixture(autouse=True)
def _loaded() -> None:
    """Loading libraries and certificates is not part of what an attack costs."""
    WebClient(private_addresses="given", timeout_seconds=1)


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer() as server:
        yield server
