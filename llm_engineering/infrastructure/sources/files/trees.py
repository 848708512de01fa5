"""A folder and an archive, seen alike: names, sizes and dates of files, and their bytes. Nothing is ever unpacked to disk."""

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Protocol
from urllib.parse import quote

from llm_engineering.domain.errors import CollectionError
from llm_engineering.infrastructure.sources.files.writings import Limits, UnreadableError

SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "__MACOSX", "site-packages", "venv"})


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    """Within the tree, with ``/``."""
    size: int
    modified_at: datetime
    stamp: str = ""
    """Changes whenever the file does; empty where that is not known."""

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem


@dataclass(frozen=True, slots=True)
class Refused:
    """A name in the tree that is not read, and why. It may stand for a whole folder."""

    path: str
    reason: str


class Tree(Protocol):
    def walk(self) -> Iterator[Entry | Refused]:
        """Yield every file in order of their paths.

        Raises:
            CollectionError: there are more than ``Limits.entries``.
        """
        ...

    def open(self, entry: Entry) -> IO[bytes]:
        """Open a file for reading. What is read must be held against the limits."""
        ...

    def read(self, entry: Entry) -> bytes:
        """Return a file's bytes.

        Raises:
            UnreadableError: it is too large, or is damaged.
            OSError: it cannot be read.
        """
        ...

    def link(self, path: str) -> str:
        """Return where a file is: its identity."""
        ...


class FolderTree:
    """A folder of this machine. Hidden files, symbolic links and what is no regular file are left out.

    Args:
        only: a file of the folder, to see nothing but this.
    """

    def __init__(self, root: Path, limits: Limits, only: str | None = None) -> None:
        self._root = root
        self._limits = limits
        self._only = only

    def walk(self) -> Iterator[Entry | Refused]:
        if self._only is not None:
            yield self._entry(self._root / self._only, self._only)
            return
        seen = 0
        problems: list[OSError] = []
        for folder, folders, names in os.walk(self._root, onerror=problems.append):
            here = Path(folder)
            pages = {PurePosixPath(name).stem for name in names if name.lower().endswith((".html", ".htm"))}
            # In place: os.walk goes on with what is left. Symbolic links to folders it does not follow.
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".")
                and name not in SKIPPED_FOLDERS
                # Pictures and scripts that a browser saves beside a page.
                and not (name.endswith(("_files", ".files")) and name[:-6] in pages)
            )
            for name in sorted(names):
                seen += 1
                if seen > self._limits.entries:
                    raise _too_many("folder", self._limits.entries)
                if name.startswith("."):
                    continue
                path = here / name
                relative = path.relative_to(self._root).as_posix()
                try:
                    entry = self._entry(path, relative)
                except OSError as error:
                    yield Refused(relative, f"It cannot be read: {error.strerror or error}.")
                except UnreadableError:
                    continue
                else:
                    yield entry
        for problem in problems:
            where = Path(os.fsdecode(problem.filename or self._root))
            yield Refused(
                where.relative_to(self._root).as_posix(),
                f"The folder cannot be read: {problem.strerror or problem}.",
            )

    def open(self, entry: Entry) -> IO[bytes]:
        return (self._root / entry.path).open("rb")

    def read(self, entry: Entry) -> bytes:
        check_size(entry, self._limits.file_bytes)
        with self.open(entry) as file:
            return file.read(
                entry.size
            )  # so much memory is taken at once: not that of the largest file allowed

    def link(self, path: str) -> str:
        return (self._root / path).as_uri()

    def _entry(self, path: Path, relative: str) -> Entry:
        found = path.lstat() if self._only is None else path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableError("It is no regular file.")
        modified = datetime.fromtimestamp(found.st_mtime, UTC)
        return Entry(relative, found.st_size, modified, f"{found.st_size}-{found.st_mtime_ns}")


class ZipTree:
    """A zip archive. Sizes are what it declares; Python's reader never gives more than that of a file.

    Args:
        link: the archive's own.

    Raises:
        UnreadableError: it is no zip archive, or needs a password.
    """

    def __init__(self, file: Path | IO[bytes], link: str, limits: Limits) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
            raise UnreadableError(f"It is no zip archive, or is damaged: {error}.") from error
        self._link = link
        self._limits = limits
        self._left = limits.archive_bytes
        self._infos = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        if any(info.flag_bits & 1 for info in self._infos.values()):
            raise UnreadableError("It is protected by a password. Unpack it, and give the folder.")

    def walk(self) -> Iterator[Entry | Refused]:
        if len(self._infos) > self._limits.entries:
            raise _too_many("archive", self._limits.entries)
        for name in sorted(self._infos):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
                yield Refused(name, "Its name leads out of the archive, as no honest archive's does.")
                continue
            if any(part.startswith(".") or part in SKIPPED_FOLDERS for part in parts):
                continue
            info = self._infos[name]
            modified = datetime(1980, 1, 1, tzinfo=UTC)
            with suppress(ValueError):
                modified = datetime(*info.date_time, tzinfo=UTC)
            yield Entry(name, info.file_size, modified)

    def open(self, entry: Entry) -> IO[bytes]:
        check_size(entry, self._limits.file_bytes)
        self._left -= entry.size
        if self._left < 0:
            raise CollectionError(
                f"What is read from the archive is more than {self._limits.archive_bytes:,} bytes when unpacked. "
                "Unpack it, and give the folder that holds the writing."
            )
        return self._zip.open(entry.path)

    def read(self, entry: Entry) -> bytes:
        try:
            with self.open(entry) as file:
                return file.read()
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            NotImplementedError,
            EOFError,
            RuntimeError,
            ValueError,
        ) as error:
            raise UnreadableError(f"It is damaged in the archive: {error}.") from error

    def find(self, path: str) -> Entry | None:
        """Return the file of that name."""
        info = self._infos.get(path)
        return Entry(path, info.file_size, datetime(1980, 1, 1, tzinfo=UTC)) if info else None

    def link(self, path: str) -> str:
        return f"{self._link}#{quote(path)}"

    def count_bytes(self, of: Callable[[str], bool]) -> int:
        """Return the bytes of files whose names ``of`` accepts, unpacked."""
        return sum(info.file_size for name, info in self._infos.items() if of(name))


def check_size(entry: Entry, limit: int) -> None:
    """Refuse a file that is too large.

    Raises:
        UnreadableError: it is.
    """
    if entry.size > limit:
        raise UnreadableError(f"It has {entry.size:,} bytes; at most {limit:,} are read.")


def _too_many(what: str, limit: int) -> CollectionError:
    return CollectionError(
        f"The {what} holds more than {limit:,} files. Give one that holds the writing alone, for instance a folder in it."
    )
