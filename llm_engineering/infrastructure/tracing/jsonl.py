"""Traces as JSON Lines in a file: an object for each request, its spans inside."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from llm_engineering.application.ports.observability import Trace, as_record
from llm_engineering.infrastructure.shared.trace_queue import TraceQueue


class JsonLinesTracer:
    """Appends a line for each trace, in the background. Several processes may share the file: a batch is one write.

    The file is only its owner's to read, since traces may hold what people asked. A file that cannot be written (a full
    disk, no permission) costs traces and a warning, no request.
    """

    def __init__(self, path: Path, sample: float = 1.0, close_seconds: float = 3.0) -> None:
        self._path = path
        self._torn = False
        self._queue = TraceQueue(str(path), self._append, sample=sample, close_seconds=close_seconds)

    def record(self, trace: Trace) -> None:
        self._queue.record(trace)

    def close(self) -> None:
        self._queue.close()

    @property
    def dropped(self) -> int:
        """Traces that were not written."""
        return self._queue.dropped + self._queue.lost

    def _append(self, traces: Sequence[Trace]) -> None:
        lines = [json.dumps(as_record(trace), ensure_ascii=False, allow_nan=False) for trace in traces]
        data = "".join(f"{line}\n" for line in lines).encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # A disk that ran full in the middle of a line must not spoil the line that comes after it.
            data = b"\n" + data if self._torn else data
            written = 0
            while written < len(data):
                written += os.write(file, data[written:])
                self._torn = not data[:written].endswith(b"\n")
        finally:
            os.close(file)
