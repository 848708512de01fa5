"""Reading the service's streams as any client would, by the wire format alone; and waiting for what must come."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

PATIENCE = 20
"""Seconds after which what must come has not come, on a busy machine too."""


@dataclass(frozen=True)
class ServerSentEvent:
    name: str
    data: Any


def server_sent_events(text: str) -> list[ServerSentEvent]:
    """The events of a whole ``text/event-stream``; comments are left out. Fails where the framing is wrong."""
    assert text.endswith("\n\n"), f"the stream ends in the middle of an event: {text[-80:]!r}"
    return [event for block in text[:-2].split("\n\n") if (event := _event(block.split("\n"))) is not None]


def _event(lines: Iterable[str]) -> ServerSentEvent | None:
    name, data = "message", []
    for line in lines:
        if line.startswith(":"):
            continue
        field, colon, value = line.partition(": ")
        assert colon, f"no field and value: {line!r}"
        assert field in {"event", "data"}, line
        if field == "event":
            name = value
        else:
            data.append(value)
    if not data:
        return None
    text = "\n".join(data)
    return ServerSentEvent(name, text if text == "[DONE]" else json.loads(text))


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
