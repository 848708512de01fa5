"""A real HTTP server on loopback that takes traces by OTLP, decoded by OpenTelemetry's own messages.

``spans`` holds what was accepted, by id. With ``status`` set it answers that to everything, with ``hang`` nothing at all.
"""

from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.fakes.serving import LoopbackServer


class OtlpServer(LoopbackServer):
    """Use as a context manager; ``endpoint`` is what TRACING_ENDPOINT wants."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.hang = False
        self.calls: list[int] = []
        """Spans of each call."""
        self.headers: dict[str, str] = {}
        """Of the last request, names in lower case."""
        self.services: set[str] = set()
        self.spans: dict[bytes, dict[str, Any]] = {}
        server = self

        class Handler(_Handler):
            otlp = server

        super().__init__(Handler)

    @property
    def endpoint(self) -> str:
        return f"{self.url}/v1/traces"

    @property
    def roots(self) -> list[dict[str, Any]]:
        return [span for span in self.spans.values() if not span["parent"]]


class _Handler(BaseHTTPRequestHandler):
    otlp: OtlpServer
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        while self.otlp.hang and not self.otlp.closing.wait(0.05):
            pass
        if self.otlp.status is None:
            self.otlp.headers = {name.lower(): value for name, value in self.headers.items()}
            assert self.path == "/v1/traces"
            assert self.otlp.headers["content-type"] == "application/x-protobuf"
            message = ExportTraceServiceRequest.FromString(body)
            found = [
                self._read(span)
                for group in message.resource_spans
                for scope in group.scope_spans
                for span in scope.spans
            ]
            self.otlp.calls.append(len(found))
            self.otlp.services |= {
                item.value.string_value
                for group in message.resource_spans
                for item in group.resource.attributes
                if item.key == "service.name"
            }
            self.otlp.spans.update({span["id"]: span for span in found})
        self.send_response(self.otlp.status or 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    @staticmethod
    def _read(span: Any) -> dict[str, Any]:
        return {
            "id": span.span_id,
            "trace": span.trace_id,
            "parent": span.parent_span_id,
            "name": span.name,
            "start": span.start_time_unix_nano,
            "end": span.end_time_unix_nano,
            "status": (span.status.code, span.status.message),
            "attributes": {
                item.key: getattr(item.value, str(item.value.WhichOneof("value"))) for item in span.attributes
            },
        }

    def log_message(self, format: str, *args: object) -> None:
        pass
