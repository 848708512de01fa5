"""Base and twin side by side, on three requests that the training has not seen: what a training ends with."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.ports import GenerationOptions, LanguageModel, Message
from llm_engineering.application.text.markdown import shorten
from llm_engineering.application.training.finetune.data import open_dataset, read_instruct
from llm_engineering.application.training.finetune.model_folder import GGUF, read_manifest
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.training import open_bundled_models
from llm_engineering.domain.datasets import InstructSample, Split
from llm_engineering.domain.errors import ModelServiceError, TwinError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import ModelManifest
from llm_engineering.settings import LlamaCppSettings, Settings
from tools.console import console

PROMPTS, TOKENS, SECONDS = 3, 60, 45.0
"""Requests; tokens of an answer; seconds for one model."""
_REPETITION_PENALTY = 1.15
"""As in the evaluation: without it small models go in circles, the trained one sooner."""
_SHOWN = 300
_USUAL = (
    "Draft a LinkedIn post about what I learned this year.",
    "Explain what matters most in my work to a reader who is new to it.",
    "Write the opening of an article about a mistake that taught me something.",
)
"""Requests where the data set has no test split, or is not here."""


def show_side_by_side(folder: Path, settings: Settings, datasets: Path = Path("data/datasets")) -> None:
    """Let the base model and a trained one answer the same requests, and say how to talk to the trained one.

    Both answer by llama.cpp, as they would in use, so only where the base is one of the bundled models. A model that cannot be
    loaded costs the comparison, not the training that went before.
    """
    manifest, gguf = read_manifest(folder), folder / GGUF
    if not gguf.is_file():
        return
    if manifest.base in open_bundled_models(settings).names:
        console.print(f"\nBase and twin answer {PROMPTS} requests …")
        requests = choose_requests(manifest, datasets)
        system = str(manifest.config.get("system", ""))
        models = {"base": LlamaCppSettings(model=manifest.base), "twin": LlamaCppSettings(model_path=gguf)}
        try:
            answers = {
                name: asyncio.run(_answer(settings.model_copy(update={"llm": llm}), system, requests))
                for name, llm in models.items()
            }
        except TwinError as error:
            console.print(f"  [dim]They cannot be shown side by side: {escape(str(error))}[/]")
        else:
            _show(requests, answers)
    console.print(f"\nTalk to it: LLM_MODEL_PATH={gguf} {POE} ask")
    console.print(f"[dim]Measure it against its base: {POE} run-evaluation-pipeline[/]")


def _show(requests: Sequence[str], answers: dict[str, list[str]]) -> None:
    for number, request in enumerate(requests):
        console.print(f"\n[bold cyan]?[/] {escape(request)}")
        for name, texts in answers.items():
            console.print(
                f"  [bold]{name}[/] {escape(shorten(texts[number], _SHOWN)) or '[dim]no time was left[/]'}"
            )


async def _answer(settings: Settings, system: str, requests: Sequence[str]) -> list[str]:
    with open_resources(settings) as resources:
        model = resources.language_model
        try:
            return await answer_requests(model, system, requests)
        finally:
            await model.close()


def choose_requests(manifest: ModelManifest, datasets: Path) -> tuple[str, ...]:
    """Return requests of the data set's test split, each of another document; fixed ones where there is no such split."""
    name, _, version = manifest.dataset.partition("@")
    try:
        dataset = open_dataset(datasets / name / version, "instruct", manifest.template)
        samples: Sequence[InstructSample] = read_instruct(dataset, Split.TEST)
    except TwinError:  # a preference set, say, or a folder that was moved
        samples = ()
    found = {sample.origin.document_id: sample.instruction for sample in reversed(samples)}
    return (*reversed(found.values()), *_USUAL)[:PROMPTS]


async def answer_requests(
    model: LanguageModel, system: str, requests: Sequence[str], *, seconds: float = SECONDS
) -> list[str]:
    """Return an answer to each request, as far as the time reaches; empty ones for those that it does not reach.

    Args:
        system: the system message that the model was trained with.
        seconds: for all answers together.
    """
    head = [Message("system", system)] if system else []
    until = time.monotonic() + seconds
    texts: list[str] = []
    for request in requests:
        text, left = "", until - time.monotonic()
        try:
            if left > 0:
                options = GenerationOptions(
                    max_tokens=TOKENS, repetition_penalty=_REPETITION_PENALTY, timeout_seconds=left
                )
                async for delta in model.stream([*head, Message("user", request)], options):
                    text += delta.text + ("…" if delta.finish_reason == "length" else "")
        except ModelServiceError as error:
            if error.reason != "timeout":
                raise
        texts.append(" ".join(text.split()))
    return texts
