"""Combine several experiment trackers; one that fails is logged and never stops a training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loguru import logger

from llm_engineering.application.ports import ExperimentTracker


@dataclass(frozen=True, slots=True)
class NamedTracker:
    """A tracker as messages call it."""

    name: str
    tracker: ExperimentTracker


class SafeTrackers:
    """Tells each tracker everything. One that fails is told nothing more, and a warning says so once."""

    def __init__(self, trackers: Sequence[NamedTracker]) -> None:
        self._trackers = list(trackers)

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """See :meth:`ExperimentTracker.start`."""
        self._tell(lambda tracker: tracker.start(name, parameters))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See :meth:`ExperimentTracker.log`."""
        self._tell(lambda tracker: tracker.log(metrics, step))

    def finish(self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]) -> None:
        """See :meth:`ExperimentTracker.finish`."""
        self._tell(lambda tracker: tracker.finish(status, summary))

    def _tell(self, what: Callable[[ExperimentTracker], None]) -> None:
        for one in list(self._trackers):
            try:
                what(one.tracker)
            # An SDK may raise anything, and hours of training weigh more than its plot.
            except Exception as error:  # noqa: BLE001
                self._trackers.remove(one)
                logger.warning(
                    "{} failed, and is left out from here on; the training goes on: {}: {}",
                    one.name,
                    type(error).__name__,
                    error,
                )


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Return nested parameters with dotted names; what is no number, truth value or text is written as text."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return found
