"""Opens a text file in the encoding that its bytes speak for."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from llm_engineering.domain.errors import CollectionError

_PIECE = 1 << 20
_ESCAPED = re.compile("[\udc80-\udcff]")
_NOT_IN_CP1252 = b"\x81\x8d\x8f\x90\x9d"


def open_text(path: Path, encoding: str | None = None) -> IO[str]:
    """Return a text stream over a file, unpacked where it ends in ``.gz``; line ends are left as they are.

    Bytes that are no UTF-8 in a file that otherwise is come out as lone surrogates, so that only their rows fail.

    Args:
        encoding: None: a byte order mark, else UTF-8, else Windows-1252 or Latin-1.

    Raises:
        CollectionError: there is no such encoding, or the file cannot be read.
    """
    if encoding is None:
        encoding = detect_encoding(path)
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise CollectionError(
            f"There is no encoding {encoding!r}. Expected a name such as utf-8 or cp1252."
        ) from None
    errors = (
        "surrogateescape"
        if encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
        else "replace"
    )
    return io.TextIOWrapper(_open_bytes(path), encoding=encoding, errors=errors, newline="")


def detect_encoding(path: Path) -> str:
    """Return the encoding of a file, by reading all its bytes once (in pieces)."""
    with reading_errors(path), _open_bytes(path) as stream:
        piece = stream.read(_PIECE)
        if piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        right = wrong = 0
        fits_cp1252 = True
        while True:
            text = decoder.decode(piece, final=not piece)
            if not text.isascii():
                escaped = len(_ESCAPED.findall(text))
                right += len(text) - len(text.encode("ascii", "ignore")) - escaped
                wrong += escaped
                fits_cp1252 = fits_cp1252 and not any(byte in piece for byte in _NOT_IN_CP1252)
            if not piece:
                break
            piece = stream.read(_PIECE)
    # A stray byte in a file of UTF-8 is damage; where much of what is not ASCII is wrong, it is another encoding.
    if wrong <= right / 10:
        return "utf-8-sig"
    return "cp1252" if fits_cp1252 else "latin-1"


def _open_bytes(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Errors of the file system and of a broken archive, as CollectionError."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CollectionError(f"{path.name} is a broken gzip file: {error}") from error
    except OSError as error:
        raise CollectionError(f"{path.name} cannot be read: {error.strerror or error}") from error
