"""When to try again, and how long to wait before."""

import random
import socket
import ssl

MAX_BACKOFF_SECONDS = 30.0


def backoff_seconds(attempt: int, base: float) -> float:
    """Wait before attempt ``attempt`` + 1 (from 0): ``base · 2^attempt``, at most 30 s, of which half is by chance, so
    that many who failed at once do not come back at once."""
    full = min(base * 2.0**attempt, MAX_BACKOFF_SECONDS)
    return full / 2 + random.uniform(0, full / 2)


def explain_failure(error: BaseException) -> tuple[str, bool]:
    """Return what a failed connection means in plain words, and whether another try may help."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for link in chain:
        if isinstance(link, socket.gaierror):
            again = link.errno == socket.EAI_AGAIN
            return (
                f"its host name cannot be resolved ({link.strerror}); check the spelling and the network",
                again,
            )
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not valid ({link.verify_message})", False
        if isinstance(link, ssl.SSLError):
            return f"no TLS connection could be made ({link.reason or link})", False
        if isinstance(link, ConnectionRefusedError):
            return "it refused the connection", True
    if "location header" in str(error):
        return f"it redirects to a malformed address ({error})", False
    name = type(error).__name__
    if "Timeout" in name:
        return "it did not answer in time", True
    if "Protocol" in name or "Read" in name:
        return f"the connection broke off ({error or name})", True
    if "Decoding" in name:
        return f"its content encoding is broken ({error})", False
    return f"it cannot be reached ({error or name})", True
