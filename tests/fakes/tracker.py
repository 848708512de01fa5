"""An experiment tracker that remembers."""

from collections.abc import Mapping
from typing import Any, Literal


class RecordingTracker:
    """Keeps all that it was told, in order."""

    def __init__(self) -> None:
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished: list[tuple[str, dict[str, float]]] = []

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        self.started.append((name, dict(parameters)))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(metrics)))

    def finish(self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]) -> None:
        self.finished.append((status, dict(summary)))
