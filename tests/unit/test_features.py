"""The feature use cases: only what changed is done, nothing is lost, and a run killed anywhere can be run again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import pytest

from llm_engineering.application.features import index as indexing
from llm_engineering.application.features.chunk import ChunkingConfig
from llm_engineering.application.features.pipeline import (
    CleaningReport,
    DuplicateReport,
    IndexReport,
    clean_documents,
    index_documents,
    mark_near_duplicates,
)
from llm_engineering.application.ports import IndexWriter
from llm_engineering.domain.documents import EmbedderFingerprint, RawDocument
from llm_engineering.domain.errors import ModelError, StoreError, TooManyFailuresError
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeIndexWriter, FakeVectorIndex
from tests.fakes.warehouse import FakeWarehouse

CONFIG = ChunkingConfig(overlap_tokens=0, min_tokens=0, parent_tokens=64)


def raw(number: int, text: str | None = None) -> RawDocument:
    link = f"https://blog.example.org/{number}"
    body = "\n\n".join(
        f"## Part {part}\n\n" + f"Clock {number} of tower {part} drifts a little. " * 6
        for part in range(1 + number % 4)
    )
    return RawDocument(
        category="article",
        title=f"Clock {number}",
        text=text if text is not None else body,
        link=link,
        origin=link,
        platform="blog",
        author="Ada Byron",
    )


class ServerIndex(FakeVectorIndex):
    """Shows every batch at once, as a server does: nothing is taken back when a run dies."""

    @contextmanager
    def writer(self, fingerprint: EmbedderFingerprint, *, titles: bool = False) -> Iterator[IndexWriter]:
        if self.titles != titles:
            self.chunks = {}
        self.fingerprint, self.titles = fingerprint, titles
        self.last_writer = FakeIndexWriter(self.chunks, fingerprint.dimension, titles)
        yield self.last_writer


class Killed(BaseException):
    """The process dies here."""


class Fuse:
    """Counts calls of the stores and kills the run at one of them: before it is made, or right after."""

    def __init__(self, at: int, after: bool) -> None:
        self.at, self.after, self.calls = at, after, 0

    def wrap(self, target: Any, *names: str) -> None:
        for name in names:
            setattr(target, name, self._fused(getattr(target, name)))

    def _fused(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def fused(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            fatal = self.calls == self.at
            if fatal and not self.after:
                raise Killed
            result = call(*args, **kwargs)
            if fatal:
                raise Killed
            return result

        return fused


class World:
    """All stores, an index and an embedder, with the pipeline run over them."""

    def __init__(self, index: FakeVectorIndex | None = None) -> None:
        self.warehouse = FakeWarehouse()
        self.index = index if index is not None else FakeVectorIndex()
        self.embedder = HashEmbedder(dimension=8, max_tokens=64)

    def store(self, *documents: RawDocument) -> None:
        self.warehouse.documents.upsert(documents)

    def clean(self, **options: Any) -> CleaningReport:
        w = self.warehouse
        return clean_documents(w.documents, w.clean, w.dead_letters, **options)

    def mark(self) -> DuplicateReport:
        return mark_near_duplicates(self.warehouse.clean)

    def make_index(self, config: ChunkingConfig = CONFIG, **options: Any) -> IndexReport:
        w = self.warehouse
        options = {"window_chunks": 7, "batch_size": 3, "dead_letters": w.dead_letters, **options}
        return index_documents(w.clean, self.index, self.embedder, w.embeddings, config, **options)

    def run(self) -> tuple[CleaningReport, DuplicateReport, IndexReport]:
        return self.clean(batch_size=3), self.mark(), self.make_index()

    def state(self) -> dict[str, Any]:
        """What a reader can see at the end."""
        return {
            "clean": {d.id: d for d in self.warehouse.clean.stream()},
            "chunks": {key: (item.chunk, item.vector) for key, item in self.index.chunks.items()},
            "letters": {(row.stage, row.source) for row in self.warehouse.dead_letters.stream()},
        }


@pytest.fixture
def world() -> World:
    world = World()
    world.store(*map(raw, range(12)))
    return world


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name in ("read-ahead", "write-behind")] == []


class TestCleaning:
    def test_new_documents_are_cleaned_and_unchanged_ones_are_not_read(self, world: World) -> None:
        assert world.clean().cleaned == 12
        world.warehouse.calls.clear()
        report = world.clean()
        assert (report.documents, report.cleaned, report.unchanged) == (12, 0, 12)
        assert set(world.warehouse.calls) == {"documents.stream", "clean.stream", "dead_letters.stream"}

    def test_changed_ones_are_cleaned_again_and_gone_ones_forgotten(self, world: World) -> None:
        world.clean()
        world.store(raw(3, "Another  text."))
        world.warehouse.documents.delete([raw(5).id])
        report = world.clean()
        assert (report.documents, report.cleaned, report.deleted) == (11, 1, 1)
        held = {d.id: d.text for d in world.warehouse.clean.stream()}
        assert held[raw(3).id] == "Another text."
        assert raw(5).id not in held

    def test_a_document_without_text_is_a_dead_letter_until_it_has_some(self, world: World) -> None:
        world.clean()
        world.store(raw(3, "Share this post"))
        report = world.clean()
        assert (report.failed, report.deleted) == (1, 1)
        (letter,) = world.warehouse.dead_letters.stream("clean")
        assert letter.source == raw(3).id
        assert "https://blog.example.org/3" in letter.reason
        world.store(raw(3, "Text again."))
        assert world.clean().failed == 0
        assert world.warehouse.dead_letters.count() == 0

    def test_the_letter_of_a_document_that_is_gone_goes_too(self, world: World) -> None:
        world.store(raw(3, "Copy link"))
        world.clean()
        world.warehouse.documents.delete([raw(3).id])
        world.clean()
        assert world.warehouse.dead_letters.count() == 0

    def test_too_many_failures_fail_the_step_after_the_rest_is_stored(self, world: World) -> None:
        world.store(*(raw(i, "Sign up") for i in range(3)))
        with pytest.raises(TooManyFailuresError, match="3 of 12 documents"):
            world.clean(max_failed_share=0.2)
        assert len(list(world.warehouse.clean.stream())) == 9
        assert world.clean(max_failed_share=0.25).failed == 3

    def test_round_trips_are_one_per_batch(self) -> None:
        world = World()
        world.store(*map(raw, range(50)))
        world.warehouse.calls.clear()
        world.clean(batch_size=8)
        assert world.warehouse.calls["documents.get"] == world.warehouse.calls["clean.write"] == ceil(50 / 8)

    def test_a_store_that_is_not_ordered_is_refused(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.clean()
        rows = list(world.warehouse.documents.list_hashes())
        monkeypatch.setattr(world.warehouse.documents, "list_hashes", lambda: reversed(rows))
        with pytest.raises(StoreError, match="out of order"):
            world.clean()
        assert len(list(world.warehouse.clean.stream())) == 12


class TestNearDuplicates:
    TEXT = " ".join(f"word{i * i % 997}" for i in range(400))

    def test_they_are_grouped_and_marked_once(self, world: World) -> None:
        world.store(raw(3, self.TEXT), raw(5, self.TEXT + " and one more"))
        world.clean()
        report = world.mark()
        assert (report.documents, report.groups, report.duplicates, report.changed) == (12, 1, 1, 2)
        first = min(raw(3).id, raw(5).id)
        groups = {d.id: d.duplicate_group for d in world.warehouse.clean.stream() if d.duplicate_group}
        assert groups == {raw(3).id: first, raw(5).id: first}
        assert world.mark().changed == 0

    def test_marking_reaches_the_index(self, world: World) -> None:
        world.run()
        world.store(raw(20, self.TEXT), raw(21, self.TEXT))
        _, _, report = world.run()
        assert report.changed == 2
        assert {c.chunk.duplicate_group for c in world.index.chunks.values()} == {
            None,
            min(raw(20).id, raw(21).id),
        }


class TestIndexing:
    def test_every_document_is_in_the_index_and_fits(self, world: World) -> None:
        _, _, report = world.run()
        assert (report.documents, report.changed, report.failed) == (12, 12, 0)
        assert report.chunks == len(world.index.chunks) == report.embedded + report.from_cache
        assert {c.chunk.document_id for c in world.index.chunks.values()} == {raw(i).id for i in range(12)}
        assert max(c.chunk.tokens for c in world.index.chunks.values()) <= 64

    def test_vectors_belong_to_their_chunks(self, world: World) -> None:
        world.run()
        items = list(world.index.chunks.values())
        expected = HashEmbedder(dimension=8).embed_documents([item.chunk.embedding_text for item in items])
        assert [list(item.vector) for item in items] == expected.tolist()

    def test_a_second_run_embeds_nothing_and_does_not_open_the_index(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.run()
        monkeypatch.setattr(world.index, "writer", None)
        monkeypatch.setattr(world.warehouse.clean, "get", None)
        calls = world.embedder.calls
        _, _, report = world.run()
        assert (report.changed, report.unchanged, report.embedded, report.chunks) == (0, 12, 0, 0)
        assert world.embedder.calls == calls

    def test_only_what_changed_is_embedded_and_stale_chunks_go(self, world: World) -> None:
        world.run()
        before = dict(world.index.chunks)
        world.store(raw(7, raw(7).text.split("## Part 2")[0]))
        _, _, report = world.run()
        assert (report.changed, report.embedded) == (1, 0)  # what is left of it is cached
        mine = [c for c in world.index.chunks.values() if c.chunk.document_id == raw(7).id]
        assert 0 < len(mine) < sum(c.chunk.document_id == raw(7).id for c in before.values())
        assert len({c.chunk.document_version for c in mine}) == 1
        others = {k: v for k, v in before.items() if v.chunk.document_id != raw(7).id}
        assert {k: v for k, v in world.index.chunks.items() if v.chunk.document_id != raw(7).id} == others

    def test_a_removed_document_goes(self, world: World) -> None:
        world.run()
        world.warehouse.documents.delete([raw(7).id])
        _, _, report = world.run()
        assert (report.deleted, report.changed, report.embedded) == (1, 0, 0)
        assert raw(7).id not in {c.chunk.document_id for c in world.index.chunks.values()}

    def test_another_chunking_uses_what_is_cached(self, world: World) -> None:
        world.run()
        report = world.make_index(CONFIG.model_copy(update={"parent_tokens": 128}))
        assert (report.changed, report.embedded) == (12, 0)
        assert report.from_cache == report.chunks == len(world.index.chunks)
        smaller = world.make_index(CONFIG.model_copy(update={"max_tokens": 32}))
        assert smaller.chunks == len(world.index.chunks) > report.chunks
        assert smaller.embedded > 0

    def test_another_embedder_makes_everything_anew(self, world: World) -> None:
        world.run()
        world.embedder = HashEmbedder(dimension=16, max_tokens=64)
        report = world.make_index()
        assert (report.changed, report.from_cache) == (12, 0)
        assert {len(c.vector) for c in world.index.chunks.values()} == {16}

    def test_titles_are_embedded_once_each_and_stand_beside_their_chunks(self, world: World) -> None:
        world.clean(batch_size=3)
        report = world.make_index(title_vectors=True)
        items = list(world.index.chunks.values())
        titles = {item.chunk.title_text for item in items}
        assert (
            report.embedded
            == world.embedder.texts_embedded
            == len({item.chunk.embedding_text for item in items} | titles)
        )
        assert report.embedded + report.from_cache == 2 * len(items)
        for item in items:
            [expected] = HashEmbedder(dimension=8).embed_documents([item.chunk.title_text])
            assert item.title_vector == tuple(expected.tolist())

    def test_a_document_without_title_or_headings_has_no_title_vector(self) -> None:
        world = World()
        world.store(raw(1, "No heading stands here.").model_copy(update={"title": ""}))
        world.clean()
        report = world.make_index(title_vectors=True)
        assert (report.chunks, report.embedded) == (1, 1)
        assert [item.title_vector for item in world.index.chunks.values()] == [None]

    @pytest.mark.parametrize("index", [FakeVectorIndex, ServerIndex])
    def test_another_choice_of_titles_builds_anew_from_the_cache(self, index: type[FakeVectorIndex]) -> None:
        world = World(index())
        world.store(*(raw(number) for number in range(12)))
        world.run()
        plain = dict(world.index.chunks)
        world.embedder.texts_embedded = 0
        report = world.make_index(title_vectors=True)
        titles = {item.chunk.title_text for item in world.index.chunks.values()}
        assert (report.changed, world.embedder.texts_embedded) == (12, len(titles))
        assert world.index.chunks.keys() == plain.keys()
        assert all(item.title_vector for item in world.index.chunks.values())
        assert world.make_index(title_vectors=True).changed == 0
        back = world.make_index()
        assert (back.changed, back.embedded) == (12, 0)
        assert world.index.chunks == plain

    def test_equal_texts_are_embedded_once(self) -> None:
        world = World()
        same = "The same words everywhere. " * 3
        world.store(*(raw(i, same).model_copy(update={"title": "Same"}) for i in range(40)))
        _, _, report = world.run()
        assert (report.chunks, report.embedded, report.from_cache) == (40, 1, 39)
        assert world.embedder.texts_embedded == 1

    def test_a_document_larger_than_a_window_is_written_whole(self) -> None:
        world = World()
        world.store(raw(1, "\n\n".join(f"# Part {i}\n\nTower {i} has a clock." for i in range(50))))
        _, _, report = world.run()
        assert report.chunks == 50 == len(world.index.chunks)

    def test_a_document_that_cannot_be_chunked_is_a_dead_letter(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.run()
        world.store(raw(3, "Broken one."))
        original = indexing.chunk_document

        def failing(document: Any, *args: Any) -> Any:
            if "Broken" in document.text:
                raise RecursionError("too deep")
            return original(document, *args)

        with monkeypatch.context() as patch:
            patch.setattr(indexing, "chunk_document", failing)
            _, _, report = world.run()
            assert (report.failed, report.deleted, report.changed) == (1, 1, 0)
            (letter,) = world.warehouse.dead_letters.stream()
            assert (letter.stage, letter.source) == ("chunk", raw(3).id)
            assert "RecursionError: too deep" in letter.reason
            assert raw(3).id not in {c.chunk.document_id for c in world.index.chunks.values()}
            with pytest.raises(TooManyFailuresError, match="1 of 12"):
                world.make_index(max_failed_share=0.05)
        assert world.make_index().failed == 0
        assert world.warehouse.dead_letters.count() == 0

    def test_metadata_that_no_index_can_hold_is_a_dead_letter(self, world: World) -> None:
        world.store(raw(3).model_copy(update={"metadata": {"stars": float("inf")}}))
        _, _, report = world.run()
        assert (report.failed, report.changed) == (1, 11)
        (letter,) = world.warehouse.dead_letters.stream("chunk")
        assert "stars" in letter.reason

    def test_a_failing_embedder_ends_the_run_and_keeps_what_was_embedded(self, world: World) -> None:
        world.clean()
        world.embedder.fail_on = "Clock 9"
        with pytest.raises(ModelError, match="Clock 9"):
            world.make_index()
        assert world.index.chunks == {}
        world.embedder.fail_on = None
        report = world.make_index()
        assert report.changed == 12
        assert report.from_cache > 0

    @pytest.mark.parametrize(
        ("store", "call"), [("clean", "get"), ("embeddings", "get_many"), ("embeddings", "put_many")]
    )
    def test_a_failing_store_ends_the_run_in_whichever_thread_it_is_used(
        self, world: World, monkeypatch: pytest.MonkeyPatch, store: str, call: str
    ) -> None:
        def fail(*_: Any) -> None:
            raise StoreError("the disk is full")

        world.clean()
        monkeypatch.setattr(getattr(world.warehouse, store), call, fail)
        with pytest.raises(StoreError, match="disk is full"):
            world.make_index()

    def test_round_trips_are_one_per_batch(self) -> None:
        world = World(ServerIndex())
        world.store(*map(raw, range(50)))
        world.clean()
        world.warehouse.calls.clear()
        report = world.make_index(window_chunks=16, batch_size=8)
        calls, windows = world.warehouse.calls, ceil(report.chunks / 16)
        assert calls["clean.get"] == ceil(50 / 8)
        assert calls["embeddings.get"] == calls["embeddings.write"] == windows
        assert len(world.index.last_writer.batches) == windows
        assert calls["clean.stream"] == 1
        assert calls["dead_letters.write"] <= windows
        assert world.embedder.calls == windows

    def test_chunk_zero_of_a_document_is_written_after_its_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[tuple[str, int]] = []
        original = FakeIndexWriter.upsert

        def recording(self: FakeIndexWriter, chunks: Any) -> None:
            written.extend((item.chunk.document_id, item.chunk.position) for item in chunks)
            original(self, chunks)

        monkeypatch.setattr(FakeIndexWriter, "upsert", recording)
        world = World()
        world.store(*map(raw, range(9)))
        world.run()
        for identifier in {identifier for identifier, _ in written}:
            assert [position for i, position in written if i == identifier][-1] == 0

    def test_an_empty_store_makes_an_empty_report(self) -> None:
        reports = World().run()
        assert [report.to_metadata()["documents"] for report in reports] == [0, 0, 0]


def changed_world(index: FakeVectorIndex) -> World:
    """Indexed once; since then documents were added, changed (one keeps its first chunk) and removed."""
    world = World(index)
    world.store(*map(raw, range(9)))
    world.run()
    world.store(raw(12), raw(13), raw(3, "Short now. " * 5), raw(7, raw(7).text.split("## Part 2")[0]))
    world.store(raw(20, TestNearDuplicates.TEXT), raw(21, TestNearDuplicates.TEXT), raw(5, "Copy link"))
    world.warehouse.documents.delete([raw(1).id, raw(8).id])
    return world


def fused(world: World, at: int, after: bool) -> tuple[Fuse, pytest.MonkeyPatch]:
    """Every call of a store or a writer may be the last."""
    fuse, patch = Fuse(at, after), pytest.MonkeyPatch()
    stores = {
        world.warehouse.documents: ("get",),
        world.warehouse.clean: ("get", "upsert", "delete", "set_groups"),
        world.warehouse.dead_letters: ("put", "resolve"),
        world.warehouse.embeddings: ("get_many", "put_many"),
        world.embedder: ("embed_documents",),
    }
    for target, names in stores.items():
        for name in names:
            patch.setattr(target, name, fuse._fused(getattr(target, name)), raising=True)
    for name in ("upsert", "delete"):
        patch.setattr(FakeIndexWriter, name, fuse._fused(getattr(FakeIndexWriter, name)))
    return fuse, patch


@pytest.mark.parametrize("make_index", [FakeVectorIndex, ServerIndex])
@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_and_run_again_it_ends_as_an_unbroken_run(
    make_index: Callable[[], FakeVectorIndex], after: bool
) -> None:
    unbroken = changed_world(make_index())
    unbroken.run()
    expected = unbroken.state()
    assert expected["letters"] == {("clean", raw(5).id)}
    for at in range(1, 200):
        world = changed_world(make_index())
        fuse, patch = fused(world, at, after)
        try:
            world.run()
        except Killed:
            pass
        finally:
            patch.undo()
        if fuse.calls < at:
            assert at > 20
            break
        world.run()
        assert world.state() == expected, f"killed at call {at}"
    else:
        pytest.fail("the run has more calls than expected")


@pytest.mark.parametrize("after", [False, True])
def test_chunks_of_an_interrupted_run_go_even_if_their_document_is_removed_meanwhile(after: bool) -> None:
    at = 0
    while True:
        at += 1
        world = World(ServerIndex())
        world.store(*map(raw, range(8)))
        fuse, patch = fused(world, at, after)
        try:
            world.run()
        except Killed:
            pass
        finally:
            patch.undo()
        if fuse.calls < at:
            return
        world.warehouse.documents.delete([raw(i).id for i in range(1, 8)])
        world.run()
        assert {c.chunk.document_id for c in world.index.chunks.values()} == {raw(0).id}, (
            f"killed at call {at}"
        )
        assert world.warehouse.dead_letters.count() == 0
