"""Logging with loguru: lines for people on a terminal, JSON for machines, secrets masked in both."""

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message

_URI_CREDENTIALS = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/@\s:]*:[^/@\s]+@", re.IGNORECASE)
_BEARER = re.compile(r"(?P<word>\b(?:bearer|token|basic)\s+)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Shorter values are not searched for: masking every 'abc' would make logs unreadable."""


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without credentials in URIs, bearer tokens, and the secrets given."""
    text = _URI_CREDENTIALS.sub(r"\g<scheme>***@", text)
    text = _BEARER.sub(r"\g<word>***", text)
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def configure_logging(
    *,
    format: str = "human",
    level: str = "INFO",
    secrets: Iterable[str] = (),
    write: Callable[[str], object] | None = None,
) -> None:
    """Send the log to standard error (or to ``write``), masked. May be called again; the last call counts.

    Args:
        format: ``human`` or ``json`` (one object a line: time, level, message, name, and bound fields).
        level: lowest level shown.
        secrets: values that must never appear.
        write: where lines go instead, such as a console that also draws progress bars.
    """
    hidden = tuple(secrets)
    out = write or sys.stderr.write

    def human(message: "Message") -> None:
        out(mask(str(message), hidden))

    def machine(message: "Message") -> None:
        out(
            mask(json.dumps(_as_object(dict(message.record)), ensure_ascii=False, default=str), hidden) + "\n"
        )

    logger.remove()
    if format == "json":
        logger.add(machine, level=level, format="{message}")
    else:
        # diagnose shows values of local variables in tracebacks, which is where secrets leak.
        line = "<dim>{time:HH:mm:ss}</dim> <level>{level: <7}</level> {message}"
        logger.add(human, level=level, format=line, colorize=sys.stderr.isatty(), diagnose=False)


def _as_object(record: dict[str, Any]) -> dict[str, Any]:
    exception = record["exception"]
    return {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        "name": record["name"],
        **({"error": f"{exception.type.__name__}: {exception.value}"} if exception else {}),
        **record["extra"],
    }
