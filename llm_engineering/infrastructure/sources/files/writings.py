"""What is read from a file: one text or several, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from llm_engineering.domain.facets import MetadataValue


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read before a source is given up."""

    files: int = 10_000
    """Files of one folder or archive that can be read."""
    entries: int = 200_000
    """All files of one folder or archive."""
    file_bytes: int = 100_000_000
    """Of one file, as it lies there or unpacked."""
    document_bytes: int = 30_000_000
    """Of the XML inside a Word document, unpacked. It is held in memory many times over."""
    archive_bytes: int = 1_000_000_000
    """Of all that is read from one archive, unpacked."""
    text_chars: int = 5_000_000
    """Of one text."""
    pages: int = 1_500
    """Of a PDF."""
    cpu_seconds: float = 180.0
    """For one file that is parsed, of the processor."""
    memory_bytes: int = 2 << 30
    """For the process that parses files."""


@dataclass(frozen=True, slots=True)
class Writing:
    """A text, and what its file says about it. Empty or None: nothing."""

    text: str
    """Markdown."""
    title: str = ""
    key: str = ""
    """Tells it from others in the same file."""
    link: str = ""
    """Its public address, which then is its identity."""
    published_at: datetime | None = None
    author: str = ""
    language: str = ""
    platform: str = "file"
    category: str = "article"
    facts: Mapping[str, MetadataValue] = field(default_factory=dict)
    """Further metadata of a record: thread, channel, addresses. Of other writing it is not kept."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a file that is not taken, and why."""

    reason: str
    key: str = ""


class UnreadableError(Exception):
    """A file holds nothing that can be taken. The message is a sentence about it, without its name."""
