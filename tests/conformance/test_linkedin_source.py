"""The LinkedIn reader in real Chromium, against a local copy of the structure of LinkedIn's pages."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from loguru import logger

from llm_engineering.application.ports import EndOfSource, FetchedDocument, Link, Rejected, SourceItem
from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.sources.browser.driver import Browser
from llm_engineering.infrastructure.sources.browser.linkedin import LinkedInReader, parse_date
from tests.fakes.chromium import NO_CHROMIUM
from tests.fakes.linkedin_site import CHALLENGED, PASSWORD, USERNAME, LinkedInSite, Post

pytestmark = pytest.mark.skipif(bool(NO_CHROMIUM), reason=NO_CHROMIUM)

WHEN = datetime(2024, 3, 5, 12, 30, tzinfo=UTC)
LONG = "A long thought about chunking.\n\n" + "It goes on and on. " * 20 + "And here it ends."


def urn(number: int) -> str:
    """An activity's URN of some time after WHEN; the lowest 22 bits may be anything."""
    return f"urn:li:activity:{(int(WHEN.timestamp() * 1000) + number * 1000 << 22) + 12345}"


POSTS = [
    Post(urn(0), "Short and good."),
    Post(urn(1), LONG),
    Post(urn(2), "Somebody else's words.", author="Cy Berg", header="Ada Winter reposted this"),
    Post(urn(3), "My view of it.", quoted="The words that I quote."),
    Post(urn(4)),
    *(Post(urn(number), f"Note {number}.") for number in range(5, 11)),
]


@pytest.fixture(scope="module")
def shared_browser() -> Iterator[Browser]:
    browser = Browser(page_timeout_seconds=20)
    yield browser
    asyncio.run(browser.close())


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    """A browser that is logged in nowhere."""
    asyncio.run(
        shared_browser.run(lambda page: page.driver.execute_cdp_cmd("Network.clearBrowserCookies", {}))
    )
    return shared_browser


@pytest.fixture
def site() -> Iterator[LinkedInSite]:
    with LinkedInSite(POSTS) as running:
        yield running


async def read(reader: LinkedInReader, name: str = "ada-winter", **options: Any) -> list[SourceItem]:
    link = Link(f"https://www.linkedin.com/in/{name}/?locale=en", "Ada Winter", options=options)
    return [item async for item in reader.read(link, {})]


async def test_all_own_posts_are_read_in_full_with_their_dates(browser: Browser, site: LinkedInSite) -> None:
    items = await read(LinkedInReader(browser, USERNAME, PASSWORD, site.url))

    found = {item.document.text: item.document for item in items if isinstance(item, FetchedDocument)}
    assert list(found) == [
        "Short and good.",
        LONG,
        "My view of it.",
        *(f"Note {number}." for number in range(5, 11)),
    ]
    first = found["Short and good."]
    assert (first.category, first.platform, first.author) == ("post", "linkedin", "Ada Winter")
    assert first.link == f"{site.url}/feed/update/{urn(0)}/"
    assert first.published_at == WHEN
    (rejected,) = [item for item in items if isinstance(item, Rejected)]
    assert "no text of its own" in rejected.reason
    assert items[-1] == EndOfSource()


@pytest.mark.slow
async def test_shared_posts_come_when_asked_for_under_their_own_author(
    browser: Browser, site: LinkedInSite
) -> None:
    items = await read(LinkedInReader(browser, USERNAME, PASSWORD, site.url), include_shared=True)

    authors = {
        item.document.text: item.document.author for item in items if isinstance(item, FetchedDocument)
    }
    assert authors["Somebody else's words."] == "Cy Berg"
    assert authors["Short and good."] == "Ada Winter"


@pytest.mark.slow
async def test_one_log_in_serves_the_whole_run(browser: Browser, site: LinkedInSite) -> None:
    reader = LinkedInReader(browser, USERNAME, PASSWORD, site.url)

    for _ in range(2):
        assert [type(item) for item in await read(reader, max_items=2)] == [FetchedDocument, FetchedDocument]
    assert site.logins == 1


async def test_a_wrong_password_is_told_and_never_tried_again(browser: Browser, site: LinkedInSite) -> None:
    reader = LinkedInReader(browser, USERNAME, "wrong-password-1", site.url)

    for _ in range(2):
        with pytest.raises(
            CollectionError, match="refused the log-in: That’s not the right password"
        ) as caught:
            await read(reader)
        assert "wrong-password-1" not in str(caught.value)
    assert site.logins == 1, "repeated failures lock accounts"


async def test_a_check_by_a_person_is_told(browser: Browser, site: LinkedInSite) -> None:
    with pytest.raises(CollectionError, match=r"asks for a check by a person .*Log in with your own browser"):
        await read(LinkedInReader(browser, CHALLENGED, PASSWORD, site.url))


@pytest.mark.slow
async def test_a_profile_that_does_not_exist_is_told(browser: Browser, site: LinkedInSite) -> None:
    with pytest.raises(CollectionError, match=r"no profile at .*/in/nobody/"):
        await read(LinkedInReader(browser, USERNAME, PASSWORD, site.url), "nobody")


async def test_a_profile_without_posts_is_told(browser: Browser) -> None:
    with LinkedInSite([]) as site, pytest.raises(ExtractionError, match="shows no posts"):
        await read(LinkedInReader(browser, USERNAME, PASSWORD, site.url))


async def test_the_password_is_in_no_log(
    browser: Browser, site: LinkedInSite, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, level="TRACE")
    try:
        with caplog.at_level(logging.DEBUG):
            await read(LinkedInReader(browser, USERNAME, PASSWORD, site.url), max_items=1)
    finally:
        logger.remove(sink)

    assert lines
    assert PASSWORD not in "".join(lines) + caplog.text


async def test_without_a_log_in_no_browser_is_started() -> None:
    browser = Browser(binary=None)

    with pytest.raises(CollectionError, match="Set LINKEDIN_USERNAME and LINKEDIN_PASSWORD"):
        await read(LinkedInReader(browser, None, None))
    with pytest.raises(CollectionError, match=r"is no profile\. Expected"):
        await anext(
            aiter(
                LinkedInReader(browser, USERNAME, PASSWORD).read(
                    Link("https://www.linkedin.com/feed/", "Ada"), {}
                )
            )
        )
    with pytest.raises(CollectionError, match=r"no option 'limit'.*selectors must map some of"):
        await read(LinkedInReader(browser, USERNAME, PASSWORD), limit=3, selectors={"itme": "x"})


async def test_a_password_goes_to_this_machine_or_by_https_only(
    browser: Browser, site: LinkedInSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = LinkedInReader(browser, USERNAME, PASSWORD, site.url)
    monkeypatch.setattr(reader, "_base_url", site.url.replace("127.0.0.1", "127.0.0.2"))

    with pytest.raises(CollectionError, match=r"only sent by https|cannot be reached"):
        await read(reader)
    assert site.logins == 0


def test_the_number_of_a_post_holds_its_time() -> None:
    assert parse_date(urn(0)) == WHEN
    assert parse_date("urn:li:activity:17") is None
    assert parse_date("urn:li:share:x") is None
