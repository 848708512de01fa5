"""Instructions, and optionally answers, written by a language model from a passage."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.batch import BatchClient, LlmRequest
from llm_engineering.application.llm.prompts import prompt_hash, render
from llm_engineering.application.llm.structured_output import UnusableReplyError, parse_json_object
from llm_engineering.application.ports import GenerationOptions
from llm_engineering.application.text.overlap import copied_share, find_quote
from llm_engineering.application.training.datasets.passages import Passage
from llm_engineering.application.training.datasets.samples import (
    author_sample,
    check_instruction,
    object_schema,
    origin,
    prompt_values,
    text_field,
)
from llm_engineering.domain.datasets import InstructSample, Provenance
from llm_engineering.domain.documents import Span

INSTRUCTIONS, PAIRS = ("dataset_instructions", 1), ("dataset_pairs", 1)
MIN_ANSWER = 40
"""Characters of an answer that a model wrote."""


class ModelPairs(StrictConfig):
    """How a model is asked for pairs."""

    RENAMED: ClassVar = {"max_copied_run": "max_ngram_overlap"}

    per_passage: int = Field(default=2, ge=1, le=10)
    answers: Literal["author", "model"] = "author"
    """``author``: the model writes instructions only, and the author's passage is the answer. ``model``: it writes answers
    too, which then say what the passage says, but in a model's words."""
    max_ngram_overlap: int = Field(default=6, ge=1)
    """Words in a row that an instruction may share with its answer."""
    min_grounded_share: float = Field(default=0.7, ge=0, le=1)
    """Share of a written answer's content words that must stand in the passage."""
    max_tokens: int = Field(default=1_024, ge=64)
    """Of one reply."""


@dataclass(frozen=True, slots=True)
class _Read:
    samples: tuple[InstructSample, ...]
    unusable: tuple[tuple[str, str], ...]
    """Reason and item, for each item of a list that cannot be used."""


async def pairs_of(passage: Passage, config: ModelPairs, asker: BatchClient) -> list[InstructSample]:
    """What the model made of a passage. An item that cannot be used is a dead letter; the others of its reply are kept."""
    ask = _ask(passage, config, asker)
    read = await asker.ask(ask)
    if read is None:
        return []
    for number, (reason, payload) in enumerate(read.unusable):
        asker.report.unusable_items += 1
        await asker.give_up(f"{ask.name}#{number}", reason, payload)
    return list(read.samples)


def _ask(passage: Passage, config: ModelPairs, asker: BatchClient) -> LlmRequest[_Read]:
    name, version = INSTRUCTIONS if config.answers == "author" else PAIRS
    messages = render(
        name,
        version,
        **prompt_values(passage),
        title=passage.document.title,
        headings=" > ".join(passage.headings),
        count=config.per_passage,
        max_ngram_overlap=config.max_ngram_overlap,
    )
    used = Provenance(
        made_by="model", model=asker.model.name, prompt_hash=prompt_hash(name, version), seed=asker.seed
    )
    return LlmRequest(
        f"pairs:{passage.name}",
        tuple(messages),
        GenerationOptions(max_tokens=config.max_tokens, json_schema=_schema(config)),
        used.prompt_hash,
        lambda text: _read(text, passage, config, used),
    )


def _schema(config: ModelPairs) -> dict[str, Any]:
    text = {"type": "string"}
    authors = config.answers == "author"
    items = text if authors else object_schema(instruction=text, answer=text)
    listed = {"type": "array", "items": items, "minItems": 1, "maxItems": config.per_passage}
    return object_schema(**{"instructions" if authors else "pairs": listed})


def _read(text: str, passage: Passage, config: ModelPairs, used: Provenance) -> _Read:
    key = "instructions" if config.answers == "author" else "pairs"
    items = parse_json_object(text).get(key)
    if not isinstance(items, list) or not items:
        raise UnusableReplyError(f"no list of {key}: {text[:200]!r}")
    good: dict[str, InstructSample] = {}
    bad: list[tuple[str, str]] = []
    for item in items[: config.per_passage]:
        try:
            sample = _sample(item, passage, config, used)
        except UnusableReplyError as error:
            bad.append((str(error), str(item)))
            continue
        good.setdefault(sample.instruction.casefold(), sample)
    if not good:
        raise UnusableReplyError(bad[0][0])
    return _Read(tuple(good.values()), tuple(bad))


def _sample(item: object, passage: Passage, config: ModelPairs, used: Provenance) -> InstructSample:
    if config.answers == "author":
        instruction = text_field({"instruction": item}, "instruction")
        return author_sample(
            passage, check_instruction(instruction, passage.text, config.max_ngram_overlap), used
        )
    answer = grounded_answer(text_field(item, "answer"), passage, config.min_grounded_share)
    instruction = check_instruction(text_field(item, "instruction"), answer, config.max_ngram_overlap)
    return written_sample(passage, instruction, answer, used)


def grounded_answer(answer: str, passage: Passage, min_share: float) -> str:
    """An answer that says nothing much that the passage does not.

    Raises:
        UnusableReplyError: it is too short, or too many of its content words stand nowhere in the passage.
    """
    if len(answer) < MIN_ANSWER:
        raise UnusableReplyError(f"an answer of {len(answer)} characters: {answer!r}")
    above = "\n".join((passage.document.title, *passage.headings, passage.text))
    share = copied_share(answer, above)
    if share < min_share:
        raise UnusableReplyError(
            f"an answer that is not grounded: {share:.0%} of its words stand in the passage: {answer[:200]!r}"
        )
    return answer


def written_sample(passage: Passage, instruction: str, answer: str, used: Provenance) -> InstructSample:
    """An answer of a model. Where it stands letter by letter in the passage, the span is that place's."""
    place = find_quote(passage.text, answer)
    if place is None:
        return InstructSample(instruction=instruction, answer=answer, origin=origin(passage), provenance=used)
    span = Span(start=passage.start + place.start, end=passage.start + place.end)
    return InstructSample(
        instruction=instruction,
        answer=passage.document.text[span.start : span.end],
        origin=origin(passage, span),
        provenance=used,
    )
