from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.features.links import (
    Router,
    dump_link,
    hide_credentials,
    load_link,
    normalise_link,
)
from llm_engineering.application.ports import Link
from llm_engineering.domain.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "reader"),
    [
        ("https://github.com/owner/repo", "git"),
        ("https://github.com/owner/repo/", "git"),
        ("https://github.com/owner/repo/tree/main/docs", "git"),
        ("https://github.com/owner/repo/issues/5", "article"),
        ("https://github.com/owner", "article"),
        ("https://github.blog/a-post", "article"),
        ("https://gitlab.com/group/subgroup/project", "git"),
        ("https://gitlab.com/group/project/-/issues/3", "article"),
        ("https://bitbucket.org/owner/repo", "git"),
        ("https://codeberg.org/owner/repo", "git"),
        ("git@example.org:owner/repo.git", "git"),
        ("ssh://git@example.org/owner/repo", "git"),
        ("https://code.example.org/some/place.git", "git"),
        ("file:///srv/repositories/one", "git"),
        (".", "git"),
        ("./samples", "files"),
        ("../other", "files"),
        ("/srv/writing", "files"),
        ("~/writing", "files"),
        ("C:\\writing\\one", "files"),
        ("~/notes/**/*.md", "files"),
        ("notes/*.TXT", "files"),
        ("a note.md", "files"),
        ("paper.pdf", "files"),
        ("file:///home/ada/saved%20page.html", "files"),
        ("sent.mbox", "files"),
        ("./feed/posts.xml", "files"),
        ("Basic_LinkedInDataExport.zip", "files"),
        ("https://example.org/paper.pdf", "article"),
        ("https://example.org/a.html", "article"),
        ("https://www.linkedin.com/in/somebody", "linkedin"),
        ("https://de.linkedin.com/in/somebody/", "linkedin"),
        ("https://notlinkedin.com/in/somebody", "article"),
        ("data/movies.csv", "table"),
        ("./data/movies.CSV", "table"),
        ("https://example.org/tickets.jsonl?version=2", "table"),
        ("reviews.parquet", "table"),
        ("questions.json", "table"),
        ("https://github.com/owner/repo/raw/main/data.csv", "table"),
        ("https://example.org/feed.xml", "feed"),
        ("https://example.org/blog/feed", "feed"),
        ("https://example.org/blog/feed/", "feed"),
        ("https://example.org/rss", "feed"),
        ("https://example.org/atom.xml", "feed"),
        ("https://example.org/index.xml", "feed"),
        ("https://example.org/posts.rss", "feed"),
        ("https://example.org/sitemap.xml", "feed"),
        ("https://example.org/sitemap_index.xml", "feed"),
        ("https://example.org/sitemap-posts-1.xml.gz", "feed"),
        ("https://example.org/?feed=rss2", "feed"),
        ("https://example.org/what-is-rss", "article"),
        ("https://example.org/blog/feeding-cats", "article"),
        ("https://example.org/my-atom-editor", "article"),
        ("https://medium.com/@somebody/a-post-123", "article"),
        ("https://somebody.substack.com/p/a-post", "article"),
        ("not a link", "article"),
    ],
)
def test_a_link_goes_to_the_reader_of_its_kind(url: str, reader: str) -> None:
    assert Router().route(url) == reader


def test_a_folder_is_a_repository_only_if_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("work/.git", "bare/objects", "notes"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bare" / "HEAD").touch()
    monkeypatch.chdir(tmp_path)
    router = Router()
    for name, reader in (("work", "git"), ("bare", "git"), ("notes", "files"), ("gone", "article")):
        assert router.route(name) == reader
        assert router.route(f"{tmp_path}/{name}") == ("files" if name == "gone" else reader)
    assert Router([("work", "files")]).route("work") == "files"


def test_a_link_is_kept_without_credentials() -> None:
    link = Link(
        "https://me:secret@example.org/a", "Ada Byron", "review", options={"column_map": {"a.b": "c"}}
    )
    assert load_link(dump_link(link)) == replace(link, url="https://example.org/a")
    for text in ("", "no JSON", "[]", '{"url": "x"}', '{"url": "x", "author": "y", "more": 1}'):
        assert load_link(text) is None


def test_rules_of_the_configuration_come_first() -> None:
    router = Router([(r"^https://blog\.example\.org/", "feed"), (r"\.csv$", "article")])
    assert router.route("https://blog.example.org/") == "feed"
    assert router.route("a.csv") == "article"
    assert router.route("b.jsonl") == "table"


def test_a_new_reader_can_be_routed_to_once_announced() -> None:
    assert Router([("^mail:", "mailbox")], readers=["mailbox"]).route("mail:inbox") == "mailbox"


def test_all_wrong_rules_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Router([("fine", "git"), ("(unclosed", "article"), ("x", "carrier-pigeon")])
    message = str(caught.value)
    assert "routes.1.pattern" in message
    assert "(unclosed" in message
    assert "routes.2.reader" in message
    assert "carrier-pigeon" in message
    assert "article, feed, files, git" in message
    assert "routes.0" not in message


def test_an_option_naming_no_reader_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="pigeon"):
        Router().check("pigeon")
    assert Router().check("feed") == "feed"


@pytest.mark.parametrize(
    ("spelling", "same_as"),
    [
        ("HTTPS://Example.ORG:443/A", "https://example.org/A"),
        ("https://example.org", "https://example.org/"),
        ("https://example.org/a#section", "https://example.org/a"),
        ("https://example.org/a?utm_source=x&id=5&fbclid=7", "https://example.org/a?id=5"),
        ("  https://example.org/a ", "https://example.org/a"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
    ],
)
def test_spellings_of_one_address_are_one(spelling: str, same_as: str) -> None:
    assert normalise_link(spelling) == same_as
    assert normalise_link(same_as) == same_as


@pytest.mark.parametrize(
    "url",
    ["https://example.org/a/", "https://example.org/?q=a%20b+c", "git@h:o/r.git", "./a", "http://x:99999/"],
)
def test_what_may_differ_is_left_alone(url: str) -> None:
    assert normalise_link(url) == url


def test_an_address_drawn_by_scripts_keeps_its_fragment() -> None:
    assert normalise_link("https://example.org/#!/page") == "https://example.org/#!/page"


def test_credentials_are_not_shown() -> None:
    assert hide_credentials("https://me:secret@example.org/a@b") == "https://example.org/a@b"
    assert hide_credentials("git@example.org:owner/repo") == "git@example.org:owner/repo"


@given(st.text(max_size=80) | st.text(max_size=60).map("http://example.org/".__add__))
def test_any_link_can_be_normalised_and_once_is_enough(url: str) -> None:
    once = normalise_link(url)
    assert normalise_link(once) == once
    assert Router().route(url) in Router().readers
