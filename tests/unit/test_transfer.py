"""Export and import of the warehouse: exact, repeatable, and no bad line stops the others."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.failures import MAX_PAYLOAD_CHARS
from llm_engineering.application.features import export as transfer
from llm_engineering.application.features.export import export_warehouse, import_warehouse
from llm_engineering.application.ports import UpsertCounts
from llm_engineering.domain.documents import DeadLetter, RawDocument
from llm_engineering.domain.errors import InvalidInputError, StoreError, StoreUnavailableError
from llm_engineering.domain.inference import Feedback
from tests.conformance.warehouse_contract import (
    NOW,
    answered,
    drafted,
    letter,
    names,
    raw,
    raw_documents,
    said,
    texts,
)
from tests.fakes.warehouse import FakeWarehouse

letters = st.builds(
    DeadLetter,
    stage=texts,
    source=texts,
    reason=texts,
    payload=texts,
    failed_at=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
)


def state(warehouse: FakeWarehouse) -> tuple[list[Any], ...]:
    stores = (warehouse.users.all(), warehouse.documents.stream(), warehouse.dead_letters.stream())
    return (
        *(list(values) for values in stores),
        list(warehouse.feedback.read_votes()),
        list(warehouse.drafts.read_edited()),
        list(warehouse.feedback.read_corrections()),
    )


def filled(documents: int = 5) -> FakeWarehouse:
    warehouse = FakeWarehouse()
    warehouse.users.get_or_create("Ann Lee")
    warehouse.documents.upsert([raw(number) for number in range(documents)])
    warehouse.dead_letters.put([letter(0), letter(1, stage="import", source="elsewhere.jsonl:7")])
    warehouse.feedback.restore([(answered("old", created_at=NOW), said("old", comment="Nice."))])
    warehouse.feedback.remember(answered("nobody voted"))
    warehouse.drafts.restore([drafted("edited", created_at=NOW).revise("Mine.", NOW)])
    warehouse.drafts.save(drafted("nobody edited"))
    about = {"kind": "analysis", "id": "a1"}
    warehouse.feedback.vote(
        Feedback.model_validate(
            {
                "subject": about,
                "correction": {"mood": "calm", "things": ["lamp"]},
                "task": "t",
                "created_at": NOW,
            }
        )
    )
    return warehouse


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


@settings(max_examples=20, deadline=None)
@given(
    users=st.lists(names, max_size=3),
    documents=st.lists(raw_documents, max_size=4),
    dead=st.lists(letters, max_size=3),
)
def test_an_export_imported_into_an_empty_warehouse_is_the_same_warehouse(
    users: list[str], documents: list[RawDocument], dead: list[DeadLetter]
) -> None:
    original, copy = FakeWarehouse(), FakeWarehouse()
    for name in users:
        original.users.get_or_create(name)
    original.documents.upsert(documents)
    original.dead_letters.put(dead)
    with tempfile.TemporaryDirectory() as folder:
        export_warehouse(original, Path(folder))
        assert import_warehouse(copy, Path(folder)).rejected == 0
        assert state(copy) == state(original)
        second = Path(folder) / "second"
        export_warehouse(copy, second)
        for name in (transfer.USERS, transfer.DOCUMENTS, transfer.DEAD_LETTERS):
            assert (second / name).read_bytes() == (Path(folder) / name).read_bytes()


def test_importing_twice_changes_nothing_more(tmp_path: Path) -> None:
    export_warehouse(filled(), tmp_path)
    target = FakeWarehouse()
    first = import_warehouse(target, tmp_path)
    assert (first.users, first.documents, first.dead_letters) == (1, UpsertCounts(created=5), 2)
    assert (first.votes, first.drafts, first.corrections) == (1, 1, 1)
    before = state(target)
    second = import_warehouse(target, tmp_path)
    assert (second.users, second.documents) == (0, UpsertCounts(unchanged=5))
    assert state(target) == before == state(filled())


def test_there_is_one_value_a_line_in_order_of_ids(tmp_path: Path) -> None:
    warehouse = filled()
    warehouse.documents.upsert([raw(9, text="one\ntwo\u2028three\r\n")])
    report = export_warehouse(warehouse, tmp_path)
    assert report.written == {
        "users.jsonl": 1,
        "documents.jsonl": 6,
        "dead_letters.jsonl": 2,
        "feedback.jsonl": 1,
        "drafts.jsonl": 1,
        "corrections.jsonl": 1,
    }
    stored = [RawDocument.model_validate_json(line) for line in lines(tmp_path / "documents.jsonl")]
    assert stored == list(warehouse.documents.stream())


def test_an_empty_warehouse_makes_empty_files_that_import_as_nothing(tmp_path: Path) -> None:
    assert set(export_warehouse(FakeWarehouse(), tmp_path).written.values()) == {0}
    report = import_warehouse(FakeWarehouse(), tmp_path)
    assert report == transfer.ImportReport()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "not JSON"),
        (b'{"category": "article"', "not JSON"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got NoneType"),
        (b"\xff\xfe{}", "not UTF-8: invalid start byte at byte 0"),
        (b"[" * 100_000, "not JSON"),
        (b'{"n": ' + b"9" * 5_000 + b"}", "not JSON"),
        (b'{"category": "article", "text": "t", "link": "l"}', "origin: Field required"),
        (json.dumps({**raw(0).model_dump(mode="json"), "category": "poem"}).encode(), "no category 'poem'"),
        (json.dumps({**raw(0).model_dump(mode="json"), "extra": 1}).encode(), "extra: Extra inputs"),
        (json.dumps({**raw(0).model_dump(mode="json"), "text": "\ud800"}).encode(), "text: "),
    ],
)
def test_a_bad_line_is_kept_with_its_number_and_reason_and_the_others_go_in(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    export_warehouse(filled(2), tmp_path)
    path = tmp_path / "documents.jsonl"
    good = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([good[0], b"", line, *good[1:]]))
    target = FakeWarehouse()
    report = import_warehouse(target, tmp_path)
    assert report.rejected == 1
    assert report.documents == UpsertCounts(created=2)
    (kept,) = [
        found for found in target.dead_letters.stream("import") if found.source.endswith("documents.jsonl:3")
    ]
    assert reason in kept.reason
    assert len(kept.payload) <= MAX_PAYLOAD_CHARS


def test_a_line_that_is_mended_resolves_its_letter(tmp_path: Path) -> None:
    export_warehouse(filled(2), tmp_path)
    path = tmp_path / "documents.jsonl"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"category": "article"', b'"category": "poem"', 1))
    target = FakeWarehouse()
    assert import_warehouse(target, tmp_path).rejected == 1
    assert import_warehouse(target, tmp_path).rejected == 1
    assert target.dead_letters.count() == 3
    path.write_bytes(good)
    assert import_warehouse(target, tmp_path).rejected == 0
    assert state(target) == state(filled(2))


def test_a_line_without_end_is_refused_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_LINE_BYTES", 1_000)
    good = raw(1).model_dump_json().encode()
    (tmp_path / "documents.jsonl").write_bytes(b"\xef\xbb\xbf" + good + b"\n" + b"x" * 10_500 + b"\n" + good)
    target = FakeWarehouse()
    report = import_warehouse(target, tmp_path)
    assert (report.rejected, report.documents) == (1, UpsertCounts(created=1))
    (kept,) = target.dead_letters.stream()
    assert kept.source.endswith("documents.jsonl:2")
    assert kept.reason == "the line is longer than 1,000 bytes"


def test_documents_alone_bring_their_authors_as_users(tmp_path: Path) -> None:
    documents = [raw(0), raw(1, author="Bob"), raw(2, author="ANN LEE")]
    (tmp_path / "documents.jsonl").write_text("\n".join(document.model_dump_json() for document in documents))
    target = FakeWarehouse()
    assert import_warehouse(target, tmp_path).users == 2
    assert {user.full_name for user in target.users.all()} == {"Ann Lee", "Bob"}


def test_a_folder_without_an_export_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"expected users\.jsonl, .*, drafts\.jsonl or corrections"):
        import_warehouse(FakeWarehouse(), tmp_path / "nowhere")


def test_an_export_that_is_interrupted_leaves_the_earlier_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = filled(3)
    export_warehouse(warehouse, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    warehouse.documents.upsert([raw(number) for number in range(3, 1_500)])
    real = warehouse.documents.stream

    def breaking() -> Iterator[RawDocument]:
        for count, document in enumerate(real()):
            if count == 1_200:
                raise StoreUnavailableError("gone")
            yield document

    monkeypatch.setattr(warehouse.documents, "stream", breaking)
    with pytest.raises(StoreUnavailableError):
        export_warehouse(warehouse, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_one_clear_error_and_leaves_the_earlier_export(tmp_path: Path) -> None:
    export_warehouse(filled(3), tmp_path)
    before = (tmp_path / "documents.jsonl").read_bytes()
    (tmp_path / ".documents.jsonl.new").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"No space left on device.*Make room"):
        export_warehouse(filled(4), tmp_path)
    assert (tmp_path / "documents.jsonl").read_bytes() == before


def test_an_import_broken_off_and_run_again_ends_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = filled(2_000)
    export_warehouse(source, tmp_path)
    target = FakeWarehouse()
    real = target.documents.upsert
    calls = []

    def breaking(documents: Sequence[RawDocument]) -> UpsertCounts:
        calls.append(len(documents))
        if len(calls) == 3:
            raise StoreUnavailableError("gone")
        return real(documents)

    monkeypatch.setattr(target.documents, "upsert", breaking)
    with pytest.raises(StoreUnavailableError):
        import_warehouse(target, tmp_path)
    assert import_warehouse(target, tmp_path).documents == UpsertCounts(created=1_000, unchanged=1_000)
    assert state(target) == state(source)


def test_what_the_store_refuses_is_rejected_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = filled(10)
    export_warehouse(source, tmp_path)
    target = FakeWarehouse()
    real = target.documents.upsert
    refused = raw(4).id

    def choosy(documents: Sequence[RawDocument]) -> UpsertCounts:
        counts = real([document for document in documents if document.id != refused])
        if any(document.id == refused for document in documents):
            raise StoreError("too large; all others were")
        return counts

    monkeypatch.setattr(target.documents, "upsert", choosy)
    for _ in range(2):
        report = import_warehouse(target, tmp_path)
        assert report.rejected == 1
        assert len(list(target.documents.stream())) == 9
        assert [found.reason for found in target.dead_letters.stream("import")].count(
            "too large; all others were"
        ) == 1


def test_requests_are_made_in_batches(tmp_path: Path) -> None:
    source = filled(1_250)
    export_warehouse(source, tmp_path)
    target = FakeWarehouse()
    import_warehouse(target, tmp_path)
    assert target.calls["documents.write"] == 3, "1,250 in batches of 500"
    assert target.calls["users.get_or_create"] == 1


def test_a_vote_on_another_answer_is_rejected(tmp_path: Path) -> None:
    export_warehouse(filled(0), tmp_path)
    path = tmp_path / "feedback.jsonl"
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace('"kind": "answer", "id": "old"', '"kind": "answer", "id": "new"') + good)
    target = FakeWarehouse()
    report = import_warehouse(target, tmp_path)
    assert (report.votes, report.rejected) == (1, 1)
    assert any("different trace ids" in letter.reason for letter in target.dead_letters.stream("import"))
