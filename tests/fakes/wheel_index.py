"""A package index and a model hub on loopback: real HTTP, with ranges or without, JSON or HTML, and faults on cue."""

import hashlib
import io
import json
import re
import zipfile
from http.server import BaseHTTPRequestHandler

from tests.fakes.serving import LoopbackServer


def wheel(members: dict[str, bytes]) -> bytes:
    """A wheel's bytes: a deflated zip, the same at any time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


class WheelIndex(LoopbackServer):
    """Serves ``files`` (path → bytes) and index pages for those named ``*.whl``. Use as a context manager.

    ``ranges``: whether range requests are honoured. ``html``: speak HTML instead of JSON. ``cut_after``: end the answer to
    each large request after that many bytes. ``seconds_per_block``: send slowly, 10 kB at a time. ``stated``: the sha256
    to state for a wheel instead of its own.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.ranges = True
        self.html = False
        self.cut_after: int | None = None
        self.seconds_per_block = 0.0
        self.stated: str | None = None
        self.sent = 0
        self.requests: list[str] = []
        index = self

        class Handler(_Handler):
            twin = index

        super().__init__(Handler)

    @property
    def address(self) -> str:
        return self.url

    @property
    def simple(self) -> str:
        return f"{self.address}/simple"


class _Handler(BaseHTTPRequestHandler):
    twin: WheelIndex
    protocol_version = "HTTP/1.0"  # a connection per request, so that a cut one spoils no other

    def do_GET(self) -> None:
        index = self.twin
        index.requests.append(self.path)
        if match := re.fullmatch(r"/simple/([a-z0-9-]+)/", self.path):
            self._page(match[1])
        elif self.path in index.files:
            self._file(index.files[self.path])
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _page(self, project: str) -> None:
        index = self.twin
        wheels = {
            path: index.stated or hashlib.sha256(content).hexdigest()
            for path, content in index.files.items()
            if path.endswith(".whl") and path.rpartition("/")[2].startswith(project.replace("-", "_") + "-")
        }
        if not wheels:
            self.send_error(404)
            return
        if index.html:
            links = "".join(f'<a href="../..{path}#sha256={sha}">{path}</a>' for path, sha in wheels.items())
            self._send("text/html", f"<!DOCTYPE html><body>{links}</body>".encode())
            return
        files = [
            {"filename": path.rpartition("/")[2], "url": f"../..{path}", "hashes": {"sha256": sha}}
            for path, sha in wheels.items()
        ]
        self._send("application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode())

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def _file(self, content: bytes) -> None:
        index = self.twin
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", "")) if index.ranges else None
        start, end = 0, len(content)
        if asked and asked[1]:
            start, end = int(asked[1]), int(asked[2] or len(content) - 1) + 1
        elif asked:
            start = max(0, len(content) - int(asked[2]))
        part = content[start:end]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.end_headers()
        kept = part if index.cut_after is None or len(part) < 1000 else part[: index.cut_after]
        try:
            for at in range(0, len(kept), 10_000):
                self.wfile.write(kept[at : at + 10_000])
                index.sent += len(kept[at : at + 10_000])
                if index.closing.wait(index.seconds_per_block):
                    return
        except (BrokenPipeError, ConnectionResetError):
            return
