"""A real HTTP server on loopback that speaks the parts of Opik's REST API that are used here, and as strictly.

``traces`` and ``spans`` hold what was accepted, by id; ``prompts`` the versions of each prompt, oldest first. With
``status`` set it answers that to everything, with ``hang`` nothing at all.
"""

import json
import re
from collections import defaultdict
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from tests.fakes.serving import LoopbackServer


class OpikServer(LoopbackServer):
    """Use as a context manager; ``base_url`` is what the SDK wants as its host."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.hang = False
        self.calls: list[str] = []
        self.headers: dict[str, str] = {}
        """Of the last request, names in lower case."""
        self.traces: dict[str, dict[str, Any]] = {}
        self.spans: dict[str, dict[str, Any]] = {}
        self.prompts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        server = self

        class Handler(_Handler):
            opik = server

        super().__init__(Handler)

    @property
    def base_url(self) -> str:
        return f"{self.url}/api"


class _Handler(BaseHTTPRequestHandler):
    opik: OpikServer
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_GET(self) -> None:
        self.opik.calls.append(self.path)
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        match = re.fullmatch(r"/api/v1/private/prompts/id-of-(?P<name>[^/]+)/versions", path)
        if match is None:
            self._send(404, {"errors": [f"no such path: {self.path}"]})
            return
        newest_first = self.opik.prompts[match["name"]][::-1]
        page, size = int(query["page"][0]), int(query["size"][0])
        content = newest_first[(page - 1) * size : page * size]
        self._send(200, {"page": page, "size": len(content), "total": len(newest_first), "content": content})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.opik.calls.append(self.path)
        self.opik.headers = {name.lower(): value for name, value in self.headers.items()}
        if self.opik.hang:
            self.opik.closing.wait()
            self.close_connection = True
            return
        if self.opik.status is not None:
            self._send(self.opik.status, {"errors": ["told to fail"]})
            return
        handle = {
            "/api/v1/private/traces/batch": self._take_traces,
            "/api/v1/private/spans/batch": self._take_spans,
            "/api/v1/private/prompts/versions/retrieve": self._newest_prompt,
            "/api/v1/private/prompts/versions": self._new_prompt,
        }.get(self.path)
        try:
            if handle is None:
                self._send(404, {"errors": [f"no such path: {self.path}"]})
            else:
                handle(body)
        except (KeyError, ValueError, TypeError) as error:
            self._send(422, {"errors": [f"{type(error).__name__}: {error}"]})

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _take_traces(self, body: dict[str, Any]) -> None:
        self.opik.traces |= {_identifier(trace): _checked(trace) for trace in _few(body["traces"])}
        self._send(204)

    def _take_spans(self, body: dict[str, Any]) -> None:
        for span in _few(body["spans"]):
            if span["type"] not in {"general", "tool", "llm", "guardrail"}:
                raise ValueError(f"no such type of span: {span['type']}")
            if UUID(span["trace_id"]).version != 7:
                raise ValueError(f"trace_id {span['trace_id']} must be a version 7 UUID")
            self.opik.spans[_identifier(span)] = _checked(span)
        self._send(204)

    def _newest_prompt(self, body: dict[str, Any]) -> None:
        versions = self.opik.prompts[body["name"]]
        self._send(200, versions[-1]) if versions else self._send(404, {"errors": ["Prompt not found"]})

    def _new_prompt(self, body: dict[str, Any]) -> None:
        versions = self.opik.prompts[body["name"]]
        version = {
            **body["version"],
            "template_structure": body.get("template_structure", "text"),
            "commit": f"{len(versions) + 1:08x}",
            "prompt_id": f"id-of-{body['name']}",
        }
        versions.append(version)
        self._send(200, version)

    def _send(self, status: int, body: dict[str, Any] | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _few(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not 1 <= len(items) <= 1000:
        raise ValueError(f"size must be between 1 and 1000, got {len(items)}")
    return items


def _identifier(item: dict[str, Any]) -> str:
    if UUID(item["id"]).version != 7:
        raise ValueError(f"id {item['id']} must be a version 7 UUID")
    return str(item["id"])


def _checked(item: dict[str, Any]) -> dict[str, Any]:
    if datetime.fromisoformat(item["end_time"]) < datetime.fromisoformat(item["start_time"]):
        raise ValueError("it ends before it starts")
    if error := item.get("error_info"):
        _ = error["exception_type"], error["traceback"]
    return item
