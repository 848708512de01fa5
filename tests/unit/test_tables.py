"""Tables for warehouses of data: counts as in the store, one partition a day, texts as they were; and a record's way."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from llm_engineering.application.features.explain import explain_record
from llm_engineering.application.features.index import index_documents
from llm_engineering.application.features.pipeline import clean_documents
from llm_engineering.application.features.tables import TABLES, export_tables
from llm_engineering.domain.documents import DeadLetter, RawDocument
from llm_engineering.domain.errors import InvalidInputError, StoreError
from llm_engineering.infrastructure.table_files import ParquetTables
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.warehouse import FakeWarehouse
from tools.records import list_facts

DAY = datetime(2026, 5, 1, 12, tzinfo=UTC)


class World:
    """Thirty films of three days, of which five came too late to be indexed, and one rejected row."""

    def __init__(self) -> None:
        self.warehouse, self.index = FakeWarehouse(), FakeVectorIndex()
        self.put(range(25))
        w = self.warehouse
        clean_documents(w.documents, w.clean, w.dead_letters)
        index_documents(w.clean, self.index, HashEmbedder(), w.embeddings, dead_letters=w.dead_letters)
        self.put(range(25, 30))
        w.dead_letters.put(
            [
                DeadLetter(
                    stage="collect", source="films.csv:31", reason="year: 1", payload="{}", failed_at=DAY
                )
            ]
        )

    def put(self, numbers: range) -> None:
        self.warehouse.documents.upsert(
            [
                RawDocument(
                    category="movie",
                    title=f"Film {n}",
                    text=f"Film {n}\n\nPlot: Ünlike any other, №{n}.",
                    link=f"films.csv#{n}",
                    origin="films.csv",
                    platform="films",
                    metadata={"genre": ("crime",), "year": 1950 + n},
                    collected_at=DAY + timedelta(days=n % 3),
                )
                for n in numbers
            ]
        )


def read(folder: Path, name: str, day: str | None = None) -> list[dict[str, Any]]:
    data = pyarrow.dataset.dataset(folder / name, partitioning="hive")
    where = None if day is None else pyarrow.dataset.field("created_at") == day
    if day is not None:
        assert len(list(data.get_fragments(filter=where))) == 1
    rows: list[dict[str, Any]] = data.to_table(filter=where).to_pylist()
    return rows


def test_tables_hold_what_the_store_holds_by_day_and_id(tmp_path: Path) -> None:
    world = World()
    for _ in range(2):  # again: the same tables, not twice as much
        counts = export_tables(world.warehouse, world.index, ParquetTables(tmp_path).write)
        assert counts == {"full_text": 25, "metadata": 30, "dropped": 1}
    assert {path.name for path in tmp_path.iterdir()} == set(TABLES)
    texts = {row["id"]: row["full_text"] for row in read(tmp_path, "full_text")}
    assert texts == {document.id: document.text for document in world.warehouse.clean.stream()}
    first = read(tmp_path, "metadata", "2026-05-01")
    assert len(first) == 10
    assert [row["id"] for row in first] == sorted(row["id"] for row in first)
    statuses = [row["status"] for row in read(tmp_path, "metadata")]
    assert (statuses.count("indexed"), statuses.count("collected")) == (25, 5)
    assert {row["filename"] for row in first} == {"films.csv"}
    [dropped] = read(tmp_path, "dropped")
    assert (dropped["source"], dropped["reason"]) == ("films.csv:31", "year: 1")


def test_a_folder_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    world = World()
    export_tables(world.warehouse, world.index, ParquetTables(tmp_path).write)

    def rows() -> Any:
        yield {"id": "1", "created_at": "2026-05-01"}
        raise OSError("the disk is full")

    # As after a kill between the two renames.
    (tmp_path / "full_text").rename(tmp_path / ".full_text.old")
    with pytest.raises(StoreError, match="disk is full"):
        ParquetTables(tmp_path).write("full_text", TABLES["full_text"], rows())
    assert len(read(tmp_path, "full_text")) == 25
    assert {path.name for path in tmp_path.iterdir()} == set(TABLES)


def test_a_record_is_explained_by_id_link_key_or_line() -> None:
    world = World()
    document = world.warehouse.documents.get([RawDocument(**base(7)).id])[0]
    for which in (document.id, "films.csv#7", "7"):
        history = explain_record(which, world.warehouse, world.index)
        assert history.document == document
        assert [chunk.document_id for chunk in history.chunks] == [document.id]
        facts = dict(list_facts(history, "MiniLM"))
        assert facts["Row"] == "films.csv#7"
        assert facts["Vectors"].startswith("1 by MiniLM")
    late = dict(list_facts(explain_record("films.csv#27", world.warehouse, world.index), ""))
    assert late["Chunks"] == "none in the index"
    rejected = explain_record("films.csv:31", world.warehouse, world.index)
    assert rejected.document is None
    assert dict(list_facts(rejected, "")) == {"Left out (collect)": "films.csv:31: year: 1"}
    with pytest.raises(InvalidInputError, match="no record"):
        explain_record("nothing", world.warehouse, world.index)


def base(number: int) -> dict[str, Any]:
    return {
        "category": "movie",
        "text": "x",
        "link": f"films.csv#{number}",
        "origin": "films.csv",
        "platform": "films",
    }
