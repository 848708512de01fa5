"""Merged models: adapter and base as one set of 16-bit weights, checked against the two before it is kept.

Weights are added in 32-bit floats and rounded once, to fp16 where every weight fits its range and else to bf16: fp16
keeps 11 significant bits against 8, and a low-rank update is small enough to be lost in the difference.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.ports import Message
from llm_engineering.application.training.finetune.model_folder import (
    ADAPTER_GGUF,
    GGUF,
    MERGED,
    read_manifest,
    write_manifest,
)
from llm_engineering.domain.errors import ConfigurationError, ModelFileError, TrainingError
from llm_engineering.domain.models import ModelManifest

TOLERANCE = 0.05
"""Nats: how far a log-probability of the rounded model may lie from that of base and adapter, over a probe."""
DIFFERENCE = "merge_log_probability_difference"
_PROBE = (
    Message("user", "What does an index keep, and who asks it?"),
    Message("assistant", "It keeps vectors beside words. A query asks both, and the answer cites its place."),
)


@dataclass(frozen=True, slots=True)
class Exporter:
    """Completes a trained folder: ``merged/``, ``gguf/`` where llama.cpp knows the architecture (the merged model, and the
    adapter alone), and its manifest."""

    find_base: Callable[[str, str | None], str]
    """Folder or hub name of a base by name and revision."""

    def export(self, folder: Path) -> ModelManifest:
        """Do what is not done yet. The manifest then names all files.

        Raises:
            ModelFileError: the folder holds no trained model, or its base cannot be loaded.
            TrainingError: the merged model does not say what base and adapter say.
        """
        manifest = read_manifest(folder)
        metrics = {}
        if not (folder / MERGED).is_dir():
            found = self.find_base(manifest.base, manifest.base_revision)
            metrics[DIFFERENCE] = merge(found, manifest, folder)
        if GGUF not in manifest.files or metrics:
            self._gguf(folder, manifest)
        if metrics or GGUF not in manifest.files:
            manifest = write_manifest(folder, manifest, metrics)
        return manifest

    @staticmethod
    def _gguf(folder: Path, manifest: ModelManifest) -> None:
        from llm_engineering.infrastructure.training.gguf.adapter import write_adapter
        from llm_engineering.infrastructure.training.gguf.writer import write_gguf

        try:
            write_gguf(folder / MERGED, folder / GGUF, load_template(manifest.template), manifest.name)
        except ConfigurationError as error:
            logger.warning("No file for llama.cpp was made: {} Serve {} otherwise.", error, folder / MERGED)
            return
        if manifest.method == "full":
            return
        try:
            write_adapter(
                folder / "adapter", folder / MERGED / "config.json", folder / ADAPTER_GGUF, manifest.name
            )
        except ConfigurationError as error:
            logger.warning("The model can be served, but not beside others over one base: {}", error)


def merge(base: str, manifest: ModelManifest, folder: Path) -> float:
    """Write ``merged/`` from the base and ``adapter/``; it appears whole or not at all.

    Returns:
        The largest difference of a log-probability, in nats, between the rounded model and base with adapter.

    Raises:
        ModelFileError: base or adapter cannot be loaded.
        TrainingError: the difference is above ``TOLERANCE``.
    """
    import torch
    from transformers import AutoTokenizer

    adapted = _adapted(base, manifest, folder / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    chosen = load_template(manifest.template).for_eos(tokenizer.eos_token)
    probe = tokenizer(chosen.render(_PROBE).text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = torch.log_softmax(adapted(input_ids=probe).logits.float(), -1)
        merged = adapted.merge_and_unload()
        dtype = _dtype(merged)
        merged.to(dtype)
        # Rounded as it will be stored, computed in 32 bits: what remains is the rounding of weights, and nothing of a CPU's.
        rounded = torch.log_softmax(merged.float()(input_ids=probe).logits, -1)
    # Tokens that neither side would ever say are no difference that anybody could see.
    likely = expected > expected.max(-1, keepdim=True).values - 10
    difference = float((expected - rounded)[likely].abs().max())
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"The merged model, in {str(dtype).removeprefix('torch.')}, differs from base and adapter by {difference:.3g} nats "
            f"(at most {TOLERANCE} is allowed): 16 bits are too coarse for these weights. Serve {manifest.base} with the adapter."
        )
    _save(merged.to(dtype), tokenizer, folder)
    logger.info(
        "Merged in {}: log-probabilities differ by {:.2g} nats at most.",
        str(dtype).removeprefix("torch."),
        difference,
    )
    return difference


def _adapted(base: str, manifest: ModelManifest, adapter: Path) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, revision=manifest.base_revision, dtype=torch.float32, trust_remote_code=False
        )
        return PeftModel.from_pretrained(model, str(adapter)).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{manifest.base} with {adapter} cannot be loaded: {error}") from error


def _dtype(model: Any) -> Any:
    import torch

    largest = max(float(weights.abs().max()) for weights in model.parameters())
    return torch.float16 if largest < torch.finfo(torch.float16).max else torch.bfloat16


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    part = folder / f"{MERGED}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    model.generation_config = GenerationConfig.from_pretrained(folder / "tokenizer")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder / MERGED)
