"""PDF: pages to running text, without the lines that stand on every page."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING

from llm_engineering.infrastructure.sources.files.writings import Limits, UnreadableError, Writing

if TYPE_CHECKING:
    from pypdf import PdfReader

_NO_TITLE = re.compile(r"(?i)^\W*$|^(untitled|microsoft word\b.*|.*\.(docx?|odt|indd|tex|dvi|pages|rtf))$")
_BULLET = re.compile(r"^\s*[•▪◦‣∙]\s*")
_REPEATED_SHARE = 0.5
"""Of the pages, for a first or last line to be a running head."""
_FULL_LINE = 0.75
"""Of the usual width; a shorter line ends its paragraph."""


def read_pdf(content: bytes, limits: Limits) -> Iterator[Writing]:
    """Yield a PDF's text.

    Raises:
        UnreadableError: it is encrypted, has too many pages, or holds pictures of text only.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PdfReadError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # a line for every oddity of a file's inside
    try:
        reader = PdfReader(BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("It is protected by a password. Save a copy without one.")
        count = len(reader.pages)
        if count > limits.pages:
            raise UnreadableError(
                f"It has {count:,} pages; at most {limits.pages:,} are read. Split it, or leave it out."
            )
        pages = [page.extract_text() for page in reader.pages]
    except DependencyError as error:
        raise UnreadableError(f"Its encryption cannot be read here: {error}.") from error
    except (PdfReadError, RecursionError) as error:
        raise UnreadableError(f"It is no PDF, or is damaged: {str(error) or 'nested too deep'}.") from error
    text = join_pages(pages)
    if not any(character.isalpha() for character in text):
        raise UnreadableError(
            "It holds no text, only pictures of pages. Recognise the text first, for instance with ocrmypdf."
        )
    title, made_at = _describe(reader)
    yield Writing(text, title, published_at=made_at)


def _describe(reader: "PdfReader") -> tuple[str, datetime | None]:
    title, made_at = "", None
    with suppress(ValueError, TypeError, AttributeError, KeyError):  # metadata is what programs make of it
        about = reader.metadata
        if about is not None:
            title = str(about.title or "").strip()
            made_at = about.creation_date
    return ("" if _NO_TITLE.match(title) else title), made_at


def join_pages(pages: list[str]) -> str:
    """Return the paragraphs of pages: running heads and page numbers taken out, lines and divided words joined."""
    split = [[line.rstrip() for line in page.splitlines()] for page in pages]
    heads = _find_heads(split)
    lines = [line for page in split for line in _without(page, heads)]
    widths = sorted(len(line) for line in lines if line)
    width = widths[int(len(widths) * 0.9)] if widths else 0
    paragraphs: list[str] = []
    open_paragraph = False
    for line in lines:
        text = _BULLET.sub("- ", line).strip()
        if not text:
            open_paragraph = False
            continue
        if open_paragraph and not text.startswith("- "):
            last = paragraphs[-1]
            divided = last.endswith("-") and last[-2:-1].isalpha() and text[0].islower()
            paragraphs[-1] = last[:-1] + text if divided else f"{last} {text}"
        else:
            paragraphs.append(text)
        open_paragraph = len(line) >= width * _FULL_LINE or text.endswith("-")
    return "\n\n".join(paragraphs)


def _find_heads(pages: list[list[str]]) -> set[str]:
    counts = Counter(name for page in pages for name in set(_ends(page).values()))
    return {name for name, count in counts.items() if count >= 3 and count > len(pages) * _REPEATED_SHARE}


def _ends(page: list[str]) -> dict[int, str]:
    """A page's first and last line by their places, with all numbers alike."""
    filled = [place for place, line in enumerate(page) if line.strip()]
    return {place: re.sub(r"\d+", "0", page[place].strip()) for place in (*filled[:1], *filled[-1:])}


def _without(page: list[str], heads: set[str]) -> list[str]:
    drop = {place for place, name in _ends(page).items() if name in heads}
    return [line for place, line in enumerate(page) if place not in drop]
