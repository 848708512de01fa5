"""A CRM on loopback, as a receiver of notices should be: it checks signatures, refuses replays, and makes tasks."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from llm_engineering.application.analysis.outreach import CALL
from llm_engineering.domain.signatures import KEY, SIGNATURE, verify_signature


class SmallCrm:
    """Takes signed notices: a call becomes a task, a level is written to the client's field.

    A request whose signature is wrong or old gets 401; the very same request again 409, since only somebody who recorded it
    would send it; one with a known key is answered, and nothing is done for it.
    """

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.tasks: dict[str, dict[str, Any]] = {}
        self.levels: dict[tuple[str, str], str] = {}
        self.answered: list[int] = []
        """Status of each request."""
        self.down = False
        self._seen: set[str] = set()
        self._keys: set[str] = set()
        self._turn = threading.Lock()
        crm = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = crm.take(self.headers.get(SIGNATURE, ""), self.headers.get(KEY, ""), body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/notices"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, signature: str, key: str, body: bytes) -> int:
        """Take a request; returns the status."""
        with self._turn:
            status = self._take(signature, key, body)
            self.answered.append(status)
            return status

    def _take(self, signature: str, key: str, body: bytes) -> int:
        if self.down:
            return 503
        if not verify_signature(signature, body, self.secret, time.time()):
            return 401
        if signature in self._seen:
            return 409
        self._seen.add(signature)
        if key not in self._keys:
            self._keys.add(key)
            told = json.loads(body)
            facts = told["facts"]
            if told["rule"] == CALL:
                self.tasks[key] = facts
            elif facts:
                self.levels[str(facts["client"]), str(facts["about"])] = str(facts["level"])
        return 204
