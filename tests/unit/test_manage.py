"""Looking after the collection: counting, what to retry, forgetting."""

from pathlib import Path

import pytest

from llm_engineering.application.features.collect import STAGE, collect
from llm_engineering.application.features.manage import (
    find_retries,
    forget,
    select_author,
    select_links,
    take_stock,
)
from llm_engineering.application.features.pipeline import clean_documents, index_documents
from llm_engineering.application.features.voices import build_voice_profiles
from llm_engineering.application.ports import EndOfSource, FetchedDocument, Link, Rejected
from llm_engineering.bootstrap.locks import hold_collection
from llm_engineering.domain.documents import DeadLetter, RawDocument, Span
from llm_engineering.domain.drafts import StoredDraft
from llm_engineering.domain.errors import InvalidInputError, StoreError
from llm_engineering.domain.retrieval import Citation, Passage
from llm_engineering.settings import LocalServicesSettings, Settings
from tests.conformance.warehouse_contract import drafted
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.sources import ScriptedReader
from tests.fakes.warehouse import FakeWarehouse

SITE, NOTES = "https://example.org/feed.xml", "/home/ben/notes"


def found(link: str, author: str) -> FetchedDocument:
    text = f"{link}. " + "The tower clock of our town has been slow for eleven years. " * 40
    return FetchedDocument(
        RawDocument(
            category="article", text=text, link=link, origin=link, platform="x", author=author, language="en"
        )
    )


class Place:
    """A collection of two sources by two authors, with a rejected record each."""

    def __init__(self) -> None:
        self.warehouse = FakeWarehouse()
        self.index = FakeVectorIndex()
        self.embedder = HashEmbedder()
        self.reader = ScriptedReader(
            {
                SITE: [
                    found("https://example.org/1", "Ada Byron"),
                    found("https://example.org/2", "Ben Okafor"),
                    Rejected("https://example.org/3", "It is empty."),
                ],
                NOTES: [
                    found("file:///home/ben/notes/1.md", "Ben Okafor"),
                    Rejected("file:///home/ben/notes/2.pdf", "It holds no text."),
                    EndOfSource(),
                ],
            }
        )

    async def collect(self) -> None:
        store = self.warehouse
        readers = dict.fromkeys(("article", "feed", "files"), self.reader)
        links = [Link(SITE, "Ada Byron", options={"max_items": 3}), Link(NOTES, "Ben Okafor", "post")]
        await collect(links, readers, store.documents, store.users, store.dead_letters)

    def build(self) -> None:
        store = self.warehouse
        clean_documents(store.documents, store.clean, store.dead_letters)
        index_documents(
            store.clean, self.index, self.embedder, store.embeddings, dead_letters=store.dead_letters
        )
        build_voice_profiles(store.clean, store.voices)

    def links(self) -> set[str]:
        return {document.link for document in self.warehouse.documents.stream()}


@pytest.fixture
async def place() -> Place:
    place = Place()
    await place.collect()
    return place


async def test_the_stock_says_what_is_there_and_what_is_left_to_do(place: Place) -> None:
    before = take_stock(place.warehouse, place.index)
    assert before.sources == {(SITE, "Ada Byron"): 1, (SITE, "Ben Okafor"): 1, (NOTES, "Ben Okafor"): 1}
    assert (before.documents, before.unclean, before.chunks) == (3, 3, 0)
    assert before.rejected == {STAGE: 2}
    place.build()
    after = take_stock(place.warehouse, place.index)
    assert (after.unclean, after.unindexed) == (0, 0)
    assert after.chunks == place.index.count() > 0


async def test_forgetting_an_author_removes_all_of_theirs_and_nothing_else(place: Place) -> None:
    place.build()
    report = forget(select_author(place.warehouse, " ben  OKAFOR"), place.warehouse, place.index)
    assert (report.documents, report.rejected, report.authors) == (2, 1, ("Ben Okafor",))
    assert report.chunks > 0
    assert place.links() == {"https://example.org/1"}
    assert {document.author for document in place.warehouse.clean.stream()} == {"Ada Byron"}
    assert set(place.index.count_values("author")) == {"Ada Byron"}
    assert place.warehouse.users.find("Ben Okafor") is None
    assert not place.warehouse.voices.find("Ben Okafor")
    assert [letter.source for letter in place.warehouse.dead_letters.stream()] == ["https://example.org/3"]
    again = take_stock(place.warehouse, place.index)
    assert (again.unclean, again.unindexed) == (0, 0)


async def test_forgetting_a_link_removes_what_came_through_it(place: Place) -> None:
    place.build()
    report = forget(select_links(place.warehouse, [SITE]), place.warehouse, place.index)
    assert (report.documents, report.rejected, report.authors) == (2, 1, ("Ada Byron",))
    assert place.links() == {"file:///home/ben/notes/1.md"}
    assert place.warehouse.users.find("Ben Okafor") is not None


async def test_a_single_document_can_be_forgotten_by_its_own_link(place: Place) -> None:
    forget(select_links(place.warehouse, ["https://example.org/2"]), place.warehouse, place.index)
    assert place.links() == {"https://example.org/1", "file:///home/ben/notes/1.md"}


async def test_what_is_forgotten_before_it_was_built_is_not_built(place: Place) -> None:
    forget(select_links(place.warehouse, [NOTES]), place.warehouse, place.index)
    place.build()
    assert take_stock(place.warehouse, place.index).chunks_by_author.keys() == {"Ada Byron", "Ben Okafor"}
    assert len(list(place.warehouse.clean.stream())) == 2


async def test_letters_of_later_stages_go_with_their_documents(place: Place) -> None:
    [document] = [d for d in place.warehouse.documents.stream() if d.link == "https://example.org/1"]
    letter = DeadLetter(stage="clean", source=document.id, reason="empty", failed_at="2026-01-01T00:00:00Z")  # type: ignore[arg-type]
    place.warehouse.dead_letters.put([letter])
    forget(select_author(place.warehouse, "Ada Byron"), place.warehouse, place.index)
    assert "clean" not in take_stock(place.warehouse, place.index).rejected


async def test_who_is_not_there_is_told_apart_from_who_is(place: Place) -> None:
    with pytest.raises(InvalidInputError, match="Ada Byron"):
        select_author(place.warehouse, "Ada Biron")
    assert not select_links(place.warehouse, ["https://example.org/9"]).documents


async def test_drafts_with_passages_of_it_go_unless_somebody_edited_them(place: Place) -> None:
    [document] = [d for d in place.warehouse.documents.stream() if d.link == "https://example.org/1"]
    [other] = [d for d in place.warehouse.documents.stream() if d.link == "https://example.org/2"]

    def draft(name: str, source: str) -> StoredDraft:
        passage = Passage(
            document_id=source,
            span=Span(start=0, end=4),
            text="text",
            title="",
            link="x",
            author="",
            platform="",
            score=1,
        )
        written = drafted(name)
        answer = written.answer.model_copy(update={"citations": (Citation(number=1, passage=passage),)})
        return written.model_copy(update={"answer": answer})

    store = place.warehouse.drafts
    kept = draft("edited", document.id)
    for one in (draft("quotes", document.id), draft("of-another", other.id), kept):
        store.save(one)
    assert store.replace(kept.revise("My own words.", kept.created_at), 0)
    report = forget(select_author(place.warehouse, "Ada Byron"), place.warehouse, place.index)
    assert report.drafts == 1
    assert {one.id for one in store.read_page(10)} == {"of-another", "edited"}


async def test_a_store_that_fails_leaves_what_the_next_run_removes(place: Place) -> None:
    place.build()
    selection = select_author(place.warehouse, "Ada Byron")

    class Held(FakeVectorIndex):
        def erase(self, document_ids: object) -> None:
            raise StoreError("Another process is writing the index.")

    with pytest.raises(StoreError):
        forget(selection, place.warehouse, Held())
    place.build()
    assert set(place.index.count_values("author")) == {"Ben Okafor"}


async def test_what_was_rejected_names_the_links_that_bring_it_again(place: Place) -> None:
    links = find_retries(place.warehouse.dead_letters.stream())
    assert sorted(links, key=lambda link: link.url) == [
        Link(NOTES, "Ben Okafor", "post"),
        Link(SITE, "Ada Byron", options={"max_items": 3}),
    ]


# --- the lock ----------------------------------------------------------------------------------------------------


def settings(folder: Path) -> Settings:
    return Settings(local=LocalServicesSettings(data_dir=folder))


def test_runs_share_the_collection_and_forgetting_waits_for_nobody(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    with (
        hold_collection(chosen),
        hold_collection(chosen),
        pytest.raises(StoreError),
        hold_collection(chosen, alone=True),
    ):
        pass
    with hold_collection(chosen, alone=True), pytest.raises(StoreError), hold_collection(chosen):
        pass
    with hold_collection(chosen, alone=True):
        pass


def test_where_no_lock_can_be_written_runs_go_on_and_nothing_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    chosen = settings(tmp_path / "data")
    with hold_collection(chosen):
        pass
    with pytest.raises(StoreError), hold_collection(chosen, alone=True):
        pass
