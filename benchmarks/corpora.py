"""Documents to measure with: a file's, the sample site's, or made-up ones; and copies that are new to every cache."""

import json
import random
import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.infrastructure.sources.web.extraction import extract_page

COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text", "content", "body", "content.Content", "content.content", "content.text"),
    "title": ("title", "name", "content.Title", "content.title"),
}
"""Where a text and its title are looked for unless a column map says. A dot leads into an object."""

_MARKER = re.compile(r"\s*(?:#{1,6}\s+|[-*+]\s+|\d+[.)]\s+|>\s+)?")


def documents(corpus: Path | None, columns: Mapping[str, str], scale: int = 1) -> list[RawDocument]:
    """The documents of the file, or of the sample site, ``scale`` times.

    Copies beyond the first have the words of each line in another order: as many tokens, but no text, no embedding
    and no five-word sequence in common with the original.
    """
    originals = list(file_documents(corpus, columns) if corpus else site_documents())
    return [shuffled(document, copy) if copy else document for copy in range(scale) for document in originals]


def file_documents(corpus: Path, columns: Mapping[str, str]) -> Iterator[RawDocument]:
    """Documents of a JSON array or of a JSON Lines file of objects; those without text are left out.

    Args:
        columns: where ``text`` and ``title`` stand in an object, like ``{"text": "content.Content"}``.

    Raises:
        InvalidInputError: the file is neither, or no object has a text.
    """
    found = 0
    for number, item in enumerate(_items(corpus)):
        text = _field(item, "text", columns)
        if text.strip():
            found += 1
            yield _document(f"{corpus.stem}/{number}", _field(item, "title", columns), text)
    if not found:
        raise InvalidInputError(
            f"No object in {corpus.name} has a text under {columns.get('text') or ' or '.join(COLUMNS['text'])}. "
            "Say where it stands with --columns text=FIELD title=FIELD (a dot leads into an object)."
        )


def site_documents() -> Iterator[RawDocument]:
    """The articles of ``samples/site``, extracted the way the collector does it."""
    for file in sorted((ROOT / "samples" / "site" / "articles").glob("*.html")):
        html = file.read_text(encoding="utf-8")
        page = extract_page(html, f"https://site.example.org/{file.name}", min_characters=140)
        yield _document(f"articles/{file.name}", page.metadata.title, page.text)


def made_up_documents(count: int, parts: int = 8) -> Iterator[RawDocument]:
    """Articles of invented words, with headings, lists and code; ``parts`` sections of about 300 tokens each."""
    chance = random.Random(0)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words = ["".join(chance.choices(syllables, k=chance.choice((1, 2, 2, 3)))) for _ in range(8_000)]
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))

    def sentence() -> str:
        said = chance.choices(words, cum_weights=weights, k=chance.randint(6, 18))
        return f"{' '.join(said).capitalize()}."

    for number in range(count):
        blocks = ["Share this post", "Copy link", f"# {sentence()}"]
        for part in range(parts):
            blocks += [
                f"## {part} {sentence()}",
                " ".join(sentence() for _ in range(7)),
                f"- {sentence()}\n- {sentence()}",
            ]
            if part % 4 == 3:
                blocks.append("```python\n" + "\n".join(f"value_{i} = call({i})" for i in range(6)) + "\n```")
        yield _document(str(number), sentence(), "\n\n".join(blocks))


def shuffled(document: RawDocument, copy: int) -> RawDocument:
    """A copy with the words of each line in another order; line breaks, headings, lists and fences stay."""
    chance = random.Random(f"{copy}/{document.link}")
    lines = []
    for line in document.text.split("\n"):
        marker = _MARKER.match(line)
        start = marker.end() if marker else 0
        words = line[start:].split(" ")
        if not line.startswith(("```", "|")):
            chance.shuffle(words)
        lines.append(line[:start] + " ".join(words))
    link = f"{document.link}/copy-{copy}"
    # Not by model_copy, which would carry the original's cached id and hash along.
    return RawDocument(**{**document.model_dump(), "text": "\n".join(lines), "link": link, "origin": link})


def _document(name: str, title: str, text: str) -> RawDocument:
    link = f"https://blog.example.org/{name}"
    return RawDocument(
        category="article",
        title=title,
        text=text,
        link=link,
        origin=link,
        platform="blog",
        author="Ada Byron",
    )


def _items(corpus: Path) -> Iterator[Any]:
    try:
        with corpus.open(encoding="utf-8") as file:
            if file.read(1) == "[":
                file.seek(0)
                yield from json.load(file)
            else:
                file.seek(0)
                yield from (json.loads(line) for line in file if line.strip())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{corpus} cannot be read ({error}). Expected a JSON array, or JSON Lines: one object a line."
        ) from error


def _field(item: Any, name: str, columns: Mapping[str, str]) -> str:
    for path in (columns[name],) if name in columns else COLUMNS[name]:
        value = item
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str):
            return value
    return ""
