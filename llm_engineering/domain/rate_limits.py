"""The arithmetic of a token bucket: ``per_minute`` requests at once, refilled evenly at ``per_minute`` a minute."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimitDecision:
    """What a bucket said."""

    allowed: bool
    limit: int
    remaining: int
    """Requests that may follow at once."""
    reset_seconds: float
    """Until the whole budget is there again."""
    retry_seconds: float
    """Until the next request is allowed."""


def take_token(level: float, idle_seconds: float, per_minute: int) -> tuple[float, RateLimitDecision]:
    """Take a token, if there is one.

    Args:
        level: tokens that were in the bucket when it was last asked.
        idle_seconds: since then; a clock that went back counts as none.

    Returns:
        The tokens that are left, and the decision.
    """
    per_second = per_minute / 60
    level = min(float(per_minute), level + max(0.0, idle_seconds) * per_second)
    allowed = level >= 1
    if allowed:
        level -= 1
    return level, RateLimitDecision(
        allowed,
        per_minute,
        math.floor(level),
        (per_minute - level) / per_second,
        max(0.0, (1 - level) / per_second),
    )
