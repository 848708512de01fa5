"""Seeing what happens: traces of requests, progress of long tasks."""

from typing import Protocol

from llm_engineering.application.ports.tracing import Trace


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
