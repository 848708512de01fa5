"""What a page says about itself: title, author, date, address, language, platform."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from llm_engineering.application.features.links import normalise_link

if TYPE_CHECKING:
    from lxml.html import HtmlElement

_ARTICLE_TYPES = re.compile(r"Article|Posting|Report|Review|HowTo", re.I)
_LANGUAGE = re.compile(r"^([a-z]{2,3})([-_].*)?$", re.I)


@dataclass(frozen=True)
class PageMetadata:
    title: str
    author: str
    """The page's own author; empty where it names none."""
    published_at: datetime | None
    link: str
    """The page's identity: its canonical address where that can be trusted, else the one it was fetched from."""
    other_canonical: str
    """A canonical address that was not trusted, since it lies on another host; empty otherwise."""
    language: str
    """As declared; empty where nothing is."""
    platform: str
    paywalled: bool
    """The page declares itself not free to read."""


def read_metadata(root: "HtmlElement", url: str) -> PageMetadata:
    """Return metadata of a parsed page that was fetched from ``url``."""
    metas = _metas(root)
    linked = _linked_data(root)
    link, other = _identity(root, url)
    free = linked.get("isAccessibleForFree")
    return PageMetadata(
        title=_title(root, metas, linked),
        author=_author(root, metas, linked),
        published_at=_published(root, metas, linked),
        link=link,
        other_canonical=other,
        language=_language(root, metas),
        platform=_platform(root, metas, link),
        paywalled=free is False or str(free).lower() == "false",
    )


def parse_date(value: object) -> datetime | None:
    """Return a date as pages and feeds write it (ISO 8601, RFC 2822), in UTC; None where it cannot be read or lies
    ahead."""
    text = str(value or "").strip()
    if not text:
        return None
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
    try:
        date = date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except OverflowError:
        return None
    return date if date <= datetime.now(UTC) + timedelta(days=1) and date.year > 1970 else None


def _metas(root: "HtmlElement") -> dict[str, str]:
    metas: dict[str, str] = {}
    for meta in root.iter("meta"):
        name = (
            meta.get("property") or meta.get("name") or meta.get("itemprop") or meta.get("http-equiv") or ""
        ).lower()
        content = " ".join((meta.get("content") or "").split())
        if name and content:
            metas.setdefault(name, content)
    return metas


def _linked_data(root: "HtmlElement") -> dict[str, Any]:
    """The JSON-LD object that describes the article; empty where there is none that can be read."""
    page: dict[str, Any] = {}
    for script in root.iter("script"):
        if (script.get("type") or "").strip().lower() != "application/ld+json":
            continue
        try:
            data = json.loads(script.text_content())
        except (ValueError, RecursionError):  # broken by a template, as often; the page has other sources
            continue
        for one in _objects(data):
            if _ARTICLE_TYPES.search(str(one.get("@type", ""))):
                return one
            if "WebPage" in str(one.get("@type", "")):
                page = page or one
    return page


def _objects(data: object, depth: int = 0) -> Iterator[dict[str, Any]]:
    if depth > 3:
        return
    if isinstance(data, list):
        for item in data:
            yield from _objects(item, depth + 1)
    elif isinstance(data, dict):
        yield data
        yield from _objects(data.get("@graph"), depth + 1)


def _text(element: "HtmlElement | None") -> str:
    return " ".join(element.text_content().split()) if element is not None else ""


def _title(root: "HtmlElement", metas: Mapping[str, str], linked: Mapping[str, Any]) -> str:
    headings = [_text(heading) for heading in root.iter("h1")]
    plain = _text(next(root.iter("title"), None))
    # A single first-level heading is what the reader sees as the title; <title> often carries the site's name as well.
    heading = headings[0] if len(headings) == 1 else ""
    headline = linked.get("headline")
    named = (
        metas.get("og:title"),
        headline if isinstance(headline, str) else "",
        heading,
        metas.get("twitter:title"),
    )
    return " ".join((next((name for name in named if name), "") or plain).split())


def _author(root: "HtmlElement", metas: Mapping[str, str], linked: Mapping[str, Any]) -> str:
    named = linked.get("author")
    first = named[0] if isinstance(named, list) and named else named
    if isinstance(first, dict):
        first = first.get("name")
    by_link = next((_text(one) for one in root.iter("a") if "author" in (one.get("rel") or "").split()), "")
    candidates = (
        first if isinstance(first, str) else "",
        metas.get("author"),
        metas.get("article:author"),
        by_link,
    )
    names = (" ".join(name.split()) for name in candidates if name)
    # article:author is by its definition an address, and used as a name by as many.
    return next((name for name in names if name and "://" not in name and len(name) <= 120), "")


def _published(root: "HtmlElement", metas: Mapping[str, str], linked: Mapping[str, Any]) -> datetime | None:
    names = (
        "article:published_time",
        "og:article:published_time",
        "datepublished",
        "date",
        "dc.date",
        "dcterms.created",
    )
    said = [linked.get("datePublished"), *(metas.get(name) for name in names)]
    times = list(root.iter("time"))
    telling = [
        one for one in times if one.get("itemprop") == "datePublished" or one.get("pubdate") is not None
    ]
    inside = [one for one in times if next(one.iterancestors("article", "main", "header"), None) is not None]
    # On a page that lists several articles, the date of the first is not that of the page.
    single = sum(1 for _ in root.iter("article")) == 1 or len(inside) == 1
    said += [one.get("datetime") for one in (*telling, *(inside if single else ()))]
    return next((date for date in map(parse_date, said) if date), None)


def _identity(root: "HtmlElement", url: str) -> tuple[str, str]:
    """(identity, canonical address that was not trusted)."""
    own = normalise_link(url)
    named = next(
        (
            one.get("href") or ""
            for one in root.iter("link")
            if "canonical" in (one.get("rel") or "").lower().split()
        ),
        "",
    ).strip()
    if not named:
        return own, ""
    base = next((one.get("href") or "" for one in root.iter("base")), "")
    try:
        canonical = normalise_link(urljoin(urljoin(url, base), named))
        parts, here = urlsplit(canonical), urlsplit(own)
    except ValueError:
        return own, ""
    if parts.scheme not in ("http", "https"):
        return own, ""
    if _host(parts.netloc) != _host(here.netloc):
        # Any page can claim to be any other; taking its word would let it overwrite that one's document.
        return own, canonical
    # A template that names the home page on every page would fold a whole blog into one document.
    return (own, "") if parts.path == "/" and not parts.query and here.path != "/" else (canonical, "")


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2].removeprefix("www.")


def _language(root: "HtmlElement", metas: Mapping[str, str]) -> str:
    said = (root.get("lang"), root.get("xml:lang"), metas.get("og:locale"), metas.get("content-language"))
    matches = (_LANGUAGE.match(value.strip()) for value in said if value)
    return next((match.group(1).lower() for match in matches if match), "")


def _platform(root: "HtmlElement", metas: Mapping[str, str], link: str) -> str:
    host = (urlsplit(link).hostname or "").removeprefix("www.")
    apps = {
        metas.get("al:android:package"),
        metas.get("twitter:app:name:iphone"),
        metas.get("al:ios:app_name"),
    }
    if host == "medium.com" or host.endswith(".medium.com") or apps & {"com.medium.reader", "Medium"}:
        return "medium"
    assets = (one.get("href") or "" for one in root.iter("link"))
    if host.endswith("substack.com") or any("substackcdn.com" in asset for asset in assets):
        return "substack"
    return host
