"""Decontamination: what a model is trained on must not hold what it will be tested on.

Two texts are compared by the share of word sequences of length n that the shorter of them has in common with the other
(containment), so that a short passage inside a long answer is found as well as a whole copy. Texts shorter than n words
count as one sequence: they are found only where they are the same.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_engineering.application.text.words import split_words
from llm_engineering.application.training.datasets.config import DecontaminationConfig
from llm_engineering.application.training.datasets.gates import Reasons
from llm_engineering.application.training.datasets.samples import (
    Sample,
    answer_of,
    normalise_words,
    prompt_of,
)
from llm_engineering.domain.errors import InvalidInputError

Hashes = npt.NDArray[np.uint64]

_TEXT_KEYS = ("text", "question", "instruction", "prompt", "query", "answer", "chosen", "reference")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Protected:
    """A text that nothing trained on may hold."""

    source: str
    """Where it stands, for the report: ``test``, ``questions.jsonl``."""
    text: str
    only_equal: bool = False
    """Compared as a whole, in normal form. For prompts made by rule, which share their wording but not their subject."""


class Decontamination:
    """A gate that drops samples whose prompt or answer holds a protected text, or lies in one."""

    def __init__(self, protected: Iterable[Protected], config: DecontaminationConfig, name: str) -> None:
        self.name = name
        self._config = config
        self._equal: dict[str, str] = {}
        self._sources: list[str] = []
        self._sizes: list[int] = []
        grams: list[Hashes] = []
        for item in protected:
            if item.only_equal:
                self._equal.setdefault(normalise_words(item.text), item.source)
                continue
            found = gram_hashes(item.text, config.words)
            if len(found):
                grams.append(found)
                self._sources.append(item.source)
                self._sizes.append(len(found))
        every = np.concatenate(grams) if grams else np.zeros(0, dtype=np.uint64)
        owners = np.repeat(np.arange(len(grams)), self._sizes)
        order = np.argsort(every, kind="stable")
        self._grams, self._owners = every[order], owners[order]

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        reasons: dict[int, str] = {}
        for position, sample in enumerate(samples):
            source = self.source_of(prompt_of(sample)) or self.source_of(answer_of(sample))
            if source is not None:
                reasons[position] = f"overlaps with {source}"
        return reasons

    def source_of(self, text: str) -> str | None:
        """Return where the protected text stands that this one overlaps with; None: nowhere."""
        if self._equal and (source := self._equal.get(normalise_words(text))) is not None:
            return source
        grams = gram_hashes(text, self._config.words)
        if not len(grams) or not len(self._grams):
            return None
        first = np.searchsorted(self._grams, grams, side="left")
        last = np.searchsorted(self._grams, grams, side="right")
        common: dict[int, int] = {}
        for start, end in zip(first[last > first].tolist(), last[last > first].tolist(), strict=True):
            for owner in self._owners[start:end].tolist():
                common[owner] = common.get(owner, 0) + 1
        for owner, count in common.items():
            if count >= self._config.share * min(len(grams), self._sizes[owner]):
                return self._sources[owner]
        return None


def protect_samples(samples: Iterable[Sample], source: str) -> Iterator[Protected]:
    """Yield the texts of held-out samples: their answers by sequences, their prompts as a whole."""
    for sample in samples:
        yield Protected(source, answer_of(sample))
        yield Protected(source, prompt_of(sample), only_equal=True)


def read_protected(file: Path) -> list[Protected]:
    """Return the texts of an evaluation file: JSON Lines or a JSON array, of strings or of objects.

    Of an object the texts under ``text``, ``question``, ``instruction``, ``prompt``, ``query``, ``answer``, ``chosen`` and
    ``reference`` count.

    Raises:
        InvalidInputError: the file cannot be read, or a record holds no such text; the message names the line.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"The evaluation file {file} cannot be read: {error}") from None
    found = []
    for place, record in _records(content, file):
        texts = [record] if isinstance(record, str) else _texts(record)
        if not texts:
            raise InvalidInputError(
                f"{file}, {place}: expected a string, or an object with a text under one of {', '.join(_TEXT_KEYS)}"
            )
        found += [Protected(file.name, text) for text in texts]
    return found


def gram_hashes(text: str, n: int) -> Hashes:
    """Return distinct 64-bit hashes of a text's runs of n words, ascending; of the whole text where it has fewer words."""
    found = split_words(text)
    if not found:
        return np.zeros(0, dtype=np.uint64)
    n = min(n, len(found))
    codes = np.array([hash(word) for word in found], dtype=np.int64).view(np.uint64)
    mixed = np.zeros(len(found) - n + 1, dtype=np.uint64)
    for i in range(n):
        # Multiplication wraps around at 2^64, as intended.
        mixed = (mixed ^ codes[i : i + len(mixed)]) * _GOLDEN
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _records(content: str, file: Path) -> Iterator[tuple[str, object]]:
    if content.lstrip().startswith("["):
        try:
            yield from ((f"record {i}", record) for i, record in enumerate(json.loads(content), start=1))
        except ValueError as error:
            raise InvalidInputError(f"{file} is no JSON array: {error}") from None
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"{file}, line {number} is no JSON: {error}") from None


def _texts(record: object) -> list[str]:
    if not isinstance(record, Mapping):
        return []
    values = [record.get(key) for key in _TEXT_KEYS]
    return [value for value in values if isinstance(value, str) and value.strip()]
