"""Serve ``samples/site`` on the loopback address, for the demo and for tests.

The site is static, with one exception: RSS and sitemaps demand absolute addresses, and the port is only known
when the server starts. So feed.xml, sitemap.xml and robots.txt carry the placeholder ``{{base}}``, replaced
while serving.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "samples" / "site"
DEFAULT_PORT = 8111
PLACEHOLDER = b"{{base}}"
SUBSTITUTED_SUFFIXES = frozenset({".xml", ".txt"})

# Written out instead of asking `mimetypes`: that module reads the machine's own tables, so types would differ.
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".xml": "application/xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".ico": "image/x-icon",
}
FEED_TYPE = "application/rss+xml; charset=utf-8"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """One response body with what a client needs to ask again cheaply."""

    body: bytes
    content_type: str
    etag: str
    modified: int  # seconds since the epoch: HTTP dates know nothing finer


def find_file(root: Path, url_path: str) -> Path | None:
    """Return the file under ``root`` that ``url_path`` names, or None.

    A folder means its index.html. What leads out of ``root`` (``..``, a symbolic link) counts as absent.
    """
    relative = unquote(url_path).lstrip("/")
    if "\0" in relative:
        return None
    candidate = (root / relative).resolve()
    if candidate.is_dir():
        candidate = (candidate / "index.html").resolve()
    if not candidate.is_relative_to(root) or not candidate.is_file():
        return None
    return candidate


def load_page(path: Path, base_url: str) -> Page:
    """Read ``path`` and replace the base placeholder where the file's type may hold it."""
    body = path.read_bytes()
    if path.suffix in SUBSTITUTED_SUFFIXES:
        body = body.replace(PLACEHOLDER, base_url.encode("ascii"))
    content_type = CONTENT_TYPES.get(path.suffix, "application/octet-stream")
    if path.name == "feed.xml":
        content_type = FEED_TYPE
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Page(body, content_type, etag, int(path.stat().st_mtime))


def is_fresh(page: Page, if_none_match: str | None, if_modified_since: str | None) -> bool:
    """Say whether the client's copy is current (RFC 9110, section 13: If-None-Match wins over the date)."""
    if if_none_match is not None:
        tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
        return "*" in tags or page.etag in tags
    if if_modified_since is not None:
        try:
            return page.modified <= int(parsedate_to_datetime(if_modified_since).timestamp())
        except ValueError:  # an unreadable date is ignored, as the RFC asks
            return False
    return False


class _Server(ThreadingHTTPServer):
    """A threaded server that knows its open connections, so that stopping it also ends kept-alive ones."""

    daemon_threads = True
    # Two servers on one port would answer in turns; a taken port must be an error on every system.
    allow_reuse_port = False

    def __init__(self, address: tuple[str, int], root: Path) -> None:
        super().__init__(address, _Handler)
        self.root = root
        self.base_url = f"http://{address[0]}:{self.server_address[1]}"
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Wake handler threads that wait for a next request on a kept-alive connection."""
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the client was faster
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's signature
        error = sys.exc_info()[1]
        if isinstance(error, ConnectionError | TimeoutError):  # a client that went away is no fault of ours
            return
        logger.error("sample site: request from %s failed", client_address, exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "SampleSite"
    sys_version = ""
    timeout = 30
    # Headers and body leave in two writes; without this the second can wait 40 ms for the first one's ACK.
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        url_path = urlsplit(self.path).path
        path = find_file(self.server.root, url_path)
        if path is not None and path.name == "index.html" and not url_path.endswith(("/", "index.html")):
            self._redirect(url_path + "/")
            return
        if path is None:
            self._send(self._not_found(), HTTPStatus.NOT_FOUND, with_body=with_body)
            return
        page = load_page(path, self.server.base_url)
        if is_fresh(page, self.headers.get("If-None-Match"), self.headers.get("If-Modified-Since")):
            self._send(page, HTTPStatus.NOT_MODIFIED, with_body=False)
            return
        self._send(page, HTTPStatus.OK, with_body=with_body)

    def _not_found(self) -> Page:
        path = find_file(self.server.root, "404.html")
        if path is not None:
            return load_page(path, self.server.base_url)
        return Page(b"Not found\n", CONTENT_TYPES[".txt"], "", 0)

    def _redirect(self, location: str) -> None:
        self.send_response(HTTPStatus.MOVED_PERMANENTLY)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, page: Page, status: HTTPStatus, *, with_body: bool) -> None:
        self.send_response(status)
        if status is not HTTPStatus.NOT_FOUND:
            self.send_header("ETag", page.etag)
            self.send_header("Last-Modified", formatdate(page.modified, usegmt=True))
            self.send_header("Cache-Control", "no-cache")  # keep it, but ask each time
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if with_body:
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


class SampleSite:
    """The sample site, served on 127.0.0.1 for as long as the ``with`` block lasts.

    >>> with SampleSite(DEFAULT_ROOT) as site:
    ...     site.base_url.startswith("http://127.0.0.1:")
    True

    Raises on entry: FileNotFoundError where ``root`` is no folder, OSError where ``port`` is taken. Port 0 lets
    the system choose a free one.
    """

    def __init__(self, root: Path | str = DEFAULT_ROOT, port: int = 0) -> None:
        self.root = Path(root).resolve()
        self.port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as the operating system reports them for the listening socket."""
        host, port = self._running.socket.getsockname()
        return str(host), int(port)

    @property
    def base_url(self) -> str:
        """Scheme, host and port without a closing slash, for example ``http://127.0.0.1:8111``."""
        return self._running.base_url

    @property
    def _running(self) -> _Server:
        if self._server is None:
            raise RuntimeError("The sample site is not running: ask for its address inside its `with` block.")
        return self._server

    def __enter__(self) -> SampleSite:
        if not self.root.is_dir():
            raise FileNotFoundError(f"Expected the folder of the sample site at {self.root}, found none.")
        self._server = _Server(("127.0.0.1", self.port), self.root)
        # The short poll makes leaving the block quick: shutdown() waits for the loop's next look.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="sample-site", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()
        self._server = self._thread = None


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; the task ``serve-sample-site``."""
    parser = argparse.ArgumentParser(prog="serve-sample-site", description="Serve the sample site.")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0: any free one (default: %(default)s)"
    )
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="the folder to serve")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with SampleSite(options.root, options.port) as site:
            print(f"Sample site at {site.base_url}/  (Ctrl-C stops it)", flush=True)
            stop.wait()
    except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
        print(f"Cannot serve the sample site ({error}): try --port 0 for any free port.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
