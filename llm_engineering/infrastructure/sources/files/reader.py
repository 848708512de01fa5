"""Reads writing that lies on this machine: a file, a folder, a pattern such as ``notes/**/*.md``, an export archive."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from loguru import logger

from llm_engineering.application.features.collect import in_thread
from llm_engineering.application.ports import (
    EndOfSource,
    FetchedDocument,
    Link,
    NotModified,
    Rejected,
    SourceItem,
    StoredVersion,
)
from llm_engineering.application.text.markdown import shorten
from llm_engineering.domain.categories import category_spec, is_record
from llm_engineering.domain.documents import RawDocument, text_hash
from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.shared.language import detect_language
from llm_engineering.infrastructure.shared.workers import Workers, WorkStoppedError
from llm_engineering.infrastructure.sources.files.books import read_docx, read_epub
from llm_engineering.infrastructure.sources.files.exports import find_export, read_wordpress
from llm_engineering.infrastructure.sources.files.mail import read_mailbox, read_message
from llm_engineering.infrastructure.sources.files.pdf import read_pdf
from llm_engineering.infrastructure.sources.files.plain import (
    read_markdown,
    read_notebook,
    read_page,
    read_text,
    read_web_archive,
)
from llm_engineering.infrastructure.sources.files.transcripts import read_transcript
from llm_engineering.infrastructure.sources.files.trees import Entry, FolderTree, Refused, Tree, ZipTree
from llm_engineering.infrastructure.sources.files.writings import LeftOut, Limits, UnreadableError, Writing
from llm_engineering.infrastructure.sources.git.globs import matches

FORMATS: dict[str, Callable[[bytes, Limits], Iterator[Writing]]] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".txt": read_text,
    ".text": read_text,
    ".rst": read_text,
    ".org": read_text,
    ".html": read_page,
    ".htm": read_page,
    ".xhtml": read_page,
    ".mhtml": read_web_archive,
    ".mht": read_web_archive,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".epub": read_epub,
    ".ipynb": read_notebook,
    ".eml": read_message,
    ".vtt": read_transcript,
    ".srt": read_transcript,
}
IN_PLACE = frozenset({".md", ".markdown", ".txt", ".text", ".rst", ".org", ".ipynb", ".vtt", ".srt"})
"""Kinds that are text already. The parsers of all others run in processes of their own, for a file may come from anybody."""
MAILBOX, WORDPRESS, ARCHIVE = ".mbox", ".xml", ".zip"
VERSION = "2"
"""Raise it with every change of what is read from a file: unchanged files are then read again."""
_OPTIONS = ("author_from_page", "exclude", "include")
# What every link may carry, or inherits from the feed that led to it.
_COMMON_OPTIONS = ("max_items", "reader")
_BATCH = 16
_TITLE_CHARS = 80
_WILD = re.compile(r"[*?\[]")
_NOTION_ID = re.compile(r"\s+[0-9a-f]{32}$")


class FilesReader:
    """Reads a path, a ``file:`` URL or a pattern.

    Link options: ``include`` and ``exclude`` (patterns over paths, as in ``.gitignore``), ``author_from_page`` (a text belongs
    to the author whom its file names, where it names one).

    A document is identified by its file's URL; by its public address where an export archive tells it. A file that has not
    changed since it was collected is not read again. A file that cannot be read is yielded as Rejected, and the others
    go on. Files are read in a thread, some at a time, so memory does not grow with the folder; what has to be parsed (PDF, Word,
    EPUB, pages, mail) is parsed by processes with limits of time and memory.
    """

    name = "files"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:
        """Yield a document or a rejection per text, then EndOfSource.

        Raises:
            CollectionError: there is no such file or folder, an option is wrong, or there are too many files.
            ExtractionError: nothing in it can be read.
        """
        items = _Source(link, known, self._limits).items()
        try:
            while batch := await in_thread(_take, items):
                for item in batch:
                    yield item
        finally:
            items.close()

    async def close(self) -> None:
        """Nothing is held between links."""


def _take(items: Iterator[SourceItem]) -> list[SourceItem]:
    return list(islice(items, _BATCH))


class _Source:
    """One link, and what becomes of its files."""

    def __init__(self, link: Link, known: Mapping[str, StoredVersion], limits: Limits) -> None:
        unknown = set(link.options) - {*_OPTIONS, *_COMMON_OPTIONS}
        if unknown:
            raise CollectionError(
                f"A link to files has no option {', '.join(map(repr, sorted(unknown)))}. Expected: {', '.join(_OPTIONS)}."
            )
        self._link = link
        self._known = known
        self._limits = limits
        record = is_record(link.category)
        self._is_record = record
        self._is_private = record and category_spec(str(link.category)).private_authors
        self._of_all = record or bool(link.options.get("author_from_page"))
        self._include, self._exclude = (_patterns(link, name) for name in ("include", "exclude"))
        # A file's stamp says nothing about these.
        chosen = (VERSION, link.author, link.category or "", str(self._of_all))
        self._choice = text_hash("\n".join(chosen))[:12]

    def items(self) -> Generator[SourceItem, None, None]:
        yield from self._read()
        yield EndOfSource()

    def _read(self) -> Iterator[SourceItem]:
        path = _local_path(self._link.url)
        if path.is_dir():
            yield from self._read_tree(FolderTree(path, self._limits), path)
            return
        if not path.is_file():
            yield from self._read_pattern(path)
            return
        path = path.resolve()
        if path.suffix.lower() != ARCHIVE:
            _require_known(path)
            tree = FolderTree(path.parent, self._limits, only=path.name)
            yield from self._read_files(tree, path.parent, list(_entries(tree.walk())))
            return
        try:
            archive = ZipTree(path, path.as_uri(), self._limits)
        except UnreadableError as error:
            raise ExtractionError(str(error)) from error
        yield from self._read_tree(archive, None)

    def _read_pattern(self, path: Path) -> Iterator[SourceItem]:
        parts = path.parts
        first = next((place for place, part in enumerate(parts) if _WILD.search(part)), None)
        folder = Path(*parts[:first])
        if first is None or not folder.is_dir():
            raise CollectionError(
                f"There is no file or folder {str(path)!r}. Relative paths start at the folder of the command."
            )
        self._include = ["/" + "/".join(parts[first:])]
        yield from self._read_tree(FolderTree(folder.resolve(), self._limits), folder.resolve())

    def _read_tree(self, tree: Tree, root: Path | None) -> Iterator[SourceItem]:
        entries: dict[str, Entry] = {}
        skipped: Counter[str] = Counter()
        for found in tree.walk():
            if isinstance(found, Refused):
                yield Rejected(tree.link(found.path), found.reason)
            elif (self._include and not matches(found.path, self._include)) or matches(
                found.path, self._exclude
            ):
                skipped["left out by the pattern"] += 1
            else:
                entries[found.path] = found
        export = find_export(entries)
        if export is not None:
            logger.info("{} is read as: {}", self._link.url, export.name)
            yield from self._read_export(
                tree, entries, export.read(tree, entries, self._link.author, self._limits)
            )
            return
        wanted = []
        for entry in entries.values():
            if (
                entry.suffix in FORMATS
                or (entry.suffix == MAILBOX and root is not None)
                or (entry.suffix == WORDPRESS and _is_wordpress(tree, entry))
            ):
                wanted.append(entry)
            else:
                skipped[entry.suffix or "no suffix"] += 1
        if len(wanted) > self._limits.files:
            raise CollectionError(
                f"There are {len(wanted):,} files to read; at most {self._limits.files:,} are taken from one link. "
                "Give a folder with fewer, a pattern such as FOLDER/*.md, or the options include and exclude."
            )
        if skipped:
            logger.info("{}: not read: {}", self._link.url, _explain(skipped))
        if not wanted:
            raise ExtractionError(
                f"There is nothing in it that can be read ({_explain(skipped) or 'it is empty'}). Read are: {_kinds()}."
            )
        yield from self._read_files(tree, root, wanted)

    def _read_export(
        self, tree: Tree, entries: Mapping[str, Entry], found: Iterable[tuple[Entry, Writing | LeftOut]]
    ) -> Iterator[SourceItem]:
        count = 0
        try:
            for entry, writing in found:
                count += 1
                yield self._item(tree, entry, writing, within=entry.path)
        except UnreadableError as error:
            raise ExtractionError(str(error)) from error
        if not count:
            raise ExtractionError(f"The archive of {len(entries):,} files holds no writing of its owner.")

    def _read_files(self, tree: Tree, root: Path | None, entries: Sequence[Entry]) -> Iterator[SourceItem]:
        for entry in entries:
            link = tree.link(entry.path)
            stored = self._known.get(link)
            stamp = self._stamp(entry)
            if stamp and stored is not None and stored.etag == stamp:
                yield NotModified(link)
                continue
            try:
                for writing in self._writings(tree, root, entry):
                    yield self._item(tree, entry, writing, within=entry.path)
            except UnreadableError as error:
                yield Rejected(link, str(error), link=link)
            except OSError as error:
                yield Rejected(link, f"It cannot be read: {error.strerror or error}.", link=link)
            except CollectionError:
                raise
            except Exception as error:  # noqa: BLE001 - libraries that read files of all sorts raise errors of all sorts
                reason = f"It cannot be read as {entry.suffix}: {type(error).__name__}: {error}"[:500]
                yield Rejected(link, reason, link=link)

    def _writings(self, tree: Tree, root: Path | None, entry: Entry) -> Iterator[Writing | LeftOut]:
        if entry.suffix == MAILBOX and root is not None:
            return read_mailbox(root / entry.path, self._link.author, of_all=self._of_all)
        if entry.suffix == WORDPRESS:
            return read_wordpress(tree, entry)
        content = tree.read(entry)
        if entry.suffix in IN_PLACE:
            return FORMATS[entry.suffix](content, self._limits)
        workers = _get_workers(self._limits.cpu_seconds, self._limits.memory_bytes)
        try:
            return iter(workers.call(read_content, entry.suffix, content, self._limits))
        except WorkStoppedError as error:
            raise UnreadableError(f"Reading it was given up: {error}.") from error

    def _item(self, tree: Tree, entry: Entry, writing: Writing | LeftOut, *, within: str) -> SourceItem:
        place = tree.link(entry.path)
        own = place
        if writing.key:
            own = f"{place}{':' if '#' in place else '#'}{quote(writing.key)}"
        if isinstance(writing, LeftOut):
            return Rejected(own, writing.reason)
        link = writing.link or own
        text = writing.text.strip()
        if not any(map(str.isalnum, text)):
            return Rejected(link, "It holds no text.", link=link)
        if len(text) > self._limits.text_chars:
            reason = f"Its text has {len(text):,} characters; at most {self._limits.text_chars:,} are taken."
            return Rejected(link, reason, link=link)
        document = RawDocument(
            category=self._link.category or writing.category,
            # The file names one text; of several, each is named by how it begins.
            title=writing.title or (shorten(text, _TITLE_CHARS) if writing.key else _title_of(entry)),
            # Lone surrogates can be stored nowhere.
            text=text.encode("utf-8", "replace").decode(),
            link=link,
            origin=self._link.url,
            platform=writing.platform,
            author="" if self._is_private else (writing.author if self._of_all else "") or self._link.author,
            language=writing.language or detect_language(text),
            published_at=writing.published_at or entry.modified_at,
            metadata={
                "path": within.encode("utf-8", "replace").decode(),
                **(writing.facts if self._is_record else {}),
            },
            # A file of several texts is read again: one stamp does not say that all of them are stored.
            etag=self._stamp(entry) if link == place else None,
        )
        return FetchedDocument(document)

    def _stamp(self, entry: Entry) -> str | None:
        return f"{self._choice}-{entry.stamp}" if entry.stamp else None


def read_content(suffix: str, content: bytes, limits: Limits) -> list[Writing | LeftOut]:
    """Return what a file of the kind ``suffix`` holds: the work of a process of its own."""
    return list(FORMATS[suffix](content, limits))


@cache
def _get_workers(cpu_seconds: float, memory_bytes: int) -> Workers:
    return Workers(cpu_seconds=cpu_seconds, memory_bytes=memory_bytes)


def _local_path(url: str) -> Path:
    text = url.strip()
    if text.lower().startswith("file:"):
        text = unquote(urlsplit(text).path)
    return Path(text).expanduser()


def _entries(found: Iterable[Entry | Refused]) -> Iterator[Entry]:
    return (one for one in found if isinstance(one, Entry))


def _require_known(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix not in FORMATS and suffix not in (MAILBOX, WORDPRESS):
        raise ExtractionError(
            f"Files of the kind {suffix or 'without a suffix'!r} are not read. Read are: {_kinds()}."
        )


def _kinds() -> str:
    return ", ".join(
        (
            *FORMATS,
            MAILBOX,
            "WordPress exports (.xml), and export archives of LinkedIn, X, Medium, Substack and Slack (.zip)",
        )
    )


def _is_wordpress(tree: Tree, entry: Entry) -> bool:
    try:
        with tree.open(entry) as file:
            return b"wordpress.org/export/" in file.read(4_096)
    except (OSError, UnreadableError):
        return False


def _patterns(link: Link, option: str) -> list[str]:
    value = link.options.get(option) or []
    patterns = [value] if isinstance(value, str) else [str(one) for one in value]
    try:
        matches("probe", patterns)
    except ValueError as error:
        raise CollectionError(f"The option {option} is wrong: {error}") from None
    return patterns


def _explain(skipped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in skipped.most_common(8))


def _title_of(entry: Entry) -> str:
    name = _NOTION_ID.sub("", entry.stem)
    return " ".join(re.sub(r"[_\s]+", " ", name).split()).encode("utf-8", "replace").decode()
