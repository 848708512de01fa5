"""When to try a service again, and after how long. Pure functions, shared by the adapters that speak HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers that may be another after a while."""


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3). None: absent, unreadable."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def delay_seconds(
    attempt: int, asked: float | None, random: Callable[[], float], *, base: float = 0.5, cap: float = 30.0
) -> float:
    """How long to wait before trying again after ``attempt`` (0 for the first) failed.

    Half of an exponentially growing wait is fixed and half is random ("equal jitter"), so that clients that failed
    together do not come back together. A wait the server asked for is the least. ``random`` gives numbers in [0, 1).
    """
    wait = min(cap, base * 2.0**attempt)
    jittered = wait * (0.5 + 0.5 * random())
    return jittered if asked is None else asked + 0.1 * jittered
