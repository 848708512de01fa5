"""A real HTTP server on loopback that answers each chat completion, not streamed, with the last message in capitals."""

import json
import threading
from http.server import BaseHTTPRequestHandler

from tests.fakes.serving import LoopbackServer


class CompletionsServer(LoopbackServer):
    """Use as a context manager. A message ``REFUSE`` is refused with 400 as long as ``refuses`` is set."""

    def __init__(self) -> None:
        self.refuses = True
        self.answered = 0
        self.lock = threading.Lock()
        server = self

        class Handler(_Handler):
            completions = server

        super().__init__(Handler)


class _Handler(BaseHTTPRequestHandler):
    completions: CompletionsServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][-1]["content"]
        if asked == "REFUSE" and self.completions.refuses:
            self._send(400, {"error": {"message": "refused"}})
            return
        with self.completions.lock:
            self.completions.answered += 1
        usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(asked.split())}
        message = {"role": "assistant", "content": asked.upper()}
        self._send(200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _send(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
