"""The machine's clock is set, forwards and backwards: limits, keys and running answers take no notice."""

import ast
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from llm_engineering.infrastructure.shared.retries import retry_after_seconds
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import QUESTION, serving

ROOT = Path(__file__).resolve().parents[2]
JUMPS = (timedelta(days=4_000), timedelta(days=-4_000), timedelta(hours=1))
STAMPS = {
    "llm_engineering/infrastructure/api/openai_chat.py",
    "llm_engineering/infrastructure/api/routes/analyses.py",
    "llm_engineering/infrastructure/llm_service/app.py",
    "tools/crm.py",
}
"""Where ``time.time`` gives the field ``created`` of OpenAI's protocol, or is compared with the time a message was signed at."""


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_limit_neither_opens_nor_closes_when_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    service = OperatedService(tmp_path, rate_per_minute=3)
    key = service.keys.create("ada")
    real = time.time
    with serving(service.app) as url, httpx.Client(base_url=url, headers={"X-API-Key": key}) as client:
        ask = {"query": QUESTION}
        assert [client.post("/search", json=ask).status_code for _ in range(4)] == [200, 200, 200, 429]
        monkeypatch.setattr(time, "time", lambda: real() + jump.total_seconds())
        refused = client.post("/search", json=ask)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        assert client.get("/info").status_code == 200
        assert client.get("/health/live").status_code == 200


def test_durations_are_measured_by_a_clock_that_nobody_sets() -> None:
    found = set()
    for folder in ("llm_engineering", "tools", "steps", "pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.time":
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == STAMPS


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_date_to_come_back_at_is_never_in_the_past(jump: timedelta) -> None:
    said = "Sun, 29 Nov 2026 12:00:00 GMT"
    seconds = retry_after_seconds(said, datetime(2026, 11, 29, 11, 59, tzinfo=UTC) + jump)
    assert seconds is None or seconds >= 0
