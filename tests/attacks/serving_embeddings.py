"""An embedding service that takes all texts but those with a certain word."""

import json
import threading
from collections import deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler

from tests.fakes.serving import LoopbackServer


class RefusingServer(LoopbackServer):
    """Answers ``status`` to every request that holds ``word``.

    Args:
        seconds: that every answer takes.
        faults: statuses with which requests are answered, one each, in no order that matters.
    """

    def __init__(self, word: str, status: int, *, seconds: float = 0.0, faults: Iterable[int] = ()) -> None:
        self.requests = 0
        self.tokens = 0
        self.faults = deque(faults)
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                refused = bool(word) and any(word in text for text in asked["input"])
                server.closing.wait(seconds)
                with lock:
                    server.requests += 1
                    fault = server.faults.popleft() if server.faults else None
                    tokens = 0 if fault or refused else sum(len(text.split()) for text in asked["input"])
                    server.tokens += tokens
                vectors = [{"index": n, "embedding": [1, 0, 0, 0]} for n in range(len(asked["input"]))]
                body = json.dumps(
                    {"error": {"message": "no"}}
                    if refused
                    else {"data": vectors, "usage": {"prompt_tokens": tokens}}
                ).encode()
                self.send_response(fault or (status if refused else 200))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        super().__init__(Handler)
