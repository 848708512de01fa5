"""Samples to train and evaluate a model on, each traceable to the characters it came from."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator, model_validator

from llm_engineering.domain.documents import Model, Span, derive_id


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Origin(Model):
    """Where in an author's writing a sample comes from."""

    document_id: str
    content_hash: str
    """Of the cleaned document, so that a sample of a text that has changed since can be told."""
    span: Span
    """Characters of the cleaned document's text that the sample's answer (or ``chosen``) was made from."""
    title: str = ""
    author: str
    category: str
    language: str
    group: str = ""
    """What stays on one side of every split (a client, a thread, a product); empty: the document."""


class Provenance(Model):
    """How a sample came about."""

    made_by: Literal["back_translation", "model", "evolution", "feedback", "edit", "record"]
    """``back_translation``: the instruction was made by rule from headings and text, the answer is the author's; ``edit``: a
    person rewrote what the model had drafted; ``record``: both sides stood in a record."""
    evolutions: tuple[str, ...] = ()
    """Names of the evolutions applied to the instruction, in order."""
    model: str = ""
    """The language model that wrote a part of it; empty: none did."""
    prompt_hash: str = ""
    seed: int = 0


class ChatTurn(Model):
    """An earlier turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str = Field(min_length=1)


class InstructSample(Model):
    """An instruction with its answer, for supervised fine-tuning (SFT)."""

    instruction: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    origin: Origin
    provenance: Provenance
    history: tuple[ChatTurn, ...] = ()
    """Turns before the instruction: user and assistant in alternation. Every assistant's turn is learned."""
    split: Split | None = None
    """None until the data set is split."""

    @field_validator("history")
    @classmethod
    def _alternates(cls, history: tuple[ChatTurn, ...]) -> tuple[ChatTurn, ...]:
        roles = [turn.role for turn in history]
        if len(roles) % 2 or any(
            role != ("user", "assistant")[place % 2] for place, role in enumerate(roles)
        ):
            raise ValueError("expected turns of user and assistant in alternation, the user first")
        return history

    @property
    def id(self) -> str:
        """Derived from place and text, so that making it again gives the same sample."""
        before = [f"{turn.role}: {turn.content}" for turn in self.history]
        return derive_id("instruct", self.origin.document_id, *before, self.instruction, self.answer)


class PreferenceSample(Model):
    """A prompt with a better and a worse answer, for direct preference optimisation (DPO)."""

    prompt: str = Field(min_length=1)
    chosen: str = Field(min_length=1)
    """The author's own words, verbatim: ``origin.span`` of the document; of an edit what a person made of the draft."""
    rejected: str = Field(min_length=1)
    origin: Origin
    provenance: Provenance
    split: Split | None = None

    @model_validator(mode="after")
    def _differ(self) -> "PreferenceSample":
        if " ".join(self.chosen.split()) == " ".join(self.rejected.split()):
            raise ValueError("chosen and rejected are the same text; such a pair teaches nothing")
        return self

    @property
    def id(self) -> str:
        return derive_id("preference", self.origin.document_id, self.prompt, self.chosen, self.rejected)


DatasetKind = Literal["instruct", "preference"]


class DatasetManifest(Model):
    """What a data set on disk is: ``manifest.json`` in its folder, and metadata of its artifact."""

    kind: DatasetKind
    name: str
    version: str
    """Derived from the samples: equal content gives an equal version."""
    counts: dict[Split, int]
    documents: dict[Split, int]
    """Distinct documents by split; no document is in two of them."""
    document_hashes: dict[str, str] = Field(default_factory=dict)
    """Lineage: content hash of every document that samples come from, by document id."""
    document_titles: dict[str, str] = Field(default_factory=dict)
    """What a reader knows the documents by, by id; one without a title is not here."""
    prompt_hashes: tuple[str, ...] = ()
    template: str
    """Name of the chat template that the samples were measured with."""
    template_hash: str
    seed: int
    config: dict[str, object] = Field(default_factory=dict)
