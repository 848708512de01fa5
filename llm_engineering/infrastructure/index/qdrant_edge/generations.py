"""Versions of a folder that readers and one writer in several processes can share.

::

    root/
      current                    the number of the generation that readers use; replaced atomically
      writer.lock                held by the writer; the operating system frees it when the process ends
      generations/00000003/
        use.lock                 shared by every reader for as long as it reads; exclusive to remove the generation
        open.lock                exclusive for the moment in which the data is opened, closed or copied
        data/                    what is versioned
        manifest.json
      generations/.draft-…       what a writer is making; removed by the next writer if this one was killed

Locks are ``flock``: per open file, so they also hold between threads, and they never outlive their process.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import StoreError

_COPY_BYTES = 8 << 20


class Lease:
    """A generation that is not removed before :meth:`release`."""

    def __init__(self, number: int, folder: Path, descriptor: int) -> None:
        self.number = number
        self.folder = folder
        self._descriptor: int | None = descriptor

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def manifest(self) -> dict[str, Any]:
        """What the writer noted about this generation."""
        noted: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        return noted

    @contextmanager
    def lock_data(self) -> Iterator[None]:
        """While this is held nobody else opens, closes or copies the generation's data."""
        descriptor = os.open(self.folder / "open.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Let go of the generation. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Generations:
    """The generations under one root folder. Nothing is created before the first writer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder = root / "generations"

    def current(self) -> int | None:
        """Return number of the published generation; None where nothing was published yet."""
        try:
            return int((self.root / "current").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise StoreError(
                f"{self.root / 'current'} should hold a number. Delete {self.root} and build it again."
            ) from None

    def read_state(self) -> str:
        """Return which generation is published, and when it was: a folder that was deleted begins to count anew."""
        number = self.current()
        return "" if number is None else f"{number}-{(self.root / 'current').stat().st_mtime_ns}"

    def lease(self) -> Lease | None:
        """Hold the published generation; None where there is none.

        Raises:
            StoreError: the pointer names a generation that is not there.
        """
        missing = None
        while (number := self.current()) is not None:
            folder = self._folder / f"{number:08d}"
            descriptor = _shared(folder / "use.lock")
            if descriptor is not None:
                return Lease(number, folder, descriptor)
            # A writer has published a newer generation and removed this one in between; then the pointer has moved.
            if number == missing:
                raise StoreError(
                    f"{folder} is missing, though {self.root / 'current'} names it. Delete {self.root} and rebuild."
                )
            missing = number
        return None

    @contextmanager
    def lock_for_writing(self) -> Iterator[None]:
        """Be the one writer. Removes what a killed writer left, and at the end the generations nobody reads any more.

        Raises:
            StoreError: another writer is at work.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._claim(descriptor)
            self._remove_leftovers()
            yield
            self.sweep()
        finally:
            os.close(descriptor)

    def draft(self) -> Path:
        """Return an empty folder to build the next generation in, with ``data`` inside. Only while
        :meth:`lock_for_writing`."""
        draft = self._folder / f".draft-{(self.current() or 0) + 1:08d}"
        (draft / "data").mkdir(parents=True)
        (draft / "use.lock").touch()
        return draft

    def publish(self, draft: Path, manifest: Mapping[str, Any]) -> int:
        """Make a draft the current generation: everything reaches the disk, then one rename switches all readers."""
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for path in sorted(draft.rglob("*")):
            _sync(path)
        _sync(draft)
        number = (self.current() or 0) + 1
        draft.rename(self._folder / f"{number:08d}")
        _sync(self._folder)
        temporary = self.root / "current.new"
        with temporary.open("w", encoding="ascii") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.root / "current")
        _sync(self.root)
        return number

    def discard(self, draft: Path) -> None:
        """Remove a draft that will not be published."""
        shutil.rmtree(draft, ignore_errors=True)

    def sweep(self) -> None:
        """Remove generations older than the current one that nobody reads."""
        current = self.current()
        for folder in self._folder.glob("[0-9]*"):
            if current is not None and int(folder.name) < current:
                _remove_unused(folder)

    def _remove_leftovers(self) -> None:
        current = self.current() or 0
        for folder in self._folder.iterdir():
            # A generation above the pointer was renamed by a writer that was killed before it could switch.
            if folder.name.startswith(".") or (folder.name.isdigit() and int(folder.name) > current):
                shutil.rmtree(folder, ignore_errors=True)
        self.sweep()

    def _claim(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(
                f"Another process (pid {holder}) is writing the index in {self.root}. Only one run may write at a "
                "time: wait until it ends, or stop it; the lock goes with the process."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)


def copy_tree(source: Path, target: Path) -> None:
    """Copy files into an existing folder, leaving their holes: the engine's files are mostly unwritten space."""
    for path in sorted(source.rglob("*")):
        destination = target / path.relative_to(source)
        if path.is_dir():
            destination.mkdir(parents=True, exist_ok=True)
        else:
            destination.parent.mkdir(parents=True, exist_ok=True)
            _copy_sparse(path, destination)


def count_bytes(folder: Path) -> int:
    """Return bytes that a folder takes on the disk, holes not counted."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        os.ftruncate(writing.fileno(), size)
        for start, end in _extents(reading.fileno(), size):
            position = start
            while position < end:
                piece = os.pread(reading.fileno(), min(_COPY_BYTES, end - position), position)
                if not piece:
                    break
                position += os.pwrite(writing.fileno(), piece, position)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            if error.errno != errno.EINVAL:
                raise
            start, end = position, size  # a file system that knows no holes
        yield start, end
        position = end


def _shared(path: Path) -> int | None:
    """A descriptor with a shared lock on a file that still stands under its name, or None."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except FileNotFoundError:
        pass  # removed while we waited for the lock
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _remove_unused(folder: Path) -> None:
    try:
        descriptor = os.open(folder / "use.lock", os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            doomed = folder.with_name(f".removed-{folder.name}")
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
