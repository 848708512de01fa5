"""The table reader against real files in every format."""

import csv
import gzip
import io
import json
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llm_engineering.application.ports import EndOfSource, FetchedDocument, Link, Rejected, SourceItem
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError, ExtractionError, FetchError
from llm_engineering.infrastructure.sources.tabular import TableReader
from llm_engineering.infrastructure.sources.tabular.values import as_datetime, as_language, as_scalar, as_text

AUTHOR = "Ada Winter"
REVIEWS = [
    {
        "review_id": "r1",
        "headline": "Good, mostly",
        "body": 'It "just" works,\nday after day.',
        "date": "2024-05-01",
    },
    {"review_id": "r2", "headline": "Meh", "body": "Grüße aus Köln", "date": "2024-05-02T10:00:00+02:00"},
]
COLUMN_MAP = {"id": "review_id", "title": "headline", "text": "body", "published_at": "date"}


async def read(path: object, category: str | None = "review", **options: Any) -> list[SourceItem]:
    link = Link(str(path), AUTHOR, category=category, options=options)
    return [item async for item in TableReader().read(link, {})]


def documents(items: Iterable[SourceItem]) -> list[RawDocument]:
    return [item.document for item in items if isinstance(item, FetchedDocument)]


def rejected(items: Iterable[SourceItem]) -> list[Rejected]:
    return [item for item in items if isinstance(item, Rejected)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format of the path's ending, by each format's own library."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    stream = io.StringIO(newline="")
    if name.endswith((".csv", ".tsv")):
        writer = csv.DictWriter(stream, rows[0], delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
    elif name.endswith(".json"):
        json.dump(rows, stream, ensure_ascii=False, indent=1)
    else:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    content = stream.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    "ending", ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "json.gz", "jsonl.gz"]
)
async def test_every_format_gives_the_same_documents(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"reviews.{ending}", REVIEWS)

    items = await read(path, column_map=COLUMN_MAP)

    first, second = documents(items)
    assert (first.category, first.title, first.author, first.platform) == (
        "review",
        "Good, mostly",
        AUTHOR,
        "reviews",
    )
    assert first.text == 'It "just" works,\nday after day.'
    assert first.link == f"{path}#r1"
    assert first.published_at == datetime(2024, 5, 1, tzinfo=UTC)
    assert second.text == "Grüße aus Köln"
    assert second.published_at == datetime(2024, 5, 2, 8, tzinfo=UTC)
    assert items[-1] == EndOfSource()
    assert not rejected(items)


async def test_a_category_s_own_fields_make_text_and_metadata(tmp_path: Path) -> None:
    rows = [
        {
            "Title": "Heat",
            "genre": ["crime", "drama"],
            "plot": "A heist.",
            "year": 1995,
            "budget": 60,
            "id": 7,
        }
    ]
    path = write(tmp_path / "movies.jsonl", rows)

    (movie,) = documents(await read(path, category="movie", column_map={"metadata.cost": "budget"}))

    assert movie.text == "Heat\n\nGenre: crime, drama\n\nPlot: A heist."
    assert movie.title == "Heat"
    assert movie.metadata == {"genre": ("crime", "drama"), "year": 1995, "cost": 60}
    assert movie.link.endswith("movies.jsonl#7")


async def test_fields_of_the_category_can_be_mapped_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "movies.csv", [{"name": "Heat", "overview": "A heist.", "released": "1995"}])

    (movie,) = documents(
        await read(
            path, category="movie", column_map={"title": "name", "plot": "overview", "year": "released"}
        )
    )

    assert movie.text == "Heat\n\nPlot: A heist."
    assert movie.metadata == {"year": 1995}


async def test_several_columns_can_make_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", [{"a": "First", "b": "", "c": "Third"}])

    (document,) = documents(await read(path, column_map={"text": ["a", "b", "c"]}))

    assert document.text == "First\n\nThird"


async def test_a_row_s_own_author_link_and_language_win(tmp_path: Path) -> None:
    rows = [
        {"text": "One", "author": "Bo  Lind", "link": "https://example.org/1", "language": "en-US"},
        {"text": "Two", "author": "", "link": "", "language": "German"},
    ]
    first, second = documents(await read(write(tmp_path / "t.csv", rows), category="article"))

    assert (first.author, first.link, first.language) == ("Bo Lind", "https://example.org/1", "en")
    assert (second.author, second.language) == (AUTHOR, "de")


async def test_without_an_id_a_row_keeps_its_identity_when_others_come_and_go(tmp_path: Path) -> None:
    rows = [{"text": "One"}, {"text": "Two"}]
    before = documents(await read(write(tmp_path / "t.csv", rows), category="article"))
    after = documents(await read(write(tmp_path / "t.csv", [{"text": "Zero"}, *rows]), category="article"))

    assert [d.id for d in after[1:]] == [d.id for d in before]
    assert len({d.id for d in after}) == 3


async def test_bad_rows_are_rejected_with_line_and_reason_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text(
        "id,title,review,published_at\n"  # 1
        "1,Fine,Works,2024-01-01\n"  # 2
        "2,Short\n"  # 3
        '3,Two lines,"first\nsecond",2024-01-03\n'  # 4, 5
        "4,Long,a,b,2024-01-04\n"  # 6
        "\n"  # 7
        "5,,,2024-01-05\n"  # 8
        "6,Date,Text,yesterday\n"  # 9
        "7,Two dates,Text,03/04/2024\n"  # 10
        '8,"Quote"x,Text,2024-01-08\n'  # 11
        '9,Never closed,"Text,2024-01-09\n'  # 12
        "1,Again,Same id,2024-01-10\n"  # 13
        "10,Last,Works too,2024-01-11\n"  # 14
    )

    items = await read(path)

    assert [d.link.rpartition("#")[2] for d in documents(items)] == ["1", "3", "10"]
    problems = {int(item.source.rpartition(":")[2]): item for item in rejected(items)}
    assert sorted(problems) == [3, 6, 8, 9, 10, 11, 12, 13]
    assert "2 fields where the header has 4" in problems[3].reason
    assert "double quotes" in problems[6].reason
    assert "text is missing (column 'title' and 'review')" in problems[8].reason
    assert "expected an ISO date" in problems[9].reason
    assert "date_format" in problems[10].reason
    assert "cannot be read" in problems[11].reason
    assert problems[12].payload == ""  # a reviewer's name may be anywhere in it
    assert "same id, '1'" in problems[13].reason
    assert all(item.source.startswith(f"{path}:") for item in problems.values())
    assert items[-1] == EndOfSource()


async def test_broken_json_records_do_not_end_the_reading(tmp_path: Path) -> None:
    array = tmp_path / "a.json"
    array.write_text(
        '[\n{"text": "One, [not] {an} end \\" ]"},\n{"text": nope},\n"text",\n{"text": "Two"}\n]\n'
    )
    by_line = tmp_path / "l.jsonl"
    by_line.write_text('{"text": "One, [not] {an} end \\" ]"}\n{"text": nope}\n\n"text"\n{"text": "Two"}')

    for path, broken in ((array, [3, 4]), (by_line, [2, 4])):
        items = await read(path, category="article")
        assert [d.text for d in documents(items)] == ['One, [not] {an} end " ]', "Two"]
        assert [int(item.source.rpartition(":")[2]) for item in rejected(items)] == broken
        assert "not valid JSON" in rejected(items)[0].reason
        assert "no object with fields, but a text" in rejected(items)[1].reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"text": "One"}, {"text": "Tw', "not closed"),
        ('[{"text": "One"}] {"text": "Two"}', "there is more"),
        ('{\n "data": [\n {"text": "One"}\n]}', "records_at: data"),
        ("<html>", "Expected an array of objects"),
        ("  \n", "is empty"),
    ],
)
async def test_json_that_is_no_list_of_records_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "t.json").write_text(content)

    with pytest.raises(CollectionError, match=reason):
        await read(tmp_path / "t.json", category="article")


async def test_wrong_columns_are_told_all_at_once_with_those_that_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"headline": "A", "body": "B"}])

    with pytest.raises(CollectionError) as caught:
        await read(path, column_map={"title": "heading", "text": "content", "colour": "body", "author": 3})

    message = str(caught.value)
    assert "there is no column 'content', 'heading'" in message
    assert "column_map has no field 'colour' (expected one of" in message
    assert "column_map.author must be the name of a column, got 3" in message
    assert "Columns in the table: 'headline', 'body'" in message


async def test_a_table_in_which_nothing_is_text_says_what_was_expected(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"name": "A", "plot_summary": "B"}])

    with pytest.raises(
        CollectionError, match="expected 'title' or 'genre' or 'director' or 'plot', or a column_map"
    ):
        await read(path, category="movie")


async def test_without_a_category_rows_are_posts_and_one_that_is_named_must_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"title": "T", "text": "A"}])

    documents = [
        item.document for item in await read(path, category=None) if isinstance(item, FetchedDocument)
    ]
    assert [(one.category, one.title) for one in documents] == [("post", "T")]
    other = write(tmp_path / "u.csv", [{"body": "A"}])
    with pytest.raises(CollectionError, match="such as category: review"):
        await read(other, category=None)
    with pytest.raises(CollectionError, match="no category 'novel'"):
        await read(path, category="novel")


async def test_wrong_options_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"text": "A"}])

    with pytest.raises(
        CollectionError, match=r"no option 'colunm_map'.*max_items must be.*delimiter must be"
    ):
        await read(path, colunm_map={}, max_items=0, delimiter="ab")
    with pytest.raises(CollectionError, match="no encoding 'utf-9'"):
        await read(path, encoding="utf-9")


@pytest.mark.parametrize(
    ("name", "content", "error", "reason"),
    [
        ("t.csv", b"", ExtractionError, "is empty"),
        ("t.csv", b"text\n", ExtractionError, "no rows"),
        ("t.xlsx", b"PK", CollectionError, "no table of a known format"),
        ("t.parquet", b"PAR1 not really", CollectionError, "cannot be read as Parquet"),
        ("t.csv.gz", b"not packed", CollectionError, "broken gzip"),
    ],
)
async def test_files_that_are_no_tables(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], reason: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(error, match=reason):
        await read(tmp_path / name, category="article")


async def test_a_missing_file_and_a_strange_scheme(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="There is no file"):
        await read(tmp_path / "nothing.csv")
    with pytest.raises(CollectionError, match=r"ftp://host/t.csv cannot be read as a table"):
        await read("ftp://key:secret@host/t.csv")


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("text\nGrüße\n".encode(), ["Grüße"]),
        ("text\nGrüße\n".encode("utf-8-sig"), ["Grüße"]),
        ("text\nGrüße\n".encode("utf-16"), ["Grüße"]),
        ("text\nGrüße – “so”\n".encode("cp1252"), ["Grüße – “so”"]),
        ("text\nGr\x81\xfc\n".encode("latin-1"), ["Gr\x81ü"]),
    ],
)
async def test_encodings_are_recognised(tmp_path: Path, content: bytes, texts: list[str]) -> None:
    (tmp_path / "t.csv").write_bytes(content)

    assert [d.text for d in documents(await read(tmp_path / "t.csv", category="article"))] == texts


async def test_a_damaged_byte_costs_its_row_only(tmp_path: Path) -> None:
    rows = [f"Größe {i} äöü".encode() for i in range(20)]
    rows[7] += b"\xff"
    (tmp_path / "t.csv").write_bytes(b"text\n" + b"\n".join(rows))

    items = await read(tmp_path / "t.csv", category="article")

    assert len(documents(items)) == 19
    (bad,) = rejected(items)
    assert bad.source.endswith("t.csv:9")
    assert "bytes that are no text" in bad.reason


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
async def test_delimiters_are_recognised(tmp_path: Path, delimiter: str) -> None:
    lines = ["id", "text"], ["1", "a, b; c"], ["2", "d"]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)

    assert [d.text for d in documents(await read(tmp_path / "t.csv", category="article"))] == ["a, b; c", "d"]


async def test_a_text_that_is_too_long_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"text": "x" * 200}, {"text": "y" * 5_000}, {"text": "short"}])
    reader = TableReader(max_text_chars=100)

    items = [item async for item in reader.read(Link(str(path), AUTHOR, category="article"), {})]

    assert [d.text for d in documents(items)] == ["short"]
    assert [item.reason for item in rejected(items)] == [
        "The text has 200 characters, more than the 100 allowed.",
        "The record is longer than 1,200 characters.",
    ]


async def test_max_items_ends_the_reading_and_nothing_counts_as_gone(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"text": str(i)} for i in range(5)])

    assert [type(item) for item in await read(path, category="article", max_items=2)] == [
        FetchedDocument,
        FetchedDocument,
    ]
    assert (await read(path, category="article", max_items=9))[-1] == EndOfSource()


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
async def test_memory_does_not_grow_with_the_table(tmp_path: Path, ending: str) -> None:
    peaks = []
    for rows in (2_000, 8_000):
        path = write(
            tmp_path / f"{rows}.{ending}", [{"id": i, "text": f"{i} " + "word " * 100} for i in range(rows)]
        )
        count = 0
        tracemalloc.start()
        async for item in TableReader().read(Link(str(path), AUTHOR, category="article"), {}):
            count += isinstance(item, FetchedDocument)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == rows
    # The hashes of the ids are all that grows: well under 200 bytes a row.
    assert peaks[1] - peaks[0] < 6_000 * 200


async def test_leaving_early_closes_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"text": str(i)} for i in range(2_000)])
    items = TableReader().read(Link(str(path), AUTHOR, category="article"), {})

    assert isinstance(await anext(items), FetchedDocument)
    await items.aclose()  # type: ignore[attr-defined]
    # An open file would be reported as a ResourceWarning, which the test run turns into an error.


@pytest.fixture
def site() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"text\nFrom afar\n" if self.path == "/t.csv" else b"gone"
            self.send_response(200 if self.path == "/t.csv" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_a_table_on_the_web_is_fetched(site: str) -> None:
    (document,) = documents(await read(f"http://ada:secret@{site}/t.csv", category="article"))

    assert document.text == "From afar"
    assert document.origin == f"http://{site}/t.csv"
    assert "secret" not in document.model_dump_json()


async def test_a_table_on_the_web_may_be_missing_too_large_or_out_of_reach(site: str) -> None:
    with pytest.raises(FetchError, match="answered 404"):
        await read(f"http://{site}/other.csv")
    with pytest.raises(FetchError, match="cannot be fetched"):
        await read("http://127.0.0.1:9/t.csv")
    small = TableReader(max_download_bytes=5)
    with pytest.raises(FetchError, match="larger than the limit of 5 bytes"):
        async for _ in small.read(Link(f"http://{site}/t.csv", AUTHOR, category="article"), {}):
            pass


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda text: text.strip()
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), delimiter=st.sampled_from(",;\t|"))
@example(texts=['"', '""', ',"', "a\rb", "a\r\nb", "'"], delimiter=",")
@example(texts=["\ufeffmark", " lead", "x\x00y"], delimiter=";")
async def test_what_a_csv_writer_quotes_is_read_back_exactly(
    tmp_path: Path, texts: list[str], delimiter: str
) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(texts))

    items = await read(path, category="article", delimiter=delimiter)

    assert not rejected(items)
    assert [d.text for d in documents(items)] == [text.strip() for text in texts]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries({"text": TEXTS, "more": st.recursive(TEXTS, st.lists)}), min_size=1, max_size=6
    ),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
)
async def test_any_json_array_is_cut_at_its_own_commas(
    tmp_path: Path, rows: list[dict[str, Any]], ascii_only: bool, indent: int | None
) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(rows, ensure_ascii=ascii_only, indent=indent), encoding="utf-8", newline="")

    items = await read(path, category="article")

    assert not rejected(items)
    assert [d.text for d in documents(items)] == [row["text"].strip() for row in rows]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-05-31", datetime(2024, 5, 31)),
        ("2024-05-31T08:00:00Z", datetime(2024, 5, 31, 8, tzinfo=UTC)),
        ("Fri, 31 May 2024 08:00:00 +0000", datetime(2024, 5, 31, 8, tzinfo=UTC)),
        (1717142400, datetime(2024, 5, 31, 8, tzinfo=UTC)),
        ("1717142400000", datetime(2024, 5, 31, 8, tzinfo=UTC)),
        ("31.05.2024", datetime(2024, 5, 31)),
        ("May 31, 2024", datetime(2024, 5, 31)),
        ("20240531", datetime(2024, 5, 31)),
    ],
)
def test_dates_are_read_in_the_usual_forms(value: object, expected: datetime) -> None:
    assert as_datetime(value) == expected


def test_a_date_of_two_meanings_needs_a_format() -> None:
    with pytest.raises(ValueError, match="date_format"):
        as_datetime("03/04/2024")
    assert as_datetime("03/04/2024", ["%d/%m/%Y"]) == datetime(2024, 4, 3)
    with pytest.raises(ValueError, match=r"expected a date as %d/%m/%Y"):
        as_datetime("2024-04-03", ["%d/%m/%Y"])


def test_cells_become_texts_scalars_and_languages() -> None:
    assert [as_text(v) for v in (None, float("nan"), 4.0, ["a", 1], {"k": "ü"})] == [
        "",
        "",
        "4",
        "a, 1",
        '{"k": "ü"}',
    ]
    assert [as_scalar(v) for v in ("4", "007", "4.50", "true", " x ", 4.0)] == [4, "007", 4.5, True, "x", 4]
    assert [as_language(v) for v in ("EN", "pt_BR", "French", "Klingon", None)] == [
        "en",
        "pt",
        "fr",
        "und",
        "und",
    ]
