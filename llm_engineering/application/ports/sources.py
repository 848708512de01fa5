"""What collection reads from: sources of documents, and a browser for pages that need one."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from llm_engineering.domain.documents import (
    RawDocument,
    text_hash,
)


@dataclass(frozen=True, slots=True)
class Link:
    """Something to collect, as the run's configuration names it."""

    url: str
    author: str
    category: str | None = None
    """None: the reader's own category (``article``, ``post``, ``repository``)."""
    render: bool = False
    """Render the page in a browser, for pages that need JavaScript."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Reader-specific: ``branch`` of a repository, ``column_map`` of a table, ``max_items`` of a feed ..."""
    found_through: str = ""
    """The link that the user wrote, where a feed led from it to this one; empty: this is what the user wrote."""

    @property
    def given(self) -> str:
        """The link that the user wrote."""
        return self.found_through or self.url

    @property
    def part(self) -> str:
        """What is read of a place that holds several tables, as it follows the address: ``#table=films``; empty: all of it."""
        if query := self.options.get("query"):
            return f"#query={text_hash(str(query))[:12]}"
        names = ("table", "records_at")
        return next(
            (f"#{name}={quote(str(value))}" for name in names if (value := self.options.get(name))), ""
        )


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """What the store already holds under a link, for conditional requests."""

    content_hash: str
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class FetchedDocument:
    """A document was read."""

    document: RawDocument


@dataclass(frozen=True, slots=True)
class NotModified:
    """The server says that what we hold under ``link`` is current."""

    link: str


@dataclass(frozen=True, slots=True)
class Discovered:
    """A feed or a sitemap led to another link, which is collected in turn."""

    link: Link


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record of a source failed; the others go on."""

    source: str
    reason: str
    payload: str = ""
    link: str = ""
    """Of the document that it would have been, where that is sure: what is stored under it stays, and what else is gone from
    the source may be deleted all the same."""


@dataclass(frozen=True, slots=True)
class EndOfSource:
    """The source was listed to its end: what the store holds from it and was not yielded is gone and may be deleted."""


SourceItem = FetchedDocument | NotModified | Discovered | Rejected | EndOfSource


class SourceReader(Protocol):
    """Reads one kind of source.

    ``read`` yields items as they come. It raises CollectionError when the link as a whole fails; whatever was yielded
    before stays valid.
    """

    name: str

    def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:
        """Read a link. ``known`` maps document links to what is already stored from this origin (may be empty)."""
        ...

    async def close(self) -> None: ...


class PageRenderer(Protocol):
    """A browser that runs a page's scripts."""

    async def render(self, url: str) -> str:
        """Return the page's HTML once its scripts have run.

        Raises:
            CollectionError: no browser is installed (the message says how to get one), or the page did not load.
        """
        ...
