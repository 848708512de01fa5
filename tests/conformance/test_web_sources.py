"""Article and feed readers over HTTP: against a server that misbehaves, and against the sample site."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from lxml import html as lxml_html

from llm_engineering.application.features.collect import collect
from llm_engineering.application.features.collect_report import CollectionReport, LinkStatus
from llm_engineering.application.ports import (
    Discovered,
    FetchedDocument,
    Link,
    NotModified,
    SourceItem,
    SourceReader,
    StoredVersion,
)
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import (
    CollectionError,
    ConfigurationError,
    ExtractionError,
    FetchError,
    StoreUnavailableError,
)
from llm_engineering.infrastructure.sources.web.article import ArticleReader
from llm_engineering.infrastructure.sources.web.client import PoliteClient
from llm_engineering.infrastructure.sources.web.feed import FeedReader
from llm_engineering.infrastructure.stores.mongo import MongoWarehouse
from tests.fakes.fault_server import FaultServer, Reply, Request
from tests.fakes.sources import ScriptedReader
from tests.fakes.warehouse import FakeWarehouse
from tools.sample_site import DEFAULT_ROOT, SampleSite
from tools.services import LocalMongo

AUTHOR = "Ada Winter"


def quick_client(**options: Any) -> PoliteClient:
    quick: dict[str, Any] = {
        "user_agent": "llm-twin/0.1",
        "timeout_seconds": 3,
        "total_timeout_seconds": 3,
        "max_bytes": 500_000,
        "max_retries": 1,
        "per_host_concurrency": 4,
        "per_host_delay_seconds": 0,
        "backoff_seconds": 0.01,
    }
    return PoliteClient(**{**quick, **options})


def paragraphs(
    number: int = 4, words: str = "which says something worth keeping about the matter at hand"
) -> str:
    return "".join(
        f"<p>This is paragraph {n}, {words}, and then comes to its end.</p>" for n in range(number)
    )


def article(title: str = "One", head: str = "", body: str = "", lang: str = ' lang="en"') -> str:
    return (
        f"<!doctype html><html{lang}><head><title>{title}</title>{head}</head><body><article><h1>{title}</h1>"
        f"{paragraphs()}{body}</article></body></html>"
    )


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def site() -> Iterator[SampleSite]:
    with SampleSite() as site:
        yield site


class Browser:
    """A renderer that shows what it was given, and remembers what it was asked for."""

    def __init__(self, html: str | CollectionError) -> None:
        self.html = html
        self.asked: list[str] = []

    async def render(self, url: str) -> str:
        self.asked.append(url)
        if isinstance(self.html, CollectionError):
            raise self.html
        return self.html


async def items(
    reader: SourceReader, link: Link, known: Mapping[str, StoredVersion] | None = None
) -> list[SourceItem]:
    try:
        return [item async for item in reader.read(link, known or {})]
    finally:
        await reader.close()


async def read(
    server: FaultServer,
    path: str,
    renderer: Browser | None = None,
    known: Mapping[str, StoredVersion] | None = None,
    **link: Any,
) -> RawDocument:
    reader = ArticleReader(quick_client(), renderer)
    [item] = await items(reader, Link(server.url(path), AUTHOR, **link), known)
    assert isinstance(item, FetchedDocument)
    return item.document


# --- what every reader promises, the scripted one of the unit tests too ----------------------------------------------


def readers(server: FaultServer) -> dict[str, tuple[SourceReader, str]]:
    """Each reader with a link of its kind."""
    server.put("/page", article())
    server.put("/feed.xml", DATED)
    scripted = ScriptedReader(
        {server.url("/page"): [Discovered(Link("a", AUTHOR)), Discovered(Link("b", AUTHOR))]}
    )
    return {
        "article": (ArticleReader(quick_client()), "/page"),
        "feed": (FeedReader(quick_client()), "/feed.xml"),
        "scripted": (scripted, "/page"),
    }


KINDS = ["article", "feed", "scripted"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reader_yields_source_items_as_often_as_it_is_asked(server: FaultServer, kind: str) -> None:
    reader, path = readers(server)[kind]
    link = Link(server.url(path), AUTHOR)
    first = [item async for item in reader.read(link, {})]
    again = [item async for item in reader.read(link, {})]
    await reader.close()
    await reader.close()
    assert first
    assert first == again
    assert all(isinstance(item, SourceItem) for item in first)
    assert reader.name


@pytest.mark.parametrize("kind", KINDS)
async def test_a_link_that_fails_raises_a_collection_error_that_names_it(
    server: FaultServer, kind: str
) -> None:
    reader, _ = readers(server)[kind]
    with pytest.raises(CollectionError, match=re.escape(server.url("/missing"))):
        await items(reader, Link(server.url("/missing"), AUTHOR))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reader_can_be_left_half_way(server: FaultServer, kind: str) -> None:
    reader, path = readers(server)[kind]
    reading = reader.read(Link(server.url(path), AUTHOR), {})
    async for _ in reading:
        break
    await reading.aclose()  # type: ignore[attr-defined]
    await reader.close()


# --- articles --------------------------------------------------------------------------------------------------------


async def test_a_page_becomes_a_document(server: FaultServer) -> None:
    head = (
        '<meta name="author" content="Ben Okafor"><meta property="article:published_time" content="2025-01-02T03:04:05Z">'
        '<link rel="canonical" href="/posts/one">'
    )
    page = Reply(
        article(head=head), headers={"ETag": '"7"', "Last-Modified": "Sun, 01 Nov 2026 10:00:00 GMT"}
    )
    server.put("/one?utm_source=mail", page)
    server.put("/one", page)
    document = await read(server, "/one?utm_source=mail")
    assert document.title == "One"
    assert document.text.startswith("# One\n\nThis is paragraph 0")
    assert document.link == server.url("/posts/one")
    assert (document.author, document.metadata) == (AUTHOR, {"page_author": "Ben Okafor"})
    assert document.published_at == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (document.category, document.platform, document.language) == ("article", "127.0.0.1", "en")
    assert (document.etag, document.last_modified) == ('"7"', "Sun, 01 Nov 2026 10:00:00 GMT")


async def test_a_page_may_belong_to_the_author_whom_it_names(server: FaultServer) -> None:
    server.put("/one", article(head='<meta name="author" content="Ben Okafor">'))
    server.put("/two", article())
    options = {"author_from_page": True}
    assert (await read(server, "/one", options=options)).author == "Ben Okafor"
    assert (await read(server, "/two", options=options)).author == AUTHOR
    server.put("/feed.xml", rss(entry("/one")))
    [found] = await expand(server, "/feed.xml", options=options)
    assert found.options == options


async def test_the_same_page_has_the_same_hash_each_time_it_is_read(server: FaultServer) -> None:
    server.put("/one", article())
    assert (await read(server, "/one")).content_hash == (await read(server, "/one")).content_hash


async def test_a_canonical_address_on_another_host_is_noted_and_not_taken_over(server: FaultServer) -> None:
    server.put("/one", article(head='<link rel="canonical" href="https://elsewhere.org/one">'))
    document = await read(server, "/one")
    assert document.link == server.url("/one")
    assert document.metadata == {"canonical": "https://elsewhere.org/one"}


async def test_a_redirected_page_is_known_by_its_final_address(server: FaultServer) -> None:
    server.redirect("/old", "/new", 301)
    server.put("/new", article())
    assert (await read(server, "/old")).link == server.url("/new")


@pytest.mark.parametrize(
    ("words", "language"),
    [
        ("der etwas Wichtiges über die Sache sagt und den man behalten sollte", "de"),
        ("qui dit quelque chose d'important sur le sujet et qu'il faut retenir", "fr"),
    ],
)
async def test_a_language_that_is_not_declared_is_detected(
    server: FaultServer, words: str, language: str
) -> None:
    server.put("/one", f"<html><body><article>{paragraphs(4, words)}</article></body></html>")
    assert (await read(server, "/one")).language == language


async def test_pages_in_other_character_sets_are_read_right(server: FaultServer) -> None:
    japanese = "これは文字コードの試験のための文章です。" * 20
    shift_jis = f'<html lang="ja"><head><meta charset="Shift_JIS"><title>試験</title></head><body><article><p>{japanese}</p>'
    server.put("/ja", Reply(shift_jis.encode("cp932"), content_type="text/html"))
    latin = article("Größe", body="<p>Über Maße – für 5 €</p>")
    server.put("/de", Reply(latin.encode("cp1252"), content_type="text/html; charset=ISO-8859-1"))
    assert japanese in (await read(server, "/ja")).text
    document = await read(server, "/de")
    assert document.title == "Größe"
    assert "Über Maße – für 5 €" in document.text


async def test_the_date_of_the_feed_stands_in_for_one_that_the_page_lacks(server: FaultServer) -> None:
    server.put("/one", article())
    server.put("/two", article(head='<meta name="date" content="2024-01-01">'))
    options = {"published_at": "2025-05-05T00:00:00+00:00"}
    assert (await read(server, "/one", options=options)).published_at == datetime(2025, 5, 5, tzinfo=UTC)
    assert (await read(server, "/two", options=options)).published_at == datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("reply", "error", "reason"),
    [
        pytest.param(Reply("gone", 404), FetchError, "404 Not Found", id="404"),
        pytest.param(Reply("broken", 500), FetchError, "given up after 2 tries", id="500"),
        pytest.param(Reply(article("Page not found")), ExtractionError, "no such page", id="soft 404"),
        pytest.param(Reply(article("Sign in to continue")), ExtractionError, "log-in", id="log-in wall"),
        pytest.param(Reply(""), ExtractionError, "empty", id="empty"),
        pytest.param(Reply("<p>Hi</p>"), ExtractionError, "expected at least 140", id="too short"),
        pytest.param(Reply(b"\x7fELF\0\0\0" * 100), ExtractionError, "binary", id="binary said to be a page"),
        pytest.param(
            Reply(b"%PDF-1.7", content_type="application/pdf"), FetchError, "application/pdf", id="PDF"
        ),
        pytest.param(Reply("x" * 600_000), FetchError, "too large", id="huge"),
    ],
)
async def test_what_is_no_article_is_refused_with_its_address(
    server: FaultServer, reply: Reply, error: type[Exception], reason: str
) -> None:
    server.put("/one", reply)
    with pytest.raises(error, match=reason) as caught:
        await read(server, "/one")
    assert server.url("/one") in str(caught.value)


async def test_an_unchanged_page_is_not_fetched_again(server: FaultServer) -> None:
    server.validated("/one", article(head='<link rel="canonical" href="/canonical">'), etag='"1"')
    server.validated("/two", article(), last_modified="Sun, 01 Nov 2026 10:00:00 GMT")
    for path in ("/one", "/two"):
        first = await read(server, path)
        known = {first.link: StoredVersion(first.content_hash, first.etag, first.last_modified)}
        again = await items(ArticleReader(quick_client()), Link(server.url(path), AUTHOR), known)
        assert again == [NotModified(first.link)]


async def test_the_date_of_another_page_is_not_taken_for_this_one(server: FaultServer) -> None:
    when = "Sun, 01 Nov 2026 10:00:00 GMT"
    server.validated("/one", article(), last_modified=when)
    document = await read(server, "/one", known={server.url("/other"): StoredVersion("hash", None, when)})
    assert document.link == server.url("/one")


async def test_a_page_can_be_extracted_anew_though_it_is_unchanged(server: FaultServer) -> None:
    server.validated("/one", article(), etag='"1"')
    known = {server.url("/one"): StoredVersion("hash", '"1"', None)}
    assert (await read(server, "/one", known=known, options={"refresh": True})).title == "One"


async def test_an_unknown_option_is_named(server: FaultServer) -> None:
    with pytest.raises(ConfigurationError, match="max_itms"):
        await read(server, "/one", options={"max_itms": 3})


# --- pages that need a browser -----------------------------------------------------------------------------------------

SHELL = '<html><head><title>App</title></head><body><div id="root"></div><script src="/app.js"></script></body></html>'


async def test_a_page_without_text_is_rendered(server: FaultServer) -> None:
    server.put("/app", SHELL)
    browser = Browser(article("Drawn by scripts"))
    document = await read(server, "/app", browser)
    assert document.title == "Drawn by scripts"
    assert browser.asked == [server.url("/app")]


async def test_a_page_with_text_is_not_rendered_unless_asked_for(server: FaultServer) -> None:
    server.put("/one", article("Plain"))
    browser = Browser(article("Rendered"))
    assert (await read(server, "/one", browser)).title == "Plain"
    assert browser.asked == []
    assert (await read(server, "/one", browser, render=True)).title == "Rendered"


async def test_an_error_page_is_not_rendered(server: FaultServer) -> None:
    server.put("/soft", article("Page not found"))
    browser = Browser(article())
    for path in ("/soft", "/missing"):
        with pytest.raises(CollectionError):
            await read(server, path, browser)
    assert browser.asked == []


async def test_without_a_browser_the_message_says_what_to_do(server: FaultServer) -> None:
    server.put("/app", SHELL)
    with pytest.raises(ExtractionError, match="render: true"):
        await read(server, "/app")
    with pytest.raises(FetchError, match=r"0 characters.*install chromium"):
        await read(server, "/app", Browser(FetchError("no browser is installed: apt install chromium")))


async def test_a_rendered_page_without_text_is_refused_too(server: FaultServer) -> None:
    server.put("/app", SHELL)
    with pytest.raises(ExtractionError, match="expected at least 140"):
        await read(server, "/app", Browser(SHELL))


async def test_the_browser_does_not_lead_around_robots_txt(server: FaultServer) -> None:
    server.put("/robots.txt", Reply("User-agent: *\nDisallow: /app\n", content_type="text/plain"))
    browser = Browser(article())
    with pytest.raises(FetchError, match=r"robots\.txt"):
        await read(server, "/app", browser, render=True)
    assert browser.asked == []


# --- feeds -------------------------------------------------------------------------------------------------------------


def rss(*entries: str) -> Reply:
    body = f'<?xml version="1.0"?><rss version="2.0"><channel><title>Blog</title>{"".join(entries)}</channel></rss>'
    return Reply(body, content_type="application/rss+xml")


def entry(path: str, when: str = "") -> str:
    dated = f"<pubDate>{when}</pubDate>" if when else ""
    return f"<item><title>{path}</title><link>{path}</link>{dated}</item>"


def sitemap(*urls: str, kind: str = "url") -> str:
    root = {"url": "urlset", "sitemap": "sitemapindex"}[kind]
    entries = "".join(f"<{kind}><loc>{url}</loc></{kind}>" for url in urls)
    return (
        f'<?xml version="1.0"?><{root} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</{root}>'
    )


async def expand(server: FaultServer, path: str, **link: Any) -> list[Link]:
    found = await items(FeedReader(quick_client()), Link(server.url(path), AUTHOR, **link))
    links = []
    for item in found:
        assert isinstance(item, Discovered)
        links.append(item.link)
    return links


async def paths(server: FaultServer, path: str, **options: Any) -> list[str]:
    return [link.url.removeprefix(server.url("")) for link in await expand(server, path, options=options)]


DATED = rss(
    entry("/old", "Mon, 06 Jan 2025 10:00:00 GMT"),
    entry("/undated"),
    entry("/new", "Thu, 06 Mar 2025 10:00:00 +0100"),
    entry("/mid", "Thu, 06 Feb 2025 10:00:00 GMT"),
)


async def test_an_rss_feed_leads_to_its_entries_newest_first(server: FaultServer) -> None:
    server.put("/feed.xml", DATED)
    links = await expand(server, "/feed.xml", category="post", render=True)
    assert [link.url for link in links] == [server.url(p) for p in ("/new", "/mid", "/old", "/undated")]
    assert {(link.author, link.category, link.render) for link in links} == {(AUTHOR, "post", True)}
    assert links[0].options == {"published_at": "2025-03-06T09:00:00+00:00"}
    assert links[3].options == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_items": 2}, ["/new", "/mid"]),
        ({"since": date(2025, 2, 1)}, ["/new", "/mid", "/undated"]),
        ({"since": "2025-03-01"}, ["/new", "/undated"]),
        ({"include": "/(new|old)$"}, ["/new", "/old"]),
        ({"exclude": "undated|new"}, ["/mid", "/old"]),
    ],
)
async def test_options_choose_among_the_entries(
    server: FaultServer, options: dict[str, Any], expected: list[str]
) -> None:
    server.put("/feed.xml", DATED)
    assert await paths(server, "/feed.xml", **options) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"max_items": 0},
        {"max_items": "3"},
        {"max_items": True},
        {"since": "last week"},
        {"include": "("},
        {"maximum": 3},
    ],
)
async def test_a_wrong_option_is_named(server: FaultServer, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        await paths(server, "/feed.xml", **options)
    assert server.requests == []


async def test_an_atom_feed_leads_to_its_entries(server: FaultServer) -> None:
    atom = (
        '<feed xmlns="http://www.w3.org/2005/Atom"><title>Blog</title><entry><title>One</title>'
        '<link rel="self" href="/self"/><link rel="alternate" href="/one"/><updated>2025-01-02T00:00:00Z</updated></entry></feed>'
    )
    server.put("/atom.xml", Reply(atom, content_type="application/atom+xml"))
    [link] = await expand(server, "/atom.xml")
    assert link.url == server.url("/one")
    assert link.options == {"published_at": "2025-01-02T00:00:00+00:00"}


async def test_a_feed_that_is_not_well_formed_is_read_as_far_as_it_goes(server: FaultServer) -> None:
    server.put(
        "/feed.xml",
        Reply('<?xml version="1.0"?><rss version="2.0"><channel>' + entry("/one") + "<item><title>a & b"),
    )
    assert await paths(server, "/feed.xml") == ["/one"]


async def test_a_sitemap_leads_to_its_pages_but_not_to_the_home_page(server: FaultServer) -> None:
    listed = sitemap(
        server.url("/"), server.url("/a"), server.url("/b"), server.url("/a#x"), "mailto:me@example.org"
    )
    server.put("/sitemap.xml", Reply(listed, content_type="application/xml"))
    assert await paths(server, "/sitemap.xml") == ["/a", "/b"]


async def test_a_sitemap_index_leads_through_packed_sitemaps_and_ends_where_it_circles(
    server: FaultServer,
) -> None:
    index = sitemap(server.url("/1.xml.gz"), server.url("/2.xml"), server.url("/index.xml"), kind="sitemap")
    server.put("/index.xml", Reply(index, content_type="text/xml"))
    packed = gzip.compress(sitemap(server.url("/a")).encode())
    server.put("/1.xml.gz", Reply(packed, content_type="application/x-gzip"))
    server.put("/2.xml", Reply(sitemap(server.url("/b")), content_type="text/xml"))
    assert await paths(server, "/index.xml") == ["/a", "/b"]


async def test_a_sitemap_cannot_read_files_or_blow_up(server: FaultServer, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("http://127.0.0.1/leaked")
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    body = (
        f'<!DOCTYPE urlset [<!ENTITY f SYSTEM "{secret.as_uri()}"><!ENTITY e0 "boom">{entities}]>'
        f"<urlset><url><loc>&f;</loc></url><url><loc>{server.url('/a')}</loc></url><url><loc>&e9;</loc></url></urlset>"
    )
    server.put("/sitemap.xml", Reply(body, content_type="text/xml"))
    assert await paths(server, "/sitemap.xml") == ["/a"]


async def test_a_home_page_leads_to_the_feed_that_it_declares(server: FaultServer) -> None:
    head = (
        '<link rel="alternate" type="application/rss+xml" title="Blog » Comments Feed" href="/comments/feed/">'
        '<link rel="alternate" type="application/rss+xml" title="Blog » Feed" href="/blog/feed/">'
    )
    server.put("/blog/", f"<!doctype html><html><head>{head}</head><body>Welcome</body></html>")
    server.put("/blog/feed/", rss(entry("/one")))
    assert await paths(server, "/blog/") == ["/one"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(rss(), "no entries", id="feed of nothing"),
        pytest.param(Reply(sitemap(), content_type="text/xml"), "no entries", id="sitemap of nothing"),
        pytest.param(Reply("", content_type="text/xml"), "empty", id="nothing at all"),
        pytest.param(Reply(article()), "declares no feed", id="page without a feed"),
        pytest.param(Reply("just words", content_type="text/plain"), "no RSS or Atom", id="text"),
        pytest.param(
            Reply(b"\x1f\x8bbroken", content_type="application/gzip"), "gzip file is broken", id="broken gzip"
        ),
    ],
)
async def test_a_link_that_leads_nowhere_is_refused(server: FaultServer, reply: Reply, reason: str) -> None:
    server.put("/feed.xml", reply)
    with pytest.raises(ExtractionError, match=reason):
        await expand(server, "/feed.xml")


async def test_options_that_leave_nothing_are_named(server: FaultServer) -> None:
    server.put("/feed.xml", DATED)
    with pytest.raises(ExtractionError, match=r"none of the feed's 4 entries pass its options \(include\)"):
        await paths(server, "/feed.xml", include="nothing-like-this")


# --- the whole way, on the sample site ---------------------------------------------------------------------------------


@pytest.fixture(params=["fake", "mongo"])
def warehouse(request: pytest.FixtureRequest) -> Iterator[FakeWarehouse | MongoWarehouse]:
    if request.param == "fake":
        yield FakeWarehouse()
        return
    server: LocalMongo = request.getfixturevalue("mongo_server")
    with closing(MongoWarehouse(server.uri, request.getfixturevalue("mongo_database"), 3.0)) as found:
        yield found


async def collect_site(warehouse: FakeWarehouse | MongoWarehouse, *links: Link) -> CollectionReport:
    client = quick_client()
    readers: dict[str, SourceReader] = {"article": ArticleReader(client), "feed": FeedReader(client)}
    try:
        return await collect(links, readers, warehouse.documents, warehouse.users, warehouse.dead_letters)
    finally:
        await client.close()


def articles_on_disk() -> list[Path]:
    return sorted((DEFAULT_ROOT / "articles").glob("*.html"))


async def test_the_sample_sites_feed_gives_every_article_then_nothing_new(
    site: SampleSite, warehouse: FakeWarehouse | MongoWarehouse
) -> None:
    feed = Link(f"{site.base_url}/feed.xml", AUTHOR)
    first = await collect_site(warehouse, feed)
    assert first.failed == []
    expected = {f"{site.base_url}/articles/{path.name}" for path in articles_on_disk()}
    stored = {document.link: document for document in warehouse.documents.stream()}
    assert stored.keys() == expected
    assert all(document.published_at and document.title for document in stored.values())
    assert {document.language for document in stored.values()} == {"de", "en"}

    second = await collect_site(warehouse, feed)
    assert {outcome.status for outcome in second.outcomes} == {LinkStatus.UNCHANGED}
    assert second.total("unchanged") == len(expected)
    assert list(warehouse.documents.stream()) == sorted(stored.values(), key=lambda document: document.id)


@pytest.mark.slow
async def test_a_store_that_stops_half_way_ends_the_run_and_the_next_one_completes_it(
    server: FaultServer, own_mongo_server: LocalMongo
) -> None:
    for n in range(6):
        server.put(f"/{n}", article(f"Number {n}"))

    async def stop(request: Request, writer: asyncio.StreamWriter) -> Reply:
        await asyncio.to_thread(own_mongo_server.stop)
        return Reply(article("Number 3"))

    links = [Link(server.url(f"/{n}"), AUTHOR) for n in range(6)]
    client = quick_client()
    await asyncio.to_thread(own_mongo_server.start)
    with closing(MongoWarehouse(own_mongo_server.uri, "twin", 1.0)) as store:

        async def run() -> CollectionReport:
            return await collect(
                links,
                {"article": ArticleReader(client)},
                store.documents,
                store.users,
                store.dead_letters,
                max_concurrency=1,
                batch_size=1,
            )

        server.on("/3", stop)
        with pytest.raises(StoreUnavailableError):
            await run()
        await asyncio.to_thread(own_mongo_server.start)
        assert len(list(store.documents.stream())) == 3
        server.put("/3", article("Number 3"))
        report = await run()
        await client.close()
        assert [o.status.value for o in report.outcomes] == ["unchanged"] * 3 + ["saved"] * 3
        assert {document.title for document in store.documents.stream()} == {f"Number {n}" for n in range(6)}


async def test_code_tables_and_headings_of_the_sample_site_are_kept(site: SampleSite) -> None:
    warehouse = FakeWarehouse()
    await collect_site(warehouse, Link(f"{site.base_url}/feed.xml", AUTHOR))
    texts = {document.link.rpartition("/")[2]: document.text for document in warehouse.documents.stream()}
    blocks = 0
    for path in articles_on_disk():
        page = lxml_html.fromstring(path.read_bytes())
        text = texts[path.name]
        for pre in page.iter("pre"):
            blocks += 1
            assert f"\n{pre.text_content().strip()}\n```" in text, path.name
        for cell in page.xpath("//td[not(*)] | //th[not(*)]"):
            assert " ".join(cell.text_content().split()).replace("|", "\\|") in text, path.name
        for heading in page.xpath("//article//h2 | //article//h3"):
            level = "#" * int(heading.tag[1])
            # Inline code in a heading comes back in backticks.
            plain = re.sub(r"[`*]", "", text)
            assert f"{level} {re.sub(r'[`*]', '', ' '.join(heading.text_content().split()))}" in plain, (
                path.name
            )
        for item in page.xpath("//article//p[not(@class)][not(*)] | //article//li[not(*)]"):
            assert " ".join(item.text_content().split()).replace("*", "\\*") in text, path.name
    assert blocks >= 12


async def test_the_home_page_and_the_sitemap_of_the_sample_site_lead_to_the_same_articles(
    site: SampleSite,
) -> None:
    by_home, by_map = FakeWarehouse(), FakeWarehouse()
    home = await collect_site(by_home, Link(f"{site.base_url}/", AUTHOR, options={"reader": "feed"}))
    mapped = await collect_site(
        by_map, Link(f"{site.base_url}/sitemap.xml", AUTHOR, options={"include": "/articles/"})
    )
    assert home.failed == mapped.failed == []
    assert [d.id for d in by_home.documents.stream()] == [d.id for d in by_map.documents.stream()]


async def test_what_the_sample_site_keeps_private_is_not_collected(site: SampleSite) -> None:
    warehouse = FakeWarehouse()
    report = await collect_site(
        warehouse,
        Link(f"{site.base_url}/private/notes.html", AUTHOR),
        Link(f"{site.base_url}/no-such-page.html", AUTHOR),
        Link(f"{site.base_url}/articles/chunking.html", AUTHOR),
    )
    assert [outcome.status.value for outcome in report.outcomes] == ["failed", "failed", "saved"]
    assert "robots.txt" in report.outcomes[0].reason
    assert report.outcomes[1].reason.startswith("it answered 404")
    assert {letter.source for letter in warehouse.dead_letters.stream()} == {o.url for o in report.failed}


async def test_one_run_survives_every_kind_of_bad_page(server: FaultServer) -> None:
    server.put("/good", article())
    server.put("/late", Reply("wait", 429, headers={"Retry-After": "0"}), article("Late"))
    server.redirect("/loop", "/loop")
    server.hanging("/hang")
    server.trickling("/trickle")
    server.endless("/endless")
    server.cut("/cut")
    server.put("/empty", "")
    bad = ["/loop", "/hang", "/trickle", "/endless", "/cut", "/empty", "/missing"]
    warehouse = FakeWarehouse()
    links = [Link(server.url(path), AUTHOR) for path in ("/good", "/late", *bad)] + [
        Link("http:/broken", AUTHOR)
    ]
    async with asyncio.timeout(30):
        report = await collect_site(warehouse, *links)
    assert [o.status.value for o in report.outcomes] == ["saved", "saved"] + ["failed"] * 8
    assert all(outcome.reason for outcome in report.failed)
    assert warehouse.dead_letters.count() == 8
