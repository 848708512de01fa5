"""The whole service against ten thousand requests, malformed ones mostly, made from its own OpenAPI description."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.fakes.operated_service import OperatedService
from tests.fakes.service import serving

LEFT_OUT = "positive_data_acceptance"
"""A request may keep to the schema and still be refused: a filter on an author who does not exist, a vote on no answer."""
CASES = 10_000
OPTIONS = (
    *("--phases", "coverage,fuzzing", "--mode", "all", "--max-examples", "600", "--seed", "1"),
    *("--exclude-checks", LEFT_OUT, "--continue-on-failure", "--no-color"),
    *("--generation-database", "none", "--request-timeout", "60"),
)
CONFIGURATION = """
[checks.negative_data_rejection]
# With 413, which the suite does not count as a refusal: lists that are too long make bodies that are too large.
expected-statuses = [400, 404, 405, 413, 415, 422]
"""


class Counted:
    """Passes requests on, and counts the responses by status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.statuses: Counter[int] = Counter()
        self.failed: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] += 1
                if message["status"] >= 500:
                    self.failed.add(f"{message['status']} {scope['method']} {scope['path']}")
            await send(message)

        await self._app(scope, receive, counted)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_no_malformed_request_is_a_failure_of_the_service(tmp_path: Path) -> None:
    """Statuses, content types, headers and bodies are as described, too: schemathesis checks them all."""
    counted = Counted(OperatedService(tmp_path).app)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with serving(counted) as url:
        ran = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", *OPTIONS],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=3500,
            check=False,
        )
    refused = sum(count for status, count in counted.statuses.items() if 400 <= status < 500)
    assert counted.failed == set()
    assert ran.returncode == 0, ran.stdout[-6_000:] + ran.stderr[-2_000:]
    assert counted.statuses.total() >= CASES, counted.statuses
    assert refused > CASES // 2, counted.statuses
    assert counted.statuses[200] > 100, "well-formed requests were among them"
