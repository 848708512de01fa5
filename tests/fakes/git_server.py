"""A git server on loopback: git's own HTTP service behind an optional password, or a server that fails on purpose."""

import base64
import os
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.fakes.serving import LoopbackServer


class GitServer(LoopbackServer):
    """Serves the bare repositories under ``folder`` by HTTP, as long as the block lasts.

    ``authorizations`` keeps the header of every request. ``password`` (``user:password``) answers 401 without it;
    ``hang`` never answers.
    """

    def __init__(self, folder: Path, *, password: str | None = None, hang: bool = False) -> None:
        outer = self
        self.authorizations: list[str | None] = []
        expected = password and "Basic " + base64.b64encode(password.encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.authorizations.append(self.headers["Authorization"])
                if hang:
                    outer.closing.wait(30)
                elif expected and self.headers["Authorization"] != expected:
                    self._answer(401, [("WWW-Authenticate", 'Basic realm="private"')], b"")
                else:
                    self._backend()

            do_POST = do_GET

            def _backend(self) -> None:
                path, _, query = self.path.partition("?")
                environ = os.environ | {
                    "GIT_PROJECT_ROOT": str(folder),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers["Content-Type"] or "",
                    "HTTP_CONTENT_ENCODING": self.headers["Content-Encoding"] or "",
                    "GIT_PROTOCOL": self.headers["Git-Protocol"] or "",
                }
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                done = subprocess.run(
                    ["git", "http-backend"], input=body, env=environ, capture_output=True, check=True
                )
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")]
                status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
                self._answer(status, headers, content)

            def _answer(self, status: int, headers: list[tuple[str, ...]], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        super().__init__(Handler)
