"""Input of any shape: what reads it answers, or refuses in the way it promises.

``FUZZ_EXAMPLES=10000 ./poe test tests/attacks/test_fuzzed_input.py`` looks longer, ``coverage_fuzz.py`` by what it reaches.
"""

import asyncio
import gzip
import json
import os
from contextlib import suppress
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llm_engineering.application.features.chunk import ChunkingConfig, chunk_document
from llm_engineering.application.ports import Link
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import CollectionError, ExtractionError, ModelServiceError
from llm_engineering.infrastructure.shared.openai_stream import ReplyReader, event_data
from llm_engineering.infrastructure.sources.git.globs import matches
from llm_engineering.infrastructure.sources.tabular import TableReader
from llm_engineering.infrastructure.sources.web.charset import decode
from llm_engineering.infrastructure.sources.web.client import Fetched
from llm_engineering.infrastructure.sources.web.extraction import extract_page
from llm_engineering.infrastructure.sources.web.feed import _parse
from tests.fakes.embedder import WordTokenizer

fuzzed = settings(
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

XML = (
    "<rss><channel><item><link> <link/> </link> <feed> <entry> <url><loc> </loc></url> <urlset> <sitemapindex> <sitemap> "
    "]]> <![CDATA[ <!DOCTYPE <!ENTITY &a; &#0; &#xFFFFFF; http://[ https://a.test/ xmlns= \" ' \x00 \ufeff <pubDate>"
).split()
HTML = (
    "<p> </p> <div> </div> <table> <tr> <td> <pre> <code> </code></pre> <figure> <figcaption> <a href= > <script> </script> <h1> "
    "<li> <ul> <img <!-- --> <title> <meta charset= <base href= <svg> &nbsp; &#x0; words 東京 \U0001f600"
).split()
MARKDOWN = "# ## ``` ~~~ `a` | |--| - * 1. > **b** _c_ [l](u) ![i](u) <b> \t word 東京 \U0001f600 \\ --- === $$".split()


def soup(parts: list[str]) -> st.SearchStrategy[str]:
    """Texts out of the pieces of a language, in any order."""
    return st.lists(st.one_of(st.sampled_from(parts), st.text(max_size=6)), max_size=60).map(" ".join)


@given(
    st.one_of(
        soup(XML).map(str.encode), st.binary(max_size=300), soup(XML).map(lambda t: gzip.compress(t.encode()))
    )
)
@example(b"<rss><channel>&#xFFFFFF;")
@example(b"<!doctype html>")
@example(b"<html")
@example(b"<urlset><url><loc>http://[</loc></url>")
@example(b"\x00<urlset>")
@fuzzed
def test_any_feed_is_read_or_refused(content: bytes) -> None:
    try:
        listing = _parse(Fetched(200, "https://example.org/feed", {}, content))
    except ExtractionError:
        return
    assert all(entry.url.startswith("http") for entry in listing.entries)


@given(soup(HTML))
@example(f"<article><p>{'Words of a page. ' * 20}\x01 &#1; &#x1F; &#xFFFF; and so on.</p></article>")
@fuzzed
def test_any_page_is_read_or_refused(html: str) -> None:
    try:
        page = extract_page(html, "https://example.org/a", min_characters=20)
    except ExtractionError:
        return
    assert len(page.text) >= 20


@given(st.binary(max_size=400), st.text("charset=utf-8;x016 \"'", max_size=30))
@fuzzed
def test_any_bytes_are_some_text(content: bytes, content_type: str) -> None:
    decode(content, content_type)[0].encode("utf-8", "surrogatepass")


@given(soup(MARKDOWN), st.booleans())
@fuzzed
def test_any_text_is_cut_into_chunks_that_hold_all_of_it(text: str, lines: bool) -> None:
    text = text.replace(" ", "\n") if lines else text
    names = "id category title link platform author author_id language source_hash".split()
    document = CleanDocument.model_validate(
        {**dict.fromkeys(names, "x"), "category": "article", "text": text}
    )
    config = ChunkingConfig(overlap_tokens=0, min_tokens=0, parent_tokens=64)
    chunks = chunk_document(document, WordTokenizer(), config, 40, "v")
    missing = set("".join(text.split())) - set("".join(chunk.text for chunk in chunks))
    assert not missing


@given(
    soup("* ** ? / [ ] [! [^ - a z [z-a] [--] [a-]] \\ . { }".split()).map(lambda t: t.replace(" ", "")),
    st.text(max_size=30),
)
@example("[a--b", "a")  # a warning of `re` for each of a stranger's patterns
@example("[a||b]", "a")
@fuzzed
def test_any_pattern_is_matched_or_refused(pattern: str, path: str) -> None:
    with suppress(ValueError):
        matches(path, [pattern])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "usage", "error", "index", "x"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
)


@given(st.lists(st.one_of(JSON.map(json.dumps), st.text(max_size=30), st.just("[DONE]")), max_size=5))
@fuzzed
def test_any_stream_is_a_reply_or_a_failure_of_the_service(events: list[str]) -> None:
    reader = ReplyReader("The service")
    with suppress(ModelServiceError):
        for event in events:
            data = event_data(f"data: {event}")
            if data is not None:
                reader.read(data)
        reader.make_closing_delta()


def make_table(ending: str, path: Path) -> bytes:
    """An honest table of a few rows."""
    rows = [{"text": f"Row {n} says é", "id": n} for n in range(20)]
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path.read_bytes()
    if ending == "csv":
        return ("text,id\n" + "".join(f'"{row["text"]}",{row["id"]}\n' for row in rows)).encode()
    return json.dumps(rows).encode()


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
@given(data=st.data())
@fuzzed
def test_any_damage_of_a_table_is_told(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    path = tmp_path / f"t.{ending}"
    content = bytearray(make_table(ending, path))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)

    async def read() -> None:
        async for _ in TableReader().read(Link(str(path), "Ada", category="article"), {}):
            pass

    with suppress(CollectionError):
        asyncio.run(read())
