"""Instructions, and optionally answers, written by a language model from a passage."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.batch import BatchClient, LlmRequest
from llm_engineering.application.llm.prompts import prompt_hash, render
from llm_engineering.application.llm.structured_output import UnusableReplyError, parse_json_object
from llm_engineering.application.ports import GenerationOptions
from llm_engineering.application.text.overlap import content_words, find_quote, measure_copying
from llm_engineering.application.training.datasets.instructions import draw_number
from llm_engineering.application.training.datasets.passages import Passage
from llm_engineering.application.training.datasets.samples import (
    author_sample,
    check_instruction,
    describe_origin,
    object_schema,
    prompt_values,
    text_field,
)
from llm_engineering.domain.datasets import InstructSample, Provenance
from llm_engineering.domain.documents import Span

Kind = Literal["constraints", "deepening", "concretising", "reasoning", "breadth"]
KINDS: tuple[Kind, ...] = ("constraints", "deepening", "concretising", "reasoning", "breadth")
RULES: dict[Kind, str] = {
    "constraints": "Add one condition on the form of the answer: its length, its audience, its structure or its tone.",
    "deepening": "Ask for more depth or width on one point that the source treats.",
    "concretising": "Replace a general notion by a more specific one that the source speaks of.",
    "reasoning": "Ask for a reason, a comparison or a chain of steps that the source gives.",
    "breadth": "Write a new instruction on a different point of the same source, as long and as difficult as the given one.",
}
_ALWAYS_NEW_ANSWER = frozenset({"constraints", "breadth"})
_EVOLVE, _ANSWERED, _ANSWER = ("dataset_evolve", 1), ("dataset_answered", 1), ("dataset_answer", 1)
_TEXT = {"type": "string"}
MIN_QUOTE = 20


class Evolution(StrictConfig):
    """Which instructions are evolved, and how."""

    RENAMED: ClassVar = {"max_copied_run": "max_ngram_overlap"}

    kinds: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    share: float = Field(default=0.5, gt=0, le=1)
    """Of the samples, drawn by seed."""
    rounds: int = Field(default=1, ge=1, le=4)
    """Steps one after the other, each of another kind."""
    keep_original: bool = True
    """Keep the sample that was evolved, too."""
    unanswered: Literal["regenerate", "drop"] = "regenerate"
    """What is done where the passage is no answer any more: let the model write one from it, or drop the sample."""
    added_words: int = Field(default=20, ge=1)
    max_ngram_overlap: int = Field(default=6, ge=1)
    min_covered: float = Field(default=0.5, ge=0, le=1)
    """Share of an evolved instruction's new content words that must stand in the passage for the old answer to be kept."""
    min_grounded_share: float = Field(default=0.7, ge=0, le=1)
    max_tokens: int = Field(default=1_024, ge=64)


async def evolve_sample(
    sample: InstructSample, passage: Passage, config: Evolution, asker: BatchClient, counts: Counter[str]
) -> list[InstructSample]:
    """Return the sample, or what it became. ``counts`` gets what happened."""
    key = f"{asker.seed}/evolve/{sample.id}"
    if draw_number(key) / 2**64 >= config.share:
        return [sample]
    start = draw_number(f"{key}/kind") % len(config.kinds)
    order = [config.kinds[(start + turn) % len(config.kinds)] for turn in range(config.rounds)]
    instruction, applied = sample.instruction, list[Kind]()
    for kind in dict.fromkeys(order):
        new = await _evolve(instruction, kind, passage, config, asker)
        if new is None:
            break
        instruction = new
        applied.append(kind)
    kept = [sample] if config.keep_original or not applied else []
    if not applied:
        counts["not evolved"] += 1
        return kept
    used = Provenance(
        made_by="evolution",
        evolutions=(*sample.provenance.evolutions, *applied),
        model=asker.model.name,
        prompt_hash=prompt_hash(*_EVOLVE),
        seed=asker.seed,
    )
    # Of an answer that a model wrote, the passage proves nothing.
    may_keep = sample.answer == passage.text and not _ALWAYS_NEW_ANSWER & set(applied)
    if may_keep and await _still_answers(sample, instruction, passage, config, asker):
        counts["evolved, answer kept"] += 1
        return [*kept, sample.model_copy(update={"instruction": instruction, "provenance": used})]
    if config.unanswered == "drop":
        counts["evolved, dropped: not answered by the passage"] += 1
        return kept
    answer = await _new_answer(instruction, passage, config, asker)
    if answer is None:
        counts["evolved, dropped: no grounded answer"] += 1
        return kept
    counts["evolved, answered anew"] += 1
    return [*kept, make_sample(passage, instruction, answer, used)]


async def _evolve(
    instruction: str, kind: Kind, passage: Passage, config: Evolution, asker: BatchClient
) -> str | None:
    def read(text: str) -> str:
        new = text_field(parse_json_object(text), "instruction")
        check_instruction(new, passage.text, config.max_ngram_overlap)
        if new.casefold() == instruction.casefold():
            raise UnusableReplyError("an instruction that was not changed")
        return new

    values = {
        "rule": RULES[kind],
        "added_words": config.added_words,
        "max_ngram_overlap": config.max_ngram_overlap,
    }
    prompt = {**prompt_values(passage), "instruction": instruction, **values}
    return await asker.ask(
        _asked(
            f"evolve-{kind}:{passage.name}:{instruction}", _EVOLVE, prompt, read, config, instruction=_TEXT
        )
    )


async def _still_answers(
    sample: InstructSample, instruction: str, passage: Passage, config: Evolution, asker: BatchClient
) -> bool:
    above = "\n".join((passage.document.title, *passage.headings, passage.text))
    new = content_words(instruction) - content_words(sample.instruction)
    if new and len(new & content_words(above)) < config.min_covered * len(new):
        return False
    prompt = {"passage": passage.text, "instruction": instruction}
    ask = _asked(
        f"answered:{passage.name}:{instruction}",
        _ANSWERED,
        prompt,
        lambda text: _verdict(text, passage),
        config,
        answered={"type": "boolean"},
        quote=_TEXT,
    )
    return bool(await asker.ask(ask))


def _verdict(text: str, passage: Passage) -> bool:
    reply = parse_json_object(text)
    if not isinstance(reply.get("answered"), bool):
        raise UnusableReplyError(f"no verdict: {text[:200]!r}")
    quote = text_field(reply, "quote")
    return (
        reply["answered"] is True and len(quote) >= MIN_QUOTE and find_quote(passage.text, quote) is not None
    )


async def _new_answer(
    instruction: str, passage: Passage, config: Evolution, asker: BatchClient
) -> str | None:
    def read(text: str) -> str:
        answer = text_field(parse_json_object(text), "answer")
        return check_grounding(answer, passage, config.min_grounded_share) if answer else ""

    prompt = {**prompt_values(passage), "instruction": instruction}
    name = f"answer:{passage.name}:{instruction}"
    return await asker.ask(_asked(name, _ANSWER, prompt, read, config, answer=_TEXT)) or None


def _asked(
    name: str,
    template: tuple[str, int],
    prompt: dict[str, Any],
    read: Any,
    config: Evolution,
    **properties: dict[str, str],
) -> LlmRequest[Any]:
    return LlmRequest(
        name,
        tuple(render(*template, **prompt)),
        GenerationOptions(max_tokens=config.max_tokens, json_schema=object_schema(**properties)),
        prompt_hash(*template),
        read,
    )


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
    """Return what the model made of a passage. An item that cannot be used is a dead letter; the others of its reply
    are kept."""
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
    answer = check_grounding(text_field(item, "answer"), passage, config.min_grounded_share)
    instruction = check_instruction(text_field(item, "instruction"), answer, config.max_ngram_overlap)
    return make_sample(passage, instruction, answer, used)


def check_grounding(answer: str, passage: Passage, min_share: float) -> str:
    """Refuse an answer that says much that the passage does not.

    Raises:
        UnusableReplyError: it is too short, or too many of its content words stand nowhere in the passage.
    """
    if len(answer) < MIN_ANSWER:
        raise UnusableReplyError(f"an answer of {len(answer)} characters: {answer!r}")
    above = "\n".join((passage.document.title, *passage.headings, passage.text))
    share = measure_copying(answer, above)
    if share < min_share:
        raise UnusableReplyError(
            f"an answer that is not grounded: {share:.0%} of its words stand in the passage: {answer[:200]!r}"
        )
    return answer


def make_sample(passage: Passage, instruction: str, answer: str, used: Provenance) -> InstructSample:
    """Return an answer of a model. Where it stands letter by letter in the passage, the span is that place's."""
    place = find_quote(passage.text, answer)
    if place is None:
        return InstructSample(
            instruction=instruction, answer=answer, origin=describe_origin(passage), provenance=used
        )
    span = Span(start=passage.start + place.start, end=passage.start + place.end)
    return InstructSample(
        instruction=instruction,
        answer=passage.document.text[span.start : span.end],
        origin=describe_origin(passage, span),
        provenance=used,
    )
