"""Near-duplicates by MinHash: texts that share most of their five-word sequences.

A signature holds, for each of 128 hash functions, the smallest hash over a text's shingles; the share of equal entries
of two signatures estimates the Jaccard similarity of their shingle sets, with a standard error of
``sqrt(s * (1 - s) / 128)``, at most 0.044. (A. Broder, "On the resemblance and containment of documents", 1997; hash
functions by multiply-shift, M. Dietzfelbinger et al., 1997.)
"""

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

PERMUTATIONS = 128
SHINGLE_WORDS = 5
FEWEST_WORDS = 50
"""Shorter texts have too few shingles for a fair comparison."""

_BANDS, _ROWS = 25, 5
"""Two texts are compared when they agree on all rows of a band: found with probability 1 - (1 - s^5)^25, which is
0.99995 for a similarity s of 0.8."""
_BLOCK = 1_024
_WORD = re.compile(r"\w+")


def _constants(name: str) -> npt.NDArray[np.uint64]:
    """One random number per hash function, the same with every version of NumPy: signatures are stored."""
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * PERMUTATIONS), dtype="<u8").reshape(
        -1, 1
    )


_FACTORS = _constants("near-duplicates: factors") | np.uint64(1)
_OFFSETS = _constants("near-duplicates: offsets")


def sign(text: str) -> bytes:
    """Return MinHash signature of a text: 128 little-endian uint32 values, or nothing for fewer than 50 words.

    Signatures are stored with the clean documents: raise CLEANING_VERSION when they are made differently.
    """
    words = _WORD.findall(text.casefold())
    if len(words) < FEWEST_WORDS:
        return b""
    # Repeated ones too: they cannot change a minimum, and sorting them out takes longer.
    hashes = _shingles(words)
    smallest = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(hashes), _BLOCK):
        # Multiplication wraps around at 2^64, as intended; the high half of the result is the hash.
        mixed = hashes[start : start + _BLOCK] * _FACTORS + _OFFSETS
        np.minimum(smallest, mixed.min(axis=1), out=smallest)
    return (smallest >> np.uint64(32)).astype("<u4").tobytes()


def _shingles(words: list[str]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash for each run of five words."""
    codes = {word: zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in set(words)}
    hashes = np.array([codes[word] for word in words], dtype=np.uint64)
    count = len(hashes) - SHINGLE_WORDS + 1
    mixed = np.zeros(count, dtype=np.uint64)
    for i in range(SHINGLE_WORDS):
        mixed = (mixed ^ hashes[i : i + count]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def estimate_jaccard(left: bytes, right: bytes) -> float:
    """Return estimated Jaccard similarity of two texts, 0 to 1, from their signatures."""
    equal = np.frombuffer(left, dtype="<u4") == np.frombuffer(right, dtype="<u4")
    return float(equal.mean())


def group(
    signatures: Iterable[tuple[str, bytes, str | None]], threshold: float = 0.8
) -> dict[str, str | None]:
    """Return which documents must change their group.

    Args:
        signatures: (document id, signature, present group) in any order.
        threshold: least estimated similarity of two documents of a group.

    Returns:
        Document id to group (the smallest id among documents that are alike, directly or through others), or to
        None for one that stands alone now. Documents whose group is right already are left out.
    """
    present: dict[str, str | None] = {}
    comparable: dict[str, bytes] = {}
    for identifier, value, current in signatures:
        present[identifier] = current
        if value:
            comparable[identifier] = value
    ids = sorted(comparable)
    roots = _roots(
        np.frombuffer(b"".join(comparable[i] for i in ids), dtype="<u4").reshape(-1, PERMUTATIONS), threshold
    )
    sizes = np.bincount(roots, minlength=len(ids)) if ids else np.zeros(0, dtype=np.int64)
    groups = {ids[i]: ids[root] for i, root in enumerate(roots) if sizes[root] > 1}
    return {i: groups.get(i) for i, current in sorted(present.items()) if groups.get(i) != current}


def _roots(matrix: npt.NDArray[np.uint32], threshold: float) -> list[int]:
    """For each row the first row of its group."""
    parents = list(range(len(matrix)))
    for rows in _candidates(matrix):
        # Every row with those after it; what one group holds already needs no comparing.
        for position, row in enumerate(rows[:-1]):
            root = _find(parents, row)
            others = [other for other in rows[position + 1 :] if _find(parents, other) != root]
            if not others:
                continue
            alike = (matrix[others] == matrix[row]).mean(axis=1) >= threshold
            for other in np.asarray(others)[alike].tolist():
                _join(parents, row, other)
    return [_find(parents, i) for i in range(len(parents))]


def _candidates(matrix: npt.NDArray[np.uint32]) -> Iterator[list[int]]:
    """Rows that agree on a band, in ascending order, band by band."""
    for band in range(_BANDS):
        columns = np.ascontiguousarray(matrix[:, band * _ROWS : (band + 1) * _ROWS])
        keys = columns.view(np.dtype((np.void, columns.dtype.itemsize * _ROWS))).ravel()
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        ends = np.cumsum(counts)
        for bucket in np.flatnonzero(counts > 1):
            yield order[ends[bucket] - counts[bucket] : ends[bucket]].tolist()


def _find(parents: list[int], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


def _join(parents: list[int], left: int, right: int) -> None:
    left, right = _find(parents, left), _find(parents, right)
    parents[max(left, right)] = min(left, right)
