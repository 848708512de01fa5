"""Replay a load trace against scaling rules: how many copies there would be, who would wait, and what it would cost.

The rules are those of AWS's target tracking, as its documentation tells them: a copy is added when the metric lies above its
target for three periods in a row, one is taken away when it lies below nine tenths of it for a quarter of an hour, and
cool-downs hold both back. Real machines take longer on some days, and AWS does not promise these numbers.
"""

import heapq
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from llm_engineering.application.deployment.config import Deployment, ScalingConfig
from llm_engineering.application.deployment.prices import count_instances
from llm_engineering.domain.errors import InvalidInputError

_PERIODS_OUT = 3
_SECONDS_IN = 900
_SHARE_IN = 0.9
_WAKE_SECONDS = 60
_PERIOD = {"concurrency": 10, "invocations": 60}
"""Seconds between two looks at a metric."""


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """A request of a trace."""

    at: float
    """Seconds since the trace's beginning."""
    seconds: float
    """How long the model works on it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at one moment."""

    at: float
    ready: int
    """Copies that serve."""
    copies: int
    """With those that are starting."""
    running: int
    waiting: int


@dataclass(slots=True)
class Simulation:
    """What came of a replay."""

    waits: list[float] = field(default_factory=list)
    """Seconds between arrival and the beginning of the answer, of each request that was answered."""
    refused: int = 0
    """Requests that found no copy."""
    samples: list[Sample] = field(default_factory=list)
    machine_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        return len(self.waits)

    @property
    def machine_hours(self) -> float:
        return self.machine_seconds / 3600

    def wait_quantile(self, share: float) -> float:
        """Return the wait that this share of the requests does not exceed; 0 where none was answered."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def read_trace(lines: Iterable[str]) -> list[Request]:
    """Return a trace's requests in their order, the first at 0.

    Each line is a JSON object with ``seconds`` and either ``at``, in seconds, or ``started_at``, a time as ISO 8601: so the
    service's own traces (``TRACING_KIND=jsonl``) can be replayed.

    Raises:
        InvalidInputError: a line is none of these; the message gives its number.
    """
    found = [_read_line(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InvalidInputError(
            'The trace holds no request. Expected lines such as {"at": 12.5, "seconds": 3.2}.'
        )
    first = min(found).at
    return sorted(Request(one.at - first, one.seconds) for one in found)


def _read_line(number: int, line: str) -> Request:
    try:
        told = json.loads(line)
        at = told["at"] if "at" in told else datetime.fromisoformat(told["started_at"]).timestamp()
        request = Request(float(at), float(told["seconds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"Line {number} of the trace is no request ({type(error).__name__}: {error}). Expected "
            '{"at": 12.5, "seconds": 3.2}, or "started_at" with a time.'
        ) from None
    if not (math.isfinite(request.at) and math.isfinite(request.seconds) and request.seconds >= 0):
        raise InvalidInputError(f"Line {number} of the trace: seconds must be a number of at least 0.")
    return request


def simulate(
    deployment: Deployment, trace: Sequence[Request], *, start_seconds: float = 300, per_copy: int = 4
) -> Simulation:
    """Replay a trace.

    Args:
        start_seconds: from the decision to add a copy until it serves: machine, model files, loading.
        per_copy: requests that a copy computes at a time without getting slower; more wait.
    """
    return _Replay(deployment, trace, start_seconds, per_copy).run()


class _Replay:
    """One replay. Copies share one queue, as with routing by least outstanding requests."""

    def __init__(
        self, deployment: Deployment, trace: Sequence[Request], start_seconds: float, per_copy: int
    ) -> None:
        component = deployment.component
        copies = deployment.instance.count if component is None else component.copies
        self._deployment = deployment
        self._scaling = deployment.scaling or ScalingConfig(min_copies=copies, max_copies=copies)
        self._trace = trace
        self._start_seconds = start_seconds
        self._per_copy = per_copy
        self._ready = copies
        self._starting: list[float] = []
        """When each copy that is starting will serve."""
        self._ends: list[float] = []
        """Of the requests in progress."""
        self._queue: deque[Request] = deque()
        self._result = Simulation()
        self._above = 0
        self._below = 0
        self._invocations = 0
        self._last_out = self._last_in = -math.inf
        self._missed_at: float | None = None

    @property
    def _copies(self) -> int:
        return self._ready + len(self._starting)

    def run(self) -> Simulation:
        period = _PERIOD[self._scaling.metric]
        arrivals = deque(self._trace)
        now = 0.0
        while arrivals or self._queue or self._ends or now <= self._trace[-1].at:
            until = now + period
            for moment in self._moments(arrivals, until):
                self._start_waiting(moment)
            now = until
            self._result.machine_seconds += period * count_instances(self._deployment, self._copies)
            self._control(now, period)
            self._result.samples.append(
                Sample(now, self._ready, self._copies, len(self._ends), len(self._queue))
            )
        self._result.seconds = now
        return self._result

    def _moments(self, arrivals: deque[Request], until: float) -> Iterator[float]:
        """Take arrivals, ends of answers and starts of copies in their order, until the next look at the metric."""
        while True:
            following = min(
                arrivals[0].at if arrivals else math.inf,
                self._ends[0] if self._ends else math.inf,
                self._starting[0] if self._starting else math.inf,
            )
            if following >= until:
                return
            if self._ends and self._ends[0] == following:
                heapq.heappop(self._ends)
            elif self._starting and self._starting[0] == following:
                heapq.heappop(self._starting)
                self._ready += 1
            else:
                self._take(arrivals.popleft())
            yield following

    def _take(self, request: Request) -> None:
        self._invocations += 1
        if self._ready == 0 and self._deployment.asynchronous is None:
            self._result.refused += 1
            self._missed_at = request.at if self._missed_at is None else self._missed_at
        else:
            self._queue.append(request)
            if self._ready == 0 and self._missed_at is None:
                self._missed_at = request.at

    def _start_waiting(self, now: float) -> None:
        while self._queue and len(self._ends) < self._ready * self._per_copy:
            request = self._queue.popleft()
            self._result.waits.append(now - request.at)
            heapq.heappush(self._ends, now + request.seconds)

    def _control(self, now: float, period: int) -> None:
        scaling = self._scaling
        if self._copies == 0:
            if self._missed_at is not None and now - self._missed_at >= _WAKE_SECONDS:
                self._add(1, now)
            return
        self._missed_at = None
        load = len(self._ends) + len(self._queue) if scaling.metric == "concurrency" else self._invocations
        self._invocations = 0
        metric = load / max(1, self._ready)
        self._above = self._above + 1 if metric > scaling.target else 0
        self._below = self._below + 1 if metric < _SHARE_IN * scaling.target else 0
        wanted = math.ceil(load / scaling.target)
        if self._above >= _PERIODS_OUT and now - self._last_out >= scaling.scale_out_seconds:
            self._add(min(wanted, scaling.max_copies) - self._copies, now)
        elif (
            self._below * period >= _SECONDS_IN
            and now - max(self._last_in, self._last_out) >= scaling.scale_in_seconds
        ):
            self._drop(self._copies - max(wanted, scaling.min_copies), now)

    def _add(self, count: int, now: float) -> None:
        if count <= 0:
            return
        for _ in range(count):
            heapq.heappush(self._starting, now + self._start_seconds)
        self._last_out, self._above = now, 0

    def _drop(self, count: int, now: float) -> None:
        """Take copies away; those that are starting first. Answers in progress are finished by the others."""
        if count <= 0:
            return
        for _ in range(count):
            if self._starting:
                self._starting.remove(max(self._starting))
                heapq.heapify(self._starting)
            else:
                self._ready -= 1
        self._last_in, self._below = now, 0
