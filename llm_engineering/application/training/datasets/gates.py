"""Quality gates: each returns the samples it drops, with a reason for each."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from llm_engineering.application.llm.chat_templates import escape_markers
from llm_engineering.application.ports import Embedder, Message, Vectors
from llm_engineering.application.text.minhash import group, sign
from llm_engineering.application.text.overlap import measure_repetition
from llm_engineering.application.text.words import STOP_WORDS, language_of, split_words
from llm_engineering.application.training.datasets.config import LengthBounds, RuleBounds
from llm_engineering.application.training.datasets.samples import (
    Sample,
    answer_of,
    answers_of,
    normalise_words,
    prompt_of,
    split_conversations,
)
from llm_engineering.domain.datasets import PreferenceSample
from llm_engineering.domain.documents import CleanDocument

S = TypeVar("S", bound=Sample)

EXAMPLES = 3
_EXCERPT = 160

Reasons = Mapping[int, str]
"""Position of a dropped sample to the reason, in words that a report can group by (no figures of the sample)."""


class Gate(Protocol):
    """Judges samples, each alone or all together. Judging again what was kept drops nothing more."""

    @property
    def name(self) -> str: ...

    def __call__(self, samples: Sequence[Sample]) -> Reasons: ...


@dataclass(frozen=True)
class Dropped(Generic[S]):
    """A sample that a gate did not let through."""

    sample: S
    gate: str
    reason: str


@dataclass(frozen=True, slots=True)
class GateCount:
    """What a gate did."""

    gate: str
    seen: int
    kept: int
    reasons: Mapping[str, int]
    """How often each reason was given, most frequent first."""
    examples: tuple[tuple[str, str], ...] = ()
    """(reason, the sample's beginning) of the first few dropped."""

    @property
    def dropped(self) -> int:
        return self.seen - self.kept


@dataclass(frozen=True)
class Gated(Generic[S]):
    """What came through, what did not, and the counts of each gate in order."""

    kept: tuple[S, ...]
    dropped: tuple[Dropped[S], ...]
    counts: tuple[GateCount, ...]


def run_gates(samples: Sequence[S], gates: Sequence[Gate]) -> Gated[S]:
    """Send samples through the gates, one after the other; the order of what is kept stays."""
    kept = list(samples)
    dropped: list[Dropped[S]] = []
    counts: list[GateCount] = []
    for gate in gates:
        reasons = gate(kept) if kept else {}
        out = [Dropped(kept[position], gate.name, reasons[position]) for position in sorted(reasons)]
        seen = len(kept)
        kept = [sample for position, sample in enumerate(kept) if position not in reasons]
        dropped += out
        counts.append(count_of(gate.name, seen, out))
    return Gated(tuple(kept), tuple(dropped), tuple(counts))


def count_of(gate: str, seen: int, dropped: Sequence[Dropped[S]]) -> GateCount:
    """Return the line of the report for a gate that saw ``seen`` samples."""
    reasons = dict(Counter(item.reason for item in dropped).most_common())
    examples = tuple((item.reason, shorten(item.sample)) for item in dropped[:EXAMPLES])
    return GateCount(gate, seen, seen - len(dropped), reasons, examples)


def shorten(sample: Sample) -> str:
    """Return a sample's beginning on one line."""
    text = f"{' '.join(prompt_of(sample).split())} → {' '.join(answer_of(sample).split())}"
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"


TokenCounter = Callable[[Sequence[Sequence[Message]]], Sequence[int]]
"""Tokens of each conversation in the chat template that the data set is made for."""
LanguageDetector = Callable[[str], str | None]
"""ISO 639-1 code of a text, None where it cannot be told."""

_LEAST_PROMPT_WORDS = 5
_LEAST_LANGUAGE_WORDS = 20
_LINK = re.compile(r"https?://", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_PLACEHOLDER = re.compile(r"lorem ipsum|\[(?:insert|your|einfügen)\b[^\]]*\]", re.IGNORECASE)
# At the start of a sentence, where a model speaks of itself; an article may well speak of such models.
_BOILERPLATE = re.compile(
    r"(?:^|[.!?:\n])\s*[\"'“*]*(?:"
    r"as an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|i(?:'|’)?m (?:sorry|an ai)\b|i am (?:sorry|an ai)\b"
    r"|i (?:cannot|can(?:'|’)t|am unable to) (?:fulfil+|assist|help|comply|provide|answer)\b"
    r"|als (?:eine? )?(?:ki\b|ki-|künstliche intelligenz|sprachmodell)"
    r"|en tant qu(?:e |'|’)(?:ia\b|intelligence artificielle|modèle de langage)"
    r"|como (?:una? )?(?:ia\b|inteligencia artificial|modelo de lenguaje)"
    r")",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")


@dataclass(frozen=True, slots=True)
class Format:
    """Texts are there, hold no marks of a chat template, do not repeat the prompt, and a model does not speak of itself."""

    max_repeated_share: float = 0.3
    name: str = "format"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        return _each(samples, self._reason)

    def _reason(self, sample: Sample) -> str | None:
        prompt = prompt_of(sample)
        if reason := _text_fault("prompt", prompt):
            return reason
        asked = normalise_words(prompt)
        for part in answers_of(sample):
            if reason := _text_fault(part.name, part.text):
                return reason
            if repeats_prompt(asked, part.text):
                return f"{part.name} repeats the prompt"
            if part.written_by_model and _BOILERPLATE.search(part.text):
                return f"{part.name} has a model speak of itself"
            if measure_repetition(part.text) > self.max_repeated_share:
                return f"{part.name} repeats itself"
        return None


@dataclass(frozen=True, slots=True)
class Length:
    """Characters of prompt and answers, and tokens of both in the chat template."""

    bounds: LengthBounds
    count: TokenCounter | None = None
    """None: tokens are not checked."""
    name: str = "length"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        reasons = dict(_each(samples, self._reason))
        most = self.bounds.max_tokens
        if self.count is None or most is None:
            return reasons
        left = [position for position in range(len(samples)) if position not in reasons]
        owners, rendered = [], []
        for position in left:
            for conversation in split_conversations(samples[position]):
                owners.append(position)
                rendered.append(conversation)
        for position, tokens in zip(owners, self.count(rendered), strict=True):
            if tokens > most:
                reasons[position] = "more tokens than max_tokens"
        return reasons

    def _reason(self, sample: Sample) -> str | None:
        texts = [("prompt", prompt_of(sample), self.bounds.prompt_characters)]
        texts += [(part.name, part.text, self.bounds.answer_characters) for part in answers_of(sample)]
        for name, text, (least, most) in texts:
            if len(text.strip()) < least:
                return f"{name} too short"
            if len(text) > most:
                return f"{name} too long"
        return None


@dataclass(frozen=True, slots=True)
class Language:
    """Answers are in the document's language. Source code, short texts and languages that cannot be told pass."""

    detect: LanguageDetector = field(default=lambda text: language_of(split_words(text)))
    known: frozenset[str] = frozenset(STOP_WORDS)
    """Languages that ``detect`` can tell; documents in others pass."""
    name: str = "language"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        return _each(samples, self._reason)

    def _reason(self, sample: Sample) -> str | None:
        expected = sample.origin.language.partition("-")[0].lower()
        if expected not in self.known:
            return None
        for part in answers_of(sample):
            if len(split_words(part.text)) < _LEAST_LANGUAGE_WORDS:
                continue
            found = self.detect(part.text)
            if found is not None and found != expected:
                return f"{part.name} in another language than the document"
        return None


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of thumb for what is no prose, and the run's own patterns."""

    bounds: RuleBounds
    name: str = "rules"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        forbidden = [re.compile(pattern, re.IGNORECASE) for pattern in self.bounds.forbidden]
        return _each(samples, lambda sample: self._reason(sample, forbidden))

    def _reason(self, sample: Sample, forbidden: Sequence[re.Pattern[str]]) -> str | None:
        for pattern in forbidden:
            if pattern.search(prompt_of(sample)):
                return "prompt matches a forbidden pattern"
        for part in answers_of(sample):
            if letters_share(part.text) < self.bounds.min_letter_share:
                return f"{part.name} has too few letters"
            if len(_LINK.findall(part.text)) > self.bounds.max_links:
                return f"{part.name} has too many links"
            if len(_FENCE.findall(part.text)) % 2:
                return f"{part.name} leaves a code block open"
            if part.written_by_model and _PLACEHOLDER.search(part.text):
                return f"{part.name} holds a placeholder"
            if any(pattern.search(part.text) for pattern in forbidden):
                return f"{part.name} matches a forbidden pattern"
        return None


@dataclass(frozen=True, slots=True)
class Verbatim:
    """What claims to be the author's own words is: the characters at ``origin.span`` of the document.

    That is ``chosen`` of every preference pair, unless a person edited a draft, and the answer to an instruction made by rule
    or by an up-voted question.
    """

    documents: Mapping[str, CleanDocument]
    name: str = "verbatim"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        return _each(samples, self._reason)

    def _reason(self, sample: Sample) -> str | None:
        if sample.provenance.made_by == "edit":
            return None
        if isinstance(sample, PreferenceSample):
            claimed = sample.chosen
        elif sample.provenance.made_by in ("back_translation", "feedback"):
            claimed = sample.answer
        else:
            return None
        document = self.documents.get(sample.origin.document_id)
        if document is None:
            return "its document is not in the store"
        span = sample.origin.span
        if document.text[span.start : span.end] == claimed:
            return None
        if document.content_hash != sample.origin.content_hash:
            return "its document has changed since"
        return "not the document's text at its place"


@dataclass(frozen=True, slots=True)
class Differs:
    """``chosen`` and ``rejected`` differ in more than case, punctuation and spacing."""

    name: str = "differs"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        return _each(samples, self._reason)

    def _reason(self, sample: Sample) -> str | None:
        if not isinstance(sample, PreferenceSample):
            return None
        if normalise_words(sample.chosen) == normalise_words(sample.rejected):
            return "chosen and rejected are the same words"
        return None


def repeats_prompt(asked: str, answer: str) -> bool:
    """Return whether an answer repeats the prompt, given normalised; prompts of fewer than five words are too likely by
    chance."""
    return asked.count(" ") >= _LEAST_PROMPT_WORDS - 1 and f" {asked} " in f" {normalise_words(answer)} "


def letters_share(text: str) -> float:
    """Return share of letters among the characters that are no blank space."""
    seen = [c for c in text if not c.isspace()]
    return sum(c.isalpha() for c in seen) / len(seen) if seen else 0.0


def _text_fault(name: str, text: str) -> str | None:
    if not text.strip():
        return f"{name} is empty"
    if escape_markers(text) != text:
        return f"{name} holds marks of a chat template"
    if _CONTROL.search(text):
        return f"{name} holds control characters or letters that could not be decoded"
    return None


def _each(samples: Sequence[Sample], reason_of: Callable[[Sample], str | None]) -> Reasons:
    found = ((position, reason_of(sample)) for position, sample in enumerate(samples))
    return {position: reason for position, reason in found if reason is not None}


_BLOCK = 2_048
"""Rows compared at a time: a block of similarities takes 16 MiB, whatever the number of samples."""


@dataclass(frozen=True, slots=True)
class ExactDuplicates:
    """The same words in all texts. Case, punctuation and spacing do not count."""

    name: str = "exact_duplicates"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        seen: set[int] = set()
        reasons = {}
        for position, sample in enumerate(samples):
            # A hash in place of the text: 64 bits are enough to tell millions apart, at a hundredth of the memory.
            texts = [prompt_of(sample), answer_of(sample)]
            if isinstance(sample, PreferenceSample):
                texts.append(sample.rejected)
            key = hash(tuple(normalise_words(text) for text in texts))
            if key in seen:
                reasons[position] = "the same words as an earlier sample"
            seen.add(key)
        return reasons


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Prompt and answer share most of their five-word sequences with an earlier sample's (MinHash).

    Samples of one and the same passage are kept: they are its instructions in several wordings, made on purpose.
    """

    similarity: float = 0.8
    name: str = "near_duplicates"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        # Numbers of equal width sort as they count, so a group's root is its first sample.
        rows = (
            (f"{position:09}", sign(f"{prompt_of(sample)}\n{answer_of(sample)}"), None)
            for position, sample in enumerate(samples)
        )
        groups = group(rows, self.similarity)
        return {
            int(member): "nearly the words of an earlier sample"
            for member, root in groups.items()
            if root is not None and passage_of(samples[int(root)]) != passage_of(samples[int(member)])
        }


@dataclass(frozen=True, slots=True)
class SemanticDuplicates:
    """The embedding lies close to that of an earlier, kept sample of another passage."""

    embed: Callable[[Sequence[str]], Vectors]
    """Unit-length vectors, shape (n, dimension), of texts of any length; see :func:`embedding_of_any_length`."""
    similarity: float = 0.95
    block: int = _BLOCK
    name: str = "semantic_duplicates"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        vectors = self.embed([f"{prompt_of(sample)}\n{answer_of(sample)}" for sample in samples])
        numbers: dict[tuple[str, int, int], int] = {}
        families = np.array([numbers.setdefault(passage_of(s), len(numbers)) for s in samples])
        return dict.fromkeys(
            close_rows(vectors, self.similarity, families, self.block),
            "means nearly the same as an earlier sample",
        )


def passage_of(sample: Sample) -> tuple[str, int, int]:
    """Return the place that a sample was made from."""
    return sample.origin.document_id, sample.origin.span.start, sample.origin.span.end


def close_rows(
    vectors: Vectors, similarity: float, families: npt.NDArray[np.int64], block: int = _BLOCK
) -> list[int]:
    """Return rows whose cosine with an earlier row of another family that is itself kept is at least ``similarity``,
    ascending.

    Args:
        vectors: unit-length rows, shape (n, dimension).
        similarity: the least cosine.
        families: a number for each row; rows of one family drop each other never.
        block: rows compared at a time; memory beside the vectors is a few times ``block**2`` bytes.
    """
    dropped = np.zeros(len(vectors), dtype=bool)
    for start in range(0, len(vectors), block):
        end = start + block
        for before in range(0, start, block):
            rows = np.flatnonzero(~dropped[before : before + block]) + before
            alike = vectors[start:end] @ vectors[rows].T >= similarity
            alike &= families[start:end, None] != families[None, rows]
            dropped[start:end] |= alike.any(axis=1)
        # Inside the block one after the other, since a row that is dropped drops no other.
        inside = np.tril(vectors[start:end] @ vectors[start:end].T >= similarity, k=-1)
        inside &= families[start:end, None] != families[None, start:end]
        for i in np.flatnonzero(inside.any(axis=1)):
            if not dropped[start + i]:
                dropped[start + i] = bool((inside[i] & ~dropped[start:end]).any())
    return [int(row) for row in np.flatnonzero(dropped)]


def embedding_of_any_length(embedder: Embedder) -> Callable[[Sequence[str]], Vectors]:
    """Return an embedding function that cuts texts to what the model reads, which the embedder itself refuses to do."""

    def embed(texts: Sequence[str]) -> Vectors:
        room = embedder.fingerprint.max_tokens - embedder.tokenizer.special_tokens
        cut = []
        for text, offsets in zip(texts, embedder.tokenizer.find_offsets(texts), strict=True):
            cut.append(text[: offsets[room - 1][1]] if len(offsets) > room else text)
        return embedder.embed_documents(cut)

    return embed
