"""The archives that services hand out: recognised by what lies inside, packed or unpacked.

A reader gets the tree and its files by path, and yields the owner's writing. Links are the public ones where the archive
tells them, so that what was also collected from the web is the same document.
"""

import csv
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from llm_engineering.domain.documents import User
from llm_engineering.infrastructure.sources.files.markup import parse_html, to_markdown
from llm_engineering.infrastructure.sources.files.trees import Entry, Tree
from llm_engineering.infrastructure.sources.files.writings import LeftOut, Limits, UnreadableError, Writing
from llm_engineering.infrastructure.sources.web.page_metadata import parse_date

if TYPE_CHECKING:
    from lxml.html import HtmlElement

Files = Mapping[str, Entry]
Found = Iterator[tuple[Entry, Writing | LeftOut]]

_TWEETS = re.compile(r"^([^/]+/)?data/tweets?(-part\d+)?\.js$")
_SHARES = re.compile(r"^([^/]+/)?Shares(_\d+)?\.csv$")
_LINKEDIN_ARTICLE = re.compile(r"^([^/]+/)?Articles/.*\.html?$")
_MEDIUM_POST = re.compile(r"^([^/]+/)?posts/[^/]*[-_][0-9a-f]{6,12}\.html$")
_SUBSTACK_LIST = re.compile(r"^([^/]+/)?posts\.csv$")
_SLACK_CHANNELS = re.compile(r"^([^/]+/)?channels\.json$")
_SLACK_DAY = re.compile(r"^([^/]+/)?[^/]+/\d{4}-\d{2}-\d{2}\.json$")
_SHORT_LINK = re.compile(r"https://t\.co/\w+")
_WXR = "http://wordpress.org/export/"
_CONTENT = "{http://purl.org/rss/1.0/modules/content/}encoded"
_CREATOR = "{http://purl.org/dc/elements/1.1/}creator"


@dataclass(frozen=True, slots=True)
class Export:
    """A kind of archive."""

    name: str
    telltale: re.Pattern[str]
    """Of a path that no other kind holds."""
    read: Callable[[Tree, Files, str, Limits], Found]
    """From the tree, its files and the author's name."""


def find_export(files: Files) -> Export | None:
    """Return the kind of archive that these files are; None where they are somebody's own."""
    return next((one for one in EXPORTS if any(one.telltale.match(path) for path in files)), None)


# --- X, formerly Twitter -----------------------------------------------------------------------------------------


def read_tweets(tree: Tree, files: Files, author: str, limits: Limits) -> Found:  # noqa: ARG001 - as the others
    """Yield tweets; what others wrote (retweets) and replies to others, which say little alone, are not taken."""
    account = next((files[path] for path in files if re.match(r"^([^/]+/)?data/account\.js$", path)), None)
    user = ""
    if account is not None:
        user = str(_first(_script(tree, account), "account").get("username") or "")
    for entry in _matching(files, _TWEETS):
        for number, record in enumerate(_script(tree, entry)):
            try:
                tweet = record.get("tweet", record)
                identifier, text = str(tweet["id_str"]), str(tweet["full_text"])
                made_at = datetime.strptime(tweet["created_at"], "%a %b %d %H:%M:%S %z %Y")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                yield (
                    entry,
                    LeftOut(
                        f"It is no tweet as X writes them ({type(error).__name__}: {error}).", str(number)
                    ),
                )
                continue
            replied = str(tweet.get("in_reply_to_screen_name") or "")
            if text.startswith("RT @") or (replied and replied.lower() != user.lower()):
                continue
            entities = tweet.get("entities") or {}
            for url in entities.get("urls") or ():
                text = text.replace(str(url.get("url")), str(url.get("expanded_url")))
            text = html.unescape(_SHORT_LINK.sub("", text)).strip()  # what is left leads to pictures
            if text:
                yield (
                    entry,
                    Writing(
                        text,
                        link=f"https://x.com/{quote(user) or 'i'}/status/{identifier}",
                        published_at=made_at,
                        platform="x",
                        category="post",
                    ),
                )


def _script(tree: Tree, entry: Entry) -> list[Any]:
    """The list in a file such as ``window.YTD.tweets.part0 = [ … ]``."""
    found = _json(tree.read(entry).decode("utf-8", "replace").partition("=")[2])
    return found if isinstance(found, list) else []


# --- LinkedIn ----------------------------------------------------------------------------------------------------


def read_linkedin(tree: Tree, files: Files, author: str, limits: Limits) -> Found:  # noqa: ARG001
    """Yield posts (Shares.csv) and articles."""
    for entry in _matching(files, _SHARES):
        for number, row in _rows(tree, entry):
            # Line ends come as quote, line feed, quote.
            text = (row.get("ShareCommentary") or "").replace('"\n"', "\n").strip()
            if not text:
                continue  # shared without a word
            yield (
                entry,
                Writing(
                    text,
                    key=str(number),
                    link=_web(row.get("ShareLink")),
                    published_at=parse_date(row.get("Date")),
                    platform="linkedin",
                    category="post",
                ),
            )
    yield from _each(tree, files, _LINKEDIN_ARTICLE, _linkedin_article)


def _linkedin_article(content: str) -> Writing | LeftOut:
    root = parse_html(content)
    if root is None:
        return LeftOut("It is empty.")
    heading = root.find(".//h1")
    title = _text(heading)
    link = heading.find(".//a") if heading is not None else None
    date = re.search(r"Published on (\d{4}-\d\d-\d\d(?: \d\d:\d\d)?)", root.text_content())
    for one in (heading, *root.find_class("created"), *root.find_class("published")):
        if one is not None and one.getparent() is not None:
            one.drop_tree()
    return Writing(
        to_markdown(root),
        title,
        link=_web(link.get("href") if link is not None else ""),
        published_at=parse_date(date[1]) if date else None,
        platform="linkedin",
    )


# --- Medium ------------------------------------------------------------------------------------------------------


def read_medium(tree: Tree, files: Files, author: str, limits: Limits) -> Found:  # noqa: ARG001
    """Yield stories and responses; drafts are not taken."""
    stories = {path: entry for path, entry in files.items() if "draft_" not in path}
    yield from _each(tree, stories, _MEDIUM_POST, _medium_story)


def _medium_story(content: str) -> Writing | LeftOut:
    root = parse_html(content)
    body = _by_class(root, "e-content")
    if body is None:
        return LeftOut("It is no story as Medium writes them: it has no part of the class 'e-content'.")
    title = _text(_by_class(root, "p-name"))
    date, link = _by_class(root, "dt-published"), _by_class(root, "p-canonical")
    for heading in body.iter("h1", "h2", "h3"):  # the title once more
        if _text(heading) == title:
            heading.drop_tree()
            break
    return Writing(
        to_markdown(body),
        title,
        link=_web(link.get("href") if link is not None else ""),
        published_at=parse_date(date.get("datetime") if date is not None else ""),
        platform="medium",
    )


# --- Substack ----------------------------------------------------------------------------------------------------


def read_substack(tree: Tree, files: Files, author: str, limits: Limits) -> Found:  # noqa: ARG001
    """Yield what was published. The archive does not name its site, so each post is identified by its file."""
    for entry in _matching(files, _SUBSTACK_LIST):
        folder = entry.path.removesuffix("posts.csv")
        for number, row in _rows(tree, entry):
            identifier = (row.get("post_id") or "").strip()
            if (row.get("is_published") or "").strip().lower() != "true":
                continue
            post = files.get(f"{folder}posts/{identifier}.html") or files.get(f"{folder}{identifier}.html")
            if post is None:
                yield entry, LeftOut(f"The text of {identifier!r} is not in the archive.", str(number))
                continue
            try:
                body = to_markdown(tree.read(post).decode("utf-8", "replace"))
            except UnreadableError as error:
                yield post, LeftOut(str(error))
                continue
            title, subtitle = (" ".join((row.get(name) or "").split()) for name in ("title", "subtitle"))
            yield (
                post,
                Writing(
                    f"{subtitle}\n\n{body}" if subtitle and body else body,
                    title,
                    published_at=parse_date(row.get("post_date")),
                    platform="substack",
                ),
            )


# --- WordPress ---------------------------------------------------------------------------------------------------


def read_wordpress(tree: Tree, entry: Entry) -> Iterator[Writing | LeftOut]:
    """Yield the published posts and pages of a WordPress export (WXR), one at a time.

    Raises:
        UnreadableError: it is no such file.
    """
    from lxml import etree

    found = 0
    try:
        with tree.open(entry) as file:
            items = etree.iterparse(
                file, tag="item", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
            )
            for _, item in items:
                values = {str(one.tag): (one.text or "").strip() for one in item}
                wordpress = {
                    name.rpartition("}")[2]: text
                    for name, text in values.items()
                    if name.startswith("{" + _WXR)
                }
                item.clear(keep_tail=False)
                while item.getprevious() is not None:
                    del item.getparent()[0]
                if not wordpress:
                    continue
                found += 1
                if wordpress.get("post_type") not in ("post", "page") or wordpress.get("status") != "publish":
                    continue
                yield _wordpress_post(values, wordpress)
    except etree.XMLSyntaxError as error:
        raise UnreadableError(f"It is damaged, or no XML: {error}.") from error
    if not found:
        raise UnreadableError("It is no WordPress export: it holds no posts as WordPress writes them.")


def _wordpress_post(values: Mapping[str, str], wordpress: Mapping[str, str]) -> Writing | LeftOut:
    key = wordpress.get("post_id", "")
    # Blocks stand in comments; what an older editor wrote has blank lines in place of paragraphs.
    content = re.sub(r"<!--.{0,2000}?-->", "", values.get(_CONTENT, ""), flags=re.S)
    if "<p" not in content:
        content = "".join(f"<p>{part}</p>" for part in re.split(r"\n\s*\n", content))
    link = _web(values.get("link"))
    try:
        text = to_markdown(re.sub(r"\[/?(caption|gallery|embed)[^\]]{0,500}\]", "", content))
    except UnreadableError as error:
        return LeftOut(str(error), key)
    if not text:
        return LeftOut("The post holds no text.", key)
    return Writing(
        text,
        values.get("title", ""),
        key=key,
        link=link,
        published_at=parse_date(wordpress.get("post_date_gmt")) or parse_date(values.get("pubDate")),
        author=values.get(_CREATOR, ""),
        platform=(urlsplit(link).hostname or "wordpress").removeprefix("www."),
    )


# --- Slack -------------------------------------------------------------------------------------------------------


def read_slack(tree: Tree, files: Files, author: str, limits: Limits) -> Found:  # noqa: ARG001
    """Yield what the author wrote in each channel on each day.

    Raises:
        UnreadableError: nobody in it has the author's name.
    """
    names = {}
    for path in files:
        if re.match(r"^([^/]+/)?users\.json$", path):
            for user in _json(tree.read(files[path]).decode("utf-8", "replace")) or ():
                names[str(user.get("id"))] = str(user.get("real_name") or user.get("name") or "")
    wanted = User(full_name=author).id
    own = {key for key, name in names.items() if name.strip() and User(full_name=name).id == wanted}
    if not own:
        known = ", ".join(sorted(filter(None, names.values()))[:10]) or "nobody"
        raise UnreadableError(f"Nobody in the Slack archive is called {author}. There are: {known}.")
    for entry in _matching(files, _SLACK_DAY):
        messages = _json(tree.read(entry).decode("utf-8", "replace"))
        texts = [
            _slack_text(str(one.get("text") or ""), names)
            for one in messages or ()
            if isinstance(one, dict) and one.get("user") in own and not one.get("subtype")
        ]
        channel = entry.path.split("/")[-2]
        if any(texts):
            yield (
                entry,
                Writing(
                    "\n\n".join(filter(None, texts)),
                    f"#{channel}, {entry.stem}",
                    published_at=parse_date(entry.stem),
                    platform="slack",
                    category="post",
                ),
            )


def _slack_text(text: str, names: Mapping[str, str]) -> str:
    text = re.sub(r"<@(\w+)(?:\|[^>]*)?>", lambda found: f"@{names.get(found[1], found[1])}", text)
    text = re.sub(r"<#\w+\|([^>]*)>", r"#\1", text)
    text = re.sub(r"<(?:[^|>]*\|)?([^>]*)>", r"\1", text)
    return html.unescape(text).strip()


# --- what they share ---------------------------------------------------------------------------------------------

EXPORTS = (
    Export("X archive", _TWEETS, read_tweets),
    Export("LinkedIn archive", _SHARES, read_linkedin),
    Export("Substack archive", _SUBSTACK_LIST, read_substack),
    Export("Medium archive", _MEDIUM_POST, read_medium),
    Export("Slack archive", _SLACK_CHANNELS, read_slack),
)


def _matching(files: Files, pattern: re.Pattern[str]) -> Iterator[Entry]:
    return (files[path] for path in sorted(files) if pattern.match(path))


def _each(
    tree: Tree, files: Files, pattern: re.Pattern[str], read: Callable[[str], Writing | LeftOut]
) -> Found:
    """What ``read`` makes of each file; one that is damaged costs only itself."""
    for entry in _matching(files, pattern):
        try:
            found = read(tree.read(entry).decode("utf-8", "replace"))
        except UnreadableError as error:
            found = LeftOut(str(error))
        yield entry, found


def _rows(tree: Tree, entry: Entry) -> Iterator[tuple[int, dict[str, str]]]:
    text = tree.read(entry).decode("utf-8-sig", "replace")
    csv.field_size_limit(max(csv.field_size_limit(), 10_000_000))
    try:
        yield from enumerate(csv.DictReader(StringIO(text, newline="")), start=1)
    except csv.Error as error:
        raise UnreadableError(f"It is damaged: {error}.") from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"It is damaged: {error}.") from error


def _first(records: list[Any], name: str) -> Mapping[str, Any]:
    found = records[0].get(name) if records and isinstance(records[0], dict) else None
    return found if isinstance(found, dict) else {}


def _web(link: str | None) -> str:
    link = (link or "").strip()
    try:
        return link if urlsplit(link).scheme in ("http", "https") else ""
    except ValueError:
        return ""


def _by_class(root: "HtmlElement | None", name: str) -> "HtmlElement | None":
    return next(iter(root.find_class(name)), None) if root is not None else None


def _text(element: "HtmlElement | None") -> str:
    return " ".join(element.text_content().split()) if element is not None else ""
