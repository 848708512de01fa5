"""Preference triples: the author's passage is ``chosen``, what a model says to the same instruction is ``rejected``.

The model never sees the passage. Its reply is steered to the passage's length (a wish in the prompt, a limit of tokens,
and a check), since otherwise length alone tells the two apart and is what a trained model learns.
"""

import math
import re
from typing import ClassVar

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.batch import BatchClient, LlmRequest
from llm_engineering.application.llm.prompts import prompt_hash, render
from llm_engineering.application.llm.structured_output import UnusableReplyError
from llm_engineering.application.ports import GenerationOptions
from llm_engineering.application.text.overlap import has_common_ngram, measure_repetition
from llm_engineering.application.text.sentences import split_units
from llm_engineering.application.training.datasets.passages import Passage
from llm_engineering.application.training.datasets.samples import describe_origin, language_name
from llm_engineering.domain.datasets import PreferenceSample, Provenance

PROMPT = ("dataset_rejected", 1)
_ENDS = re.compile(r"[.!?…。！？:;)\"'”’»`|]\s*$")


class Rejected(StrictConfig):
    """How a model is asked for the worse answer."""

    RENAMED: ClassVar = {"max_copied_run": "max_ngram_overlap"}

    temperature: float = Field(default=0.7, ge=0, le=2)
    min_length_ratio: float = Field(default=0.6, gt=0, le=1)
    """Of the characters of ``rejected`` to those of ``chosen``; a shorter reply is asked for again."""
    max_length_ratio: float = Field(default=1.4, ge=1)
    max_ngram_overlap: int = Field(default=15, ge=5)
    """Words in a row that ``rejected`` may share with ``chosen``. More, and the model knows the text by heart: the pair would
    teach it to unlearn what it should say."""
    max_repeated: float = Field(default=0.3, gt=0, le=1)
    """Share of four-word runs that may have stood before in the same reply: small models fall into loops, and a loop is asked
    for again, since the gate for format would drop it."""
    max_tokens: int = Field(default=1_024, ge=32)
    """Never more than this, however long the passage."""


async def preference_of(
    passage: Passage, instruction: str, config: Rejected, asker: BatchClient, made_by: Provenance
) -> PreferenceSample | None:
    """Return a triple for an instruction; None where the model gave no reply that can be used."""
    wanted = sum(await asker.model.count_tokens([passage.text]))
    name, version = PROMPT
    messages = render(
        name,
        version,
        instruction=instruction,
        words=_rounded(len(passage.text.split())),
        language=language_name(passage),
    )
    # A tenth more than the author took, to end the last sentence in; what is cut in its middle is cut back to its last end.
    tokens = min(config.max_tokens, math.ceil(1.1 * wanted) + 16)
    ask = LlmRequest(
        f"rejected:{passage.name}:{instruction}",
        tuple(messages),
        GenerationOptions(max_tokens=tokens, temperature=config.temperature),
        prompt_hash(name, version),
        lambda text: check_rejected(text, passage.text, instruction, config),
    )
    rejected = await asker.ask(ask)
    if rejected is None:
        return None
    return PreferenceSample(
        prompt=instruction,
        chosen=passage.text,
        rejected=rejected,
        origin=describe_origin(passage),
        provenance=made_by.model_copy(
            update={"model": asker.model.name, "prompt_hash": ask.prompt_hash, "seed": asker.seed}
        ),
    )


def check_rejected(text: str, chosen: str, prompt: str, config: Rejected) -> str:
    """Return a reply as ``rejected``, ended at its last whole sentence.

    Raises:
        UnusableReplyError: it says what ``chosen`` says, repeats the prompt, or is too short or too long.
    """
    whole = whole_sentences(text.strip())
    if " ".join(whole.split()) == " ".join(chosen.split()):
        raise UnusableReplyError("the author's own text: nothing to prefer")
    if has_common_ngram(whole, chosen, config.max_ngram_overlap + 1):
        raise UnusableReplyError(f"a copy of the author's text: more than {config.max_ngram_overlap} words")
    if " ".join(prompt.split()).casefold() in " ".join(whole.split()).casefold():
        raise UnusableReplyError("a reply that repeats the prompt")
    if (repeated := measure_repetition(whole)) > config.max_repeated:
        raise UnusableReplyError(f"a reply that goes round in circles: {repeated:.0%} of it stood before")
    ratio = len(whole) / len(chosen)
    if not config.min_length_ratio <= ratio <= config.max_length_ratio:
        raise UnusableReplyError(
            f"a reply of another length: {ratio:.2f} of the author's; expected {config.min_length_ratio:g} to "
            f"{config.max_length_ratio:g}"
        )
    return whole


def whole_sentences(text: str) -> str:
    """Return a text without a last sentence that breaks off."""
    if _ENDS.search(text):
        return text
    found = split_units(text)
    return text[: found[-2].end].rstrip() if len(found) > 1 else text


def _rounded(words: int) -> int:
    """To tens, as people state a length."""
    return max(10, round(words, -1))
