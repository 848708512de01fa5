"""A real HTTP server on loopback that speaks OpenAI's protocol: ``/v1/embeddings`` and ``/v1/chat/completions``.

Embeddings are those of :class:`HashEmbedder`; chat replies are what was queued, word by word. Faults are queued too, and
each spoils one request: a status (with or without Retry-After), a hang, a cut in the middle, malformed JSON.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from tests.fakes.embedder import HashEmbedder
from tests.fakes.serving import LoopbackServer

CONTEXT_WORDS = 2_000


@dataclass(frozen=True)
class Fault:
    """Spoils one request.

    ``status``: answer it with ``status`` and ``headers``. ``hang``: answer nothing until the server closes. ``cut``: end
    the connection after ``pieces`` pieces of the reply (0: before the answer). ``malformed``: answer (or, for a stream,
    put after ``pieces`` pieces) what is not JSON. ``stall``: stop sending after ``pieces`` pieces. ``end``: end the stream
    properly, but before the reply is finished.
    """

    kind: Literal["status", "hang", "cut", "malformed", "stall", "end"]
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: int = 0


@dataclass
class Request:
    path: str
    body: dict[str, Any]
    authorization: str | None
    broken_off: bool = False
    """The client closed the connection before the reply was sent."""


class OpenAIServer(LoopbackServer):
    """Use as a context manager; ``base_url`` ends in ``/v1``. ``api_key``: what clients must show, None: nothing."""

    def __init__(
        self, *, dimension: int = 64, api_key: str | None = None, seconds_per_piece: float = 0.0
    ) -> None:
        self.api_key = api_key
        self.seconds_per_piece = seconds_per_piece
        self.requests: list[Request] = []
        self.faults: deque[Fault] = deque()
        self.replies: deque[str] = deque()
        self.default_reply: Callable[[Sequence[Mapping[str, str]]], str] = lambda messages: (
            "I have nothing to say."
        )
        self._embedder = HashEmbedder(dimension)
        server = self

        class Handler(_Handler):
            twin = server

        super().__init__(Handler)

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Not of unit length, as some services answer."""
        vectors: list[list[float]] = (self._embedder.embed_queries(texts) * 3.0).tolist()
        return vectors

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


class _Handler(BaseHTTPRequestHandler):
    twin: OpenAIServer
    protocol_version = "HTTP/1.1"
    timeout = 5  # ends idle kept-alive connections, so that the server can close

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        request = Request(self.path, body, self.headers.get("authorization"))
        self.twin.requests.append(request)
        self.close_connection = (
            True  # a new connection for each request: a fault that ends one spoils no other
        )
        if self.twin.api_key is not None and request.authorization != f"Bearer {self.twin.api_key}":
            self._error(401, "Incorrect API key provided", "invalid_api_key")
            return
        fault = self.twin.faults.popleft() if self.twin.faults else None
        if fault and fault.kind == "status":
            self._error(fault.status, "told to fail", "scripted", fault.headers)
        elif fault and fault.kind == "hang":
            self.twin.closing.wait()
        elif fault and fault.kind == "cut" and not fault.pieces:
            return
        elif self.path == "/v1/embeddings":
            self._embeddings(body, fault)
        elif self.path == "/v1/chat/completions":
            self._chat(request, fault)
        else:
            self._error(404, f"no such path: {self.path}", "not_found")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _embeddings(self, body: dict[str, Any], fault: Fault | None) -> None:
        if fault and fault.kind == "malformed":
            self._send(200, b'{"data": [{"ind')
            return
        vectors = self.twin.embed(body["input"])
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        # The order within the answer is not promised by the protocol; the index is.
        self._send(200, json.dumps({"object": "list", "data": data[::-1], "model": body["model"]}).encode())

    def _chat(self, request: Request, fault: Fault | None) -> None:
        body = request.body
        words = sum(len(message["content"].split()) for message in body["messages"])
        if words >= CONTEXT_WORDS:
            message = f"maximum context length is {CONTEXT_WORDS} tokens, the messages have {words}"
            self._error(400, message, "context_length_exceeded")
            return
        reply = (
            self.twin.replies.popleft() if self.twin.replies else self.twin.default_reply(body["messages"])
        )
        pieces = [word if i == 0 else f" {word}" for i, word in enumerate(reply.split(" "))]
        kept = pieces[: body["max_tokens"]]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self._stream(kept, "length" if len(kept) < len(pieces) else "stop", words, fault, body)
        except (BrokenPipeError, ConnectionResetError):
            request.broken_off = True

    def _stream(
        self, pieces: list[str], reason: str, words: int, fault: Fault | None, body: dict[str, Any]
    ) -> None:
        self._event(
            {
                "choices": [
                    {"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}
                ]
            }
        )
        self._chunk(b": a comment, as proxies send to keep a connection open\n\n")
        for sent, piece in enumerate([*pieces, None]):
            if fault and fault.pieces == sent and self._spoil(fault):
                return
            if piece is not None:
                self.twin.closing.wait(self.twin.seconds_per_piece)
                self._event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            self._event({"choices": [], "usage": {"prompt_tokens": words, "completion_tokens": len(pieces)}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _spoil(self, fault: Fault) -> bool:
        """True: the reply ends here."""
        if fault.kind == "malformed":
            self._chunk(b'data: {"choices": [{"del\n\n')
        elif fault.kind == "stall":
            self.twin.closing.wait()
        elif fault.kind == "end":
            self._chunk(b"")
        return True

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _error(self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"error": {"message": message, "type": "error", "code": code}}).encode()
        self._send(status, body, headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
