"""Signatures of requests between systems that share a secret."""

import hashlib
import hmac
import re

SIGNATURE, KEY = "X-Twin-Signature", "Idempotency-Key"
"""Headers of a signed request."""
TRUSTED_SECONDS = 300
"""How far clocks may differ, and how long a request may travel."""
_SIGNED = re.compile(r"t=([1-9]\d{0,11}),v1=[0-9a-f]{64}")


def sign(body: bytes, secret: str, seconds: int) -> str:
    """Return the signature of a request's body, sent at a time in seconds since 1970."""
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def verify_signature(signature: str, body: bytes, secret: str, now: float) -> bool:
    """Return whether a request's body was signed with the secret, within :data:`TRUSTED_SECONDS` of a time in seconds since
    1970."""
    found = _SIGNED.fullmatch(signature)
    if found is None or abs(now - int(found[1])) > TRUSTED_SECONDS:
        return False
    return hmac.compare_digest(signature, sign(body, secret, int(found[1])))
