"""Build samples from passages, and parse a model's replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_engineering.application.llm.structured_output import UnusableReplyError
from llm_engineering.application.ports import Message
from llm_engineering.application.text.overlap import fold_words, has_common_ngram
from llm_engineering.application.text.words import split_words
from llm_engineering.application.training.datasets.instructions import language_for
from llm_engineering.application.training.datasets.passages import Passage
from llm_engineering.domain.datasets import DatasetKind, InstructSample, Origin, PreferenceSample, Provenance
from llm_engineering.domain.documents import Span

LANGUAGES = {
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pt": "Portuguese",
}
MIN_INSTRUCTION, MAX_INSTRUCTION = 8, 600
"""Characters of an instruction that a model made."""


def language_name(passage: Passage) -> str:
    """Return the passage's language as prompts name it."""
    code = language_for(passage) or passage.document.language
    return LANGUAGES.get(code, "the language of the source" if len(code) != 2 else f"the language '{code}'")


def describe_origin(passage: Passage, span: Span | None = None) -> Origin:
    """Return where a sample comes from; ``span`` where that is a part of the passage."""
    document = passage.document
    return Origin(
        document_id=document.id,
        content_hash=document.content_hash,
        span=span or passage.span,
        title=document.title,
        author=document.author,
        category=document.category,
        language=language_for(passage) or document.language,
    )


def author_sample(passage: Passage, instruction: str, provenance: Provenance) -> InstructSample:
    """Return an instruction with the author's own text as its answer."""
    return InstructSample(
        instruction=instruction, answer=passage.text, origin=describe_origin(passage), provenance=provenance
    )


def prompt_values(passage: Passage) -> dict[str, str]:
    """Return what every prompt on a passage is given."""
    return {"passage": passage.text, "language": language_name(passage)}


# --- replies ---------------------------------------------------------------------------------------------------------


def object_schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def text_field(value: object, name: str) -> str:
    """Return a field of a reply that must be a text; blank space around it is dropped.

    Raises:
        UnusableReplyError: it is missing, or no text.
    """
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise UnusableReplyError(f"no text in '{name}': {str(value)[:200]!r}")
    return found.strip()


def check_instruction(instruction: str, answer: str, max_ngram_overlap: int) -> str:
    """Refuse an instruction that cannot be used.

    Raises:
        UnusableReplyError: it is too short or too long, speaks of its source, or copies the answer.
    """
    if not MIN_INSTRUCTION <= len(instruction) <= MAX_INSTRUCTION:
        raise UnusableReplyError(f"an instruction of {len(instruction)} characters: {instruction[:200]!r}")
    words = " ".join(fold_words(instruction))
    if any(f" {phrase} " in f" {words} " for phrase in _SOURCE_WORDS):
        raise UnusableReplyError(f"an instruction that speaks of its source: {instruction!r}")
    if has_common_ngram(instruction, answer, max_ngram_overlap + 1):
        raise UnusableReplyError(
            f"an instruction that copies its answer: more than {max_ngram_overlap} words of {instruction!r}"
        )
    return instruction


_SOURCE_WORDS = (
    "the passage",
    "this passage",
    "the given text",
    "the text above",
    "the source text",
    "the excerpt",
    "der passage",
    "die passage",
    "dem text",
    "im text",
)


Sample = InstructSample | PreferenceSample


@dataclass(frozen=True, slots=True)
class Field:
    """A text of a sample."""

    name: str
    text: str
    written_by_model: bool
    """False for the author's own words and for what a person or a rule wrote."""


def kind_of(samples: Sequence[Sample]) -> DatasetKind | None:
    """Return the kind that the first sample has; None where there is none."""
    if not samples:
        return None
    return "instruct" if isinstance(samples[0], InstructSample) else "preference"


def prompt_of(sample: Sample) -> str:
    """Return what the model is asked."""
    return sample.instruction if isinstance(sample, InstructSample) else sample.prompt


def answer_of(sample: Sample) -> str:
    """Return what the model is to learn to say."""
    return sample.answer if isinstance(sample, InstructSample) else sample.chosen


def answers_of(sample: Sample) -> tuple[Field, ...]:
    """Return ``answer``, or ``chosen`` and ``rejected``."""
    made_by = sample.provenance.made_by
    if isinstance(sample, InstructSample):
        return (Field("answer", sample.answer, made_by in ("model", "evolution")),)
    return (Field("chosen", sample.chosen, False), Field("rejected", sample.rejected, True))


def split_conversations(sample: Sample) -> list[list[Message]]:
    """Return each answer as the conversation that a template renders."""
    history = sample.history if isinstance(sample, InstructSample) else ()
    asked = [*(Message(turn.role, turn.content) for turn in history), Message("user", prompt_of(sample))]
    return [[*asked, Message("assistant", field.text)] for field in answers_of(sample)]


def normalise_words(text: str) -> str:
    """Return words alone: without case, punctuation, marks of Markdown and spacing."""
    return " ".join(split_words(text)) or " ".join(text.split())
