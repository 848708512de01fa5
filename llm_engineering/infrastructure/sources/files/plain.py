"""Files that are text already: Markdown, plain text, notebooks, and saved pages."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from email.policy import default
from typing import Any

import yaml

from llm_engineering.domain.errors import ExtractionError
from llm_engineering.infrastructure.sources.files.transcripts import find_turns
from llm_engineering.infrastructure.sources.files.writings import Limits, UnreadableError, Writing
from llm_engineering.infrastructure.sources.git.selection import decode as decode_text
from llm_engineering.infrastructure.sources.git.selection import notebook_text
from llm_engineering.infrastructure.sources.web.charset import decode as decode_page
from llm_engineering.infrastructure.sources.web.extraction import extract_page
from llm_engineering.infrastructure.sources.web.page_metadata import parse_date

_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.{0,20000}?)\n(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_HEADING = re.compile(r"(?m)^#{1,2}[ \t]+(\S.*)$")
_EMBEDDED = re.compile(r"!\[\[[^\]\n]*\]\]|<!--.{0,5000}?-->", re.S)
_WIKI_LINK = re.compile(r"\[\[(?:[^\]|\n]*\|)?([^\]|\n]+)\]\]")
_DATES = ("date", "published", "published_at", "publishdate", "pubdate", "created")


def read_markdown(content: bytes, limits: Limits) -> Iterator[Writing]:  # noqa: ARG001 - as the others
    """Yield a Markdown file: title, date and author of its front matter (YAML or TOML), Obsidian's links as their words."""
    text = _decode(content)
    about: Mapping[str, Any] = {}
    if found := _FRONT_MATTER.match(text):
        about, text = _front_matter(found[1], found[2]), text[found.end() :]
    text = _WIKI_LINK.sub(r"\1", _EMBEDDED.sub("", text)).strip()
    heading = _HEADING.search(text)
    author = about.get("author")
    yield Writing(
        text,
        _line(about.get("title")) or (_line(heading[1].rstrip(" \t#")) if heading else ""),
        published_at=next(filter(None, (parse_date(about.get(name)) for name in _DATES)), None),
        author=_line(author) if isinstance(author, str) else "",
    )


def read_text(content: bytes, limits: Limits) -> Iterator[Writing]:  # noqa: ARG001
    """Yield a text file. A short first line with an empty one below it is its title. A transcript that Teams or Zoom saved as
    text has a paragraph for each turn."""
    text = _decode(content).strip()
    if (transcript := find_turns(text)) is not None:
        yield transcript
        return
    first, _, rest = text.partition("\n")
    titled = len(first) <= 100 and rest.startswith("\n") and not first.rstrip().endswith((".", ",", ":"))
    yield Writing(text, _line(first) if titled else "")


def read_notebook(content: bytes, limits: Limits) -> Iterator[Writing]:  # noqa: ARG001
    """Yield a Jupyter notebook's texts and code, without outputs."""
    found = notebook_text(_decode(content))
    if found is None:
        raise UnreadableError("It is no Jupyter notebook.")
    heading = _HEADING.search(found[0])
    yield Writing(found[0], _line(heading[1].rstrip(" \t#")) if heading else "")


def read_page(content: bytes, limits: Limits) -> Iterator[Writing]:  # noqa: ARG001
    """Yield the article of a page that was saved from a browser."""
    html, _ = decode_page(content)
    try:
        page = extract_page(html, "file:///page.html", min_characters=1)
    except ExtractionError as error:
        raise UnreadableError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
    about = page.metadata
    yield Writing(
        page.text,
        about.title,
        published_at=about.published_at,
        author=about.author,
        language=about.language,
        platform=about.platform or "file",
    )


def read_web_archive(content: bytes, limits: Limits) -> Iterator[Writing]:
    """Yield the article of a page that was saved with all its parts in one file (MHTML)."""
    for part in message_from_bytes(content, policy=default).walk():
        if part.get_content_type() == "text/html":
            payload = part.get_payload(decode=True)
            yield from read_page(payload if isinstance(payload, bytes) else b"", limits)
            return
    raise UnreadableError("It holds no page.")


def _decode(content: bytes) -> str:
    found = decode_text(content)
    if found is None:
        raise UnreadableError("It is a binary file, no text.")
    return found[0]


def _front_matter(fence: str, text: str) -> Mapping[str, Any]:
    """What stands above a text; empty where it cannot be read, since the text below is what counts."""
    try:
        values = yaml.safe_load(text) if fence == "---" else tomllib.loads(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return {str(key).lower(): value for key, value in values.items()} if isinstance(values, dict) else {}


def _line(value: object) -> str:
    return " ".join(str(value or "")[:2_000].split())[:300]
