"""What a GGUF file says of itself, read without another package: metadata, and where its tensors lie.

The layout is that of version 3: magic, version, counts; key, type and value of each entry; name, shape, type and offset of
each tensor; then, aligned, the tensors. See ``docs/gguf.md`` of the ggml project.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.domain.errors import ModelFileError

if TYPE_CHECKING:
    import numpy as np

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
F32 = 0


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor: its shape as ggml has it (the fastest dimension first), its type and where it begins."""

    shape: tuple[int, ...]
    kind: int
    offset: int
    """From the beginning of the file, in bytes."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Texts are bytes, as the file has them: tokens need not be UTF-8."""

    file: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]

    def read_floats(self, name: str) -> "np.ndarray[Any, Any]":
        """Return a tensor that is stored in 32-bit floats."""
        import numpy as np

        place = self.tensors[name]
        count = int(np.prod(place.shape))
        return np.fromfile(self.file, dtype="<f4", count=count, offset=place.offset)


def read_header(file: Path) -> GgufHeader:
    """Read the beginning of a file.

    Raises:
        ModelFileError: it is missing, or no whole GGUF file of version 2 or 3.
    """
    try:
        with file.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header(file)
    except (OSError, ValueError, struct.error, KeyError) as error:
        raise ModelFileError(f"{file} is no whole GGUF file of version 2 or 3: {error!r}") from None


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self, file: Path) -> GgufHeader:
        magic, version, tensors, entries = self._unpack("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"it begins with {magic!r}, version {version}")
        values = dict(self._entry() for _ in range(entries))
        places = [self._place() for _ in range(tensors)]
        step = int(values.get("general.alignment", 32))
        start = -(-self._at // step) * step
        placed = {name: TensorPlace(shape, kind, start + offset) for name, shape, kind, offset in places}
        return GgufHeader(file, values, placed)

    def _unpack(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return found

    def _text(self) -> bytes:
        (length,) = self._unpack("Q")
        if self._at + length > len(self._data):
            raise ValueError("it ends within its header")
        self._at += length
        return self._data[self._at - length : self._at]

    def _entry(self) -> tuple[str, Any]:
        name = self._text().decode()
        (kind,) = self._unpack("I")
        return name, self._value(kind)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            item, count = self._unpack("IQ")
            if item in (_STRING, _ARRAY):
                return [self._value(item) for _ in range(count)]
            return list(self._unpack(f"{count}{_SCALARS[item]}"))
        return self._unpack(_SCALARS[kind])[0]

    def _place(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text().decode()
        (dimensions,) = self._unpack("I")
        shape = self._unpack(f"{dimensions}Q")
        kind, offset = self._unpack("IQ")
        return name, shape, kind, offset
