"""A linear head over embeddings: softmax with a temperature, and a threshold below which it does not decide.

Nothing but numpy is needed to use one. It is learned elsewhere and read from a file; it belongs to the embedder that it was
learned with, and is refused with another.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, cast
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from llm_engineering.application.files import atomic_write
from llm_engineering.application.ports import Embedder, EmbeddingCache, SharedFiles, Vectors
from llm_engineering.domain.documents import CleanDocument, text_hash
from llm_engineering.domain.errors import ConfigurationError, ModelFileError
from llm_engineering.domain.hints import POE

Floats = npt.NDArray[np.float32]
_FORMAT = 1
_IN_USE = "in_use"
"""The file that names the head in use."""
_TEMPERATURES = np.geomspace(0.25, 4.0, 60)
"""Of few labels that are easily told apart, the best fit would be no doubt at all; none is lower than a quarter."""
LONGEST = 2_000
"""Characters of a text that are embedded; the embedder cuts what it cannot take."""


@dataclass(frozen=True)
class LinearHead:
    """Classes of texts, decided by their embeddings."""

    labels: tuple[str, ...]
    weights: Floats
    """Shape (dimension, classes)."""
    bias: Floats
    """Shape (classes,)."""
    embedder: str
    """Digest of the embedder's fingerprint."""
    temperature: float = 1.0
    threshold: float = 0.0
    """Least probability at which it decides, 0 to 1."""

    @cached_property
    def digest(self) -> str:
        """Over all that decides what it says."""
        parts = [json.dumps([self.labels, self.embedder, self.temperature, self.threshold]).encode()]
        parts += [np.ascontiguousarray(part, dtype="<f4").tobytes() for part in (self.weights, self.bias)]
        return hashlib.sha256(b"\x00".join(parts)).hexdigest()[:16]

    def compute_logits(self, vectors: Vectors) -> Floats:
        """Return a score for each text and class, shape (texts, classes), before the temperature."""
        return cast(Floats, np.asarray(vectors, dtype=np.float32) @ self.weights + self.bias)

    def compute_probabilities(self, vectors: Vectors) -> Floats:
        """Return calibrated probabilities, shape (texts, classes); rows add up to 1."""
        return compute_shares(self.compute_logits(vectors) / self.temperature)

    def decide(self, vectors: Vectors) -> list["Decided"]:
        """Return the likeliest class of each text."""
        probabilities = self.compute_probabilities(vectors)
        best = probabilities.argmax(axis=1)
        found = zip(best, probabilities[np.arange(len(best)), best], strict=True)
        return [
            Decided(self.labels[int(place)], min(float(share), 1.0), float(share) >= self.threshold)
            for place, share in found
        ]

    def calibrate(
        self, logits: Floats, truth: Sequence[str], least_accuracy: float, left_open: float = 0.0
    ) -> "LinearHead":
        """Return the head with temperature and threshold fitted on texts that it was not learned from.

        Args:
            least_accuracy: the threshold is the lowest at which so many of the decided texts are right, 0 to 1.
            left_open: share of these texts that lies below it at least, 0 to 1.
        """
        places = {label: place for place, label in enumerate(self.labels)}
        answers = np.array([places[label] for label in truth])
        temperature = fit_temperature(logits, answers)
        probabilities = compute_shares(logits / temperature)
        threshold = choose_threshold(
            probabilities.max(axis=1), probabilities.argmax(axis=1) == answers, least_accuracy
        )
        lowest = float(np.quantile(probabilities.max(axis=1), left_open))
        return replace(self, temperature=temperature, threshold=max(threshold, lowest))

    def save(self, path: Path, **about: object) -> None:
        """Write the head, whole or not at all. ``about`` is kept beside it for people: measures, data, date."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {
            "format": _FORMAT,
            "labels": self.labels,
            "embedder": self.embedder,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "about": about,
        }
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial.npz")
        np.savez_compressed(
            partial,
            weights=self.weights.astype("<f4"),
            bias=self.bias.astype("<f4"),
            head=np.frombuffer(json.dumps(told, ensure_ascii=False).encode(), dtype=np.uint8),
        )
        partial.replace(path)


@dataclass(frozen=True, slots=True)
class Decided:
    """What a head says of a text."""

    label: str
    probability: float
    sure: bool
    """It is not below the threshold."""


@lru_cache(maxsize=64)
def load_head(path: Path) -> LinearHead:
    """Read a head from its file, once: files are named by what they hold.

    Raises:
        ModelFileError: there is none, or it is broken.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            told = json.loads(stored["head"].tobytes())
            head = LinearHead(
                tuple(told["labels"]),
                stored["weights"].astype(np.float32),
                stored["bias"].astype(np.float32),
                told["embedder"],
                float(told["temperature"]),
                float(told["threshold"]),
            )
    except FileNotFoundError:
        raise ModelFileError(f"There is no head at {path}.") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, NotImplementedError) as error:
        raise ModelFileError(f"The head {path} cannot be read: {error}. Train it again.") from None
    classes = len(head.labels)
    fits = head.weights.ndim == 2 and head.weights.shape[1] == classes and head.bias.shape == (classes,)
    if told.get("format") != _FORMAT or not fits:
        raise ModelFileError(
            f"The head {path} is of another format than this version reads, or of another shape than its labels. Train it again."
        )
    return head


def read_about(path: Path) -> dict[str, Any]:
    """Return what was noted beside a head when it was saved."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return dict(json.loads(stored["head"].tobytes())["about"])


def compute_shares(scores: npt.NDArray[Any]) -> Floats:
    """Return shares of each row that add up to 1."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return cast(Floats, powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(logits: Floats, answers: npt.NDArray[np.int64]) -> float:
    """Return the temperature under which the probabilities fit best how often the head is right (least log loss)."""
    rows = np.arange(len(answers))

    def measure_loss(temperature: float) -> float:
        shares = compute_shares(logits / temperature)[rows, answers]
        return float(-np.log(np.maximum(shares, 1e-12)).mean())

    return float(min(_TEMPERATURES, key=measure_loss))


def choose_threshold(
    confidence: npt.NDArray[Any], right: npt.NDArray[np.bool_], least_accuracy: float
) -> float:
    """Return the lowest confidence from which on at least that share is right; above all where there is none."""
    order = np.argsort(-confidence, kind="stable")
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(accuracy >= least_accuracy)
    return (
        float(confidence[order][reached[-1]]) if len(reached) else float(np.nextafter(confidence.max(), 2.0))
    )


class HeadFolder:
    """Heads by task and field: every version under its digest, and which one is in use.

    Args:
        files: where they are kept so that other machines find them; None, or nothing shared: in the folder.
        place: of the heads among those files.
    """

    def __init__(self, folder: Path, files: SharedFiles | None = None, place: str = "heads") -> None:
        self._folder = folder
        self._files = files if files is not None and files.shared else None
        self._place = place

    def find(self, task: str, field: str) -> LinearHead:
        """Return the head that is in use.

        Raises:
            ModelFileError: there is none; says how to train one.
        """
        version = self._read_version(task, field)
        if version is None:
            raise ModelFileError(
                f"There is no head for {task}.{field} yet. Train it with: {POE} run-head-training-pipeline --config YAML"
            )
        return load_head(self._fetch(task, field, version))

    def find_if_there(self, task: str, field: str) -> LinearHead | None:
        """Return the head that is in use; None: there is none yet."""
        return self.find(task, field) if self._read_version(task, field) else None

    def save(self, task: str, field: str, head: LinearHead, **about: object) -> Path:
        """Keep a head, without putting it into use; returns its file."""
        file = self._folder / task / field / f"{head.digest}.npz"
        head.save(file, **about)
        if self._files is not None:
            self._files.write(self._location(task, field), file.name, file.read_bytes())
        return file

    def promote(self, task: str, field: str, digest: str) -> None:
        """Put a head that was saved into use."""
        if self._files is not None:
            self._files.write(self._location(task, field), _IN_USE, f"{digest}\n".encode())
        else:
            atomic_write(self._folder / task / field / _IN_USE, f"{digest}\n")

    def read_learned(self, task: str, field: str) -> frozenset[str]:
        """Return marks of the texts that the head in use was learned from; empty where that was not kept."""
        version = self._read_version(task, field)
        if version is None:
            return frozenset()
        return frozenset(read_about(self._fetch(task, field, version)).get("learned", ()))

    def _read_version(self, task: str, field: str) -> str | None:
        if self._files is not None:
            content = self._files.read(self._location(task, field), _IN_USE)
            return content.decode().strip() or None if content else None
        try:
            return (self._folder / task / field / _IN_USE).read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def _fetch(self, task: str, field: str, version: str) -> Path:
        """The head's file on this machine; where it is elsewhere, it is fetched, once: its name tells its content."""
        file = self._folder / task / field / f"{version}.npz"
        if self._files is not None and not file.is_file():
            content = self._files.read(self._location(task, field), file.name)
            if content is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(file, content)
        return file

    def _location(self, task: str, field: str) -> str:
        assert self._files is not None
        return self._files.locate(f"{self._place}/{task}/{field}", self._folder / task / field)


class Heads(Protocol):
    """Finds heads by task and field."""

    def find(self, task: str, field: str) -> LinearHead:
        """Return the head that is in use.

        Raises:
            ModelFileError: there is none; says how to train one.
        """
        ...


def compose_text(document: CleanDocument) -> str:
    """Return what heads read of a record: its text, under its title where the text does not begin with it."""
    title = document.title.strip()
    return document.text if not title or document.text.startswith(title) else f"{title}\n{document.text}"


class TextEmbedder:
    """Embeddings of texts for heads, from the cache where they are there."""

    def __init__(self, embedder: Embedder, cache: EmbeddingCache | None = None) -> None:
        self._embedder = embedder
        self._cache = cache
        self.embedded = 0
        """Texts that were not in the cache."""

    @property
    def digest(self) -> str:
        """Names vectors that may be compared."""
        return self._embedder.fingerprint.digest

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return embeddings, shape (texts, dimension), each row of unit length. What is too long is cut.

        Raises:
            ModelError: the embedder failed.
        """
        # Not the key of a passage: a text is embedded here as a question is, cut where it is too long.
        keys = [text_hash(f"head\x00{text[:LONGEST]}") for text in texts]
        known: Mapping[str, Vectors] = (
            self._cache.get_many(self.digest, list(dict.fromkeys(keys))) if self._cache else {}
        )
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            made = self._embedder.embed_queries([text[:LONGEST] for text in missing.values()])
            self.embedded += len(missing)
            fresh = dict(zip(missing, made, strict=True))
            if self._cache:
                self._cache.put_many(self.digest, fresh)
            known = {**known, **fresh}
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, 0), dtype=np.float32)


def check_embedder(head: LinearHead, embedder: TextEmbedder, what: str) -> None:
    """Refuse a head of another embedder.

    Raises:
        ModelFileError: its vectors cannot be compared with these.
        ConfigurationError: it knows no classes.
    """
    if head.embedder != embedder.digest:
        raise ModelFileError(
            f"The head of {what} was learned with another embedder ({head.embedder}) than the one that is configured "
            f"({embedder.digest}). Train it again, or set EMBEDDER_* back."
        )
    if len(head.labels) < 2:
        raise ConfigurationError(
            f"The head of {what} knows {len(head.labels)} classes; expected two at least."
        )
