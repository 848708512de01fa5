"""Base and twin side by side, on three requests that the training has not seen: what a training ends with."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.evaluation.models.systems import (
    AnsweringModel,
    System,
    base_system,
    open_trained,
    read_manifest,
)
from llm_engineering.application.ports import Message, Progress
from llm_engineering.application.ports.observability import SilentProgress
from llm_engineering.application.text.markdown import shorten
from llm_engineering.application.training.finetune.data import open_dataset, read_instruct
from llm_engineering.application.training.finetune.model_folder import GGUF
from llm_engineering.bootstrap.logging import show_progress
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.datasets import InstructSample, Split
from llm_engineering.domain.errors import TwinError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import ModelManifest
from llm_engineering.settings import Settings
from tools.console import console

PROMPTS, TOKENS, SECONDS = 3, 60, 60.0
"""Requests; tokens of an answer; seconds for one model, after which no further answer is begun."""
_SHOWN = 300
_USUAL = (
    "Draft a LinkedIn post about what I learned this year.",
    "Explain what matters most in my work to a reader who is new to it.",
    "Write the opening of an article about a mistake that taught me something.",
)
"""Requests where the data set has no test split, or is not here."""


def show_side_by_side(folder: Path, settings: Settings, datasets: Path = Path("data/datasets")) -> None:
    """Let the base model and a trained one answer the same requests, and say how to talk to the trained one.

    A model that cannot be loaded costs the comparison, not the training that went before.
    """
    manifest = read_manifest(folder)
    console.print(f"\nBase and twin answer {PROMPTS} requests …")
    try:
        requests = choose_requests(manifest, datasets)
        twin = open_trained("twin", folder, manifest)
        with show_progress(settings) as progress, open_resources(settings) as resources:
            models = resources.answering_models()
            try:
                answers = []
                for system in (base_system(twin, None, manifest.template), twin):
                    progress.advance(f"{system.name} answers", 0, total=len(requests))
                    with models.open(system) as model:
                        answers.append(answer_requests(model, system, requests, progress=progress))
            finally:
                models.close()
    except TwinError as error:
        console.print(f"  [dim]Base and twin cannot be shown side by side: {escape(str(error))}[/]")
    else:
        console.print(
            "\n[bold]Base and twin, side by side[/] [dim](requests from texts held back from training)[/]"
        )
        for request, base, own in zip(requests, *answers, strict=True):
            console.print(f"\n[bold cyan]?[/] {escape(request)}")
            for name, text in (("base", base), ("twin", own)):
                console.print(
                    f"  [bold]{name}[/] {escape(shorten(text, _SHOWN)) or '[dim]no time was left[/]'}"
                )
    if (folder / GGUF).is_file():
        console.print(f"\nTalk to it: LLM_MODEL_PATH={folder / GGUF} {POE} ask")
        console.print(f"[dim]Measure it against its base: {POE} run-evaluation-pipeline[/]")


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


def answer_requests(
    model: AnsweringModel,
    system: System,
    requests: Sequence[str],
    *,
    progress: Progress,
    seconds: float = SECONDS,
) -> list[str]:
    """Return an answer to each request; empty ones from when the time is used up."""
    head = [Message("system", system.system_message)] if system.system_message else []
    until = time.monotonic() + seconds
    texts: list[str] = []
    for request in requests:
        if texts and time.monotonic() > until:
            texts.append("")
            continue
        [written] = model.generate_answers(
            [[*head, Message("user", request)]], max_tokens=TOKENS, batch_size=1, progress=SilentProgress()
        )
        texts.append(" ".join(written.text.split()) + ("…" if written.cut else ""))
        progress.advance(f"{system.name} answers", total=len(requests))
    return texts
