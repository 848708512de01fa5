"""What the service tells Prometheus. Every label has few values: routes are templates, unknown paths are one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from llm_engineering.application.ports import Tracer
from llm_engineering.application.ports.observability import Trace, TraceSpan

UNKNOWN_ROUTE = "unknown"
"""The route label of every path that the service does not have."""

Outcome = Literal["answered", "quoted", "abstained", "failed"]

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 120)
_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
_FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_TOKENS_PER_SECOND = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 250, 500)
_CALLERS_FAULT = frozenset({"InvalidInputError", "UnknownFilterValueError"})
"""Not failures of the service: seen as status 4xx of ``twin_requests_total``."""
_MODEL_NAMES = 32
"""Models that get a label of their own: names come from a file or a service, not from callers, but nothing checks them."""


_CGROUP = Path("/sys/fs/cgroup/cpu.max")


def read_cpu_limit(cgroup: Path = _CGROUP) -> float:
    """Return how many processors this process may use: its container's quota, else all there are."""
    try:
        quota, period = cgroup.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no container, or one without a quota ("max 100000")
        return float(os.cpu_count() or 1)


class ServiceMetrics:
    """All metrics of one service, in a registry of its own. Seconds, tokens and US dollars throughout."""

    def __init__(self) -> None:
        # Else every counter exports a second series that says when it was made; nothing here asks for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        # Memory, CPU and open files of this process, where the system tells them.
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "twin_requests", "Requests by how they ended.", ("route", "method", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "twin_request_seconds",
            "From a request's arrival to the last byte of its response.",
            ("route",),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "twin_requests_in_progress", "Answers and searches in progress.", registry=registry
        )
        self.queued = Gauge("twin_requests_queued", "Requests that wait for their turn.", registry=registry)
        self.rejected = Counter(
            "twin_requests_rejected",
            "Requests turned away before they were worked on.",
            ("reason",),
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "twin_stage_seconds",
            "Time in one stage of the pipeline.",
            ("stage",),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "twin_time_to_first_token_seconds",
            "From the start of the pipeline to the first text that is shown.",
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self.tokens_per_second = Histogram(
            "twin_tokens_per_second",
            "Completion tokens of an answer by the seconds of its generation, reading the prompt included.",
            buckets=_TOKENS_PER_SECOND,
            registry=registry,
        )
        self.tokens = Counter(
            "twin_tokens", "Tokens of all calls of the language model.", ("kind", "model"), registry=registry
        )
        self.cost = Counter(
            "twin_cost_usd", "US dollars at the configured prices.", ("model",), registry=registry
        )
        self.answers = Counter("twin_answers", "Answers by outcome.", ("outcome",), registry=registry)
        self.degradations = Counter(
            "twin_degradations",
            "Stages that failed in requests that went on without them.",
            ("stage",),
            registry=registry,
        )
        self.feedback = Counter("twin_feedback", "Votes on answers.", ("rating",), registry=registry)
        self.dependency_up = Gauge(
            "twin_dependency_up",
            "1: it answered when last looked at; 0: it did not.",
            ("dependency",),
            registry=registry,
        )
        self.ready = Gauge("twin_ready", "1: the service takes requests.", registry=registry)
        self.cpu_limit = Gauge(
            "twin_cpu_limit", "Processors that the service may use: its container's quota.", registry=registry
        )
        self.cpu_limit.set(read_cpu_limit())
        self.errors = Counter(
            "twin_errors", "Requests that failed, by what failed.", ("kind",), registry=registry
        )
        self._models: set[str] = set()
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Series that alerts and rates are made of exist from the start: an increase from nothing is no increase."""
        for outcome in ("answered", "quoted", "abstained", "failed"):
            self.answers.labels(outcome)
        for rating in ("up", "down"):
            self.feedback.labels(rating)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return (body, content type) of ``/metrics`` for an ``Accept`` header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self.requests.labels(route, method, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def count_vote(self, rating: Literal["up", "down"]) -> None:
        """Count a vote."""
        self.feedback.labels(rating).inc()

    def count_failure(self, kind: str) -> None:
        """Count a failure; ``kind`` is the name of an error's class."""
        self.errors.labels(kind).inc()

    def count_trace(self, trace: Trace) -> None:
        """Count all that a finished trace tells: stages, tokens, costs, outcome, degradations."""
        for stage, seconds in _stages(trace).items():
            self.stage_seconds.labels(stage).observe(seconds)
        for span in trace.spans:
            self._spent(span)
        for stage in trace.attributes.get("failed_stages", ()):
            self.degradations.labels(stage).inc()
        kind = trace.error.partition(":")[0]
        if kind in _CALLERS_FAULT:
            return
        if trace.status == "failed":
            self.count_failure(kind or "unknown")
        if trace.name == "rag" and trace.status != "cancelled":
            self._answered(trace)

    def _spent(self, span: TraceSpan) -> None:
        if span.usage is None:
            return
        model = self._model(span.model)
        self.tokens.labels("prompt", model).inc(span.usage.prompt_tokens)
        self.tokens.labels("completion", model).inc(span.usage.completion_tokens)
        if span.usage.cost_usd is not None:
            self.cost.labels(model).inc(span.usage.cost_usd)
        if span.name == "generate" and span.usage.completion_tokens and span.seconds > 0:
            self.tokens_per_second.observe(span.usage.completion_tokens / span.seconds)

    def _answered(self, trace: Trace) -> None:
        self.answers.labels(_outcome(trace)).inc()
        if (first := trace.attributes.get("first_token")) is not None:
            self.time_to_first_token.observe(first)

    def _model(self, name: str | None) -> str:
        chosen = name or "unknown"
        if chosen not in self._models:
            if len(self._models) >= _MODEL_NAMES:
                return "other"
            self._models.add(chosen)
        return chosen


class MeasuringTracer:
    """A tracer that counts what passes through it on its way to another."""

    def __init__(self, inner: Tracer, metrics: ServiceMetrics) -> None:
        self._inner = inner
        self._metrics = metrics

    def record(self, trace: Trace) -> None:
        """Count a finished trace and hand it on."""
        self._metrics.count_trace(trace)
        self._inner.record(trace)

    def close(self) -> None:
        """Close the tracer behind."""
        self._inner.close()


def _stages(trace: Trace) -> Mapping[str, float]:
    """Seconds by stage; those of one name (concurrent rewrites, say) are one stage."""
    totals: dict[str, float] = {}
    for span in trace.spans:
        totals[span.name] = totals.get(span.name, 0.0) + span.seconds
    return totals


def _outcome(trace: Trace) -> Outcome:
    if trace.status == "failed":
        return "failed"
    told = trace.attributes
    if told.get("abstained"):
        return "abstained"
    return "quoted" if told.get("quoted") else "answered"
