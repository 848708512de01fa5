"""Many documents answered at once: requests out of JSON Lines, answers into JSON Lines, each under the id of its request."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_engineering.domain.documents import text_hash
from llm_engineering.domain.errors import InvalidInputError

_EXPECTED = '{"id": "a", "text": "…"} or {"id": "a", "messages": [{"role": "user", "content": "…"}]}'


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One request, as the container takes it."""

    id: str
    body: str
    """JSON in one line."""

    @property
    def digest(self) -> str:
        return text_hash(self.body)


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What came of one request."""

    id: str
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """What stands in the file of answers."""
        if self.error:
            return {"id": self.id, "error": self.error}
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return {"id": self.id, "text": self.text, **usage}


def read_requests(
    lines: Iterable[str], *, instruction: str = "", max_tokens: int = 512
) -> list[BatchRequest]:
    """Return the requests of a file, in its order.

    Args:
        instruction: stands before each ``text``, as in "Summarise in one sentence:".
        max_tokens: of each answer.

    Raises:
        InvalidInputError: a line is no request, or two have the same id; the message gives the line's number.
    """
    found: dict[str, BatchRequest] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request = _read_line(number, line, instruction, max_tokens)
        if request.id in found:
            raise InvalidInputError(
                f"Line {number}: the id {request.id} was there before. Each needs its own."
            )
        found[request.id] = request
    if not found:
        raise InvalidInputError(f"The file holds no request. Expected lines such as {_EXPECTED}.")
    return list(found.values())


def _read_line(number: int, line: str, instruction: str, max_tokens: int) -> BatchRequest:
    try:
        told = json.loads(line)
        if "messages" in told:
            messages = [{"role": one["role"], "content": str(one["content"])} for one in told["messages"]]
        else:
            messages = [{"role": "user", "content": f"{instruction}\n\n{told['text']}".strip()}]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"Line {number} is no request ({type(error).__name__}: {error}). Expected {_EXPECTED}."
        ) from None
    body = json.dumps({"messages": messages, "max_tokens": max_tokens}, ensure_ascii=False)
    return BatchRequest(str(told.get("id") or text_hash(body)[:16]), body)


def read_reply(request_id: str, data: bytes | str) -> BatchAnswer:
    """Return an answer from what a container sent; what is none becomes an error of this one request."""
    try:
        told: Mapping[str, Any] = json.loads(data)
        usage = told.get("usage") or {}
        return BatchAnswer(
            request_id,
            str(told["choices"][0]["message"]["content"] or ""),
            int(usage.get("prompt_tokens", 0)),
            int(usage.get("completion_tokens", 0)),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        shown = data.decode(errors="replace") if isinstance(data, bytes) else data
        return BatchAnswer(request_id, error=f"no completion: {shown[:200]}")


def read_answered(lines: Iterable[str]) -> set[str]:
    """Return the ids that a file of answers holds without an error; a line that was broken off counts as not there."""
    found = set()
    for line in lines:
        try:
            told = json.loads(line)
            if "error" not in told:
                found.add(str(told["id"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found
