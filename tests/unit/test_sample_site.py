"""The sample site: what its server promises to collectors, and what its pages promise to readers."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit
from xml.etree import ElementTree

import pytest

from tools.sample_site import DEFAULT_ROOT, SampleSite

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

ARTICLES = sorted((DEFAULT_ROOT / "articles").glob("*.html"))
PAGES = sorted(DEFAULT_ROOT.rglob("*.html"))
GERMAN = "was-ist-ein-llm-zwilling"
AUTHORS = {"Ada Winter", "Ben Okafor"}
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Document(HTMLParser):
    """What the tests ask of a page: its links, ids, metadata, and the words of its article."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.ids: list[str] = []
        self.meta: dict[str, str] = {}
        self.tags: list[str] = []
        self.canonical = self.lang = self.title = ""
        self.prose: list[str] = []
        self.code: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"tags left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        self.links += [given[name] for name in ("href", "src") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag == "html":
            self.lang = given.get("lang", "")
        if tag == "meta":
            self.meta[given.get("name") or given.get("property") or ""] = given.get("content", "")
        if tag == "link" and given.get("rel") == "canonical":
            self.canonical = given["href"]
        if tag == "code" and given.get("class") == "language-python":
            self.code.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "title" in self._open:
            self.title += data
        elif "pre" in self._open:
            self.code[-1] += data
        elif "article" in self._open:
            self.prose.append(data)

    @property
    def words(self) -> int:
        return len(" ".join(self.prose).split())


def document(path: Path) -> Document:
    return Document(path.read_text(encoding="utf-8"))


Fetch = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def site() -> Iterator[SampleSite]:
    with SampleSite(DEFAULT_ROOT) as running:
        yield running


@pytest.fixture
def fetch(site: SampleSite) -> Iterator[Fetch]:
    """One request over one kept-alive connection: status, headers by lower-case name, body."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(site.base_url).port or 0, timeout=5)

    def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )

    yield ask
    connection.close()


# --- the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/posts.js", "text/javascript; charset=utf-8"),
        ("/posts.json", "application/json"),
        ("/feed.xml", "application/rss+xml; charset=utf-8"),
        ("/sitemap.xml", "application/xml; charset=utf-8"),
        ("/robots.txt", "text/plain; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_each_kind_of_file_has_its_content_type(fetch: Fetch, path: str, content_type: str) -> None:
    status, headers, body = fetch(path)
    assert (status, headers["content-type"]) == (200, content_type)
    assert int(headers["content-length"]) == len(body) > 0


def test_an_unchanged_page_is_answered_with_304_and_no_body(fetch: Fetch) -> None:
    _, headers, _ = fetch("/articles/chunking.html")
    for condition in (
        {"If_None_Match": headers["etag"]},
        {"If_None_Match": f'"other", W/{headers["etag"]}'},
        {"If_Modified_Since": headers["last-modified"]},
    ):
        status, again, body = fetch("/articles/chunking.html", **condition)
        assert (status, body) == (304, b"")
        assert again["etag"] == headers["etag"]


def test_a_changed_page_is_sent_again(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("first")
    with SampleSite(tmp_path) as own:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(own.base_url).port or 0, timeout=5)
        connection.request("GET", "/")
        first = connection.getresponse()
        tag, since = first.headers["ETag"], first.headers["Last-Modified"]
        first.read()
        page.write_text("second")
        # Same second, so the date says "unchanged"; the tag must win over it.
        connection.request("GET", "/", headers={"If-None-Match": tag, "If-Modified-Since": since})
        second = connection.getresponse()
        assert (second.status, second.read()) == (200, b"second")
        connection.close()


def test_an_unreadable_date_is_ignored(fetch: Fetch) -> None:
    assert fetch("/", If_Modified_Since="the day before yesterday")[0] == 200


def test_head_gives_the_headers_of_get_without_its_body(fetch: Fetch) -> None:
    _, get, _ = fetch("/feed.xml")
    status, head, body = fetch("/feed.xml", "HEAD")
    assert (status, body) == (200, b"")
    for name in ("etag", "content-length", "content-type", "last-modified"):
        assert head[name] == get[name]


def test_an_unknown_address_gets_the_404_page_with_status_404(fetch: Fetch) -> None:
    status, headers, body = fetch("/articles/nothing-here.html")
    assert status == 404
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert body == (DEFAULT_ROOT / "404.html").read_bytes()


@pytest.mark.parametrize(
    "path", ["/../README.md", "/%2e%2e/README.md", "/articles/../../README.md", "/%00", "//etc/passwd"]
)
def test_nothing_outside_the_site_is_served(fetch: Fetch, path: str) -> None:
    assert fetch(path)[0] == 404


def test_a_folder_without_its_slash_is_redirected(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "index.html").write_text("notes")
    with SampleSite(tmp_path) as own:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(own.base_url).port or 0, timeout=5)
        connection.request("GET", "/notes")
        response = connection.getresponse()
        assert (response.status, response.headers["Location"]) == (307, f"{own.base_url}/notes/")
        response.read()
        connection.request("GET", "/notes/")
        assert connection.getresponse().read() == b"notes"
        connection.close()


def test_leaving_the_block_frees_the_port_even_with_a_client_still_connected() -> None:
    with SampleSite(DEFAULT_ROOT) as first:
        port = urlsplit(first.base_url).port or 0
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        client.request("GET", "/robots.txt")
        client.getresponse().read()  # the connection stays open
    with pytest.raises(RuntimeError, match="not running"):
        _ = first.base_url
    assert client.sock is not None
    assert client.sock.recv(1) == b""
    client.close()
    with SampleSite(DEFAULT_ROOT, port) as second:
        assert second.base_url.endswith(f":{port}")


def test_a_taken_port_and_a_missing_folder_are_errors(site: SampleSite, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="in use"), SampleSite(DEFAULT_ROOT, urlsplit(site.base_url).port or 0):
        pass
    with pytest.raises(FileNotFoundError, match="sample site"), SampleSite(tmp_path / "absent"):
        pass


def test_it_listens_on_loopback_only(site: SampleSite) -> None:
    assert site.address == ("127.0.0.1", urlsplit(site.base_url).port)


# --- the pages ----------------------------------------------------------------------------------------------


def test_every_link_inside_the_site_resolves(fetch: Fetch, site: SampleSite) -> None:
    wanted: dict[str, set[str]] = {}
    for page in PAGES:
        address = f"/{page.relative_to(DEFAULT_ROOT).as_posix()}"
        for link in document(page).links:
            assert not urlsplit(link).scheme, f"{address} links to another host: {link}"
            target, fragment = urldefrag(urljoin(address, link))
            wanted.setdefault(target, set()).update({fragment} - {""})
    assert len(wanted) > len(ARTICLES)
    for target, fragments in wanted.items():
        status, _, body = fetch(target)
        assert status == 200, f"{target} answers {status}"
        if fragments:
            assert fragments <= set(Document(body.decode()).ids), f"{target} lacks one of {fragments}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_every_page_is_well_formed_and_named(path: Path) -> None:
    page = document(path)  # refuses tags that do not match
    assert page.lang in {"en", "de"}
    assert page.title.endswith("Twin Notes") or page.title.startswith("Twin Notes")
    assert page.meta["description"]
    assert page.tags.count("h1") == 1
    assert {"nav", "footer", "main"} <= set(page.tags)
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("path", ARTICLES, ids=lambda p: p.stem)
def test_every_article_declares_author_date_language_and_canonical_link(path: Path) -> None:
    page = document(path)
    assert page.meta["author"] in AUTHORS
    assert datetime.fromisoformat(page.meta["article:published_time"]).tzinfo is not None
    assert page.canonical == f"/articles/{path.name}"
    assert page.lang == ("de" if path.stem == GERMAN else "en")
    assert {"h2", "h3", "table"} <= set(page.tags)


@pytest.mark.parametrize("path", [p for p in ARTICLES if p.stem != GERMAN], ids=lambda p: p.stem)
def test_main_articles_are_substantial(path: Path) -> None:
    page = document(path)
    assert 800 <= page.words <= 2000  # code not counted
    assert page.code
    assert {"ul", "ol", "li"} & set(page.tags)


def test_there_are_at_least_twelve_main_articles_and_a_german_one() -> None:
    assert len([p for p in ARTICLES if p.stem != GERMAN]) >= 12
    assert 300 <= document(DEFAULT_ROOT / "articles" / f"{GERMAN}.html").words <= 600


CODE = [(path.stem, i, code) for path in ARTICLES for i, code in enumerate(document(path).code)]


@pytest.mark.parametrize(("slug", "number", "code"), CODE, ids=[f"{slug}-{i}" for slug, i, _ in CODE])
def test_code_in_articles_runs_and_its_assertions_hold(slug: str, number: int, code: str) -> None:
    assert "assert " in code, "a block that claims nothing checks nothing"
    # Its own module: dataclasses look their module up by name.
    exec(compile(code, f"{slug}.html, block {number}", "exec"), {"__name__": "builtins"})


# --- feed, sitemap, robots, posts ---------------------------------------------------------------------------


def addresses(site: SampleSite) -> set[str]:
    return {f"{site.base_url}/articles/{path.name}" for path in ARTICLES}


def test_the_feed_lists_every_article_with_the_dates_and_authors_of_the_pages(
    fetch: Fetch, site: SampleSite
) -> None:
    body = fetch("/feed.xml")[2]
    assert b"{{" not in body
    channel = ElementTree.fromstring(body).find("channel")
    assert channel is not None
    items = {item.findtext("link", ""): item for item in channel.findall("item")}
    assert set(items) == addresses(site)
    assert channel.findtext("link") == f"{site.base_url}/"
    for link, item in items.items():
        page = document(DEFAULT_ROOT / "articles" / link.rsplit("/", 1)[1])
        published = datetime.strptime(item.findtext("pubDate", ""), "%a, %d %b %Y %H:%M:%S %z")
        assert published == datetime.fromisoformat(page.meta["article:published_time"])
        assert item.findtext("{http://purl.org/dc/elements/1.1/}creator") == page.meta["author"]
        assert item.findtext("description") == page.meta["description"]
        assert page.title == f"{item.findtext('title')} · Twin Notes"


def test_the_sitemap_lists_every_article_and_nothing_private(fetch: Fetch, site: SampleSite) -> None:
    root = ElementTree.fromstring(fetch("/sitemap.xml")[2])
    found = {element.text or "" for element in root.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")}
    assert addresses(site) < found
    assert not [address for address in found if "private" in address or not address.startswith(site.base_url)]
    for address in found:
        assert fetch(urlsplit(address).path)[0] == 200


def test_the_index_lists_every_article(fetch: Fetch) -> None:
    links = Document(fetch("/")[2].decode()).links
    assert {f"/articles/{path.name}" for path in ARTICLES} <= set(links)


def test_robots_allows_all_but_the_private_folder(fetch: Fetch, site: SampleSite) -> None:
    from urllib.robotparser import RobotFileParser

    rules = RobotFileParser()
    rules.parse(fetch("/robots.txt")[2].decode().splitlines())
    assert rules.can_fetch("any", f"{site.base_url}/articles/chunking.html")
    assert not rules.can_fetch("any", f"{site.base_url}/private/notes.html")
    assert rules.site_maps() == [f"{site.base_url}/sitemap.xml"]
    assert fetch("/private/notes.html")[0] == 200  # it exists: only the rule keeps a collector out


def posts() -> list[dict[str, Any]]:
    return list(json.loads((DEFAULT_ROOT / "posts.json").read_text(encoding="utf-8"))["posts"])


def test_posts_follow_their_schema() -> None:
    found = posts()
    assert len(found) == len({post["id"] for post in found}) == 24
    for post in found:
        assert set(post) == {"id", "author", "published", "text"}
        assert post["author"] in AUTHORS
        assert datetime.fromisoformat(post["published"]).tzinfo is not None
        assert 60 <= len(post["text"].split()) <= 150
    assert [post["published"] for post in found] == sorted(
        (post["published"] for post in found), reverse=True
    )


def test_plain_html_holds_no_post() -> None:
    html = (DEFAULT_ROOT / "posts.html").read_text(encoding="utf-8")
    assert "<noscript>" in html
    for post in posts():
        opening = re.split(r"[.?!]", post["text"])[0]
        assert opening not in html
