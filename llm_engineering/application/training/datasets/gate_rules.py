"""Gates for single samples: length, format, language, heuristics, faithfulness to the source."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llm_engineering.application.llm.chat_templates import escaped
from llm_engineering.application.ports import Message
from llm_engineering.application.text.words import STOP_WORDS, language_of, words
from llm_engineering.application.training.datasets.chat_samples import (
    Sample,
    answers_of,
    conversations,
    normalised,
    prompt_of,
)
from llm_engineering.application.training.datasets.config import LengthBounds, RuleBounds
from llm_engineering.application.training.datasets.gates import Reasons
from llm_engineering.domain.datasets import PreferenceSample
from llm_engineering.domain.documents import CleanDocument

TokenCounter = Callable[[Sequence[Sequence[Message]]], Sequence[int]]
"""Tokens of each conversation in the chat template that the data set is made for."""
LanguageDetector = Callable[[str], str | None]
"""ISO 639-1 code of a text, None where it cannot be told."""

_LEAST_PROMPT_WORDS = 5
_LEAST_LANGUAGE_WORDS = 20
_REPEATED_WORDS = 4
_LEAST_RUNS = 20
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
        asked = normalised(prompt)
        for part in answers_of(sample):
            if reason := _text_fault(part.name, part.text):
                return reason
            if leaks(asked, part.text):
                return f"{part.name} repeats the prompt"
            if part.written_by_model and _BOILERPLATE.search(part.text):
                return f"{part.name} has a model speak of itself"
            if repeated_share(part.text) > self.max_repeated_share:
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
            for conversation in conversations(samples[position]):
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

    detect: LanguageDetector = field(default=lambda text: language_of(words(text)))
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
            if len(words(part.text)) < _LEAST_LANGUAGE_WORDS:
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

    That is ``chosen`` of every preference pair, and the answer to an instruction made by rule or by an up-voted question.
    """

    documents: Mapping[str, CleanDocument]
    name: str = "verbatim"

    def __call__(self, samples: Sequence[Sample]) -> Reasons:
        return _each(samples, self._reason)

    def _reason(self, sample: Sample) -> str | None:
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
        if normalised(sample.chosen) == normalised(sample.rejected):
            return "chosen and rejected are the same words"
        return None


def leaks(asked: str, answer: str) -> bool:
    """Whether an answer repeats the prompt, given normalised; prompts of fewer than five words are too likely by chance."""
    return asked.count(" ") >= _LEAST_PROMPT_WORDS - 1 and f" {asked} " in f" {normalised(answer)} "


def repeated_share(text: str) -> float:
    """Share of a text's four-word runs that have stood before in it; 0 for texts of fewer than 20 runs."""
    found = words(text)
    runs = [tuple(found[i : i + _REPEATED_WORDS]) for i in range(len(found) - _REPEATED_WORDS + 1)]
    if len(runs) < _LEAST_RUNS:
        return 0.0
    return sum(count - 1 for count in Counter(runs).values()) / len(runs)


def letters_share(text: str) -> float:
    """Share of letters among the characters that are no blank space."""
    seen = [c for c in text if not c.isspace()]
    return sum(c.isalpha() for c in seen) / len(seen) if seen else 0.0


def _text_fault(name: str, text: str) -> str | None:
    if not text.strip():
        return f"{name} is empty"
    if escaped(text) != text:
        return f"{name} holds marks of a chat template"
    if _CONTROL.search(text):
        return f"{name} holds control characters or letters that could not be decoded"
    return None


def _each(samples: Sequence[Sample], reason_of: Callable[[Sample], str | None]) -> Reasons:
    found = ((position, reason_of(sample)) for position, sample in enumerate(samples))
    return {position: reason for position, reason in found if reason is not None}
