"""An embedding service that takes all texts but those with a certain word."""

import json
from http.server import BaseHTTPRequestHandler

from tests.fakes.serving import LoopbackServer


class RefusingServer(LoopbackServer):
    """Answers ``status`` to every request that holds ``word``."""

    def __init__(self, word: str, status: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                refused = any(word in text for text in asked["input"])
                vectors = [{"index": n, "embedding": [1, 0, 0, 0]} for n in range(len(asked["input"]))]
                body = json.dumps({"error": {"message": "no"}} if refused else {"data": vectors}).encode()
                self.send_response(status if refused else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        super().__init__(Handler)
