"""A training run as TensorBoard's event files: ``tensorboard --logdir FOLDER`` shows them."""

import importlib.util
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from llm_engineering.domain.errors import MissingDependencyError


class TensorBoardTracker:
    """Writes ``FOLDER/NAME-TIME/events.out.tfevents.…``.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingDependencyError("tensorboard", "training", "Event files for TensorBoard")
        self._folder = folder
        self._writer: Any = None

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Begin a folder; the parameters are shown under "text"."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"))
        told = json.dumps(dict(parameters), indent=2, default=str, ensure_ascii=False)
        self._writer.add_text("parameters", f"```json\n{told}\n```")
        self._writer.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to the curve of each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]) -> None:
        """Close the file."""
        self._writer.add_text("status", status)
        for name, value in summary.items():
            self._writer.add_scalar(f"summary/{name}", value)
        self._writer.close()
