import io
import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.ports import EndOfSource, FetchedDocument, Link, Rejected, SourceItem
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.sources.files import FilesReader
from llm_engineering.infrastructure.sources.files.writings import Limits
from tests.fakes.files import make_zip

Files = Mapping[str, str | bytes]


async def read(path: Path, limits: Limits | None = None, **options: Any) -> list[SourceItem]:
    return [
        item async for item in FilesReader(limits).read(Link(str(path), "Ada Winter", options=options), {})
    ]


def pack(folder: Path, files: Files) -> Path:
    path = folder / "export.zip"
    path.write_bytes(make_zip(files))
    return path


async def collected(folder: Path, files: Files, **options: Any) -> list[RawDocument]:
    """The archive's documents; packed and unpacked, below another folder or not, they are the same texts."""
    packed = await read(pack(folder, files), **options)
    found = [item.document for item in packed if isinstance(item, FetchedDocument)]
    loose = folder / "loose"
    for name, content in files.items():
        path = loose / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    below = pack(folder, {f"export-2024/{name}": content for name, content in files.items()})
    for other in (await read(loose, **options), await read(below, **options)):
        assert [d.text for d in found] == [
            item.document.text for item in other if isinstance(item, FetchedDocument)
        ]
    assert isinstance(packed[-1], EndOfSource)
    return found


# --- each kind ---------------------------------------------------------------------------------------------------


def tweet(number: int, text: str, **fields: Any) -> dict[str, Any]:
    return {
        "tweet": {
            "id_str": str(number),
            "full_text": text,
            "created_at": "Wed Oct 10 20:19:24 +0000 2018",
            **fields,
        }
    }


X: Files = {
    "data/account.js": 'window.YTD.account.part0 = [{"account": {"username": "ada_w"}}]',
    "data/tweets.js": "window.YTD.tweets.part0 = "
    + json.dumps(
        [
            tweet(
                1,
                "Clocks drift &amp; err, see https://t.co/a https://t.co/b",
                entities={"urls": [{"url": "https://t.co/a", "expanded_url": "https://example.org/clocks"}]},
            ),
            tweet(2, "RT @ben: Bells ring."),
            tweet(3, "@ben Yes!", in_reply_to_screen_name="ben"),
            tweet(4, "And they drift more in summer.", in_reply_to_screen_name="Ada_W"),
            {"tweet": {"id_str": "5"}},
        ]
    ),
    "data/tweets-part1.js": "window.YTD.tweets.part1 = " + json.dumps([tweet(6, "The second part.")]),
    "data/README.txt": "What is in this archive",
}


async def test_of_x_ones_own_tweets_are_taken(tmp_path: Path) -> None:
    found = {document.link.rpartition("/")[2]: document for document in await collected(tmp_path, X)}
    assert sorted(found) == ["1", "4", "6"]
    first = found["1"]
    assert first.text == "Clocks drift & err, see https://example.org/clocks"
    assert first.link == "https://x.com/ada_w/status/1"
    assert (first.platform, first.category, first.author) == ("x", "post", "Ada Winter")
    assert first.published_at == datetime(2018, 10, 10, 20, 19, 24, tzinfo=UTC)
    assert sum(isinstance(item, Rejected) for item in await read(pack(tmp_path, X))) == 1


LINKEDIN: Files = {
    "Shares.csv": "Date,ShareLink,ShareCommentary,SharedUrl,MediaUrl,Visibility\r\n"
    '2024-05-31 08:00:00,https://www.linkedin.com/feed/update/urn%3Ali%3Ashare%3A1,"Clocks drift.""\n""All of them.",,,PUBLIC\r\n'
    "2024-06-01 08:00:00,https://www.linkedin.com/feed/update/urn%3Ali%3Ashare%3A2,,https://example.org,,PUBLIC\r\n",
    "Articles/Articles/clocks.html": "<html><head><title>x</title><style>b {}</style></head><body><h1><a "
    'href="https://www.linkedin.com/pulse/clocks">On clocks</a></h1><p class="created">Created on 2023-01-01 10:00</p>'
    '<p class="published">Published on 2023-01-02 11:30</p><div><h2>Why</h2><p>They <b>drift</b>.</p></div></body></html>',
    "Connections.csv": "First Name,Last Name\nBen,Okafor\n",
}


async def test_of_linkedin_posts_and_articles_are_taken(tmp_path: Path) -> None:
    post, article = await collected(tmp_path, LINKEDIN)
    assert post.text == "Clocks drift.\nAll of them."
    assert post.title == "Clocks drift. All of them.", "not the name of the file that holds all posts"
    assert post.link == "https://www.linkedin.com/feed/update/urn%3Ali%3Ashare%3A1"
    assert post.published_at == datetime(2024, 5, 31, 8, tzinfo=UTC)
    assert (article.title, article.text) == ("On clocks", "## Why\n\nThey **drift**.")
    assert article.link == "https://www.linkedin.com/pulse/clocks"
    assert article.published_at == datetime(2023, 1, 2, 11, 30, tzinfo=UTC)
    assert {post.platform, article.platform} == {"linkedin"}


def story(title: str, body: str, link: str = "https://medium.com/@ada/clocks-1") -> str:
    return (
        f'<article class="h-entry"><header><h1 class="p-name">{title}</h1></header><section class="e-content">{body}</section>'
        '<footer><time class="dt-published" datetime="2022-03-04T05:06:07.000Z">x</time>'
        f'<a href="{link}" class="p-canonical">Canonical link</a></footer></article>'
    )


MEDIUM: Files = {
    "posts/2022-03-04_On-clocks-0123456789ab.html": story(
        "On clocks", "<h3>On clocks</h3><p>They drift.</p><ul><li>all</li></ul>"
    ),
    "posts/draft_Never-0123456789ac.html": story("Never", "<p>Unfinished.</p>"),
    "posts/2022-03-05_Broken-0123456789ad.html": "<p>Nothing of Medium's.</p>",
    "profile/profile.html": "<p>Ada</p>",
}


async def test_of_medium_stories_are_taken_and_drafts_are_not(tmp_path: Path) -> None:
    [found] = await collected(tmp_path, MEDIUM)
    assert (found.title, found.text) == ("On clocks", "They drift.\n\n- all")
    assert (found.link, found.platform) == ("https://medium.com/@ada/clocks-1", "medium")
    assert found.published_at == datetime(2022, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert sum(isinstance(item, Rejected) for item in await read(pack(tmp_path, MEDIUM))) == 1


SUBSTACK: Files = {
    "posts.csv": "post_id,post_date,is_published,title,subtitle\n"
    "1.clocks,2024-01-02T03:04:05.000Z,true,On clocks,A short history\n2.draft,,false,Never,\n3.gone,2024-01-03,true,Gone,\n",
    "posts/1.clocks.html": "<p>They drift.</p>",
    "posts/2.draft.html": "<p>Unfinished.</p>",
    "email_list.csv": "email\nben@example.org\n",
}


async def test_of_substack_what_was_published_is_taken(tmp_path: Path) -> None:
    [found] = await collected(tmp_path, SUBSTACK)
    assert (found.title, found.text, found.platform) == (
        "On clocks",
        "A short history\n\nThey drift.",
        "substack",
    )
    assert found.published_at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert sum(isinstance(item, Rejected) for item in await read(pack(tmp_path, SUBSTACK))) == 1


def wxr(*items: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss xmlns:content="http://purl.org/rss/1.0/modules/content/" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:wp="http://wordpress.org/export/1.2/"><channel>'
        f"<title>Clocks</title>{''.join(items)}</channel></rss>"
    )


def post(number: int, content: str, kind: str = "post", status: str = "publish") -> str:
    return (
        f"<item><title>Post {number}</title><link>https://ada.example.org/{number}</link><dc:creator>ben</dc:creator>"
        f"<content:encoded><![CDATA[{content}]]></content:encoded><wp:post_id>{number}</wp:post_id>"
        f"<wp:post_date_gmt>2021-02-0{number} 03:04:05</wp:post_date_gmt><wp:post_type>{kind}</wp:post_type>"
        f"<wp:status>{status}</wp:status></item>"
    )


WORDPRESS = wxr(
    post(1, "<!-- wp:paragraph --><p>They <em>drift</em>.</p><!-- /wp:paragraph -->"),
    post(2, "First paragraph.\n\nSecond one.[caption id=1]"),
    post(3, "<p>Unfinished.</p>", status="draft"),
    post(4, "", kind="attachment"),
    post(5, ""),
)


@pytest.mark.parametrize("packed", [True, False])
async def test_of_wordpress_published_posts_are_taken(tmp_path: Path, packed: bool) -> None:
    path = pack(tmp_path, {"ada.WordPress.2024-01-01.xml": WORDPRESS}) if packed else tmp_path / "ada.xml"
    if not packed:
        path.write_text(WORDPRESS)
    items = await read(path)
    first, second = [item.document for item in items if isinstance(item, FetchedDocument)]
    assert (first.title, first.text, first.author) == ("Post 1", "They *drift*.", "Ada Winter")
    assert (first.link, first.platform) == ("https://ada.example.org/1", "ada.example.org")
    assert first.published_at == datetime(2021, 2, 1, 3, 4, 5, tzinfo=UTC)
    assert second.text == "First paragraph.\n\nSecond one."
    assert sum(isinstance(item, Rejected) for item in items) == 1  # a post without text


SLACK: Files = {
    "channels.json": '[{"name": "general"}]',
    "users.json": '[{"id": "U1", "real_name": "Ada Winter"}, {"id": "U2", "real_name": "Ben Okafor"}]',
    "general/2024-05-31.json": json.dumps(
        [
            {"user": "U1", "text": "Clocks &amp; bells, <@U2>: <https://example.org|see here>"},
            {"user": "U2", "text": "Thanks."},
            {"user": "U1", "text": "joined", "subtype": "channel_join"},
            {"user": "U1", "text": "In <#C1|tower> too."},
        ]
    ),
}


async def test_of_slack_the_authors_messages_of_a_day_are_one_text(tmp_path: Path) -> None:
    [found] = await collected(tmp_path, SLACK)
    assert found.text == "Clocks & bells, @Ben Okafor: see here\n\nIn #tower too."
    assert (found.title, found.platform) == ("#general, 2024-05-31", "slack")
    assert found.published_at == datetime(2024, 5, 31, tzinfo=UTC)


async def test_a_slack_archive_without_the_author_names_who_is_in_it(tmp_path: Path) -> None:
    users = '[{"id": "U2", "real_name": "Ben Okafor"}]'
    with pytest.raises(ExtractionError, match="Ben Okafor"):
        await read(pack(tmp_path, {**SLACK, "users.json": users}))


async def test_an_archive_of_notes_is_read_like_a_folder(tmp_path: Path) -> None:
    files: Files = {
        "Vault/Clocks 0123456789abcdef0123456789abcdef.md": "# Clocks\n\nThey drift.",
        "Vault/Bells.md": "Bells [[Clocks|ring]]. ![[bell.png]]",
        "Vault/.obsidian/app.json": "{}",
        "Vault/bell.png": b"\x89PNG",
    }
    bells, clocks = await collected(tmp_path, files)
    assert (bells.title, bells.text) == ("Bells", "Bells ring.")
    assert clocks.title == "Clocks"


async def test_a_second_run_over_an_archive_finds_the_same_documents(tmp_path: Path) -> None:
    path = pack(tmp_path, {"a.md": "One."})
    [first, _], [second, _] = await read(path), await read(path)
    assert first == second


# --- archives that are damaged, or not honest --------------------------------------------------------------------


async def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path) -> None:
    names = ["../../etc/cron.md", "/etc/passwd.md", "a/../../b.md", "C:\\x.md", "..\\x.md"]
    items = await read(pack(tmp_path, {**dict.fromkeys(names, "Evil."), "fine.md": "Fine."}))
    assert [item.document.text for item in items if isinstance(item, FetchedDocument)] == ["Fine."]
    assert sum(isinstance(item, Rejected) for item in items) == len(names)


async def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = pack(tmp_path, {f"{number}.md": "x" * 1_000_000 for number in range(4)})
    assert path.stat().st_size < 20_000
    items = await read(path, Limits(file_bytes=500_000))
    assert sum(isinstance(item, Rejected) for item in items) == 4
    with pytest.raises(CollectionError):
        await read(path, Limits(archive_bytes=2_500_000))


async def test_a_file_that_lies_about_its_size_gives_no_more_than_it_said(tmp_path: Path) -> None:
    content = make_zip({"a.md": "x" * 1_000_000, "b.md": "Fine."})
    path = tmp_path / "a.zip"
    path.write_bytes(content.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    items = await read(path)
    assert [type(item) for item in items] == [Rejected, FetchedDocument, EndOfSource]


async def test_an_archive_of_too_many_files_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path, {f"{number}.md": "One." for number in range(6)})
    for limits in (Limits(entries=5), Limits(files=5)):
        with pytest.raises(CollectionError):
            await read(path, limits)


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", make_zip({"a.md": "x"})[:-30], make_zip({}), make_zip({"a.png": b"\x89PNG"})],
)
async def test_what_is_no_archive_of_writing_fails_its_link(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ExtractionError):
        await read(tmp_path / "a.zip")


async def test_an_archive_with_a_password_is_refused(tmp_path: Path) -> None:
    content = bytearray(make_zip({"a.md": "secret"}))
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ExtractionError):
        await read(tmp_path / "a.zip")


@pytest.mark.parametrize(
    "files",
    [
        {"data/tweets.js": "window.YTD = [{"},
        {"data/tweets.js": "window.YTD = {}"},
        {"Shares.csv": ""},
        {"posts.csv": "a,b\n1,2\n"},
        {"channels.json": "[]"},
        {"channels.json": "[]", "users.json": "["},
    ],
)
async def test_a_damaged_export_fails_its_link_and_does_not_break(tmp_path: Path, files: Files) -> None:
    with pytest.raises(ExtractionError):
        await read(pack(tmp_path, files))


@pytest.mark.parametrize(
    "content",
    ["<rss", wxr(), "<a/>", wxr(post(1, "x")).replace("</channel>", ""), "<!DOCTYPE a [<!ENTITY b 'c'>]>"],
)
async def test_a_damaged_wordpress_file_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.xml").write_text(content)
    assert any(isinstance(item, Rejected) for item in await read(tmp_path / "a.xml"))


async def test_an_entity_of_a_wordpress_file_is_not_expanded(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    document_type = f'<!DOCTYPE rss [<!ENTITY s SYSTEM "{secret.as_uri()}">]>'
    content = wxr(post(1, "x").replace("<![CDATA[x]]>", "Text &s; text.")).replace(
        "?>", f"?>{document_type}", 1
    )
    (tmp_path / "a.xml").write_text(content)
    items = await read(tmp_path / "a.xml")
    assert "the secret" not in str(items)


async def test_one_damaged_story_costs_only_itself(tmp_path: Path) -> None:
    stories = {
        f"posts/2022-03-0{n}_A-0123456789a{n}.html": story(f"Story {n}", f"<p>Text {n}.</p>")
        for n in (1, 2, 3)
    }
    content = make_zip(stories)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.infolist()[1].header_offset
    damaged = bytearray(content)
    damaged[start + 100 : start + 140] = b"\xff" * 40
    (tmp_path / "a.zip").write_bytes(damaged)
    items = await read(tmp_path / "a.zip")
    assert [type(item) for item in items] == [FetchedDocument, Rejected, FetchedDocument, EndOfSource]
