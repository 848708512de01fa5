"""Feeds and sitemaps: one link that leads to many."""

import gzip
import io
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from datetime import date as calendar_date
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from llm_engineering.application.features.links import hide_credentials, normalise_link
from llm_engineering.application.ports import Discovered, Link, Rejected, SourceItem, StoredVersion
from llm_engineering.domain.errors import ConfigurationError, ExtractionError
from llm_engineering.infrastructure.shared.workers import WorkStoppedError, get_shared_workers
from llm_engineering.infrastructure.sources.web import client as http
from llm_engineering.infrastructure.sources.web.page_metadata import parse_date

if TYPE_CHECKING:
    from lxml.etree import _Element

OPTIONS = frozenset({"author_from_page", "reader", "max_items", "since", "include", "exclude"})
MAX_ITEMS = 1_000
"""Pages that are read through one link, where its option ``max_items`` does not say otherwise."""
MAX_SITEMAPS = 50
"""Sitemaps read through one sitemap index."""
MAX_UNPACKED_BYTES = 52_428_800
"""The sitemap protocol's own limit: 50 MiB unpacked (sitemaps.org/protocol.html)."""
FEED_TYPES = (
    "application/rss+xml",
    "application/atom+xml",
    "application/xml",
    "text/xml",
    "application/rdf+xml",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
    "text/plain",
    *http.HTML,
)


@dataclass(frozen=True)
class _Entry:
    url: str
    date: datetime | None = None
    published: bool = True
    """The date is that of publication; a sitemap's is that of the last change."""


@dataclass(frozen=True)
class _Listing:
    """What one fetched file says."""

    entries: tuple[_Entry, ...] = ()
    further: tuple[str, ...] = ()
    """Sitemaps of an index, or the feed that a page declares."""


class FeedReader:
    """Expands an RSS or Atom feed, a sitemap or sitemap index (also gzipped), or a page that declares a feed.

    Options of a link: ``max_items`` (newest first, where dates are given; 1,000 unless it is set), ``since`` (a date;
    entries without a date are kept), ``include`` and ``exclude`` (regular expressions that an entry's address must, or
    must not, hold), ``author_from_page`` (handed on to the entries, see :class:`ArticleReader`).
    """

    name = "feed"

    def __init__(self, client: http.PoliteClient) -> None:
        self._client = client

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:  # noqa: ARG002
        """Yields a link for each entry, with the author, category and ``render`` of this one.

        A feed is a window on what is newest, so it never says that something is gone.

        Raises:
            FetchError: it could not be fetched.
            ExtractionError: it is no feed, or an empty one, or the options leave nothing of it.
            ConfigurationError: an option is not known or not valid.
        """
        options = _Options.of(link)
        entries = await self._entries(link)
        if not entries:
            raise ExtractionError(f"{hide_credentials(link.url)}: the feed has no entries")
        chosen = options.choose(entries)
        if not chosen:
            raise ExtractionError(
                f"{hide_credentials(link.url)}: none of the feed's {len(entries)} entries pass its options "
                f"({', '.join(sorted(link.options))})"
            )
        if options.max_items is None and len(chosen) > MAX_ITEMS:
            yield Rejected(
                hide_credentials(link.url),
                f"It lists {len(chosen):,} pages, and the first {MAX_ITEMS:,} were taken (the newest, where there are dates). "
                "For more, give the link the option max_items.",
            )
            chosen = chosen[:MAX_ITEMS]
        for entry in chosen:
            given = {"published_at": entry.date.isoformat()} if entry.date and entry.published else {}
            if "author_from_page" in link.options:
                given["author_from_page"] = link.options["author_from_page"]
            yield Discovered(
                Link(
                    url=entry.url,
                    author=link.author,
                    category=link.category,
                    render=link.render,
                    options=given,
                )
            )

    async def close(self) -> None:
        await self._client.close()

    async def _entries(self, link: Link) -> list[_Entry]:
        """Entries of a feed, of all sitemaps that an index leads to, or of the feed that a page declares; each once."""
        found: dict[str, _Entry] = {}
        waiting, seen = [link.url], {normalise_link(link.url)}
        while waiting and len(seen) <= MAX_SITEMAPS:
            answer = await self._client.get(waiting.pop(0), given=link.given, accept=FEED_TYPES)
            if isinstance(answer, http.NotModified):
                raise AssertionError("no validators were sent")
            try:
                listing = await get_shared_workers().run(_parse, answer)
            except WorkStoppedError as error:
                where = hide_credentials(answer.final_url)
                raise ExtractionError(f"{where}: it could not be read: {error}") from error
            for entry in listing.entries:
                found.setdefault(normalise_link(entry.url), entry)
            for further in listing.further:
                if normalise_link(further) not in seen:
                    seen.add(normalise_link(further))
                    waiting.append(further)
        return list(found.values())


@dataclass(frozen=True)
class _Options:
    max_items: int | None = None
    since: datetime | None = None
    include: re.Pattern[str] | None = None
    exclude: re.Pattern[str] | None = None

    @classmethod
    def of(cls, link: Link) -> "_Options":
        given = link.options
        where = f"{hide_credentials(link.url)}: options"
        unknown = given.keys() - OPTIONS - {"published_at"}  # a feed found through a feed comes with its date
        if unknown:
            raise ConfigurationError(f"{where}: unknown {sorted(unknown)}; a feed knows {sorted(OPTIONS)}")
        number = given.get("max_items")
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ConfigurationError(f"{where}.max_items: expected a whole number from 1, got {number!r}")
        return cls(
            number,
            _since(given.get("since"), where),
            _pattern(given.get("include"), f"{where}.include"),
            _pattern(given.get("exclude"), f"{where}.exclude"),
        )

    def choose(self, entries: list[_Entry]) -> list[_Entry]:
        chosen = [
            entry
            for entry in entries
            if (self.include is None or self.include.search(entry.url))
            and (self.exclude is None or not self.exclude.search(entry.url))
            and (self.since is None or entry.date is None or entry.date >= self.since)
        ]
        oldest = datetime.min.replace(tzinfo=UTC)
        # A stable sort: entries without a date keep their order, behind those that have one.
        chosen.sort(key=lambda entry: entry.date or oldest, reverse=True)
        return chosen[: self.max_items]


def _since(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    # YAML reads 2025-01-31 as a date.
    if isinstance(value, calendar_date) and not isinstance(value, datetime):
        value = datetime.combine(value, time.min, UTC)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigurationError(
            f"{where}.since: expected a date such as 2025-01-31, got {value!r}"
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _pattern(value: Any, where: str) -> re.Pattern[str] | None:
    if value is None:
        return None
    try:
        return re.compile(str(value))
    except re.error as error:
        raise ConfigurationError(f"{where}: {value!r} is not a regular expression: {error}") from None


def _parse(answer: http.Fetched) -> _Listing:
    """Read a fetched file as whatever it turns out to be: the name and the type are often wrong.

    Raises:
        ExtractionError: it is nothing that lists pages.
    """
    where, content = hide_credentials(answer.final_url), answer.content
    if content.startswith(b"\x1f\x8b"):
        content = _unpacked(content, where)
    start = content[:2_000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise ExtractionError(f"{where}: the feed is empty")
    if re.search(rb"<(\w+:)?(urlset|sitemapindex)[\s>]", start):
        return _parse_sitemap(content, answer.final_url)
    if re.search(rb"<(\w+:)?(rss|feed|rdf)[\s>]", start):
        return _parse_feed(content, answer)
    if b"<html" in start or b"<!doctype html" in start:
        return _declared_feed(answer)
    raise ExtractionError(f"{where}: it is no RSS or Atom feed, no sitemap and no page that declares one")


def _unpacked(content: bytes, where: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            unpacked = packed.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError) as error:
        raise ExtractionError(f"{where}: the gzip file is broken ({error})") from error
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise ExtractionError(f"{where}: it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
    return unpacked


def _parse_feed(content: bytes, answer: http.Fetched) -> _Listing:
    import feedparser

    headers = {"content-location": answer.final_url, "content-type": answer.headers.get("content-type", "")}
    try:
        parsed = feedparser.parse(content, response_headers=headers)
    except (
        Exception
    ) as error:  # the library lets through what its parsers raise, such as ValueError for `&#xFFFFFF;`
        where = hide_credentials(answer.final_url)
        raise ExtractionError(
            f"{where}: the feed cannot be read ({type(error).__name__}: {error})"
        ) from error
    # A feed that is not well-formed ("bozo") still has the entries before its fault, as every feed program shows.
    entries = []
    for entry in parsed.entries:
        url = str(entry.get("link") or "").strip() or _permalink(entry)
        if _join("", url):
            entries.append(_Entry(url, parse_date(entry.get("published") or entry.get("updated"))))
    if not entries and parsed.bozo:
        raise ExtractionError(
            f"{hide_credentials(answer.final_url)}: the feed cannot be read ({parsed.get('bozo_exception')})"
        )
    return _Listing(tuple(entries))


def _permalink(entry: Any) -> str:
    guid = str(entry.get("id") or "")
    return guid if entry.get("guidislink", True) else ""


def _parse_sitemap(content: bytes, url: str) -> _Listing:
    from lxml import etree

    # No entities, no network, no huge trees: a sitemap is a stranger's file.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True, huge_tree=False)
    try:
        root = etree.fromstring(content, parser=parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        raise ExtractionError(f"{hide_credentials(url)}: the sitemap cannot be read")
    entries, further = [], []
    for child in root:
        if not isinstance(child.tag, str):
            continue
        kind = etree.QName(child).localname
        named = _child_text(child, "loc")
        address = _join(url, named) if named else ""
        if not address:
            continue
        parts = urlsplit(address)
        if kind == "sitemap":
            further.append(address)
        elif kind == "url" and (parts.path not in ("", "/") or parts.query):  # the home page is no article
            entries.append(_Entry(address, parse_date(_child_text(child, "lastmod")), published=False))
    return _Listing(tuple(entries), tuple(further))


def _child_text(element: "_Element", name: str) -> str:
    from lxml import etree

    for child in element:
        if isinstance(child.tag, str) and etree.QName(child).localname == name:
            return (child.text or "").strip()
    return ""


def _declared_feed(answer: http.Fetched) -> _Listing:
    from lxml.etree import ParserError
    from lxml.html import document_fromstring

    try:
        root = document_fromstring(answer.text.encode("utf-8", "replace"))
    except ParserError as error:
        raise ExtractionError(f"{hide_credentials(answer.final_url)}: the page is empty") from error
    declared = [
        (one.get("href") or "", (one.get("title") or "").lower())
        for one in root.iter("link")
        if "alternate" in (one.get("rel") or "").lower().split()
        and re.search(r"(rss|atom)\+xml", (one.get("type") or "").lower())
    ]
    # A blog engine declares a feed of the comments beside that of the posts.
    posts = [href for href, title in declared if href and "comment" not in title and "/comments/" not in href]
    if not posts:
        raise ExtractionError(
            f"{hide_credentials(answer.final_url)}: it is a page that declares no feed. Name its feed or sitemap instead, or the "
            "pages themselves."
        )
    return _Listing(further=(_join(answer.final_url, posts[0]) or posts[0],))


def _join(base: str, url: str) -> str:
    """The whole address; empty for what is none on the web."""
    try:
        joined = urljoin(base, url)
        return joined if urlsplit(joined).scheme in ("http", "https") else ""
    except ValueError:
        return ""
