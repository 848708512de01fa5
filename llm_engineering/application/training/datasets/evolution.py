"""Evolving instructions: in depth (constraints, deepening, concretising, reasoning) and in breadth (a new one beside it).

An instruction that asks for more may ask for what its answer does not say. So whatever was evolved gets a new answer
from the passage, unless the passage is shown to answer it still: the model must quote the sentence, the quote must stand
there letter by letter, and most words that are new in the instruction must stand there too. Constraints (of form or
length) and new instructions never keep the old answer: the author did not write under them.
"""

from collections import Counter
from typing import Any, ClassVar, Literal

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.batch import BatchClient, LlmRequest
from llm_engineering.application.llm.prompts import prompt_hash, render
from llm_engineering.application.llm.structured_output import UnusableReplyError, parse_json_object
from llm_engineering.application.ports import GenerationOptions
from llm_engineering.application.text.overlap import content_words, find_quote
from llm_engineering.application.training.datasets.model_pairs import grounded_answer, written_sample
from llm_engineering.application.training.datasets.passages import Passage
from llm_engineering.application.training.datasets.samples import (
    check_instruction,
    object_schema,
    prompt_values,
    text_field,
)
from llm_engineering.application.training.datasets.template_instructions import drawn_number
from llm_engineering.domain.datasets import InstructSample, Provenance

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


async def evolved(
    sample: InstructSample, passage: Passage, config: Evolution, asker: BatchClient, counts: Counter[str]
) -> list[InstructSample]:
    """The sample, or what it became. ``counts`` gets what happened."""
    key = f"{asker.seed}/evolve/{sample.id}"
    if drawn_number(key) / 2**64 >= config.share:
        return [sample]
    start = drawn_number(f"{key}/kind") % len(config.kinds)
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
    return [*kept, written_sample(passage, instruction, answer, used)]


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
        return grounded_answer(answer, passage, config.min_grounded_share) if answer else ""

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
