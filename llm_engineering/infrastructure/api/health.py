"""Whether the service lives, and whether it can answer: each part it depends on, looked at within a short time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request, Response
from loguru import logger
from pydantic import BaseModel, Field

from llm_engineering.domain.errors import TwinError
from llm_engineering.infrastructure.api.metrics import ServiceMetrics

_PATIENCE_SECONDS = 0.5
"""How long an asker waits for a look before it is told what the last one showed: probes give up after a second, and a
database that does not matter must not look like a service that hangs."""
WARM_UP_SECONDS = 600.0
"""Longest time for loading all models."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A part of the service that can be missing.

    ``check`` returns a short fact about it (or nothing) and raises whatever is wrong. A blocking one runs in a thread.
    """

    name: str
    check: Callable[[], str | None] | Callable[[], Awaitable[str | None]]
    matters: bool = True
    """False: answers can be given without it."""
    lasting: bool = False
    """Once it was there, it stays: a model in this process's memory. It is not asked again, and so cannot seem to be
    missing when all processors are busy."""
    blocking: bool = True


class DependencyReport(BaseModel):
    """What a look at a dependency showed."""

    name: str
    status: Literal["up", "down"]
    matters: bool
    latency_ms: float = Field(
        description="How long it took to answer; of a loaded model, when it was loaded."
    )
    detail: str | None = Field(
        None, description="Only told to callers of this machine, and to those with a key."
    )


class Readiness(BaseModel):
    """``ready`` and ``degraded`` take requests (200); the others do not (503)."""

    status: Literal["starting", "ready", "degraded", "unready", "stopping"]
    dependencies: list[DependencyReport] = []

    @property
    def takes_requests(self) -> bool:
        return self.status in ("ready", "degraded")


class Health:
    """Looks at all dependencies at the same time, at most every ``cache_seconds``, each for at most ``time_limit``.

    For one event loop. A look that takes too long goes on in the background: a thread cannot be stopped, and a second
    one beside it would help nobody.
    """

    def __init__(
        self,
        dependencies: Sequence[Dependency],
        metrics: ServiceMetrics,
        *,
        time_limit: float = 2.0,
        cache_seconds: float = 2.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dependencies = tuple(dependencies)
        self._metrics = metrics
        self._time_limit = time_limit
        self._cache_seconds = cache_seconds
        self._now = now
        self._started = False
        self._stopping = False
        self._looks: dict[str, asyncio.Task[DependencyReport]] = {}
        self._lasting: dict[str, DependencyReport] = {}
        self._report: Readiness | None = None
        self._reported_at = 0.0
        self._reporting: asyncio.Task[Readiness] | None = None
        self._said: dict[str, str] = {}

    async def warm_up(self) -> Readiness:
        """Look at everything once without hurry, which loads the models. Until then, the service is not ready."""
        report = await self._look_at_all(WARM_UP_SECONDS)
        self._started = True
        return self._tell(report)

    def stop(self) -> None:
        """From now on, the service is not ready."""
        self._stopping = True
        self._metrics.ready.set(0)

    async def report(self) -> Readiness:
        """Return how things stand now, or stood a moment ago."""
        if self._stopping:
            return Readiness(status="stopping")
        if not self._started:
            return Readiness(status="starting")
        if self._report is not None and self._now() - self._reported_at < self._cache_seconds:
            return self._report
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._look())
        await asyncio.wait({self._reporting}, timeout=_PATIENCE_SECONDS)
        if self._reporting.done() or self._report is None:
            return await asyncio.shield(self._reporting)
        return self._report

    async def close(self) -> None:
        """Stop looking."""
        tasks = [*self._looks.values(), *([self._reporting] if self._reporting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> Readiness:
        return self._tell(await self._look_at_all(self._time_limit))

    async def _look_at_all(self, seconds: float) -> list[DependencyReport]:
        return list(await asyncio.gather(*(self._look_at(one, seconds) for one in self._dependencies)))

    async def _look_at(self, dependency: Dependency, seconds: float) -> DependencyReport:
        name = dependency.name
        if name in self._lasting:
            return self._lasting[name]
        if name not in self._looks or self._looks[name].done():
            self._looks[name] = asyncio.create_task(_checked(dependency))
        look = self._looks[name]
        await asyncio.wait({look}, timeout=seconds)
        if not look.done():
            late = f"It did not answer within {seconds:g} s."
            return _report(dependency, "down", seconds, late)
        report = look.result()
        if dependency.lasting and report.status == "up":
            self._lasting[name] = report
        return report

    def _tell(self, reports: list[DependencyReport]) -> Readiness:
        for one in reports:
            self._metrics.dependency_up.labels(one.name).set(one.status == "up")
            self._log_change(one)
        down = [one for one in reports if one.status == "down"]
        status: Literal["ready", "degraded", "unready"] = (
            "unready" if any(one.matters for one in down) else "degraded" if down else "ready"
        )
        self._report = Readiness(status=status, dependencies=reports)
        self._reported_at = self._now()
        self._metrics.ready.set(self._report.takes_requests and not self._stopping)
        return self._report

    def _log_change(self, report: DependencyReport) -> None:
        before, self._said[report.name] = self._said.get(report.name), report.status
        if report.status == "down" and before != "down":
            logger.warning("Dependency {} is down: {}", report.name, report.detail)
        elif report.status == "up" and before == "down":
            logger.info("Dependency {} is up again.", report.name)


async def _checked(dependency: Dependency) -> DependencyReport:
    began = time.perf_counter()
    try:
        if dependency.blocking:
            told = await asyncio.to_thread(dependency.check)
            assert told is None or isinstance(told, str), "a check that blocks is no coroutine"
        else:
            pending = dependency.check()
            assert isinstance(pending, Awaitable), "a check that does not block is a coroutine"
            told = await pending
    except TwinError as error:
        return _report(dependency, "down", time.perf_counter() - began, str(error))
    except Exception as error:  # noqa: BLE001 - whatever broke, telling it is what this is for
        logger.opt(exception=error).error("Looking at {} failed unexpectedly", dependency.name)
        return _report(dependency, "down", time.perf_counter() - began, type(error).__name__)
    return _report(dependency, "up", time.perf_counter() - began, told)


def _report(
    dependency: Dependency, status: Literal["up", "down"], seconds: float, detail: str | None
) -> DependencyReport:
    return DependencyReport(
        name=dependency.name,
        status=status,
        matters=dependency.matters,
        latency_ms=round(seconds * 1000, 1),
        detail=detail,
    )


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Services(BaseModel):
    """How the service is, in short."""

    status: str = Field(description="``healthy``, ``degraded`` (both 200) or ``unhealthy`` (503)")
    services: dict[str, Literal["connected", "down"]]


def operation_router(
    health: Health, metrics: ServiceMetrics | None, refresh: Callable[[], None] | None = None
) -> APIRouter:
    """Return ``/health``, ``/health/live``, ``/health/ready`` and, where there are metrics, ``/metrics``.

    Args:
        refresh: brings metrics of what is stored up to date; may block, and fail.
    """
    routes = APIRouter(tags=["operation"])

    @routes.get("/health/live")
    async def live() -> Alive:
        """Answer that the process runs. Nothing else is looked at."""
        return Alive()

    @routes.get("/health/ready", responses={503: {"model": Readiness}})
    async def ready(request: Request, response: Response) -> Readiness:
        """Return whether requests can be answered, and what is missing."""
        report = await health.report()
        if not report.takes_requests:
            response.status_code = 503
            response.headers["Retry-After"] = "2"
        return report if getattr(request.state, "trusted", False) else _without_details(report)

    @routes.get("/health", responses={503: {"model": Services}})
    async def services(response: Response) -> Services:
        """Return readiness in short, with each service by name. For probes, take ``/health/live`` and ``/health/ready``."""
        report = await health.report()
        if not report.takes_requests:
            response.status_code = 503
            response.headers["Retry-After"] = "2"
        states = {"ready": "healthy", "degraded": "degraded"}
        found: dict[str, Literal["connected", "down"]] = {
            one.name: "connected" if one.status == "up" else "down" for one in report.dependencies
        }
        return Services(status=states.get(report.status, "unhealthy"), services=found)

    if metrics is not None:
        _add_metrics(routes, health, metrics, refresh)
    return routes


def _add_metrics(
    routes: APIRouter, health: Health, metrics: ServiceMetrics, refresh: Callable[[], None] | None
) -> None:
    text = {
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "description": "Prometheus' text format.",
    }

    @routes.get("/metrics", response_class=Response, responses={200: text})
    async def render(request: Request) -> Response:
        """Return all metrics, for Prometheus."""
        await health.report()  # else the gauges would show what held when somebody last asked for readiness
        if refresh is not None:
            with suppress(TwinError):  # a store that is down has its own metric
                await asyncio.to_thread(refresh)
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})


def _without_details(report: Readiness) -> Readiness:
    """Without messages: they name addresses and folders."""
    bare = [one.model_copy(update={"detail": None}) for one in report.dependencies]
    return report.model_copy(update={"dependencies": bare})
