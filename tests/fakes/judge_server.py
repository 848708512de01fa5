"""A judge behind OpenAI's chat completions, on loopback: replies by what it is asked for, or spoils everything in one way.

What it is asked for is told by the JSON schema in the prompt, as the model that stands there in earnest tells it.
"""

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from tests.fakes.serving import LoopbackServer

Fault = Literal["nonsense", "wrong_fields", "error", "refused", "cut"]


class JudgeServer(LoopbackServer):
    """Finds every statement supported, but for those that hold ``doubted``; takes answers for answers to ``asks``."""

    def __init__(self, *, asks: str = "What is it?", doubted: str = "\0") -> None:
        self.asks = asks
        self.doubted = doubted
        self.fault: Fault | None = None
        self.fault_on = ""
        """Spoil only what asks for this schema; empty: everything."""
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        server = self

        class Handler(_Handler):
            twin = server

        super().__init__(Handler)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def asked_for(self, body: dict[str, Any]) -> str:
        """Name of the schema that a reply must have."""
        titles = re.findall(r'"title": "(\w+Output)"', json.dumps(body["messages"]).replace('\\"', '"'))
        return titles[0] if titles else ""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        text = str(body["messages"][-1]["content"])
        given, _ = json.JSONDecoder().raw_decode(text, text.rindex("nput: ") + len("nput: "))
        schema = self.asked_for(body)
        if schema == "StatementGeneratorOutput":
            return {"statements": _sentences(given["answer"])}
        if schema == "NLIStatementOutput":
            verdicts = [
                {"statement": said, "reason": "…", "verdict": int(self.doubted not in said)}
                for said in given["statements"]
            ]
            return {"statements": verdicts}
        if schema == "AnswerRelevanceOutput":
            return {"question": self.asks, "noncommittal": 0}
        if schema == "ContextPrecisionOutput":
            return {"reason": "…", "verdict": int(self.doubted not in given["context"])}
        classified = [
            {"statement": said, "reason": "…", "attributed": int(self.doubted not in said)}
            for said in _sentences(given["answer"])
        ]
        return {"classifications": classified}


class _Handler(BaseHTTPRequestHandler):
    twin: JudgeServer
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.twin.requests.append(body)
        self.twin.authorizations.append(self.headers.get("authorization"))
        self.close_connection = True
        fault = self.twin.fault if self.twin.fault_on in self.twin.asked_for(body) else None
        if fault == "cut":
            return
        if fault in ("error", "refused"):
            status = 500 if fault == "error" else 401
            self._send(status, {"error": {"message": "told to fail", "type": "error", "code": None}})
            return
        if fault == "nonsense":
            content = "As a judge I would rather not say."
        else:
            content = json.dumps({"mood": "good"} if fault else self.twin.reply(body))
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
        }
        self._send(200, answer)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in text.split(".") if part.strip()]
