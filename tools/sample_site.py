"""Serve ``samples/site`` on the loopback address, for the demo and for tests.

The site is static, with one exception: RSS and sitemaps demand absolute addresses, and the port is only known
when the server starts. So feed.xml, sitemap.xml and robots.txt carry the placeholder ``{{base}}``, replaced
while serving.
"""

import signal
import socket
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tools.console import make_parser

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "samples" / "site"
DEFAULT_PORT = 8111
PLACEHOLDER = b"{{base}}"
# Written out where the machine's own table of types may differ.
_TYPES = {".js": "text/javascript", ".xml": "application/xml; charset=utf-8", ".txt": "text/plain"}
_FEED_TYPE = "application/rss+xml; charset=utf-8"


class _Pages(StaticFiles):
    """The files, with the placeholder replaced where a type may hold it."""

    def __init__(self, root: Path, base_url: str) -> None:
        super().__init__(directory=root, html=True)
        self._base_url = base_url.encode("ascii")

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"  # keep it, but ask each time
        if not isinstance(response, FileResponse):
            return response
        file = Path(response.path)
        media_type = _FEED_TYPE if file.name == "feed.xml" else _TYPES.get(file.suffix, response.media_type)
        if file.suffix not in (".xml", ".txt", ".js"):
            return response
        body = (await run_in_threadpool(file.read_bytes)).replace(PLACEHOLDER, self._base_url)
        kept = {name: response.headers[name] for name in ("etag", "last-modified", "cache-control")}
        return Response(body, response.status_code, kept, media_type)


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
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as the operating system reports them for the listening socket."""
        if self._socket is None:
            raise RuntimeError("The sample site is not running: ask for its address inside its `with` block.")
        host, port = self._socket.getsockname()
        return str(host), int(port)

    @property
    def base_url(self) -> str:
        """Scheme, host and port without a closing slash, for example ``http://127.0.0.1:8111``."""
        host, port = self.address
        return f"http://{host}:{port}"

    def __enter__(self) -> Self:
        if not self.root.is_dir():
            raise FileNotFoundError(f"Expected the folder of the sample site at {self.root}, found none.")
        self._socket = socket.create_server(("127.0.0.1", self.port))
        app = Starlette(routes=[Mount("/", _Pages(self.root, self.base_url))])
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        # The socket listens already: who connects before the thread is ready waits in its queue.
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="sample-site", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None or self._thread is None or self._socket is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        self._socket = self._server = self._thread = None


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; the task ``serve-sample-site``."""
    parser = make_parser("serve-sample-site", "Serve the sample site.")
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
