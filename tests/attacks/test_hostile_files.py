"""PDF, Word and EPUB files that were made to take all of a machine: they fail alone, in a process of their own."""

from pathlib import Path

import pytest

from llm_engineering.application.ports import EndOfSource, FetchedDocument, Link, Rejected, SourceItem
from llm_engineering.infrastructure.sources.files import FilesReader
from llm_engineering.infrastructure.sources.files.writings import Limits
from tests.attacks.watching import measure_cost
from tests.fakes.files import make_docx, make_epub, make_pdf

STAND_SECONDS = 0.05
HUNGRY = Limits(memory_bytes=200_000_000)
HASTY = Limits(cpu_seconds=2.5)
"""Enough to start a reader on a busy machine; the slow files take tens of seconds."""
PEAK_BYTES = 40_000_000
"""For this process: what is parsed is far larger once it is in memory."""


async def read(folder: Path, limits: Limits) -> list[SourceItem]:
    return [item async for item in FilesReader(limits).read(Link(str(folder), "Ada Winter"), {})]


def make_slow_pdf() -> bytes:
    """A page of so many lines that reading it takes tens of seconds."""
    return make_pdf([["Words."] * 400_000])


HOSTILE = {
    "slow.pdf": (HASTY, make_slow_pdf),
    "slow.docx": (HASTY, lambda: make_docx([("", "x")] * 120_000)),
    "slow.epub": (HASTY, lambda: make_epub("Long", [("One", "a <b>b</b> " * 20_000)] * 60)),
    "large.docx": (HUNGRY, lambda: make_docx([("", "x")] * 120_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_file_that_takes_too_much_fails_alone(tmp_path: Path, name: str) -> None:
    limits, make = HOSTILE[name]
    (tmp_path / "a.docx").write_bytes(make_docx([("", "Fine.")]))
    (tmp_path / name).write_bytes(make())
    (tmp_path / "z.pdf").write_bytes(make_pdf([["Fine."]]))
    async with measure_cost() as cost:
        items = await read(tmp_path, limits)
    assert [type(item) for item in items] == [FetchedDocument, Rejected, FetchedDocument, EndOfSource]
    assert cost.longest_stand < STAND_SECONDS
    assert cost.peak_bytes < PEAK_BYTES


async def test_a_pdf_of_thousands_of_pages_is_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf([["Words."]] * 2_000))
    items = await read(tmp_path, HASTY)
    assert [type(item) for item in items] == [Rejected, EndOfSource]
    assert isinstance(items[0], Rejected)
    assert "2,000 pages" in items[0].reason
