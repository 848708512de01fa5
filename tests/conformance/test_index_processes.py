"""The embedded index between processes and threads, and when one of them dies."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm_engineering.application.ports import SearchRequest
from llm_engineering.domain.errors import StoreError, StoreUnavailableError
from llm_engineering.domain.retrieval import SearchMode
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from llm_engineering.infrastructure.shared.index_payload import FORMAT
from tests.conformance.index_contract import FINGERPRINT, OTHER, chunk, corpus, embedded, ids, unit, write
from tests.services import fill, small_disk

__all__ = ["small_disk"]

ROOT = Path(__file__).parents[2]
QUESTION = [SearchRequest("chunking word3", unit(1, 0.5), k=10)]
PRELUDE = """
import sys, time
from pathlib import Path
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from llm_engineering.application.ports import SearchRequest
from tests.conformance.index_contract import *
index = QdrantEdgeIndex(Path(sys.argv[1]))
def say(*words): print(*words, flush=True)
def wait(): sys.stdin.readline()
"""


class Process:
    """A Python process that says what it has done, line by line, and waits for lines."""

    def __init__(self, path: Path, code: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def heard(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline().strip()
        assert line, self.popen.communicate()[1][-2000:]
        return line

    def go_on(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def ended(self) -> int:
        _, errors = self.popen.communicate(timeout=60)
        assert self.popen.returncode == 0, errors[-2000:]
        return self.popen.returncode

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.communicate(timeout=60)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[QdrantEdgeIndex]:
    index = QdrantEdgeIndex(tmp_path)
    yield index
    index.close()


def generations(path: Path) -> list[str]:
    return sorted(folder.name for folder in (path / "twin" / "generations").iterdir())


def contents(path: Path) -> dict[str, str]:
    """Hash of every file of the published data."""
    data = path / "twin" / "generations" / generations(path)[-1] / "data"
    return {
        str(file.relative_to(data)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(data.rglob("*"))
        if file.is_file()
    }


def test_a_reader_goes_on_during_a_write_and_sees_the_result_after(
    index: QdrantEdgeIndex, tmp_path: Path
) -> None:
    write(index, corpus())
    reader = QdrantEdgeIndex(tmp_path)
    before = reader.search(QUESTION, FINGERPRINT)
    with index.writer(FINGERPRINT) as writer:
        writer.upsert([embedded(chunk("new", text="fresh"), unit(0, 0, 1))])
        writer.delete(["doc-0"])
        assert reader.search(QUESTION, FINGERPRINT) == before
        assert reader.count() == index.count() == 40
    assert reader.count() == 37
    [hits] = reader.search([SearchRequest("fresh", None, mode=SearchMode.SPARSE)], FINGERPRINT)
    assert [hit.chunk.document_id for hit in hits] == ["new"]
    reader.close()


def test_a_failed_write_leaves_nothing_behind(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, corpus())

    def fail() -> None:
        with index.writer(FINGERPRINT) as writer:
            writer.delete([f"doc-{n}" for n in range(10)])
            raise RuntimeError("the embedder is gone")

    with pytest.raises(RuntimeError, match="embedder"):
        fail()
    assert index.count() == 40
    assert generations(tmp_path) == ["00000001"]


def test_a_block_that_changes_nothing_makes_no_generation(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, corpus())
    with index.writer(FINGERPRINT) as writer:
        writer.upsert([])
        writer.delete(["absent"])
        writer.delete(["doc-1"], keep_versions={"doc-1": "v1"})
    assert generations(tmp_path) == ["00000001"]


def test_old_generations_go_once_nobody_reads_them(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, corpus())
    reader = QdrantEdgeIndex(tmp_path)
    assert reader.count() == 40
    for number in range(3):
        write(index, [embedded(chunk(f"more-{number}"), unit(1))])
        assert index.count() == 41 + number
    assert generations(tmp_path) == ["00000001", "00000004"]  # the reader has not asked since
    assert reader.count() == 43
    assert generations(tmp_path) == ["00000004"]
    reader.close()


def test_reading_changes_no_byte_of_the_index(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, corpus())
    for _ in range(2):  # the engine completes its own configuration when it first opens a folder
        reader = QdrantEdgeIndex(tmp_path)
        reader.search(QUESTION, FINGERPRINT)
        assert len(list(reader.list_versions())) == 10
        reader.close()
        seen = contents(tmp_path)
    reader = QdrantEdgeIndex(tmp_path)
    reader.search(QUESTION, FINGERPRINT)
    assert contents(tmp_path) == seen
    reader.close()
    assert contents(tmp_path) == seen


def test_several_processes_read_while_one_writes(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, corpus())
    code = """
request = SearchRequest("chunking word3", unit(1, .5), k=10)
def look(): return [hit.chunk.document_id for hit in index.search([request], FINGERPRINT)[0]]
say(index.count(), *look()); wait()
say(index.count(), *look()); wait()
say(index.count(), *look()); index.close()
"""
    readers = [Process(tmp_path, code) for _ in range(3)]
    first = {reader.heard() for reader in readers}
    assert len(first) == 1
    with index.writer(FINGERPRINT) as writer:
        writer.upsert([embedded(chunk("new", text="chunking word3"), unit(1, 0.5))])
        for reader in readers:
            reader.go_on()
        assert {reader.heard() for reader in readers} == first
    for reader in readers:
        reader.go_on()
    [after] = {reader.heard() for reader in readers}
    assert after.startswith("41 new ")
    for reader in readers:
        reader.ended()
    index.count()
    assert generations(tmp_path) == ["00000002"]


def test_a_second_writer_is_refused_and_told_what_to_do(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    code = """
with index.writer(FINGERPRINT) as writer:
    writer.upsert(corpus()); say("writing"); wait()
say("written"); index.close()
"""
    other = Process(tmp_path, code)
    assert other.heard() == "writing"
    with pytest.raises(StoreError, match=rf"pid {other.popen.pid}.*wait until it ends"):
        write(index, corpus())
    other.go_on()
    assert other.heard() == "written"
    other.ended()
    write(index, [embedded(chunk("mine"), unit(1))])
    assert index.count() == 41


@pytest.mark.parametrize("moment", ["writing", "publishing"])
def test_a_killed_writer_leaves_the_old_index_and_frees_the_lock(
    index: QdrantEdgeIndex, tmp_path: Path, moment: str
) -> None:
    write(index, corpus())
    before = index.search(QUESTION, FINGERPRINT)
    # "publishing": the new generation has its name already, and only the pointer still shows the old one.
    code = """
import llm_engineering.infrastructure.index.qdrant_edge.generations as module
if MOMENT == "publishing":
    replace = Path.replace
    def stop(path, target): say("ready"); wait(); return replace(path, target)
    Path.replace = stop
with index.writer(FINGERPRINT) as writer:
    writer.delete([f"doc-{n}" for n in range(9)])
    writer.upsert([embedded(chunk("half", n), unit(1)) for n in range(500)])
    if MOMENT == "writing": say("ready"); wait()
"""
    victim = Process(tmp_path, f"MOMENT = {moment!r}\n" + code)
    assert victim.heard() == "ready"
    victim.kill()
    assert len(generations(tmp_path)) == 2
    assert index.search(QUESTION, FINGERPRINT) == before
    write(index, [embedded(chunk("later"), unit(1))])
    assert index.count() == 41
    assert index.count_values("category")["article"] == 13
    assert generations(tmp_path) == ["00000002"]


def test_a_killed_reader_holds_nothing_up(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, corpus())
    victim = Process(tmp_path, "say(index.count()); wait()")
    assert victim.heard() == "40"
    victim.kill()
    write(index, [embedded(chunk("later"), unit(1))])
    assert index.count() == 41
    assert generations(tmp_path) == ["00000002"]


@pytest.mark.slow
def test_threads_share_an_index_while_it_changes(index: QdrantEdgeIndex) -> None:
    write(index, corpus())
    stop, wrong = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            [hits] = index.search(QUESTION, FINGERPRINT)
            if len(hits) != 10 or not 40 <= index.count() <= 45:
                wrong.append(len(hits))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(5):
        write(index, [embedded(chunk(f"more-{number}"), unit(0, 0, 0, 1))])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert index.count() == 45


@pytest.mark.slow
def test_a_file_limit_in_the_middle_of_a_write_leaves_the_old_index(
    index: QdrantEdgeIndex, tmp_path: Path
) -> None:
    """The kernel refuses to let files grow, as a full disk does."""
    write(index, corpus())
    before = index.search(QUESTION, FINGERPRINT)
    code = """
import resource
from llm_engineering.domain.errors import StoreError
try:
    with index.writer(FINGERPRINT) as writer:
        writer.delete(["doc-1"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        writer.upsert([embedded(chunk("d", n, text=f"word{n} " * 2000), unit(1)) for n in range(5000)])
except StoreError as error:
    say("refused:", error)
else:
    say("written")
"""
    victim = Process(tmp_path, code)
    heard = victim.heard()
    victim.ended()
    assert heard.startswith("refused:")
    assert "untouched" in heard
    assert "free space" in heard
    assert index.search(QUESTION, FINGERPRINT) == before
    write(index, [embedded(chunk("later"), unit(1))])
    assert index.count() == 41


def test_a_full_disk_can_be_read_and_is_refused_for_writing(small_disk: Path) -> None:
    index = QdrantEdgeIndex(small_disk)
    write(index, corpus())
    index.close()
    filler = fill(small_disk)
    before = index.search(QUESTION, FINGERPRINT)
    assert len(before[0]) == 10
    with pytest.raises(StoreError, match=r"almost full.*MB are free"):
        write(index, [embedded(chunk("later"), unit(1))])
    assert index.search(QUESTION, FINGERPRINT) == before
    filler.unlink()
    write(index, [embedded(chunk("later"), unit(1))])
    assert index.count() == 41
    index.close()


def test_a_missing_generation_is_said_plainly(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, corpus())
    index.close()
    folder = tmp_path / "twin" / "generations" / "00000001"
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is missing"):
        index.search(QUESTION, FINGERPRINT)
    (tmp_path / "twin" / "current").write_text("nonsense")
    with pytest.raises(StoreError, match="should hold a number"):
        index.count()


def test_an_index_of_another_form_is_rebuilt(index: QdrantEdgeIndex, tmp_path: Path) -> None:
    write(index, corpus())
    index.close()
    manifest = tmp_path / "twin" / "generations" / "00000001" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format": "{FORMAT}"', '"format": 0'))
    with pytest.raises(StoreUnavailableError, match="poe run-feature-engineering-pipeline"):
        index.search(QUESTION, FINGERPRINT)
    assert list(index.list_versions()) == []
    write(index, corpus()[:4])
    assert index.count() == 4


@pytest.mark.nightly
@pytest.mark.parametrize("exact_up_to", [100_000, 5_000])
def test_a_large_index_is_as_good_as_a_scan(tmp_path: Path, exact_up_to: int) -> None:
    """Above the engine's own threshold vectors are quantised, and beyond ``exact_up_to`` there is a graph."""
    random = np.random.default_rng(3)
    wide = OTHER.model_copy(update={"dimension": 384})
    centres = random.normal(size=(50, 384))
    vectors = centres[random.integers(0, 50, 8_000)] + random.normal(size=(8_000, 384))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    items = [embedded(chunk(f"d{n // 10}", n % 10, f"word{n}"), vector) for n, vector in enumerate(vectors)]
    index = QdrantEdgeIndex(tmp_path, exact_up_to=exact_up_to)
    write(index, items, wide)
    found = total = 0
    for question in vectors[:100] + 0.3 * vectors[100:200]:
        [hits] = index.search([SearchRequest("", question, k=10, mode=SearchMode.DENSE)], wide)
        cosines = vectors @ question / np.linalg.norm(question)
        best = {items[n].chunk.id for n in np.argsort(-cosines)[:10]}
        found, total = found + len(best & set(ids(hits))), total + 10
        assert hits[0].score == pytest.approx(float(cosines.max()), abs=1e-4)
    assert found / total >= 0.98
    index.close()
