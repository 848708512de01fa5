"""Any page on the web that holds a text: blog posts, documentation, Medium, Substack."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from llm_engineering.application.features.links import hide_credentials, normalise_link
from llm_engineering.application.ports import (
    FetchedDocument,
    Link,
    NotModified,
    PageRenderer,
    SourceItem,
    StoredVersion,
)
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError, ConfigurationError, ExtractionError
from llm_engineering.domain.facets import MetadataValue
from llm_engineering.infrastructure.shared.language import detect_language
from llm_engineering.infrastructure.shared.workers import WorkStoppedError, get_shared_workers
from llm_engineering.infrastructure.sources.web import client as http
from llm_engineering.infrastructure.sources.web.extraction import (
    NoTextError,
    Page,
    extract_fetched,
    load_libraries,
)
from llm_engineering.infrastructure.sources.web.page_metadata import parse_date

OPTIONS = frozenset({"author_from_page", "reader", "published_at", "refresh"})


class ArticleReader:
    """Reads one page: fetch, extract, describe.

    Options of a link: ``published_at`` (used where the page names no date; feeds set it), ``refresh`` (fetch and extract
    anew though the server says that nothing changed), ``author_from_page`` (the document belongs to the author whom the
    page names, where it names one, and not to the link's).

    Args:
        renderer: a browser for pages that need JavaScript: asked where the link says ``render``, and where the plain page
            holds no text.
        min_characters: a page with less text is no article.
    """

    name = "article"

    def __init__(
        self, client: http.PoliteClient, renderer: PageRenderer | None = None, *, min_characters: int = 140
    ) -> None:
        self._client = client
        self._renderer = renderer
        self._min_characters = min_characters
        self._workers = get_shared_workers()

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:
        """Yields the page as one document, or that it has not changed.

        Raises:
            FetchError: it could not be fetched, or must not be.
            ExtractionError: it holds no article: empty, binary, an error page, a log-in or pay wall.
            ConfigurationError: an option that is not known.
        """
        unknown = link.options.keys() - OPTIONS
        if unknown:
            raise ConfigurationError(
                f"{hide_credentials(link.url)}: unknown options {sorted(unknown)}; an article knows {sorted(OPTIONS)}"
            )
        if link.render:
            yield FetchedDocument(await self._rendered(link, "the link asks for it (render: true)"))
            return
        self._workers.start(load_libraries)
        held_link, etag, last_modified = _validators(link, known)
        answer = await self._client.get(
            link.url, given=link.given, accept=http.HTML, etag=etag, last_modified=last_modified
        )
        if isinstance(answer, http.NotModified):
            yield NotModified(held_link)
            return
        try:
            page = await self._extract(
                answer.content, answer.headers.get("content-type", ""), answer.final_url
            )
        except NoTextError as error:
            if self._renderer is None:
                raise ExtractionError(
                    f"{error}. If it needs JavaScript, set 'render: true' for this link."
                ) from error
            yield FetchedDocument(await self._rendered(link, str(error)))
            return
        yield FetchedDocument(await self._document(link, page, answer.headers))

    async def close(self) -> None:
        """Close the client. The renderer is closed by who opened it."""
        await self._client.close()

    async def _extract(self, content: bytes, content_type: str, url: str) -> Page:
        try:
            return await self._workers.run(extract_fetched, content, content_type, url, self._min_characters)
        except WorkStoppedError as error:
            raise ExtractionError(
                f"{hide_credentials(url)}: its text could not be extracted: {error}"
            ) from error
        except NoTextError as error:
            raise NoTextError(f"{hide_credentials(url)}: {error}") from error
        except ExtractionError as error:
            raise ExtractionError(f"{hide_credentials(url)}: {error}") from error

    async def _rendered(self, link: Link, why: str) -> RawDocument:
        if self._renderer is None:
            raise ConfigurationError(
                f"{hide_credentials(link.url)} needs a browser: {why}; but none is set up"
            )
        await self._client.check_address(link.url, given=link.given)
        await self._client.check_allowed(link.url, given=link.given)
        try:
            html = await self._renderer.render(link.url)
        except CollectionError as error:
            raise type(error)(f"{why}; and with a browser: {error}") from error
        page = await self._extract(html.encode("utf-8", "replace"), "text/html; charset=utf-8", link.url)
        return await self._document(link, page, {})

    async def _document(self, link: Link, page: Page, headers: Mapping[str, str]) -> RawDocument:
        about = page.metadata
        language = about.language or await asyncio.to_thread(detect_language, page.text)
        metadata: dict[str, MetadataValue] = {}
        if about.author:
            metadata["page_author"] = about.author
        if about.other_canonical:
            metadata["canonical"] = about.other_canonical
        return RawDocument(
            category=link.category or "article",
            title=about.title,
            text=page.text,
            link=hide_credentials(about.link),
            origin=hide_credentials(link.url),
            platform=about.platform or "web",
            author=(about.author if link.options.get("author_from_page") else "") or link.author,
            language=language,
            published_at=about.published_at or _given_date(link),
            metadata=metadata,
            etag=headers.get("etag"),
            last_modified=headers.get("last-modified"),
        )


def _validators(link: Link, known: Mapping[str, StoredVersion]) -> tuple[str, str | None, str | None]:
    """(document link, ETag, Last-Modified) of the copy at hand, for a conditional request."""
    if link.options.get("refresh"):
        return "", None, None
    own = hide_credentials(normalise_link(link.url))
    held = known.get(own)
    if held is not None:
        return own, held.etag, held.last_modified
    if len(known) == 1:
        # The page may be stored under its canonical address. Were it another page's copy after all, its ETag would not
        # fit; its date might, so it is not sent.
        other, copy = next(iter(known.items()))
        return other, copy.etag, None
    return "", None, None


def _given_date(link: Link) -> datetime | None:
    given = link.options.get("published_at")
    return given if isinstance(given, datetime) else parse_date(given)
