"""Folders that say they are a warehouse's export."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_engineering.application.features.export import (
    DEAD_LETTERS,
    DOCUMENTS,
    FEEDBACK,
    STAGE,
    USERS,
    export_warehouse,
    import_warehouse,
)
from tests.attacks.watching import measure_cost
from tests.fakes.warehouse import FakeWarehouse

TRAVERSAL = "../../../outside"


def write(folder: Path, name: str, *values: Any) -> None:
    folder.mkdir(exist_ok=True)
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    (folder / name).write_text("\n".join(lines))


def document(**fields: Any) -> dict[str, Any]:
    plain = {"category": "article", "title": "T", "text": "Words.", "platform": "web", "author": "Ada"}
    return {**plain, "link": "https://example.org/1", "origin": "https://example.org/1", **fields}


def list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_names_that_are_paths_write_nothing_outside(tmp_path: Path) -> None:
    folder = tmp_path / "inner" / "export"
    folder.parent.mkdir()
    write(folder, USERS, {"full_name": TRAVERSAL})
    write(
        folder,
        DOCUMENTS,
        document(link=TRAVERSAL, origin=TRAVERSAL, category=TRAVERSAL),
        document(link=f"file:///{TRAVERSAL}", platform=TRAVERSAL, author=TRAVERSAL),
        document(id=TRAVERSAL, link="https://example.org/2"),
    )
    write(
        folder,
        DEAD_LETTERS,
        {
            "stage": TRAVERSAL,
            "source": TRAVERSAL,
            "reason": "r",
            "payload": TRAVERSAL,
            "failed_at": datetime.now(UTC).isoformat(),
        },
    )
    before = list_files(tmp_path)
    warehouse = FakeWarehouse()
    import_warehouse(warehouse, folder)
    assert list_files(tmp_path) == before

    export_warehouse(warehouse, tmp_path / "inner" / "again")
    outside = [path for path in list_files(tmp_path) if (tmp_path / "inner" / "again") not in path.parents]
    assert outside == before


def test_a_document_cannot_take_the_place_of_another_by_its_id(tmp_path: Path) -> None:
    warehouse = FakeWarehouse()
    write(tmp_path / "own", DOCUMENTS, document())
    import_warehouse(warehouse, tmp_path / "own")
    (own,) = warehouse.documents.stream()
    write(tmp_path / "other", DOCUMENTS, document(id=own.id, link="https://example.org/2", text="Theirs."))
    import_warehouse(warehouse, tmp_path / "other")
    kept = {document.link: document.text for document in warehouse.documents.stream()}
    assert kept[own.link] == own.text


async def test_lines_that_are_bombs_cost_themselves_and_no_more(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    write(tmp_path / "export", DOCUMENTS, deep, '{"text": ' + deep + "}", "\x00\x01", "1e999999", document())
    write(tmp_path / "export", FEEDBACK, deep, json.dumps({"trace_id": "x" * 10_000_000}))
    warehouse = FakeWarehouse()
    async with measure_cost() as cost:
        report = import_warehouse(warehouse, tmp_path / "export")
    assert len(list(warehouse.documents.stream())) == 1
    assert len(list(warehouse.dead_letters.stream(STAGE))) == report.rejected == 6
    assert cost.peak_bytes < 100_000_000
