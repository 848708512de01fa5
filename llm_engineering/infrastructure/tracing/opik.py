"""Traces and prompt versions in Opik: Comet's cloud, or a server of one's own.

The SDK's REST client is used, not its ``Opik`` class: that one keeps up to a million messages, retries for minutes,
writes to the terminal and ends only when all is sent. Here a request's trace is sent once, in the background.
"""

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from llm_engineering.application.llm.prompts import Template
from llm_engineering.application.ports.observability import Trace, TraceSpan, as_record
from llm_engineering.domain.errors import MissingDependencyError, StoreError, StoreUnavailableError
from llm_engineering.domain.retrieval import Usage
from llm_engineering.infrastructure.shared.trace_queue import TraceQueue

if TYPE_CHECKING:
    import httpx
    from opik.rest_api.client import OpikApi
    from opik.rest_api.types.error_info_write import ErrorInfoWrite
    from opik.rest_api.types.span_write import SpanWrite
    from opik.rest_api.types.trace_write import TraceWrite

CLOUD = "https://www.comet.com/opik/api"
_SECONDS_PER_CALL = 5.0
_SPANS_PER_CALL = 250
_CHARACTERS_PER_CALL = 2_000_000
"""Opik takes up to 1,000 items and 5 MB a call."""
_VERSIONS_PER_PAGE = 100
_KINDS = {"retrieval": "tool"}
"""Opik's span types are general, tool, llm and guardrail."""
_QUIET = {
    "OPIK_SENTRY_ENABLE": "false",
    "OPIK_ANALYTICS_ENABLE": "false",
    "OPIK_CONSOLE_LOGGING_LEVEL": "CRITICAL",
}
"""Read when the SDK is imported: without these it reports its users' errors and doings to its makers."""


class OpikConnection:
    """Opik's REST API, opened by the first use.

    Args:
        url: a server's address as its own client wants it, ``http://HOST:5173/api``; None: Comet's cloud.
        api_key: for the cloud.

    Raises:
        MissingDependencyError: the SDK is not installed.
    """

    def __init__(self, url: str | None, api_key: str | None, workspace: str) -> None:
        if importlib.util.find_spec("opik") is None:
            raise MissingDependencyError("opik", "observability", "Tracing to Opik")
        self._url = (url or CLOUD).rstrip("/")
        self._api_key = api_key
        self._workspace = workspace
        parts = urlsplit(self._url)
        self.display_url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @cached_property
    def _http(self) -> "httpx.Client":
        import httpx

        return httpx.Client(timeout=_SECONDS_PER_CALL, follow_redirects=True)

    @cached_property
    def api(self) -> "OpikApi":
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        from opik.rest_api.client import OpikApi

        return OpikApi(
            base_url=self._url,
            api_key=self._api_key,
            workspace_name=self._workspace,
            httpx_client=self._http,
        )

    def close(self) -> None:
        """Close what was opened. A later call opens it again."""
        self.__dict__.pop("api", None)
        http: httpx.Client | None = self.__dict__.pop("_http", None)
        if http is not None:
            http.close()

    def error(self, error: Exception) -> StoreError:
        """Return what a call of the SDK raised, in our words and without headers."""
        import httpx
        from opik.rest_api.core.api_error import ApiError

        if isinstance(error, ApiError):
            hint = " Check TRACING_API_KEY and TRACING_WORKSPACE." if error.status_code in (401, 403) else ""
            return StoreError(
                f"{self.display_url} answered {error.status_code}: {str(error.body)[:200]}.{hint}"
            )
        if isinstance(error, httpx.HTTPError):
            return StoreUnavailableError(
                f"Opik at {self.display_url} cannot be reached ({type(error).__name__}). Check TRACING_URL, and that the "
                "server is running."
            )
        raise error


class OpikTracer:
    """One trace a request, a span for each of its stages, with type, tokens, cost, model and errors.

    Nothing of it is waited for: a missing, slow or failing server costs traces, and a warning a minute at most. Inputs and
    outputs are sent where the trace has them, which is where tracing of content was chosen.
    """

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        workspace: str,
        project: str,
        sample: float = 1.0,
        close_seconds: float = 5.0,
    ) -> None:
        self._connection = OpikConnection(url, api_key, workspace)
        self._project = project
        self._queue = TraceQueue(
            f"Opik at {self._connection.display_url}", self._send, sample=sample, close_seconds=close_seconds
        )

    def open(self) -> None:
        """Import the SDK, which takes seconds, now rather than beside the first request. Connects to nothing."""
        _ = self._connection.api

    def record(self, trace: Trace) -> None:
        self._queue.record(trace)

    def close(self) -> None:
        """Send what is waiting, for five seconds at most."""
        self._queue.close()
        self._connection.close()

    @property
    def dropped(self) -> int:
        """Traces that were not sent."""
        return self._queue.dropped + self._queue.lost

    def _send(self, traces: Sequence[Trace]) -> None:
        api = self._connection.api  # first: it keeps the SDK quiet, before anything else imports it
        import httpx
        from opik.rest_api.core.api_error import ApiError

        written = [
            (_build_trace(trace, self._project), _build_spans(trace, self._project)) for trace in traces
        ]
        try:
            for some in _split_by_size([trace for trace, _ in written]):
                api.traces.create_traces(traces=some)
            for more in _split_by_size([span for _, spans in written for span in spans]):
                api.spans.create_spans(spans=more)
        except (ApiError, httpx.HTTPError) as error:
            raise self._connection.error(error) from error


class OpikPromptLibrary:
    """The prompt templates in Opik's library: a prompt for each name, a version for each of its versions."""

    def __init__(self, url: str | None, api_key: str | None, workspace: str, project: str) -> None:
        self._connection = OpikConnection(url, api_key, workspace)
        self._project = project

    def push(self, templates: Sequence[Template]) -> list[Template]:
        """Add the versions that the library does not hold, known by their hash; returns them. The last one added of a name
        is what the library shows as its newest.

        Raises:
            StoreError: Opik refused it.
            StoreUnavailableError: Opik cannot be reached.
        """
        _ = self._connection.api  # first: it keeps the SDK quiet, before anything else imports it
        import httpx
        from opik.rest_api.core.api_error import ApiError

        pushed: list[Template] = []
        try:
            for name in sorted({template.name for template in templates}):
                held = self._hashes(name)
                new = [one for one in templates if one.name == name and one.hash not in held]
                for template in sorted(new, key=lambda one: one.version):
                    self._add(template)
                    pushed.append(template)
        except (ApiError, httpx.HTTPError) as error:
            raise self._connection.error(error) from error
        return pushed

    def _hashes(self, name: str) -> set[str]:
        """Of the versions that were pushed under a name; none of those that somebody wrote in Opik itself."""
        from opik.rest_api.core.api_error import ApiError

        prompts = self._connection.api.prompts
        try:
            prompt = prompts.retrieve_prompt_version(name=name, project_name=self._project).prompt_id
        except ApiError as error:
            if error.status_code == 404:
                return set()
            raise
        hashes: set[str] = set()
        page = 1
        while prompt is not None:
            versions = (
                prompts.get_prompt_versions(id=prompt, page=page, size=_VERSIONS_PER_PAGE).content or []
            )
            hashes |= {
                str(version.metadata["hash"])
                for version in versions
                if isinstance(version.metadata, dict) and "hash" in version.metadata
            }
            page += 1
            if len(versions) < _VERSIONS_PER_PAGE:
                break
        return hashes

    def _add(self, template: Template) -> None:
        from opik.rest_api.types.prompt_version_detail import PromptVersionDetail

        version = PromptVersionDetail(
            template=template.text,
            metadata={"version": template.version, "hash": template.hash},
            type="jinja2",
            change_description=f"{template.name} v{template.version} ({template.hash})",
        )
        self._connection.api.prompts.create_prompt_version(
            name=template.name, version=version, template_structure="text", project_name=self._project
        )

    def close(self) -> None:
        self._connection.close()


def time_ordered_id(at: datetime, *parts: str) -> str:
    """Return a UUID of version 7 (RFC 9562, 5.7), as Opik demands for ids: milliseconds since 1970, then bits of a hash
    of ``parts`` where others have random ones, so that what is sent twice is one."""
    digest = hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).digest()
    number = int(at.timestamp() * 1000) << 80 | int.from_bytes(digest[:10], "big")
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    return str(UUID(int=number))


def _build_trace(trace: Trace, project: str) -> "TraceWrite":
    from opik.rest_api.types.trace_write import TraceWrite

    record = as_record(trace)
    return TraceWrite(
        id=time_ordered_id(trace.started_at, trace.id),
        project_name=project,
        name=record["name"],
        start_time=trace.started_at,
        end_time=trace.started_at + timedelta(seconds=trace.seconds),
        input=record["inputs"] or None,
        output=record["outputs"] or None,
        metadata={"trace_id": record["id"], "status": trace.status, **record["attributes"]},
        tags=[trace.status],
        error_info=_build_error_info(record["error"]),
        ttft=_to_milliseconds(trace.attributes.get("first_token")),
    )


def _build_spans(trace: Trace, project: str) -> "Iterator[SpanWrite]":
    from opik.rest_api.types.span_write import SpanWrite

    identifier = time_ordered_id(trace.started_at, trace.id)
    records = as_record(trace)["spans"]
    for number, (span, record) in enumerate(zip(trace.spans, records, strict=True)):
        start = trace.started_at + timedelta(seconds=span.start)
        yield SpanWrite(
            id=time_ordered_id(start, trace.id, str(number)),
            trace_id=identifier,
            project_name=project,
            name=record["name"],
            type=_KINDS.get(span.kind, span.kind),
            start_time=start,
            end_time=start + timedelta(seconds=span.seconds),
            input=record["inputs"] or None,
            output=record["outputs"] or None,
            metadata=record["attributes"] or None,
            model=record["model"],
            usage=_build_usage(span),
            total_estimated_cost=span.usage.cost_usd if span.usage else None,
            error_info=_build_error_info(record["error"] or ("failed" if span.status == "failed" else "")),
            ttft=_to_milliseconds(span.attributes.get("first_token")),
        )


def _build_usage(span: TraceSpan) -> dict[str, int] | None:
    usage: Usage | None = span.usage
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _build_error_info(error: str) -> "ErrorInfoWrite | None":
    """``error`` is "TYPE" or, where content is traced, "TYPE: message"."""
    if not error:
        return None
    from opik.rest_api.types.error_info_write import ErrorInfoWrite

    kind, _, message = error.partition(": ")
    return ErrorInfoWrite(exception_type=kind, message=message or None, traceback="")


def _to_milliseconds(seconds: Any) -> float | None:
    return seconds * 1000.0 if isinstance(seconds, int | float) else None


def _split_by_size(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Items in lists of up to _SPANS_PER_CALL, and of about _CHARACTERS_PER_CALL at most."""
    portion: list[Any] = []
    size = 0
    for item in items:
        length = len(str(item))
        if portion and (len(portion) >= _SPANS_PER_CALL or size + length > _CHARACTERS_PER_CALL):
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += length
    if portion:
        yield portion
