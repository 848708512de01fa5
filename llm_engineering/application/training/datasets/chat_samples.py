"""View instruction and preference samples alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_engineering.application.ports import Message
from llm_engineering.application.text.words import words
from llm_engineering.domain.datasets import DatasetKind, InstructSample, PreferenceSample

Sample = InstructSample | PreferenceSample


@dataclass(frozen=True, slots=True)
class Field:
    """A text of a sample."""

    name: str
    text: str
    written_by_model: bool
    """False for the author's own words and for what a person or a rule wrote."""


def kind_of(samples: Sequence[Sample]) -> DatasetKind | None:
    """The kind that the first sample has; None where there is none."""
    if not samples:
        return None
    return "instruct" if isinstance(samples[0], InstructSample) else "preference"


def prompt_of(sample: Sample) -> str:
    """What the model is asked."""
    return sample.instruction if isinstance(sample, InstructSample) else sample.prompt


def answer_of(sample: Sample) -> str:
    """What the model is to learn to say."""
    return sample.answer if isinstance(sample, InstructSample) else sample.chosen


def answers_of(sample: Sample) -> tuple[Field, ...]:
    """``answer``, or ``chosen`` and ``rejected``."""
    made_by = sample.provenance.made_by
    if isinstance(sample, InstructSample):
        return (Field("answer", sample.answer, made_by in ("model", "evolution")),)
    return (Field("chosen", sample.chosen, False), Field("rejected", sample.rejected, True))


def conversations(sample: Sample) -> list[list[Message]]:
    """Each answer as the conversation that a template renders."""
    asked = Message("user", prompt_of(sample))
    return [[asked, Message("assistant", field.text)] for field in answers_of(sample)]


def normalised(text: str) -> str:
    """Words alone: without case, punctuation, marks of Markdown and spacing."""
    return " ".join(words(text)) or " ".join(text.split())
