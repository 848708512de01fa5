"""Logging with loguru: lines for people on a terminal, JSON for machines, secrets masked in both."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message

# A password may hold `/` and `@` as they are; what is digits after the colon is a port.
_URI_CREDENTIALS = re.compile(
    r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?:[^/@\s:?#"']*:(?!\d+[/?#\s])[^\s"']*|[^/\s?#"']*)@""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<word>\b(?:bearer|token|basic)\s+)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Shorter values are not searched for: masking every 'abc' would make logs unreadable."""


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without credentials in URIs, bearer tokens, and the secrets given."""
    text = _URI_CREDENTIALS.sub(r"\g<scheme>***@", text)
    text = _BEARER.sub(r"\g<word>***", text)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _spell_out(secrets: Iterable[str]) -> tuple[str, ...]:
    """Each secret in the forms in which it may stand in a line; the longest first, since one may hold another."""
    spelled = set()
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            escaped = (json.dumps(secret, ensure_ascii=choice)[1:-1] for choice in (True, False))
            spelled |= {
                secret,
                *escaped,
                repr(secret)[1:-1],
                quote(secret),
                quote(secret, safe=""),
                quote_plus(secret),
            }
    return tuple(sorted(spelled, key=lambda form: -len(form)))


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
    hidden = _spell_out(secrets)
    for name in (
        "httpx",
        "httpcore",
        "urllib3",
    ):  # at INFO and DEBUG they log addresses and headers as they are
        logging.getLogger(name).setLevel(logging.WARNING)
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
