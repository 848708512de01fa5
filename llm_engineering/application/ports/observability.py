"""What watches the work: traces of requests, and the prompts and feedback that belong to them."""

import dataclasses
import hashlib
import math
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from llm_engineering.domain.retrieval import Usage


@dataclass(slots=True)
class TraceSpan:
    """One stage of a request."""

    name: str
    kind: Literal["general", "retrieval", "llm", "guardrail"]
    start: float
    """Seconds since the trace began."""
    seconds: float = 0.0
    status: Literal["ok", "failed"] = "ok"
    error: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Numbers and names that are no content: counts, model, prompt hash."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """Content. Empty unless the tracing of content was chosen."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """Content. Empty unless the tracing of content was chosen."""
    model: str | None = None
    usage: Usage | None = None


@dataclass(slots=True)
class Trace:
    """One request."""

    name: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    status: Literal["ok", "failed", "cancelled"] = "ok"
    error: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    spans: list[TraceSpan] = field(default_factory=list)


class Recorder:
    """Times the stages of one request. ``content``: whether inputs and outputs are kept."""

    def __init__(self, name: str, *, content: bool = False, trace_id: str | None = None) -> None:
        self.trace = Trace(name) if trace_id is None else Trace(name, id=trace_id)
        self._content = content
        self._began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the request began."""
        return time.perf_counter() - self._began

    @contextmanager
    def record_span(
        self,
        name: str,
        kind: Literal["general", "retrieval", "llm", "guardrail"] = "general",
        **inputs: Any,
    ) -> Iterator[TraceSpan]:
        """Time a stage. What it raises is noted and passed on."""
        span = TraceSpan(name, kind, start=self.elapsed)
        self.trace.spans.append(span)
        if self._content:
            span.inputs.update(inputs)
        try:
            yield span
        except BaseException as error:
            span.status = "failed"
            span.error = type(error).__name__ if not self._content else f"{type(error).__name__}: {error}"
            raise
        finally:
            span.seconds = self.elapsed - span.start
            if not self._content:
                span.outputs.clear()

    def sum_timings(self) -> dict[str, float]:
        """Return seconds by stage so far (stages of one name are added up), with ``total``."""
        totals: dict[str, float] = {}
        for span in self.trace.spans:
            totals[span.name] = totals.get(span.name, 0.0) + span.seconds
        return totals | {"total": self.elapsed}

    def finish(
        self,
        status: Literal["ok", "failed", "cancelled"] = "ok",
        error: BaseException | None = None,
        **outputs: Any,
    ) -> Trace:
        """Return the trace, complete."""
        self.trace.seconds = self.elapsed
        self.trace.status = status
        if error is not None:
            self.trace.error = f"{type(error).__name__}: {error}" if self._content else type(error).__name__
        if self._content:
            self.trace.outputs.update(outputs)
        return self.trace


def is_sampled(trace: Trace, share: float) -> bool:
    """Return whether a trace is among the ``share`` (0 to 1) that is kept. Chosen by a hash of its id, so that all who
    see the trace choose alike. Failed requests always are kept."""
    if trace.status == "failed":
        return True
    digest = hashlib.sha256(trace.id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def as_record(trace: Trace) -> dict[str, Any]:
    """Return a trace as JSON knows it: times in ISO 8601, in UTC; numbers that JSON does not know as None; what is
    neither number, text, list nor mapping as its text."""
    record = {field.name: _plain(getattr(trace, field.name)) for field in dataclasses.fields(trace)}
    return record | {"spans": [_plain(dataclasses.asdict(span)) for span in trace.spans]}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair is text to Python alone
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Usage):
        return _plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(_plain(str(key))): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _plain(str(value))


class Tracer(Protocol):
    """Keeps finished traces somewhere. It never raises and never blocks: a request must not depend on it."""

    def record(self, trace: Trace) -> None:
        """Hand over a finished trace, to be written in the background."""
        ...

    def close(self) -> None:
        """Write what is waiting, within a few seconds."""
        ...


class NullTracer:
    """Keeps nothing; the default."""

    def record(self, trace: Trace) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing to write."""


class Progress(Protocol):
    """Shows how far a long task is: a bar on a terminal, a line now and then in a log."""

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        """Add to the named bar, creating it on first use."""
        ...


class SilentProgress:
    """Shows nothing; the default where nobody watches."""

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        """Nothing to show."""
