"""What every tracer keeps. An adapter's tests inherit the class and give the fixtures ``tracer`` and ``kept``.

``kept()`` returns the trace ids that reached the place where traces are kept, in no particular order.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from llm_engineering.application.ports import Tracer
from llm_engineering.application.ports.observability import Trace, TraceSpan
from llm_engineering.domain.retrieval import Usage
from tests.conformance.warehouse_contract import at_once
from tests.durations import allow

Kept = Callable[[], list[str]]


def request(identifier: str = "t0", **fields: Any) -> Trace:
    """A finished request with three stages, the way the inference pipeline traces one with content."""
    spans = [
        TraceSpan(
            "search", "retrieval", start=0.0, seconds=0.1, attributes={"hits": 3, "best": float("nan")}
        ),
        TraceSpan("input_guard", "guardrail", 0.1, 0.01, "failed", "ValueError: bad \ud800"),
        TraceSpan(
            "generate",
            "llm",
            start=0.11,
            seconds=1.5,
            inputs={"question": "Why is the sky blue? \ud800 \x00"},
            outputs={"text": "Scattering."},
            attributes={"prompt_hash": "abc123"},
            model="tiny",
            usage=Usage(prompt_tokens=100, completion_tokens=20, cost_usd=0.0012),
        ),
    ]
    defaults: dict[str, Any] = {
        "name": "rag",
        "id": identifier,
        "started_at": datetime(2026, 5, 4, 3, 2, 1, 987_654, tzinfo=UTC),
        "seconds": 1.61,
        "attributes": {"abstained": False, "sources": ("d1", "d2"), "at": datetime(2026, 5, 4, tzinfo=UTC)},
        "spans": spans,
    }
    return Trace(**{**defaults, **fields})


class TracerContract:
    def test_what_was_recorded_is_kept_once_closed(self, tracer: Tracer, kept: Kept) -> None:
        for number in range(250):
            tracer.record(request(f"t{number}"))
        tracer.close()
        assert sorted(kept()) == sorted(f"t{number}" for number in range(250))

    def test_many_threads_may_record_at_once(self, tracer: Tracer, kept: Kept) -> None:
        def some(thread: int) -> None:
            for number in range(20):
                tracer.record(request(f"t{thread}-{number}"))

        at_once(8, some)
        tracer.close()
        assert len(set(kept())) == len(kept()) == 160

    def test_closing_twice_and_recording_again_does_no_harm(self, tracer: Tracer, kept: Kept) -> None:
        tracer.close()
        tracer.record(request("a"))
        tracer.close()
        tracer.record(request("b"))
        tracer.close()
        tracer.close()
        assert sorted(kept()) == ["a", "b"]

    def test_recording_takes_no_time(self, tracer: Tracer) -> None:
        tracer.record(request("first"))  # starts what there is to start
        started = time.perf_counter()
        for number in range(100):
            tracer.record(request(f"t{number}"))
        assert time.perf_counter() - started < allow(0.5)
        tracer.close()
