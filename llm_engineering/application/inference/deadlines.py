"""How long a stage may take: as configured on a machine that is idle, longer where the machine shows that it is busy."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

_MOST = 4
"""Times the configured seconds, at most: somebody is waiting."""
_NEWEST = 0.3
"""Weight of the newest time in the average."""


class Deadline:
    """Seconds that a stage may take: twice what it took lately, but no less than configured.

    A stage that was cut off counts as having taken all of its time, so that the next one gets twice as much: on a machine that
    is busy for long, answers are made as on an idle one, only later. Only one thread may write; others may read.

    Args:
        seconds: as configured.
    """

    def __init__(self, seconds: float) -> None:
        self._configured = seconds
        self._lately = 0.0

    @property
    def seconds(self) -> float:
        """What the next one may take."""
        return min(max(self._configured, 2 * self._lately), _MOST * self._configured)

    @contextmanager
    def measure(self) -> Iterator[float]:
        """Note how long the block takes, or that it was cut off. Gives the seconds that it may take."""
        seconds, started = self.seconds, perf_counter()
        try:
            yield seconds
        except TimeoutError:
            self._lately = max(self._lately, seconds)
            raise
        self._lately += _NEWEST * (perf_counter() - started - self._lately)
