"""Where records come from and what they must be like: folders, patterns, buckets, databases, contracts, languages, HTML."""

import csv
import gzip
import json
import sqlite3
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from llm_engineering.application.features.chunk import ChunkingConfig, chunk_document
from llm_engineering.application.features.collect import collect
from llm_engineering.application.features.collect_report import CollectionReport
from llm_engineering.application.features.pipeline import clean_documents
from llm_engineering.application.inference.records import FoundRecord
from llm_engineering.application.inference.search import read_facets
from llm_engineering.application.ports import Discovered, EndOfSource, FetchedDocument, Link, Rejected
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.categories import FACETS
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError, ExtractionError, TooManyFailuresError
from llm_engineering.infrastructure.api.schemas.records import RecordOut
from llm_engineering.infrastructure.personal_data import RulesFinder
from llm_engineering.infrastructure.sources.tabular import TableReader
from llm_engineering.infrastructure.sources.tabular.values import strip_html
from tests.fakes.embedder import WordTokenizer
from tests.fakes.warehouse import FakeWarehouse
from tools.collection import spell_link

ROWS: list[dict[str, Any]] = [
    {
        "id": number,
        "title": f"Film {number}",
        "plot": f"The {number}th film tells of a long journey and of what came of it.",
        "genre": "crime|drama" if number % 2 else "comedy",
        "year": 1950 + number % 60,
        "rating": number % 20 / 2,
    }
    for number in range(300)
]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_database(path: Path, rows: list[dict[str, Any]], table: str = "films") -> Path:
    columns = list(rows[0])
    with sqlite3.connect(path) as database:
        database.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        marks = ", ".join("?" for _ in columns)
        database.executemany(f"INSERT INTO {table} VALUES ({marks})", [tuple(row.values()) for row in rows])
    database.close()
    return path


def write_all(folder: Path, rows: list[dict[str, Any]] = ROWS) -> None:
    folder.mkdir(exist_ok=True)
    write_csv(folder / "a.csv", rows)
    (folder / "b.json").write_text(json.dumps(rows, indent=1))
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "d.parquet")
    write_database(folder / "e.sqlite", rows)


async def gather(
    url: str | Path, warehouse: FakeWarehouse | None = None, *, category: str = "movie", **options: Any
) -> tuple[CollectionReport, list[RawDocument], FakeWarehouse]:
    """Collect one link as a run does."""
    place = warehouse or FakeWarehouse()
    link = Link(str(url), "", category=category, options={"reader": "table", **options})
    report = await collect([link], {"table": TableReader()}, place.documents, place.users, place.dead_letters)
    return report, list(place.documents.stream()), place


async def read(
    path: Path, category: str = "movie", known: Mapping[str, Any] = {}, **options: Any
) -> list[Any]:
    return [item async for item in TableReader().read(Link(str(path), "", category, options=options), known)]


async def test_one_folder_with_the_same_rows_in_five_formats(tmp_path: Path) -> None:
    write_all(tmp_path / "in")
    report, documents, place = await gather(tmp_path / "in")
    assert len(documents) == 5 * len(ROWS)
    assert report.outcomes[0].discovered == 5
    by_row: dict[str, list[RawDocument]] = {}
    for document in documents:
        by_row.setdefault(document.link.rpartition("#")[2], []).append(document)
    for same in by_row.values():
        assert len({document.id for document in same}) == 5
        assert len({document.text for document in same}) == 1
        assert all(document.metadata == same[0].metadata for document in same)
        kinds = [{name: type(value) for name, value in document.metadata.items()} for document in same]
        assert all(kind == kinds[0] for kind in kinds)
    assert place.users.all() == [] or list(place.users.all()) == []
    again, _, _ = await gather(tmp_path / "in", place)
    assert sum(outcome.unchanged for outcome in again.outcomes) == 5 * len(ROWS)
    assert sum(outcome.created + outcome.updated for outcome in again.outcomes) == 0


async def test_a_pattern_leads_to_what_it_matches(tmp_path: Path) -> None:
    write_all(tmp_path / "in", ROWS[:3])
    _, documents, _ = await gather(tmp_path / "in" / "[ab].*")
    assert {Path(document.link.rpartition("#")[0]).name for document in documents} == {"a.csv", "b.json"}
    with pytest.raises(ExtractionError, match="no table"):
        await read(tmp_path / "in" / "*.tsv")


async def test_a_bucket_is_read_as_a_folder_is(tmp_path: Path) -> None:
    write_all(tmp_path / "in", ROWS[:20])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "in"), "/films", recursive=True)
    try:
        _, documents, place = await gather("memory://films")
        assert len(documents) == 100
        assert len({document.text for document in documents}) == 20
        _, one, _ = await gather("memory://films/a.csv")
        assert len(one) == 20
        memory.rm("/films/b.json")
        report, _, _ = await gather("memory://films/b.json", place)
        assert report.outcomes[0].reason
    finally:
        memory.rm("/films", recursive=True)


async def test_s3_is_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        write_all(tmp_path / "in", ROWS[:4])
        s3 = s3fs.S3FileSystem()
        s3.mkdir("films-of-the-test")
        for file in (tmp_path / "in").iterdir():
            s3.put(str(file), f"films-of-the-test/in/{file.name}")
        _, documents, _ = await gather("s3://films-of-the-test/in/")
        assert len(documents) == 20
        report, _, _ = await gather("s3://films-of-the-test/in/nothing.csv")
        assert "nothing at s3://" in report.outcomes[0].reason
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


async def test_a_table_of_a_database_is_read_on_from_its_cursor(tmp_path: Path) -> None:
    rows = [{**row, "changed": f"2026-01-{1 + row['id'] % 28:02d}"} for row in ROWS[:50]]
    path = write_database(tmp_path / "films.db", rows)
    url, options = f"sqlite:///{path}", {"table": "films", "cursor": "changed"}
    _, documents, place = await gather(url, **options)
    assert len(documents) == 50
    with sqlite3.connect(path) as database:
        database.execute(
            "UPDATE films SET plot = 'Another plot altogether.', changed = '2026-02-01' WHERE id = 3"
        )
        database.execute("UPDATE films SET plot = 'Not seen: its time is the old one.' WHERE id = 4")
    database.close()
    report, documents, _ = await gather(url, place, **options)
    outcome = report.outcomes[0]
    assert outcome.updated == 1
    assert outcome.unchanged == sum(row["changed"] == "2026-01-28" for row in rows)
    assert len(documents) == 50  # what the cursor leaves out is not gone
    with pytest.raises(CollectionError, match="there are id, title"):
        await read_items(url, cursor="nothing")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://ada:s3cret", "port is no number"),
        ("postgresql://ada:s3cret@h:port/d", "port is no number"),
        ("mssql+pymssql://ada:s3cret@h/d", "driver"),
    ],
)
async def test_an_address_of_a_database_that_cannot_be_used_says_what_to_do(url: str, told: str) -> None:
    with pytest.raises(CollectionError, match=told) as raised:
        await read_items(url)
    assert "s3cret" not in str(raised.value)


async def test_two_tables_of_a_database_are_two_links_with_cursors_of_their_own(tmp_path: Path) -> None:
    path = write_database(tmp_path / "films.db", [{**ROWS[0], "changed": 5}])
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE old AS SELECT id, title, 'A plot of old.' AS plot, 1 AS changed FROM films"
        )
    database.close()
    url = f"sqlite:///{path}"
    links = [
        Link(url, "", "movie", options={"table": name, "cursor": "changed"}) for name in ("films", "old")
    ]
    place = FakeWarehouse()
    for _ in range(2):
        report = await collect(
            links, {"table": TableReader()}, place.documents, place.users, place.dead_letters
        )
        assert not report.duplicates
        found = {document.link: document.origin for document in place.documents.stream()}
        one = ROWS[0]["id"]
        assert found == {f"{url}#table={name}#{one}": f"{url}#table={name}" for name in ("films", "old")}
    assert {*found.values()} < {*spell_link(url, found.values())}


async def read_items(url: str, **options: Any) -> list[Any]:
    return [item async for item in TableReader().read(Link(url, "", "movie", options=options), {})]


async def test_a_query_makes_records_and_a_database_is_only_read(tmp_path: Path) -> None:
    path = write_database(tmp_path / "films.db", ROWS[:50])
    before = path.read_bytes()
    items = await read_items(f"sqlite:///{path}", query="SELECT * FROM films WHERE year < 1955 ORDER BY id;")
    assert [item.document.metadata["year"] for item in items if isinstance(item, FetchedDocument)] == [
        *range(1950, 1955)
    ]
    assert isinstance(items[-1], EndOfSource)
    for query in ("DELETE FROM films", "SELECT nothing FROM films"):
        with pytest.raises(CollectionError):
            await read_items(f"sqlite:///{path}", query=query)
    assert path.read_bytes() == before
    write_database(path, ROWS[:1], "others")
    with pytest.raises(CollectionError, match="films, others"):
        await read_items(f"sqlite:///{path}")
    with pytest.raises(CollectionError, match="There is no file"):
        await read_items(f"sqlite:///{tmp_path}/nothing.db")
    with pytest.raises(CollectionError) as caught:
        await read_items("postgresql://user:secret@127.0.0.1:1/films", table="films")
    assert "secret" not in str(caught.value)


async def test_an_object_of_records(tmp_path: Path) -> None:
    path = tmp_path / "films.json"
    path.write_text(json.dumps({"Heat": "A heist goes wrong.", "Alien": "A crew finds something."}, indent=1))
    items = await read(path, column_map={"title": "key", "plot": "value", "id": "key"})
    found = [item.document for item in items if isinstance(item, FetchedDocument)]
    assert [document.title for document in found] == ["Heat", "Alien"]
    assert found[0].link.endswith("films.json#Heat")
    path.write_text(json.dumps({"data": {"films": [{"title": "Heat", "plot": "A heist."}, "no record"]}}))
    items = await read(path, records_at="data.films")
    assert [type(item) for item in items] == [FetchedDocument, Rejected, EndOfSource]
    with pytest.raises(CollectionError, match="at 'film'"):
        await read(path, records_at="data.film")


CONTRACT = {
    "type": "object",
    "required": ["year"],
    "properties": {
        "year": {"type": "integer", "minimum": 1900},
        "title": {"maxLength": 60},
        "country": {"enum": ["us", "de"]},
        "code": {"pattern": "^[A-Z]{2}[0-9]+$"},
        "votes": {"type": "integer"},
    },
}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"year": ""}, "'year' is a required property"),
        ({"year": "1850"}, "year: 1850 does not fit minimum"),
        ({"year": "long ago"}, "'year': expected a whole number, got 'long ago'"),
        ({"rating": "11"}, "rating: 11 does not fit maximum"),
        ({"title": "x" * 70}, "does not fit maxLength: 60"),
        ({"country": "fr"}, "country: 'fr' does not fit enum"),
        ({"code": "x"}, "code: 'x' does not fit pattern"),
        ({"votes": "many"}, "votes: 'many' does not fit type: integer"),
        ({"id": "0"}, "same id"),
        ({"plot": "", "title": "", "genre": ""}, "The text is missing"),
        ({"plot": "broken \udcff bytes"}, "no text"),
    ],
)
async def test_what_breaks_the_contract_is_rejected_with_line_field_and_value(
    tmp_path: Path, wrong: dict[str, Any], named: str
) -> None:
    good = {
        "title": "Größe, Übermut, Träume, Gefühle, Müßiggang",
        "plot": "A plot.",
        "genre": "crime",
        "year": "1994",
        "rating": "7.5",
        "country": "de",
    }
    good |= {"code": "AB1", "votes": "12"}
    rows = [{"id": str(number), **good} for number in range(5)]
    rows[3] |= wrong
    path = tmp_path / "films.csv"
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    items = await read(path, contract=CONTRACT)
    [rejected] = [item for item in items if isinstance(item, Rejected)]
    assert named in rejected.reason
    assert rejected.source == f"{path}:5"
    assert sum(isinstance(item, FetchedDocument) for item in items) == 4


async def test_a_contract_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "films.csv", ROWS[:2])
    with pytest.raises(CollectionError, match=r"properties\.year\.type"):
        await read(path, contract={"properties": {"year": {"type": "number of a year"}}})
    with pytest.raises(CollectionError, match="mapping"):
        await read(path, contract=["year"])


async def test_a_large_value_is_shown_short(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "films.csv", [{**ROWS[0], "note": "y" * 500_000}])
    [rejected, _] = await read(path, contract={"properties": {"note": {"maxLength": 10}}})
    assert len(rejected.reason) < 300


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("<b>GREAT</b>! &amp; I&#039;ve", "GREAT! & I've"),
        ("One.<br/>Two.<p>Three.</p>", "One.\nTwo.Three."),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ("I <3 it, 2 < 3 & List<String>", "I <3 it, 2 < 3 & List<String>"),
        ("<script>alert(1)</script>Fine", "Fine"),
        ("<div>5 < 6 <unknown>", "5 < 6 <unknown>"),
        ("plain", "plain"),
    ],
)
def test_html_in_cells_gives_way_to_its_words(cell: str, text: str) -> None:
    assert strip_html(cell) == text


async def test_rows_get_their_language_and_short_ones_are_left_out(tmp_path: Path) -> None:
    texts = {
        "de": "Das Gerät ging schon nach zwei Tagen kaputt, sehr schade.",
        "en": "The device broke after only two days, what a pity that is.",
        "fr": "L'appareil est tombé en panne après deux jours, c'est dommage.",
    }
    rows: list[dict[str, Any]] = [{"id": code, "review": text} for code, text in texts.items()]
    path = write_csv(tmp_path / "reviews.csv", [*rows, {"id": "x", "review": "Bad, bad."}])
    items = await read(path, "review", languages=["de", "en", "fr"], min_words=5)
    found = {
        item.document.link.rpartition("#")[2]: item.document
        for item in items
        if isinstance(item, FetchedDocument)
    }
    assert {code: document.language for code, document in found.items()} == {code: code for code in texts}
    [rejected] = [item for item in items if isinstance(item, Rejected)]
    assert "2 words, fewer than the 5" in rejected.reason
    with pytest.raises(CollectionError, match="languages must be"):
        await read(path, "review", languages="german")


async def test_names_of_reviewers_are_kept_nowhere(tmp_path: Path) -> None:
    rows = [
        {
            "id": n,
            "review": "It works well, I must say.",
            "author": f"Jane Q{n}",
            "Reviewer": f"Jane Q{n}",
            "rating": 4 if n else 17,
        }
        for n in range(20)
    ]
    _, documents, place = await gather(write_csv(tmp_path / "r.csv", rows), category="review")
    assert {document.author for document in documents} == {""}
    assert list(place.users.all()) == []
    [letter] = place.dead_letters.stream()
    assert "It works well" in letter.payload
    assert not any("Jane" in record.model_dump_json() for record in (*documents, letter))


async def test_a_reviewer_is_kept_as_a_pseudonym_that_leaves_the_warehouse_nowhere(tmp_path: Path) -> None:
    """Statement 28: the same person is known again, by a key alone, and neither facets nor passages nor replies tell of her."""
    policy = PrivacyPolicy(RulesFinder([]), key=b"0123456789abcdef")
    names = ("Jane Quill", "JANE  quill", "Ottavio Rosenstiel", "")
    rows = [
        {"id": n, "review": f"It works well, I must say {n} times.", "reviewer": name, "product": "Lamp"}
        for n, name in enumerate(names)
    ]
    rows.append({**rows[0], "id": 9, "review": ""})
    reader = TableReader(name_writer=policy.name_writer)
    link = Link(str(write_csv(tmp_path / "r.csv", rows)), "", category="review")
    place = FakeWarehouse()
    await collect(
        [link], {"table": reader}, place.documents, place.users, place.dead_letters, max_failed_share=1.0
    )
    clean_documents(place.documents, place.clean, place.dead_letters, privacy=policy)
    kept = sorted(place.clean.stream(), key=lambda one: one.link)
    first, same, other, nobody = (one.metadata.get("reviewer") for one in kept)
    assert first == same == policy.name_writer("jane quill") != other
    assert first is not None
    assert str(first).isalpha()
    assert nobody is None
    assert PrivacyPolicy(RulesFinder([]), key=b"fedcba9876543210").name_writer("Jane Quill") != first
    assert PrivacyPolicy(RulesFinder([])).name_writer("Jane Quill") == ""
    everything = "".join(
        one.model_dump_json()
        for one in (*place.documents.stream(), *place.clean.stream(), *place.dead_letters.stream())
    )
    assert "quill" not in everything.casefold()
    assert "Rosenstiel" not in everything
    # What the index and a search's reply are made of:
    assert "reviewer" not in FACETS
    chunks = [
        chunk for one in kept for chunk in chunk_document(one, WordTokenizer(), ChunkingConfig(), 40, "v")
    ]
    shown = [RecordOut.from_found(FoundRecord(one, None)).model_dump_json() for one in kept]
    assert chunks
    assert not any(str(first) in text for text in (*shown, *(one.model_dump_json() for one in chunks)))
    assert "reviewer" not in read_facets(place.clean.list_cards())


async def test_of_who_has_opted_out_nothing_is_kept_and_what_was_goes(tmp_path: Path) -> None:
    rows = [{"id": n, "title": f"Film {n}", "plot": "A clock drifts."} for n in range(3)]
    rows[1]["plot"] = "Seen by ada\nWINTER, ada.winter@example.org."
    rows[2]["plot"] = "About Ada Winterbottom."
    path = write_csv(tmp_path / "films.csv", rows)
    place, readers = FakeWarehouse(), {"table": TableReader()}
    link = Link(str(path), "", category="movie", options={"reader": "table"})
    stores = place.documents, place.users, place.dead_letters
    await collect([link], readers, *stores)
    assert len(list(place.documents.stream())) == 3
    write_csv(path, [*rows, {"id": 9, "title": "Film 9", "plot": "New."}])
    report = await collect([link], readers, *stores, opted_out=["Ada Winter", ""])
    assert [one.title for one in place.documents.stream()].count("Film 1") == 0
    assert len(list(place.documents.stream())) == 3
    assert report.outcomes[0].rejected == 1
    [letter] = place.dead_letters.stream()
    assert "winter" not in letter.model_dump_json().casefold()


async def test_a_folder_yields_its_tables_as_links_of_their_own(tmp_path: Path) -> None:
    write_all(tmp_path / "in", ROWS[:2])
    (tmp_path / "in" / "notes.md").write_text("no table")
    items = await read(tmp_path / "in")
    assert all(isinstance(item, Discovered) for item in items)
    assert [Path(item.link.url).name for item in items] == [
        "a.csv",
        "b.json",
        "c.jsonl.gz",
        "d.parquet",
        "e.sqlite",
    ]


@pytest.mark.parametrize(("share", "fails"), [(0.1, False), (0.04, True)])
def test_a_share_of_bad_rows_fails_a_run_with_everything_good_stored(share: float, fails: bool) -> None:
    """5 % of 300 rows are bad: the run fails or not by its share, and what is good is there either way."""
    warehouse = FakeWarehouse()
    bad = dict.fromkeys(range(0, 300, 20), "\n\t")
    documents = [
        RawDocument(
            category="movie",
            text=bad.get(number, str(row["plot"])) or "x",
            link=f"films.csv#{number}",
            origin="films.csv",
            platform="films",
        )
        for number, row in enumerate(ROWS)
    ]
    warehouse.documents.upsert(documents)
    outcome = nullcontext() if not fails else pytest.raises(TooManyFailuresError)
    with outcome:
        clean_documents(warehouse.documents, warehouse.clean, warehouse.dead_letters, max_failed_share=share)
    assert len(list(warehouse.clean.stream())) == 285
    assert warehouse.dead_letters.count() == 15
