"""Analyses are data: a new question about records is one more :class:`AnalysisSpec` in YAML, not new code."""

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from llm_engineering.domain.categories import category_spec
from llm_engineering.domain.documents import Model, Span, UtcDatetime, derive_id, text_hash

NAME = r"^[a-z][a-z0-9_]{0,63}$"


class FieldKind(StrEnum):
    """What a field holds."""

    CLASS = "class"
    """One of ``values``."""
    ENTITIES = "entities"
    """Things named in the record, each with its place: ``text[start:end]``."""
    TEXT = "text"
    """A sentence or a few."""
    LIST = "list"
    """Several short texts, each with its own evidence."""
    NUMBER = "number"


class Pattern(StrEnum):
    """Entities that are found by how they are written, in English, German and French."""

    DATE = "date"
    TIME = "time"
    AMOUNT = "amount"
    """Of money."""
    NUMBER = "number"


class AnalysisField(Model):
    """One thing to find out about a record."""

    name: str = Field(pattern=NAME)
    kind: FieldKind
    description: str = ""
    """What a model, or a person who labels, is told."""
    values: tuple[str, ...] = ()
    """Of a class: all there are. Of entities: the catalogue, by whose names they are found; no model is asked then."""
    ordered: bool = False
    """The classes stand in order, lowest first, so that a near miss is a lesser mistake."""
    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Other names of values of the catalogue."""
    pattern: str | None = None
    """Of entities: ``date``, ``time``, ``amount``, ``number``, or a regular expression; no model is asked then."""
    evidence: Literal["required", "optional", "none"] = "required"
    """``required``: a finding without a verbatim quote of the record is dropped; of a head's class it is the sentence without
    which the class would lose most."""
    least: float | None = None
    most: float | None = None
    """Bounds of a number, or of how many a list or a set of entities may hold (``most`` only)."""

    @property
    def by_rule(self) -> bool:
        """Whether it is found without a model: by how it is written, or by the names of a catalogue."""
        return self.kind is FieldKind.ENTITIES and bool(self.pattern or self.values)

    @model_validator(mode="after")
    def _can_be_expressed(self) -> Self:
        problems = [
            message
            for broken, message in (
                (
                    self.kind is FieldKind.CLASS and len(set(self.values)) < 2,
                    "a class needs at least two different `values`",
                ),
                (len(set(self.values)) < len(self.values), "`values` names one value twice"),
                (any(not value.strip() for value in self.values), "`values` holds a blank one"),
                (
                    bool(self.values) and self.kind not in (FieldKind.CLASS, FieldKind.ENTITIES),
                    f"a {self.kind} has no `values`; they are for `class` and `entities`",
                ),
                (self.ordered and self.kind is not FieldKind.CLASS, "only a class can be `ordered`"),
                (
                    self.pattern is not None and self.kind is not FieldKind.ENTITIES,
                    "a `pattern` is for `entities`",
                ),
                (
                    self.pattern is not None and bool(self.values),
                    "`entities` are found by a `pattern` or by a catalogue of `values`; give one of the two",
                ),
                (
                    bool(self.aliases.keys() - set(self.values)),
                    f"`aliases` name what `values` does not hold: {', '.join(sorted(self.aliases.keys() - set(self.values)))}",
                ),
                (
                    self.least is not None and self.most is not None and self.least > self.most,
                    f"`least` ({self.least:g}) is above `most` ({self.most:g})"
                    if self.least is not None and self.most is not None
                    else "",
                ),
            )
            if broken
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is None or pattern in tuple(Pattern):
            return pattern
        try:
            matches_nothing = re.compile(pattern).match("") is not None
        except re.error as error:
            raise ValueError(
                f"expected {', '.join(Pattern)} or a regular expression; {pattern!r} is none: {error}"
            ) from None
        if matches_nothing:
            raise ValueError(f"the regular expression {pattern!r} also matches where nothing stands")
        return pattern


class Engine(StrEnum):
    """Who decides the classes."""

    HEAD = "head"
    """A linear head over embeddings, learned from labels. Fields that no rule and no head can fill are refused."""
    LLM = "llm"
    HEAD_THEN_LLM = "head_then_llm"
    """The language model is asked only where a head is unsure, and for fields that no head can fill."""


class Pick(Model):
    """Which records of a group are looked at: the first ``most``, of those whose ``field`` lies between the bounds."""

    most: int = Field(ge=1, le=1_000)
    field: str | None = None
    """Of the metadata; a record without it is not picked."""
    at_least: float | None = None
    at_most: float | None = None
    order_by: str | None = None
    """Metadata by which the highest come first; None: by date, the newest first."""


class AnalysisSpec(Model):
    """A question about records, or groups of them: which fields, found by whom."""

    task: str = Field(pattern=NAME)
    description: str = ""
    """What a model is told that the whole is about."""
    categories: tuple[str, ...] = ()
    """None: all."""
    platforms: tuple[str, ...] = ()
    """Tables' names, or hosts, whose records alone are read; none: all."""
    fields: tuple[AnalysisField, ...] = Field(min_length=1)
    engine: Engine = Engine.LLM
    group_by: str | None = None
    """Metadata whose value makes a group (``product``, ``thread``, ``client``); None: every record alone."""
    sampler: tuple[Pick, ...] = (Pick(most=10),)
    """What of a group is looked at."""
    max_characters: int = Field(default=6_000, ge=200)
    """Of a record, that a model is shown; evidence can be quoted from these alone."""
    max_tokens: int = Field(default=512, ge=16, le=8_192)
    """Of a reply."""

    @field_validator("fields", mode="before")
    @classmethod
    def _name_fields(cls, fields: Any) -> Any:
        # In YAML, fields stand by their names.
        if not isinstance(fields, Mapping):
            return fields
        return [
            {"name": name, **(body if isinstance(body, Mapping) else {})} for name, body in fields.items()
        ]

    @field_validator("categories")
    @classmethod
    def _known_categories(cls, categories: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(category_spec(name).name for name in categories)

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names):
            raise ValueError(f"two fields have one name: {', '.join(names)}")
        if self.engine is Engine.HEAD and (beyond := [field.name for field in self.llm_fields]):
            raise ValueError(
                f"`engine: head` decides classes, and entities by `pattern` or `values`; it cannot fill {', '.join(beyond)}. "
                "Choose `llm` or `head_then_llm`, or leave these out"
            )
        if self.engine is not Engine.LLM and not self.head_fields:
            raise ValueError(f"`engine: {self.engine}` needs at least one field of kind `class`")
        if self.engine is not Engine.LLM and self.group_by is not None:
            raise ValueError(
                "a head reads one record, not a group; choose `engine: llm`, or leave out `group_by`"
            )
        return self

    @property
    def head_fields(self) -> tuple[AnalysisField, ...]:
        """Fields that a head decides."""
        if self.engine is Engine.LLM:
            return ()
        return tuple(field for field in self.fields if field.kind is FieldKind.CLASS)

    @property
    def llm_fields(self) -> tuple[AnalysisField, ...]:
        """Fields that only a language model can fill; those of a head that is unsure come to them."""
        heads = self.head_fields
        return tuple(field for field in self.fields if field not in heads and not field.by_rule)

    @cached_property
    def digest(self) -> str:
        """Over all that decides a result, so that an edit of the YAML makes the results of before stale."""
        return text_hash(json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False))[:16]

    def find_field(self, name: str) -> AnalysisField | None:
        """Return the field of that name; None: there is none."""
        return next((field for field in self.fields if field.name == name), None)


class Evidence(Model):
    """A verbatim quote of a record: ``quote == text[span.start:span.end]``."""

    document_id: str
    span: Span
    quote: str


class Finding(Model):
    """What was found out about one field."""

    field: str
    value: str | float
    confidence: float | None = Field(default=None, ge=0, le=1)
    """Calibrated probability; None: whoever found it gives none."""
    evidence: tuple[Evidence, ...] = ()
    made_by: Literal["head", "llm", "rule", "person"]


class Analysis(Model):
    """What was found out about a record or a group."""

    id: str
    task: str
    spec: str
    """Digest of the spec."""
    key: str
    """Id of the record, or the group's name."""
    document_ids: tuple[str, ...]
    input_hash: str
    findings: tuple[Finding, ...]
    dropped: int = 0
    """Findings left out because what they quote does not stand in the record."""
    unsure: tuple[str, ...] = ()
    """Fields that the head left open below its threshold."""
    model: str
    """Who was asked: heads by their digest, the language model by its name."""
    prompt_hash: str = ""
    created_at: UtcDatetime

    def list_values(self, field: str) -> list[str | float]:
        """Return the values found for a field."""
        return [finding.value for finding in self.findings if finding.field == field]


def derive_analysis_id(
    spec: AnalysisSpec, key: str, input_hashes: Sequence[str], prompt_hash: str, model: str
) -> str:
    """Derive the id of a result from all that decides it: with unchanged input it is there already."""
    return derive_id("analysis", spec.task, spec.digest, key, *input_hashes, prompt_hash, model)
