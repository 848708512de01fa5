"""A hub of models on loopback: serves the files of one repository the way ``huggingface_hub`` asks for them."""

import hashlib
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

from tests.fakes.serving import LoopbackServer

COMMIT = "c" * 40


class ModelHub(LoopbackServer):
    """Serves ``folder`` as the repository ``name``, at the revisions ``main`` and :data:`COMMIT`.

    ``requests`` holds (method, path) of each request; ``status``, where it is set, is all that is answered.
    """

    def __init__(self, folder: Path, name: str = "maker/tiny-cross-encoder") -> None:
        self.folder = folder
        self.name = name
        self.requests: list[tuple[str, str]] = []
        self.status: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                path = unquote(self.path)
                hub.requests.append((self.command, path))
                parts = path.removeprefix(f"/{hub.name}/resolve/").partition("/")
                file = hub.folder / parts[2]
                if hub.status is not None:
                    self._end(hub.status)
                elif not path.startswith(f"/{hub.name}/resolve/"):
                    self._end(404, {"X-Error-Code": "RepoNotFound"})
                elif parts[0] not in ("main", COMMIT):
                    self._end(404, {"X-Error-Code": "RevisionNotFound"})
                elif not file.is_file():
                    self._end(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                else:
                    data = file.read_bytes()
                    etag = hashlib.sha256(data).hexdigest()
                    self._end(200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, data)

            def _end(self, status: int, headers: dict[str, str] | None = None, data: bytes = b"") -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        super().__init__(Handler)
