"""Reads what somebody has posted on LinkedIn, with their own log-in.

LinkedIn's user agreement does not allow automated reading of other people's pages; the README says what it allows.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from loguru import logger

from llm_engineering.application.features.links import hide_credentials
from llm_engineering.application.ports import (
    EndOfSource,
    FetchedDocument,
    Link,
    Rejected,
    SourceItem,
    StoredVersion,
)
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.sources.browser.driver import Browser, Page

SELECTORS: Mapping[str, str] = {
    "item": "[data-urn^='urn:li:activity:']",
    "text": ".update-components-text",
    "author": ".update-components-actor__title span[aria-hidden='true']",
    "shared": ".update-components-header",
    "quoted": ".update-components-mini-update-v2, .feed-shared-update-v2__update-content-wrapper",
    "see_more": "button[class*='see-more']",
    "load_more": "button.scaffold-finite-scroll__load-button",
}
"""Where things stand in LinkedIn's pages; it renames them now and then, so the option ``selectors`` can replace one.
``shared``: the line "NAME reposted this" over somebody else's post; ``quoted``: that post inside an own one."""

_PROFILE = re.compile(r"/(?P<kind>in|company|school|showcase)/(?P<name>[^/?#]+)")
_LOGIN_PATHS = ("/login", "/uas/login", "/authwall", "/signup", "/checkpoint/lg/")
_OPTIONS = ("include_shared", "max_items", "selectors")
_LOGIN_FIELDS = "input[name='session_key']"
_LOGIN_FAULTS = "#error-for-username, #error-for-password, .alert-content, [role='alert']"

_LOAD_MORE = "for (const button of document.querySelectorAll(%s)) button.click();"
_EXPAND = """
const open = [...document.querySelectorAll(arguments[0])].filter((b) => b.getAttribute('aria-expanded') !== 'true');
open.forEach((button) => button.click());
"""
_EXTRACT = """
const [item, text, author, shared, quoted] = arguments;
const outer = [...document.querySelectorAll(item)].filter((root) => !root.parentElement.closest(item));
return outer.map((root) => {
  const own = [...root.querySelectorAll(text)].find((node) => !node.closest(quoted));
  const name = root.querySelector(author);
  return {
    urn: root.getAttribute('data-urn'),
    text: own ? own.innerText.trim() : '',
    author: name ? name.innerText.trim() : '',
    shared: root.querySelector(shared) ? root.querySelector(shared).innerText.trim() : '',
  };
});
"""


class LinkedInReader:
    """One document per post of a profile or company page (``https://www.linkedin.com/in/NAME``).

    Posts of others that the person only shared are left out, unless the link's option ``include_shared`` asks for them
    (then under their own author). Further options: ``max_items`` and ``selectors`` (see :data:`SELECTORS`).

    It logs in once per run, and never again after LinkedIn refused: repeated failures lock accounts.

    Args:
        browser: shared with other readers; closing any of them ends it.
        username: e-mail address or phone number of the account.
        password: typed into the log-in form of ``base_url`` and nowhere else.
        base_url: LinkedIn, or a copy of its pages for tests.
    """

    name = "linkedin"

    def __init__(
        self,
        browser: Browser,
        username: str | None = None,
        password: str | None = None,
        base_url: str = "https://www.linkedin.com",
    ) -> None:
        self._browser = browser
        self._username = username
        self._password = password
        self._base_url = base_url.rstrip("/")
        self._refusal: str | None = None

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:  # noqa: ARG002
        """Yield a FetchedDocument per post, newest first, and EndOfSource where the page's end was reached.

        Raises:
            CollectionError: no log-in is set, LinkedIn refuses it or asks for a check by a person, there is no such
                profile, or no browser is installed.
            ExtractionError: the profile shows no posts.
        """
        address = self._activity_address(link.url)
        selectors = _selectors(link)
        if not (self._username and self._password):
            raise CollectionError(
                "LinkedIn shows posts only to those who are logged in. Set LINKEDIN_USERNAME and LINKEDIN_PASSWORD."
            )
        posts, ended = await self._browser.run(lambda page: self._posts(page, address, selectors))
        if not posts:
            raise ExtractionError(
                f"{address} shows no posts. If there are some in your own browser, LinkedIn has changed its pages: "
                "the link's option selectors can name the new elements."
            )
        limit = link.options.get("max_items")
        shared = 0
        for post in posts[:limit]:
            if post["shared"] and not link.options.get("include_shared"):
                shared += 1
            else:
                yield self._item(link, post)
        logger.info("{}: {} posts, {} of them only shared", address, len(posts), shared)
        if ended and (limit is None or limit >= len(posts)):
            yield EndOfSource()

    async def close(self) -> None:
        """End the browser."""
        await self._browser.close()

    def _activity_address(self, url: str) -> str:
        match = _PROFILE.search(urlsplit(url).path)
        if match is None:
            raise CollectionError(
                f"{hide_credentials(url)} is no profile. Expected https://www.linkedin.com/in/NAME or /company/NAME."
            )
        page = "recent-activity/all" if match["kind"] == "in" else "posts"
        return f"{self._base_url}/{match['kind']}/{quote(unquote(match['name']))}/{page}/"

    def _posts(
        self, page: Page, address: str, selectors: Mapping[str, str]
    ) -> tuple[list[dict[str, Any]], bool]:
        page.open(address)
        if _asks_for_login(page):
            self._log_in(page)
            page.open(address)
        self._check_not_challenged(page)
        if _asks_for_login(page):
            raise self._refused(
                "LinkedIn accepts the log-in, and then asks for it again. Log in by hand once, and try later."
            )
        if urlsplit(page.url).path.startswith("/404"):
            raise CollectionError(f"There is no profile at {address}, or it cannot be seen with this log-in.")
        ended = page.scroll_to_end(each_step=_LOAD_MORE % json.dumps(selectors["load_more"]))
        page.run_script(_EXPAND, selectors["see_more"])
        page.verify_semantic()
        names = ("item", "text", "author", "shared", "quoted")
        return page.run_script(_EXTRACT, *(selectors[name] for name in names)), ended

    def _log_in(self, page: Page) -> None:
        if self._refusal:
            raise CollectionError(self._refusal)
        self._check_trustworthy()
        page.open(f"{self._base_url}/login")
        fields = page.driver.find_elements("css selector", _LOGIN_FIELDS)
        passwords = page.driver.find_elements("css selector", "input[name='session_password']")
        if not fields or not passwords or _origin(page.url) != _origin(self._base_url):
            self._check_not_challenged(page)
            raise self._refused(
                f"The log-in form of {self._base_url} was not found; LinkedIn may have changed its page."
            )
        fields[0].clear()
        fields[0].send_keys(self._username or "")
        passwords[0].send_keys(self._password or "")
        passwords[0].submit()
        page.verify_semantic()
        self._check_not_challenged(page)
        faults = [fault.text.strip() for fault in page.driver.find_elements("css selector", _LOGIN_FAULTS)]
        if _asks_for_login(page):
            said = next(filter(None, faults), "it shows the form again")
            raise self._refused(
                f"LinkedIn refused the log-in: {said}. Check LINKEDIN_USERNAME and LINKEDIN_PASSWORD; "
                "it is not tried again in this run, since repeated failures lock an account."
            )

    def _check_not_challenged(self, page: Page) -> None:
        path = urlsplit(page.url).path
        if path.startswith("/checkpoint/") and not path.startswith("/checkpoint/lg/"):
            raise self._refused(
                "LinkedIn asks for a check by a person (a code or a captcha) before it lets this log-in in. "
                "Log in with your own browser, answer it there, and run this again."
            )

    def _check_trustworthy(self) -> None:
        parts = urlsplit(self._base_url)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise CollectionError(
                f"LINKEDIN_BASE_URL is {hide_credentials(self._base_url)}: a password is only sent by https, or to this machine."
            )

    def _refused(self, reason: str) -> CollectionError:
        self._refusal = reason
        return CollectionError(reason)

    def _item(self, link: Link, post: Mapping[str, str]) -> FetchedDocument | Rejected:
        permalink = f"{self._base_url}/feed/update/{post['urn']}/"
        if not post["text"]:
            return Rejected(permalink, "The post has no text of its own (a picture, a video or a poll).")
        return FetchedDocument(
            RawDocument(
                category=link.category or "post",
                text=post["text"],
                link=permalink,
                origin=hide_credentials(link.url),
                platform="linkedin",
                author=(post["author"] if post["shared"] else "") or link.author,
                published_at=parse_date(post["urn"]),
            )
        )


def parse_date(urn: str) -> datetime | None:
    """When a post was made, from its URN: all but the lowest 22 bits of an activity's number are milliseconds since 1970.

    (The page itself only says "3 months ago".)
    """
    number = urn.rpartition(":")[2]
    if not number.isdigit():
        return None
    milliseconds = int(number) >> 22
    # LinkedIn began in 2003: a smaller number was not made this way.
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if 10**12 < milliseconds < 10**13 else None


def _asks_for_login(page: Page) -> bool:
    return urlsplit(page.url).path.startswith(_LOGIN_PATHS)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _selectors(link: Link) -> dict[str, str]:
    changed = link.options.get("selectors") or {}
    limit = link.options.get("max_items")
    problems = [
        f"there is no option {name!r} (expected {', '.join(_OPTIONS)})"
        for name in link.options
        if name not in (*_OPTIONS, "author_from_page", "reader")
    ]
    if not isinstance(changed, Mapping) or not set(changed) <= set(SELECTORS):
        problems.append(
            f"selectors must map some of {', '.join(SELECTORS)} to CSS selectors, got {changed!r}"
        )
        changed = {}
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        problems.append(f"max_items must be a whole number above 0, got {limit!r}")
    if problems:
        raise CollectionError(
            f"The options of {hide_credentials(link.url)} are wrong: {'; '.join(problems)}."
        )
    return {**SELECTORS, **{name: str(value) for name, value in changed.items()}}
