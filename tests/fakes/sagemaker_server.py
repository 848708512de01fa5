"""A real HTTP server on loopback that speaks SageMaker's runtime API, behind it a container with the messages API.

botocore reaches it through ``AWS_ENDPOINT_URL``. Requests must carry a valid Signature Version 4 of the dummy credentials.
Replies stream in AWS's own event-stream frames, which cut the container's server-sent events at arbitrary bytes.
"""

import json
import random
import re
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.fakes.serving import LoopbackServer

CONTEXT_WORDS = 2_000
ACCOUNT = "123456789012"
KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "dummy-secret"  # not-a-secret: AWS documents it as an example
_PATH = re.compile(r"/endpoints/(?P<endpoint>[^/]+)/invocations(?P<stream>-response-stream)?")


@dataclass(frozen=True)
class Fault:
    """Spoils one request.

    ``aws``: SageMaker itself answers ``status`` with the error ``code``. ``model``: the container answered ``status``.
    ``hang``: nothing is answered. ``cut``, ``stall``, ``end``: after ``pieces`` pieces the connection is closed, nothing
    more is sent, or the stream is ended as if it were complete. ``malformed``: the container sends what is not JSON.
    ``garbled``: a frame's checksum is wrong. ``exception``: the stream carries the exception ``code``.
    """

    kind: Literal["aws", "model", "hang", "cut", "stall", "end", "malformed", "garbled", "exception"]
    status: int = 500
    code: str = "InternalFailure"
    message: str = "told to fail"
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: int = 0


@dataclass
class Request:
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    """Names in lower case."""
    broken_off: bool = False
    """The client closed the connection before the reply was sent."""


class SageMakerServer(LoopbackServer):
    """Use as a context manager. ``json_lines``: the container streams bare JSON lines, as LMI does by default."""

    def __init__(self, *, seconds_per_piece: float = 0.0, json_lines: bool = False) -> None:
        self.seconds_per_piece = seconds_per_piece
        self.json_lines = json_lines
        self.requests: list[Request] = []
        self.connections: set[object] = set()
        """Addresses of the clients: one for each connection."""
        self.faults: deque[Fault] = deque()
        self.replies: deque[str] = deque()
        self.default_reply: Callable[[Sequence[Mapping[str, str]]], str] = lambda messages: "Nothing to say."
        server = self

        class Handler(_Handler):
            aws = server

        super().__init__(Handler)


class _Handler(BaseHTTPRequestHandler):
    aws: SageMakerServer
    protocol_version = "HTTP/1.1"
    timeout = 5

    def handle(self) -> None:
        with suppress(ConnectionResetError):  # a client may end an idle connection as it likes
            super().handle()

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        request = Request(self.path, json.loads(data), {k.lower(): v for k, v in self.headers.items()})
        self.aws.requests.append(request)
        self.aws.connections.add(self.client_address)
        match = _PATH.fullmatch(self.path)
        fault = self.aws.faults.popleft() if self.aws.faults else None
        if match is None:
            self._error(404, "UnknownOperationException", f"no such path: {self.path}")
        elif not _is_signed(self.command, f"{self.aws.url}{self.path}", request.headers, data):
            self._error(403, "InvalidSignatureException", f"The signature of {KEY_ID} does not match")
        elif match["endpoint"] == "nowhere":
            self._error(400, "ValidationError", f"Endpoint nowhere of account {ACCOUNT} not found.")
        elif fault and fault.kind == "aws":
            self._error(fault.status, fault.code, fault.message, fault.headers)
        elif fault and fault.kind == "model":
            self._model_error(fault.status, fault.message)
        elif fault and fault.kind == "hang":
            self.aws.closing.wait()
            self.close_connection = True
        elif fault and fault.kind == "cut" and not fault.pieces:
            self.close_connection = True
        else:
            self._reply(request, fault, streams=match["stream"] is not None)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _reply(self, request: Request, fault: Fault | None, *, streams: bool) -> None:
        body = request.body
        words = sum(len(message["content"].split()) for message in body["messages"])
        if words >= CONTEXT_WORDS:
            told = f"maximum context length is {CONTEXT_WORDS} tokens, the messages have {words}"
            self._model_error(400, json.dumps({"error": {"message": told, "type": "BadRequestError"}}))
            return
        reply = self.aws.replies.popleft() if self.aws.replies else self.aws.default_reply(body["messages"])
        pieces = [word if i == 0 else f" {word}" for i, word in enumerate(reply.split(" "))]
        kept = pieces[: body["max_tokens"]]
        reason = "length" if len(kept) < len(pieces) else "stop"
        usage = {"prompt_tokens": words, "completion_tokens": len(kept)}
        try:
            if streams:
                self._stream(list(self._events(kept, reason, usage)), fault)
            else:
                message = {"role": "assistant", "content": "".join(kept)}
                whole = {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}
                text = "{oops" if fault else json.dumps(whole, indent=2)
                self._send(200, text.encode(), {"X-Amzn-SageMaker-Content-Type": "application/json"})
        except (BrokenPipeError, ConnectionResetError):
            request.broken_off = True
            self.close_connection = True

    def _events(self, pieces: list[str], reason: str, usage: dict[str, int]) -> Iterator[bytes]:
        """What the container writes: the role, each piece, the end with its reason and usage."""
        yield self._line(
            {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
        )
        for piece in pieces:
            yield self._line({"choices": [{"delta": {"content": piece}, "finish_reason": None}]})
        end = self._line({"choices": [{"delta": {}, "finish_reason": reason}]})
        end += self._line({"choices": [], "usage": usage})
        yield end if self.aws.json_lines else end + b"data: [DONE]\n\n"

    def _line(self, event: dict[str, Any]) -> bytes:
        data = json.dumps(event, ensure_ascii=False).encode()
        return data + b"\n" if self.aws.json_lines else b"data: " + data + b"\r\n\r\n"

    def _stream(self, events: list[bytes], fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("X-Amzn-SageMaker-Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cuts = random.Random(len(events))
        for number, event in enumerate(events):
            if fault and fault.pieces == number - 1 and self._spoil(fault):
                return
            self.aws.closing.wait(self.aws.seconds_per_piece)
            while event:
                size = cuts.randint(1, 60)
                part, event = event[:size], event[size:]
                self._chunk(_frame({":message-type": "event", ":event-type": "PayloadPart"}, part))
        self._chunk(b"")

    def _spoil(self, fault: Fault) -> bool:
        """True: the reply ends here."""
        payload_part = {":message-type": "event", ":event-type": "PayloadPart"}
        if fault.kind == "malformed":
            self._chunk(_frame(payload_part, b'data: {"choices": [{"del\n\n'))
            self._chunk(b"")
        elif fault.kind == "garbled":
            frame = _frame(payload_part, b"data: {}\n\n")
            self._chunk(frame[:-1] + bytes([frame[-1] ^ 1]))
        elif fault.kind == "exception":
            told = json.dumps({"Message": fault.message, "ErrorCode": "StreamBroken"}).encode()
            self._chunk(_frame({":message-type": "exception", ":exception-type": fault.code}, told))
            self._chunk(b"")
        elif fault.kind == "stall":
            self.aws.closing.wait()
        elif fault.kind == "end":
            self._chunk(b"")
        self.close_connection = fault.kind != "end"
        return True

    def _model_error(self, status: int, message: str) -> None:
        told = {
            "ErrorCode": "CLIENT_ERROR_FROM_MODEL" if status < 500 else "INTERNAL_FAILURE_FROM_MODEL",
            "LogStreamArn": f"arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:/aws/sagemaker/Endpoints/twin",
            "Message": f'Received error ({status}) from primary with message "{message}". See account {ACCOUNT}.',
            "OriginalMessage": message,
            "OriginalStatusCode": status,
        }
        self._send(424, json.dumps(told).encode(), {"x-amzn-ErrorType": "ModelError"})

    def _error(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        told = json.dumps({"message": message}).encode()
        self._send(status, told, {"x-amzn-ErrorType": code, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status, "-")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def _frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A frame of ``application/vnd.amazon.eventstream``: lengths, their checksum, headers, payload, checksum of it all."""
    encoded = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(encoded) + len(payload), len(encoded))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + encoded + payload
    return message + struct.pack(">I", zlib.crc32(message))


def _is_signed(method: str, url: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the request was signed with the dummy credentials: by signing it again, as AWS does."""
    given = re.fullmatch(
        rf"AWS4-HMAC-SHA256 Credential={KEY_ID}/\d+/(?P<region>[a-z0-9-]+)/sagemaker/aws4_request, "
        r"SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})",
        headers.get("authorization", ""),
    )
    if given is None:
        return False
    signed = {name: headers[name] for name in given["names"].split(";")}
    request = AWSRequest(method, url, headers=signed, data=body)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(KEY_ID, SECRET), "sagemaker", given["region"])
    canonical = signer.canonical_request(request)
    return signer.signature(signer.string_to_sign(request, canonical), request) == given["signature"]
