"""A hub on loopback that takes data sets: the requests that ``huggingface_hub`` makes to create and to commit."""

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.fakes.serving import LoopbackServer

COMMIT = "d" * 40


class DatasetHub(LoopbackServer):
    """Keeps what was committed in ``files`` (path → bytes), and what repositories were made in ``created``.

    Only ``token`` may write; ``status``, where it is set, is all that is answered.
    """

    def __init__(self, token: str = "hf_right") -> None:
        self.token = token
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.status: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.paths.append(f"GET {self.path}")
                self._end(404, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.paths.append(f"POST {self.path}")
                if hub.status is not None:
                    self._end(hub.status, {"error": "scripted"})
                elif self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self._end(401, {"error": "Invalid credentials"})
                elif self.path == "/api/repos/create":
                    hub.created.append(json.loads(body))
                    name = f"{hub.created[-1].get('organization', 'me')}/{hub.created[-1]['name']}"
                    self._end(200, {"url": f"{hub.url}/datasets/{name}", "name": name})
                elif self.path == "/api/validate-yaml":
                    self._end(200, {"errors": [], "warnings": []})
                elif "/preupload/" in self.path:
                    asked = json.loads(body)["files"]
                    self._end(
                        200,
                        {
                            "files": [
                                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                                for f in asked
                            ]
                        },
                    )
                elif "/commit/" in self.path:
                    for line in body.decode().splitlines():
                        record = json.loads(line)
                        if record["key"] == "file":
                            hub.files[record["value"]["path"]] = base64.b64decode(record["value"]["content"])
                    repository = self.path.removeprefix("/api/").partition("/commit/")[0]
                    url = f"{hub.url}/{repository}/commit/{COMMIT}"
                    self._end(200, {"commitUrl": url, "commitOid": COMMIT, "success": True})
                else:
                    self._end(404, {})

            def _end(self, status: int, value: dict[str, Any]) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        super().__init__(Handler)
