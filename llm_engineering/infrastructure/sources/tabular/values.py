"""Cells of a table as values of a document."""

import html
import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llm_engineering.domain.facets import Scalar

_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9]\d{0,15})\.\d{1,15}")
_DATE_FORMATS = ("%Y/%m/%d", "%d.%m.%Y", "%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%Y%m%d", "%Y-%m")
_LANGUAGE_CODE = re.compile(r"([a-z]{2})(?:[-_][a-z]{2,4})?", re.IGNORECASE)
_LANGUAGES = {
    "arabic": "ar",
    "czech": "cs",
    "danish": "da",
    "german": "de",
    "greek": "el",
    "english": "en",
    "spanish": "es",
    "persian": "fa",
    "finnish": "fi",
    "french": "fr",
    "hebrew": "he",
    "hindi": "hi",
    "hungarian": "hu",
    "indonesian": "id",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "dutch": "nl",
    "norwegian": "no",
    "polish": "pl",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "swedish": "sv",
    "thai": "th",
    "turkish": "tr",
    "ukrainian": "uk",
    "vietnamese": "vi",
    "chinese": "zh",
}


def is_missing(value: Any) -> bool:
    """Nothing, blank, or the "not a number" that data frames write for nothing."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def as_text(value: Any) -> str:
    """Return a cell as text; a list of values is joined by commas, anything deeper is shown as JSON."""
    if is_missing(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # a column of whole numbers with a gap becomes decimals in data frames
    if isinstance(value, list | tuple) and all(isinstance(part, str | int | float) for part in value):
        return ", ".join(map(as_text, value))
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)


_TAG = re.compile(
    r"</?(?:a|b|blockquote|br|code|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|script|small|span|strong|style|sub|sup|table|tbody"
    r"|td|th|thead|tr|u|ul)(?:\s[^<>]{0,2000})?/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_BLOCKS = (
    "blockquote",
    "br",
    "div",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "table",
    "tr",
    "ul",
)
_NOT_TEXT = ("script", "style")


def strip_html(text: str) -> str:
    """Return a cell without HTML: elements of text give way to their words, blocks to line ends, entities to their character.
    What only looks like an element (``<3``, ``List<String>``) stays."""
    if "<" in text and _TAG.search(text):
        text = _words_of(text)
    return html.unescape(text) if "&" in text and _ENTITY.search(text) else text


def _words_of(markup: str) -> str:
    from lxml import etree
    from lxml.html import HTMLParser, fragment_fromstring

    # What is no element of text stands for itself, and must not be taken for one.
    kept = re.sub(rf"<(?!{_TAG.pattern[1:]})", "&lt;", markup, flags=re.IGNORECASE)
    try:
        root = fragment_fromstring(
            kept.encode("utf-8", "surrogatepass"), "div", parser=HTMLParser(encoding="utf-8", recover=True)
        )
    except (etree.ParserError, UnicodeEncodeError):
        return markup
    for one in list(root.iter(*_NOT_TEXT)):
        one.drop_tree()
    for one in root.iter(*_BLOCKS):
        one.tail = "\n" + (one.tail or "")
        if one.tag == "li":
            one.text = "- " + (one.text or "")
    lines = [" ".join(line.split()) for line in str(root.text_content()).splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def as_scalar(value: Any) -> Scalar:
    """Return a cell as metadata: numbers as numbers, also where a format knows texts only, so that all formats agree."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    text = as_text(value).strip()
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return as_scalar(float(text))
    return {"true": True, "false": False}.get(text.lower(), text)


def as_datetime(value: Any, formats: Iterable[str] = ()) -> datetime:
    """Return a cell as a point in time; without a zone it counts as UTC.

    ISO 8601, RFC 2822, seconds or milliseconds since 1970, and dates that can be read in one way only; others need
    ``formats`` (those of ``strptime``), which are then the only ones tried.

    Raises:
        ValueError: it is no date, or one that could be two (``03/04/2024``).
    """
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    text = as_text(value).strip()
    formats = tuple(formats)
    if not formats:
        try:
            if re.fullmatch(r"-?\d{9,13}(?:\.\d+)?", text):
                seconds = float(text)
                return datetime.fromtimestamp(seconds / 1000 if abs(seconds) >= 1e11 else seconds, UTC)
            return (
                parsedate_to_datetime(text)
                if re.search(r"[A-Za-z]{3}.*\d:\d\d", text)
                else datetime.fromisoformat(text)
            )
        except (ValueError, OverflowError, OSError):
            pass
    for form in formats or _DATE_FORMATS:
        try:
            # A zone is read where the form has one; a naive value is taken as UTC by the domain.
            return datetime.strptime(text, form)
        except ValueError:
            continue
    expected = f"a date as {', '.join(formats)}" if formats else "an ISO date such as 2024-05-31"
    hint = "" if formats else "; another form is named by the option date_format, such as '%m/%d/%Y'"
    raise ValueError(f"expected {expected}, got {text[:60]!r}{hint}")


def as_language(value: Any) -> str:
    """Return ISO 639-1 code of a language given as a code or by its English name; ``und`` where it is neither."""
    text = as_text(value).strip().lower()
    code = _LANGUAGE_CODE.fullmatch(text)
    return code[1] if code else _LANGUAGES.get(text, "und")
