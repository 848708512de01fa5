import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader, PdfWriter

from llm_engineering.application.features.collect import STAGE, collect
from llm_engineering.application.features.collect_report import LinkOutcome
from llm_engineering.application.features.pipeline import clean_documents, mark_near_duplicates
from llm_engineering.application.ports import (
    EndOfSource,
    FetchedDocument,
    Link,
    NotModified,
    Rejected,
    SourceItem,
)
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.sources.files import FilesReader
from llm_engineering.infrastructure.sources.files.writings import Limits
from tests.fakes.files import make_docx, make_epub, make_pdf, make_zip
from tests.fakes.warehouse import FakeWarehouse

LONG = "The tower clock of our town has been slow for eleven years, and nobody who lives below it minds. " * 3


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


async def read(url: object, limits: Limits | None = None, **options: Any) -> list[SourceItem]:
    link = Link(str(url), "Ada Winter", options=options)
    return [item async for item in FilesReader(limits).read(link, {})]


async def documents(url: object, limits: Limits | None = None, **options: Any) -> list[RawDocument]:
    items = await read(url, limits, **options)
    assert not [item for item in items if isinstance(item, Rejected)]
    assert items[-1] == EndOfSource()
    return [item.document for item in items if isinstance(item, FetchedDocument)]


async def only(url: object, **options: Any) -> RawDocument:
    [document] = await documents(url, **options)
    return document


async def reasons(url: object, limits: Limits | None = None) -> list[str]:
    return [item.reason for item in await read(url, limits) if isinstance(item, Rejected)]


# --- kinds of files ----------------------------------------------------------------------------------------------


async def test_markdown_gives_its_title_date_and_author(tmp_path: Path) -> None:
    text = "---\ntitle: On clocks\ndate: 2024-05-31\nauthor: Ben Okafor\ntags: [time]\n---\n# Clocks\n\nThey [[drift|err]].\n"
    path = write(tmp_path, {"a note.md": text}) / "a note.md"
    document = await only(path)
    assert document.title == "On clocks"
    assert document.text == "# Clocks\n\nThey err."
    assert document.published_at == datetime(2024, 5, 31, tzinfo=UTC)
    assert document.author == "Ada Winter"
    assert document.link == path.as_uri()
    assert (await only(path, author_from_page=True)).author == "Ben Okafor"


async def test_what_a_file_does_not_say_comes_from_its_name_and_time(tmp_path: Path) -> None:
    path = write(tmp_path, {"why_clocks-drift.txt": LONG}) / "why_clocks-drift.txt"
    os.utime(path, (1_700_000_000, 1_700_000_000))
    document = await only(path)
    assert document.title == "why clocks-drift"
    assert document.published_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert document.language == "en"


@pytest.mark.parametrize(
    "front", ["---\ntitle: [broken\n---\n", "+++\nnot toml\n+++\n", "---\n- a list\n---\n", "---\nno end\n"]
)
async def test_front_matter_that_cannot_be_read_costs_nothing_but_itself(tmp_path: Path, front: str) -> None:
    document = await only(write(tmp_path, {"a.md": front + "Clocks drift."}) / "a.md")
    assert document.title == "a"
    assert "Clocks drift." in document.text


async def test_a_text_of_an_old_encoding_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.txt": "Grüße aus Köln\n\nUhren gehen vor.".encode("cp1252")}) / "a.txt"
    document = await only(path)
    assert document.title == "Grüße aus Köln"


async def test_a_saved_page_is_read_like_a_fetched_one(tmp_path: Path) -> None:
    page = (
        "<html lang='en'><head><title>Clocks | My site</title><meta property='article:published_time' "
        f"content='2023-02-01'></head><body><nav>Home</nav><article><h1>Clocks</h1><p>{LONG}</p></article></body></html>"
    )
    web_archive = (
        f"Content-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\n{page}\n--b--\n"
    )
    write(tmp_path, {"c.html": page, "c_files/ad.html": page, "d.mhtml": web_archive})
    first, second = await documents(tmp_path)
    assert first.title == second.title == "Clocks"
    assert first.text == second.text == f"# Clocks\n\n{LONG.strip()}"
    assert first.published_at == datetime(2023, 2, 1, tzinfo=UTC)


async def test_a_pdf_gives_running_text_without_running_heads(tmp_path: Path) -> None:
    pages = [
        [
            "The Clock Review",
            "A line that is as long as the lines of this page are, and then",
            "it goes on where the next be-"
            if number == 0
            else "a line that is as long as the lines of this page are",
            "gins and ends.",
            str(number),
        ]
        for number in range(4)
    ]
    document = await only(write(tmp_path, {"a.pdf": make_pdf(pages, "On clocks")}) / "a.pdf")
    assert document.title == "On clocks"
    assert document.published_at == datetime(2023, 4, 5, 6, 7, 8, tzinfo=UTC)
    assert "The Clock Review" not in document.text
    assert "where the next begins and ends." in document.text


async def test_a_word_document_keeps_its_headings(tmp_path: Path) -> None:
    content = make_docx([("Heading1", "Why"), ("", "Since clocks drift & err.")], "On clocks")
    document = await only(write(tmp_path, {"a.docx": content}) / "a.docx")
    assert document.title == "On clocks"
    assert document.text == "# Why\n\nSince clocks drift & err."
    assert document.published_at == datetime(2022, 3, 4, 5, 6, 7, tzinfo=UTC)


async def test_a_book_is_one_text_in_reading_order(tmp_path: Path) -> None:
    document = await only(
        write(tmp_path, {"a.epub": make_epub("Clocks", [("One", "First."), ("Two", "Then.")])}) / "a.epub"
    )
    assert (document.title, document.language) == ("Clocks", "en")
    assert document.text == "## One\n\nFirst.\n\n## Two\n\nThen."


async def test_a_notebook_keeps_its_code(tmp_path: Path) -> None:
    notebook = (
        '{"cells": [{"cell_type": "markdown", "source": "# Drift"}, {"cell_type": "code", "source": "x = 1", '
        '"outputs": [{"text": "no"}]}]}'
    )
    document = await only(write(tmp_path, {"a.ipynb": notebook}) / "a.ipynb")
    assert document.title == "Drift"
    assert document.text == "# Drift\n\n```python\nx = 1\n```"


MESSAGE = (
    "From: {name} <someone@example.org>\nSubject: The tower\nDate: Thu, 01 Jan 2026 10:00:00 +0000\nMessage-ID: <{id}@x>\n\n"
    "It drifts.\n\nOn Monday Ben wrote:\n> Does it?\n-- \nAda, keeper of clocks\n"
)


async def test_a_message_is_its_own_words(tmp_path: Path) -> None:
    document = await only(write(tmp_path, {"a.eml": MESSAGE.format(name="Ada Winter", id=1)}) / "a.eml")
    assert (document.title, document.text, document.category) == ("The tower", "It drifts.", "post")
    assert document.published_at == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert document.link.endswith("a.eml#1%40x")


async def test_of_a_mailbox_only_the_authors_messages_are_taken_and_the_others_counted(
    tmp_path: Path,
) -> None:
    start = "From someone Thu Jan  1 00:00:00 2026\n"
    names = ("Ada Winter", "ada  winter", "Ben Okafor")
    content = "\n".join(start + MESSAGE.format(name=name, id=n) for n, name in enumerate(names))
    write(tmp_path, {"sent.mbox": content})
    items = await read(tmp_path / "sent.mbox")
    assert sum(isinstance(item, FetchedDocument) for item in items) == 2
    [rejected] = [item for item in items if isinstance(item, Rejected)]
    assert rejected.source.endswith("#others")
    everybody = await documents(tmp_path / "sent.mbox", author_from_page=True)
    assert [document.author for document in everybody] == ["Ada Winter", "ada winter", "Ben Okafor"]


# --- folders and patterns ----------------------------------------------------------------------------------------


async def test_a_folder_is_read_whole_but_for_what_is_hidden_or_no_writing(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.md": "One.",
            "b/c.txt": "Two.",
            "b/d.png": b"\x89PNG",
            ".git/x.md": "No.",
            "node_modules/y.md": "No.",
        },
    )
    found = await documents(tmp_path)
    assert [document.metadata["path"] for document in found] == ["a.md", "b/c.txt"]
    assert [d.metadata["path"] for d in await documents(tmp_path, exclude=["b/"])] == ["a.md"]
    assert [d.metadata["path"] for d in await documents(tmp_path, include="*.txt")] == ["b/c.txt"]


async def test_a_pattern_names_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.md": "One.", "b/c.md": "Two.", "b/d/e.md": "Three.", "b/f.txt": "Four."})
    assert len(await documents(f"{tmp_path}/*.md")) == 1
    assert len(await documents(f"{tmp_path}/**/*.md")) == 3
    assert len(await documents(f"{tmp_path}/b/*.md")) == 1
    monkeypatch.chdir(tmp_path)
    assert len(await documents("*.md")) == 1


async def test_a_loop_of_symbolic_links_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "One.", "b/c.md": "Two."})
    (tmp_path / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "itself.md").symlink_to(tmp_path / "itself.md")
    (tmp_path / "other.md").symlink_to(tmp_path / "a.md")
    assert len(await documents(tmp_path)) == 2


async def test_a_pipe_does_not_hold_the_run_up(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "One."})
    os.mkfifo(tmp_path / "b.md")
    assert len(await documents(tmp_path)) == 1


async def test_too_many_files_are_refused_before_any_is_read(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.md": "One." for number in range(6)})
    assert len(await documents(tmp_path, Limits(files=6, entries=6))) == 6
    with pytest.raises(CollectionError):
        await read(tmp_path, Limits(files=5))
    with pytest.raises(CollectionError):
        await read(tmp_path, Limits(entries=5))


async def test_a_file_that_cannot_be_read_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a.md": "One.", "b.md": "Two.", "c.md": "Three."})
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == "b.md":
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, to whom everything is readable
    items = await read(tmp_path)
    assert [type(item) for item in items] == [FetchedDocument, Rejected, FetchedDocument, EndOfSource]


@pytest.mark.parametrize("name", ["gone.md", "gone", "gone/*.md"])
async def test_what_is_not_there_fails_its_link(tmp_path: Path, name: str) -> None:
    with pytest.raises(CollectionError):
        await read(tmp_path / name)


async def test_a_folder_without_writing_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": b"\x89PNG", "b.odt": b"PK"})
    for path in (tmp_path, tmp_path / "b.odt"):
        with pytest.raises(ExtractionError):
            await read(path)


async def test_a_wrong_option_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "One."})
    for options in ({"branch": "main"}, {"include": ["[z-a]"]}):
        with pytest.raises(CollectionError):
            await read(tmp_path, **options)


# --- files that cannot be used -----------------------------------------------------------------------------------


def encrypted(content: bytes) -> bytes:
    import io

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    writer.encrypt("secret", algorithm="AES-256")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


BAD: dict[str, bytes] = {
    "pictures.pdf": make_pdf([[], []]),
    "locked.pdf": encrypted(make_pdf([["Text."]])),
    "long.pdf": make_pdf([["Text."]] * 40),
    "broken.pdf": b"%PDF-1.7 and nothing more",
    "bomb.docx": make_docx([("", "x" * 2_000_000)]),
    "other.docx": make_zip({"a.txt": "x"}),
    "broken.docx": b"PK\x03\x04 and nothing more",
    "empty.docx": make_docx([]),
    "protected.epub": make_zip({"META-INF/container.xml": "<a/>", "META-INF/rights.xml": "<a/>"}),
    "other.epub": make_zip({"META-INF/container.xml": "<a/>"}),
    "bad.epub": make_zip({"META-INF/container.xml": "<a"}),
    "broken.ipynb": b"{",
    "empty.md": b"---\ntitle: x\n---\n\n",
    "binary.txt": bytes(range(256)) * 10,
    "empty.html": b"<html></html>",
    "no.mhtml": b"Content-Type: text/plain\n\nx",
    "large.md": b"x " * 60_000,
    "empty.eml": b"Subject: x\n\n> all of it is quoted\n",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_file_that_cannot_be_used_is_rejected_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    limits = Limits(pages=30, document_bytes=1_000_000, text_chars=100_000)
    write(tmp_path, {"0.md": "Fine.", name: BAD[name], "z.md": "Fine."})
    items = await read(tmp_path, limits)
    assert [type(item) for item in items] == [FetchedDocument, Rejected, FetchedDocument, EndOfSource]
    rejected = items[1]
    assert isinstance(rejected, Rejected)
    assert rejected.source.startswith((tmp_path / name).as_uri())


async def test_a_page_nested_too_deep_is_rejected(tmp_path: Path) -> None:
    html = "<div>" * 3_000 + "<p>Deep.</p>"
    message = f"Subject: x\nContent-Type: text/html\n\n{html}"
    assert await reasons(write(tmp_path, {"a.eml": message}) / "a.eml")


async def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "x" * 1_001, "b.md": "Fine."})
    assert len(await reasons(tmp_path, Limits(file_bytes=1_000))) == 1


# --- run after run -----------------------------------------------------------------------------------------------


class Place:
    """A warehouse to collect a folder into, run after run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = FakeWarehouse()

    async def run(self, author: str = "Ada Winter") -> LinkOutcome:
        store = self.warehouse
        link = Link(str(self.folder), author, options={"reader": "files"})
        report = await collect(
            [link], {"files": FilesReader()}, store.documents, store.users, store.dead_letters
        )
        return report.outcomes[0]

    def titles(self) -> list[str]:
        return sorted(document.title for document in self.warehouse.documents.stream())


async def test_a_second_run_reads_what_changed_and_removes_what_is_gone(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "One.", "b.md": "Two.", "c.pdf": make_pdf([["Three."]], "Three")})
    place = Place(tmp_path)
    assert (await place.run()).created == 3
    link = Link(str(tmp_path), "Ada Winter", options={"reader": "files"})
    known = place.warehouse.documents.find_stored(str(tmp_path))
    again = [item async for item in FilesReader().read(link, known)]
    assert [type(item) for item in again] == [NotModified] * 3 + [EndOfSource]
    (tmp_path / "a.md").unlink()
    write(tmp_path, {"b.md": "Two, changed."})
    outcome = await place.run()
    assert (outcome.updated, outcome.unchanged, outcome.removed) == (1, 1, 1)
    assert place.titles() == ["Three", "b"]


async def test_another_author_is_read_anew(tmp_path: Path) -> None:
    place = Place(write(tmp_path, {"a.md": "One."}))
    await place.run()
    assert (await place.run("Ben Okafor")).updated == 1


async def test_a_file_that_stays_unreadable_does_not_keep_deleted_ones_alive(tmp_path: Path) -> None:
    place = Place(write(tmp_path, {"a.md": "One.", "b.md": "Two.", "scan.pdf": make_pdf([[]])}))
    first = await place.run()
    assert (first.created, first.rejected, len(first.rejections)) == (2, 1, 1)
    (tmp_path / "b.md").unlink()
    write(tmp_path, {"a.md": b"\x00\x01\x02"})  # cannot be read now: what was read of it stays
    second = await place.run()
    assert (second.removed, second.rejected) == (1, 2)
    assert place.titles() == ["a"]
    [*letters] = place.warehouse.dead_letters.stream(STAGE)
    assert len(letters) == 2
    assert all('"Ada Winter"' in letter.link for letter in letters)
    write(tmp_path, {"a.md": "One.", "scan.pdf": make_pdf([["Now with text."]])})
    await place.run()
    assert not list(place.warehouse.dead_letters.stream(STAGE))


async def test_two_files_with_the_same_text_are_two_documents_of_one_group(tmp_path: Path) -> None:
    place = Place(write(tmp_path, {"a.md": LONG, "copy of a.md": LONG}))
    assert (await place.run()).created == 2
    store = place.warehouse
    clean_documents(store.documents, store.clean, store.dead_letters)
    assert mark_near_duplicates(store.clean).groups == 1
