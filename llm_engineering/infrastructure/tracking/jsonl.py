"""A training run as JSON Lines: its parameters, its numbers step by step, its end."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal


class JsonLinesTracker:
    """Writes ``FOLDER/NAME-TIME.jsonl``; every line is on disk when a call returns, so a killed run's lines are there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Path | None = None

    @property
    def file(self) -> Path | None:
        """Of the run; None: none was started."""
        return self._file

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Begin a file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.jsonl"
        self._write({"event": "start", "name": name, "parameters": dict(parameters)})

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a line."""
        self._write({"event": "metrics", "step": step, **metrics})

    def finish(self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]) -> None:
        """Add the last line."""
        self._write({"event": "finish", "status": status, "summary": dict(summary)})
        self._file = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            raise RuntimeError("Nothing can be logged before the run was started, or after its end.")
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **line}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(stamped, ensure_ascii=False, default=str) + "\n")
