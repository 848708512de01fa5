"""Reads a page of many posts that JavaScript writes while one scrolls."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urldefrag, urlsplit

from llm_engineering.application.features.links import hide_credentials, normalise_link
from llm_engineering.application.ports import (
    EndOfSource,
    FetchedDocument,
    Link,
    Rejected,
    SourceItem,
    StoredVersion,
)
from llm_engineering.domain.documents import RawDocument, text_hash
from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.sources.browser.driver import Browser, Page

SELECTORS: Mapping[str, str] = {
    "item": "article.post",
    "text": ".text",
    "author": ".author",
    "date": "time[datetime]",
    "id": "data-id",
}
"""CSS selectors: ``item`` within the page, the others within an item; ``id`` names an attribute of the item."""
_OPTIONS = (*SELECTORS, "author_from_page", "max_items")

# innerText keeps the line breaks that a reader sees.
_EXTRACT = """
const [item, text, author, date, id] = arguments;
const words = (node) => node.innerText.trim();
const one = (root, selector) => { const node = root.querySelector(selector); return node ? words(node) : ''; };
const items = [...document.querySelectorAll(item)].map((root) => {
  const when = root.querySelector(date);
  return {
    text: [...root.querySelectorAll(text)].map(words).filter(Boolean).join('\\n\\n'),
    author: one(root, author),
    date: when ? when.getAttribute('datetime') || words(when) : '',
    id: root.getAttribute(id) || '',
  };
});
return {items, language: document.documentElement.lang};
"""


class PostsPageReader:
    """One document per post of a page. The selectors fit the sample site; a link's options name others.

    Link options: the keys of :data:`SELECTORS`, ``author_from_page`` (a post's own author instead of the link's) and
    ``max_items``.

    Args:
        browser: shared with other readers; closing any of them ends it.
        permission: asked before a page is opened, such as robots.txt; raises FetchError where it is forbidden.
    """

    name = "posts"

    def __init__(self, browser: Browser, permission: Callable[[str], Awaitable[None]] | None = None) -> None:
        self._browser = browser
        self._permission = permission

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:  # noqa: ARG002
        """Yield a FetchedDocument per post, and EndOfSource where the page's end was reached.

        Raises:
            CollectionError: an option is wrong, no browser is installed, or the page does not load.
            ExtractionError: the page has no posts.
        """
        selectors = _selectors(link)
        if self._permission is not None:
            await self._permission(link.url)
        found, ended = await self._browser.run(lambda page: _posts(page, link.url, selectors))
        base = urldefrag(hide_credentials(normalise_link(link.url))).url
        if not found["items"]:
            raise ExtractionError(
                f"{base} shows no posts: nothing matches {selectors['item']!r}. "
                "Name the page's own elements by the link's options item, text, author, date and id."
            )
        language = re.match(r"[A-Za-z]{2}(?![A-Za-z])", found["language"] or "")
        limit = link.options.get("max_items")
        seen: set[str] = set()
        for number, post in enumerate(found["items"][:limit], start=1):
            item = _item(link, base, post, number, language[0].lower() if language else "und")
            if isinstance(item, FetchedDocument) and item.document.link in seen:
                item = Rejected(
                    f"{base}#{number}", f"Post {number} has the same id as another: {post['id']!r}."
                )
            elif isinstance(item, FetchedDocument):
                seen.add(item.document.link)
            yield item
        if ended and (limit is None or limit >= len(found["items"])):
            yield EndOfSource()

    async def close(self) -> None:
        """End the browser."""
        await self._browser.close()


def _posts(page: Page, url: str, selectors: Mapping[str, str]) -> tuple[dict[str, Any], bool]:
    from selenium.common.exceptions import WebDriverException

    page.open(url)
    ended = page.scroll_to_end()
    try:
        return page.run_script(_EXTRACT, *(selectors[name] for name in SELECTORS)), ended
    except WebDriverException as error:
        if "selector" not in str(error.msg):
            raise
        raise CollectionError(
            f"A selector of {hide_credentials(url)} is no CSS selector: {error.msg}"
        ) from error


def _item(
    link: Link, base: str, post: Mapping[str, str], number: int, language: str
) -> FetchedDocument | Rejected:
    if not post["text"]:
        return Rejected(f"{base}#{post['id'] or number}", f"Post {number} has no text.")
    # Without an id of its own, a post is known by its words.
    identity = post["id"] or text_hash(post["text"])[:20]
    return FetchedDocument(
        RawDocument(
            category=link.category or "post",
            text=post["text"],
            link=f"{base}#{quote(identity)}",
            origin=hide_credentials(link.url),
            platform=urlsplit(base).hostname or "web",
            author=(post["author"] if link.options.get("author_from_page") else "") or link.author,
            language=language,
            published_at=_date(post["date"]),
        )
    )


def _date(text: str) -> datetime | None:
    """An ISO date; what a page writes for people ("3 days ago") is no date."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _selectors(link: Link) -> dict[str, str]:
    problems = [
        f"there is no option {name!r} (expected {', '.join(_OPTIONS)})"
        for name in link.options
        if name not in (*_OPTIONS, "reader")
    ]
    chosen = {name: link.options.get(name, default) for name, default in SELECTORS.items()}
    problems += [
        f"{name} must be a {'name of an attribute' if name == 'id' else 'CSS selector'}, got {value!r}"
        for name, value in chosen.items()
        if not isinstance(value, str) or not value.strip()
    ]
    limit = link.options.get("max_items")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        problems.append(f"max_items must be a whole number above 0, got {limit!r}")
    if problems:
        raise CollectionError(
            f"The options of {hide_credentials(link.url)} are wrong: {'; '.join(problems)}."
        )
    return chosen
