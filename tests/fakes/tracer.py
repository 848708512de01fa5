"""A tracer that keeps traces in memory, for tests of what is traced."""

from llm_engineering.application.ports.observability import Trace, TraceSpan


class RecordingTracer:
    """``traces`` holds every finished request in the order they ended; ``closed`` counts the calls of ``close``."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self.closed = 0

    def record(self, trace: Trace) -> None:
        self.traces.append(trace)

    def close(self) -> None:
        self.closed += 1

    @property
    def last(self) -> Trace:
        """The request that ended last."""
        return self.traces[-1]

    def record_span(self, name: str) -> TraceSpan:
        """The last request's span of that name."""
        return next(span for span in self.last.spans if span.name == name)
