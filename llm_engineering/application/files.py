"""Files on this machine: checksums, and writes that are whole or not there."""

import hashlib
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """Compute a file's SHA-256 in hexadecimal digits, without reading it into memory whole."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def atomic_write(path: Path, content: str | bytes) -> None:
    """Replace a file's content in one act: a reader, or a run after a kill, sees the old content or the new one.

    Raises:
        OSError: the disk is full, or the rights do not suffice; the old content stays.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    part.replace(path)
