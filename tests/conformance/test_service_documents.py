"""Adding a file over HTTP: who may, what becomes of it, and what goes wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_engineering.application.features.collect import STAGE
from llm_engineering.bootstrap.locks import hold_collection
from llm_engineering.domain.errors import StoreError
from llm_engineering.settings import load_settings
from tests.conformance.test_service_rag import error_of
from tests.fakes.files import make_pdf, make_zip
from tests.fakes.index import FakeVectorIndex
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import serving

TEXT = b"# Sundials\n\nThe sundial of our town shows the true noon, and the tower clock follows it by eleven minutes.\n"
ADA = "Ada Winter"


@pytest.fixture
def service(tmp_path: Path) -> OperatedService:
    return OperatedService(tmp_path, index=FakeVectorIndex())


@pytest.fixture
def client(service: OperatedService) -> Iterator[httpx.Client]:
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def add(client: httpx.Client, name: str, content: bytes, author: str = ADA, **options: Any) -> httpx.Response:
    return client.post("/documents", params={"name": name, "author": author}, content=content, **options)


def test_a_file_is_found_by_the_next_question(
    client: httpx.Client, service: OperatedService, tmp_path: Path
) -> None:
    response = add(client, "sundials.md", TEXT)
    assert response.status_code == 201, response.text
    added = response.json()
    assert (added["status"], added["documents"], added["left_out"], added["searchable"]) == (
        "saved",
        1,
        0,
        True,
    )
    [hit] = client.post("/search", json={"query": "What does the sundial show?"}).json()["hits"]
    assert "true noon" in hit["chunk"]["text"]
    assert hit["chunk"]["author"] == ADA
    assert len([path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]) == 1

    assert add(client, "sundials.md", TEXT).json()["status"] == "unchanged"
    assert add(client, "sundials.md", TEXT.replace(b"noon", b"midday")).json()["status"] == "updated"
    assert [d.title for d in service.warehouse.documents.stream()] == ["Sundials"]
    [hit] = client.post("/search", json={"query": "What does the sundial show?"}).json()["hits"]
    assert "true midday" in hit["chunk"]["text"]


def test_the_same_name_by_another_author_is_another_document(
    client: httpx.Client, service: OperatedService
) -> None:
    add(client, "a.md", TEXT)
    add(client, "a.md", TEXT, "Ben Okafor")
    assert {d.author for d in service.warehouse.documents.stream()} == {ADA, "Ben Okafor"}


def test_of_an_archive_is_said_what_was_left_out(client: httpx.Client) -> None:
    added = add(client, "notes.zip", make_zip({"a.md": TEXT, "b.pdf": make_pdf([[]])})).json()
    assert (added["documents"], added["left_out"], added["searchable"]) == (1, 1, True)
    assert "ocrmypdf" in added["reasons"][0]["reason"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pdf", make_pdf([[]])),
        ("a.exe", b"MZ"),
        ("a.docx", b"no"),
        ("a.md", bytes(range(256)) * 9),
        ("noending", TEXT),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason_and_leaves_nothing(
    client: httpx.Client, service: OperatedService, tmp_path: Path, name: str, content: bytes
) -> None:
    response = add(client, name, content)
    assert response.status_code == 422
    assert error_of(response)["code"] == "document_rejected"
    assert str(tmp_path) not in response.text
    assert not list(service.warehouse.documents.stream())
    assert not list(service.warehouse.dead_letters.stream(STAGE))
    assert not [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]


def test_a_bad_file_does_not_replace_the_good_one_of_its_name(
    client: httpx.Client, service: OperatedService
) -> None:
    add(client, "a.pdf", make_pdf([["The sundial shows the true noon."]]))
    assert add(client, "a.pdf", make_pdf([[]])).status_code == 422
    assert [d.text for d in service.warehouse.documents.stream()] == ["The sundial shows the true noon."]
    assert (
        add(client, "a.pdf", make_pdf([["The sundial shows the true noon."]])).json()["status"] == "unchanged"
    )


BAD_NAMES = ("../../a.md", "..", "/etc/a.md", "a\\b.md", "a\nb.md", "", "x" * 121 + ".md", "é" * 110 + ".md")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_none_is_refused(client: httpx.Client, tmp_path: Path, name: str) -> None:
    assert add(client, name, TEXT).status_code == 422
    assert not (tmp_path / "uploads").exists()


def test_no_author_and_no_bytes_are_refused(client: httpx.Client) -> None:
    for nobody in (" ", "\x1e", "Ada\nWinter", "\u2003"):
        assert add(client, "a.md", TEXT, nobody).status_code == 422
    assert add(client, "a.md", b"").status_code == 422


def test_who_has_a_key_needs_its_scope(client: httpx.Client, service: OperatedService) -> None:
    assert add(client, "a.md", TEXT).status_code == 201  # no keys: only this machine comes in
    asking = service.keys.create("asking")
    adding = service.keys.create("adding", ("documents",))
    assert add(client, "b.md", TEXT).status_code == 401
    refused = add(client, "b.md", TEXT, headers={"X-API-Key": asking})
    assert (refused.status_code, error_of(refused)["code"]) == (403, "scope_missing")
    assert add(client, "b.md", TEXT, headers={"X-API-Key": adding}).status_code == 201
    for key, allowed in ((asking, False), (adding, True)):
        assert client.get("/info", headers={"X-API-Key": key}).json()["documents"] is allowed


def test_a_page_of_elsewhere_adds_nothing(client: httpx.Client) -> None:
    assert add(client, "a.md", TEXT, headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_file_may_be_larger_than_a_question_and_has_its_own_limit(tmp_path: Path) -> None:
    service = OperatedService(
        tmp_path, index=FakeVectorIndex(), max_body_bytes=2_000, max_document_bytes=10_000
    )
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert add(client, "a.md", TEXT + b"x " * 4_000).status_code == 201
        assert add(client, "b.md", b"x" * 10_001).status_code == 413
        assert client.post("/search", json={"query": "x" * 3_000}).status_code == 413


def test_a_service_that_takes_no_files_says_so(tmp_path: Path) -> None:
    service = OperatedService(tmp_path, index=FakeVectorIndex(), max_document_bytes=0)
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        response = add(client, "a.md", TEXT)
        assert (response.status_code, error_of(response)["code"]) == (503, "documents_off")
        assert client.get("/info").json()["documents"] is False


def test_an_index_that_would_have_to_change_is_left_to_the_pipeline(tmp_path: Path) -> None:
    service = OperatedService(tmp_path)  # its index holds texts that its warehouse does not know
    before = service.index.count()
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        added = add(client, "a.md", TEXT).json()
    assert added["searchable"] is False
    assert service.index.count() == before
    assert len(list(service.warehouse.clean.stream())) == 1


def test_while_something_is_forgotten_nothing_is_added(client: httpx.Client, tmp_path: Path) -> None:
    with hold_collection(load_settings(None, local={"data_dir": tmp_path}), alone=True):
        response = add(client, "a.md", TEXT)
    assert (response.status_code, error_of(response)["code"]) == (503, "collection_busy")
    assert "Retry-After" in response.headers


def test_a_run_that_writes_the_index_makes_it_wait(tmp_path: Path) -> None:
    class Held(FakeVectorIndex):
        def writer(self, *_: Any, **__: Any) -> Any:
            raise StoreError("Another process (pid 7) is writing the index in /srv/index.")

    service = OperatedService(tmp_path, index=Held())
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        response = add(client, "a.md", TEXT)
    assert (response.status_code, error_of(response)["code"]) == (503, "collection_busy")
    assert "/srv" not in response.text
    assert len(list(service.warehouse.documents.stream())) == 1


def test_a_database_that_is_gone_is_told_as_such(client: httpx.Client, service: OperatedService) -> None:
    service.warehouse.down = True
    response = add(client, "a.md", TEXT)
    assert (response.status_code, error_of(response)["code"]) == (503, "store_unavailable")
