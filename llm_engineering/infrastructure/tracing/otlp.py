"""Traces by OpenTelemetry's protocol (OTLP over HTTP): to a collector, Jaeger, Tempo, Phoenix, Langfuse, Opik and others."""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llm_engineering.application.ports.observability import Trace, as_record
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, StoreUnavailableError
from llm_engineering.infrastructure.shared.trace_queue import TraceQueue

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan

_SECONDS_PER_CALL = 5.0
_SPANS_PER_CALL = 250
_OPERATIONS = {"llm": "chat", "retrieval": "retrieval"}
"""Values of ``gen_ai.operation.name`` in OpenTelemetry's conventions for generative AI."""


class OtlpTracer:
    """Send one trace a request, with a span for each of its stages, named by the conventions for generative AI.

    A missing, slow or failing receiver costs traces and a warning a minute at most, never a request. Inputs and outputs
    are sent only where the trace has them, which is where tracing of content was chosen.

    Args:
        endpoint: whole address of the receiver, such as ``http://127.0.0.1:4318/v1/traces``.
        headers: of each call, such as ``Authorization=Bearer%20KEY,x-project=twin`` (percent-encoded, by commas).
        service: becomes ``service.name``.
        sample: share of the requests that is sent, 0 to 1; failed ones always are.
        close_seconds: how long :meth:`close` waits for what is still to be sent.

    Raises:
        MissingDependencyError: the exporter is not installed.
        ConfigurationError: the headers cannot be read.
    """

    def __init__(
        self,
        endpoint: str,
        headers: str = "",
        service: str = "llm-twin",
        sample: float = 1.0,
        close_seconds: float = 5.0,
    ) -> None:
        # A parent that is not there at all is an error to find_spec, not an answer.
        if importlib.util.find_spec("opentelemetry") is None or not importlib.util.find_spec(
            "opentelemetry.exporter.otlp.proto.http"
        ):
            raise MissingDependencyError(
                "opentelemetry-exporter-otlp-proto-http", "observability", "Tracing by OTLP"
            )
        self._endpoint = endpoint
        self._headers = _parse_headers(headers)
        self._service = service
        self._last_answer = ""
        parts = urlsplit(endpoint)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._queue = TraceQueue(f"OTLP at {address}", self._send, sample=sample, close_seconds=close_seconds)

    def open(self) -> None:
        """Import the exporter now rather than beside the first request. Connects to nothing."""
        _ = self._exporter

    def record(self, trace: Trace) -> None:
        self._queue.record(trace)

    def close(self) -> None:
        """Send what is waiting, for ``close_seconds`` at most. A later trace is sent all the same."""
        self._queue.close()

    @property
    def dropped(self) -> int:
        """Traces that were not sent."""
        return self._queue.dropped + self._queue.lost

    @cached_property
    def _exporter(self) -> "OTLPSpanExporter":
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        # The queue warns, once a minute and with the reason; the exporter would at every batch.
        logging.getLogger(OTLPSpanExporter.__module__).disabled = True
        session = requests.Session()
        session.hooks["response"].append(self._remember_answer)
        return OTLPSpanExporter(
            self._endpoint, headers=self._headers, timeout=_SECONDS_PER_CALL, session=session
        )

    def _remember_answer(self, response: Any, **_: object) -> None:
        self._last_answer = "" if response.ok else f"answered {response.status_code}"

    def _send(self, traces: Sequence[Trace]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        spans = [span for trace in traces for span in _build_spans(trace, self._service)]
        for start in range(0, len(spans), _SPANS_PER_CALL):
            self._last_answer = "cannot be reached"
            if self._exporter.export(spans[start : start + _SPANS_PER_CALL]) is not SpanExportResult.SUCCESS:
                raise StoreUnavailableError(
                    f"The receiver of traces {self._last_answer}. Check TRACING_ENDPOINT and TRACING_HEADERS."
                )


def _parse_headers(headers: str) -> dict[str, str]:
    from opentelemetry.util.re import parse_env_headers

    found: dict[str, str] = parse_env_headers(headers, liberal=True)
    if len(found) < sum(bool(part.strip()) for part in headers.split(",")):
        raise ConfigurationError(
            "TRACING_HEADERS must be NAME=VALUE pairs with commas between them, percent-encoded, such as "
            "Authorization=Bearer%20KEY."
        )
    return found


def _build_spans(trace: Trace, service: str) -> "Iterator[ReadableSpan]":
    """The request's span, then those of its stages as its children. Ids are hashes, so that what is sent twice is one."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    record = as_record(trace)
    resource = Resource({"service.name": service})
    began = int(trace.started_at.timestamp() * 1e9)
    trace_id = _derive_id(16, trace.id)

    def build(
        number: int,
        parent: SpanContext | None,
        stage: Mapping[str, Any],
        start: float,
        extra: Mapping[str, Any],
    ) -> ReadableSpan:
        failed = stage["status"] == "failed"
        return ReadableSpan(
            name=stage["name"],
            context=SpanContext(
                trace_id, _derive_id(8, trace.id, str(number)), False, TraceFlags(TraceFlags.SAMPLED)
            ),
            parent=parent,
            resource=resource,
            attributes=_build_attributes(stage, extra),
            kind=SpanKind.SERVER if parent is None else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, stage["error"] or None) if failed else Status(StatusCode.OK),
            start_time=began + int(start * 1e9),
            end_time=began + int((start + stage["seconds"]) * 1e9),
        )

    root = build(0, None, record, 0.0, {"llm_twin.trace_id": record["id"], "llm_twin.status": trace.status})
    yield root
    for number, stage in enumerate(record["spans"], start=1):
        yield build(number, root.context, stage, stage["start"], _describe_stage(stage))


def _describe_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    usage = stage["usage"] or {}
    return {
        "gen_ai.operation.name": _OPERATIONS.get(stage["kind"]),
        "gen_ai.request.model": stage["model"],
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "llm_twin.cost_usd": usage.get("cost_usd"),
        "llm_twin.stage": stage["kind"],
    }


def _build_attributes(stage: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and texts as they are, the rest as JSON: attributes hold no mappings, and lists of one type only."""
    own = {f"llm_twin.{key}": value for key, value in stage["attributes"].items()}
    content = {"input.value": stage["inputs"] or None, "output.value": stage["outputs"] or None}
    error = {"error.type": stage["error"].partition(": ")[0] or None}
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)
        for key, value in {**own, **content, **error, **extra}.items()
        if value is not None
    }


def _derive_id(size: int, *parts: str) -> int:
    """An id of ``size`` bytes, as OpenTelemetry wants it: never 0."""
    digest = hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:size], "big") or 1
