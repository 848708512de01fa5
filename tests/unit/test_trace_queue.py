"""Which traces are kept, what is written of them, and how a queue in trouble behaves."""

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from llm_engineering.application.ports.observability import Trace, as_record, is_sampled
from llm_engineering.infrastructure.shared.trace_queue import BATCH, CAPACITY, TraceQueue

shares = st.floats(0, 1)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()) | st.integers(), inner)
    ),
    max_leaves=8,
)


@given(identifier=st.text(), low=shares, high=shares)
def test_a_larger_share_keeps_all_that_a_smaller_one_keeps(identifier: str, low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    trace = Trace("rag", id=identifier)
    assert not is_sampled(trace, low) or is_sampled(trace, high)
    assert is_sampled(trace, 1.0)
    assert not is_sampled(trace, 0.0)
    assert is_sampled(Trace("rag", id=identifier, status="failed"), 0.0)


@given(value=anything)
def test_a_record_is_json_whatever_the_trace_holds(value: Any) -> None:
    record = as_record(Trace("rag", attributes={"value": value}))
    data = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    assert json.loads(data) == record


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    seen: list[str] = []
    sink = logger.add(lambda message: seen.append(str(message)), level="WARNING", format="{message}")
    yield seen
    logger.remove(sink)


def test_a_writer_that_stands_still_makes_traces_drop_and_not_wait(warnings: list[str]) -> None:
    may_write, writing = threading.Event(), threading.Event()
    written: list[str] = []

    def write(traces: Sequence[Trace]) -> None:
        writing.set()
        may_write.wait(5)
        written.extend(trace.id for trace in traces)

    queue = TraceQueue("here", write)
    queue.record(Trace("rag", id="first"))
    writing.wait(5)
    for number in range(CAPACITY + 7):
        queue.record(Trace("rag", id=str(number)))
    assert queue.dropped == 7
    may_write.set()
    queue.close()
    assert written == ["first", *map(str, range(CAPACITY))]
    assert len(warnings) == 1
    assert "too slow" in warnings[0]


def test_a_failing_writer_is_told_of_once_a_minute_and_called_again(warnings: list[str]) -> None:
    times = iter((0.0, 1.0, 59.0, 60.5))
    sizes: list[int] = []
    called = threading.Semaphore(0)

    def write(traces: Sequence[Trace]) -> None:
        sizes.append(len(traces))
        called.release()
        raise OSError("no room")

    queue = TraceQueue("here", write, clock=lambda: next(times))
    for _ in range(4):
        queue.record(Trace("rag"))
        assert called.acquire(timeout=5)
    queue.close()
    assert queue.lost == 4
    assert sizes == [1, 1, 1, 1]
    assert [("OSError: no room (so far 1 " in warnings[0]), ("(so far 4 " in warnings[1])] == [True, True]
    assert len(warnings) == 2


def test_batches_are_bounded() -> None:
    sizes: list[int] = []
    may_write = threading.Event()

    def write(traces: Sequence[Trace]) -> None:
        may_write.wait(5)
        sizes.append(len(traces))

    queue = TraceQueue("here", write)
    for _ in range(3 * BATCH):
        queue.record(Trace("rag"))
    may_write.set()
    queue.close()
    assert sum(sizes) == 3 * BATCH
    assert max(sizes) <= BATCH


def test_what_no_time_is_left_for_is_counted(warnings: list[str]) -> None:
    stuck = threading.Event()
    queue = TraceQueue("here", lambda traces: (stuck.wait(5), None)[1], close_seconds=0.05)
    for _ in range(BATCH + 5):
        queue.record(Trace("rag"))
    queue.close()
    stuck.set()
    assert queue.dropped >= 5
    assert any("took none in time" in warning for warning in warnings)
