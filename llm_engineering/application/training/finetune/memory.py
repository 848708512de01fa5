"""Estimate the memory of a training run before it starts.

Bytes, of one device. The parts:

* weights: 4 a parameter in fp32, 2 in 16 bits. 4-bit NF4 with double quantisation: 0.5 + 0.127/8 a parameter of the linear
  layers (Dettmers et al. 2023, *QLoRA*, section 3: a constant of 8 bits per 64 weights, its own per 256 of those), the
  embeddings stay in 16 bits;
* trained parameters: all with ``full``; ``rank · (in + out)`` for each adapted layer else (Hu et al. 2021, *LoRA*, section 4),
  held in fp32; with ``full`` in 16-bit precision the weights are held in fp32 too (mixed precision's master weights,
  Micikevicius et al. 2018);
* gradients: as many bytes as the trained parameters;
* optimizer: AdamW two fp32 moments, 8 bytes a trained parameter (Kingma and Ba 2015; Rajbhandari et al. 2020, *ZeRO*,
  section 3.1); its 8-bit form 2 (Dettmers et al. 2022); Adafactor a row and a column per matrix, taken as 1 % of fp32
  (Shazeer and Stern 2018); SGD none;
* activations kept for the way back, counted as Korthikanti et al. 2022 (*Reducing Activation Recomputation in Large
  Transformer Models*, section 4) do, for a gated block with RMSNorm and attention that keeps no scores: see
  :func:`_block_elements`. With checkpointing: the input of each block, and one block at work;
* logits: computed for a chunk of 256 answer tokens at a time: values, gradient, softmax, and their fp32 copies;
* allocator, on a CPU: what the C library keeps of freed blocks, which differ in size with each batch. It is measured: the
  bundled model on the sample's instructions held 3.3 to 3.4 GiB at its peak, and 2.1 when blocks above 1 MiB were mapped one by
  one (glibc's ``mmap_threshold``), where all other parts come to 2.1. That is 0.8 of activations and logits. DPO of the same
  model held 3.8 GiB; by this share it is 4.2.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from loguru import logger

from llm_engineering.application.training.finetune.config import (
    LoraConfig,
    Precision,
    SftConfig,
    TrainingConfig,
)
from llm_engineering.domain.errors import ConfigurationError

LOGIT_CHUNK = 256
_PAIR_LOGITS = 4
_ALLOCATOR_SHARE = 0.8
_NF4_BYTES = 0.5 + 0.127 / 8
_OPTIMIZER_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0, "adafactor": 0.04, "sgd": 0.0}
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder's sizes; those of one block are in elements."""

    parameters: int
    linear_parameters: int
    """Of the linear layers in the blocks, which is what 4-bit weights are made of."""
    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    attention_width: int
    """Heads × head dimension."""
    kv_width: int
    """Key-value heads × head dimension."""
    adapted: tuple[tuple[int, int], ...] = ()
    """(in, out) of every layer that gets an adapter, over all blocks."""


class MemoryEstimate(NamedTuple):
    """Bytes by what they are for."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    allocator: int = 0

    def on(self, device: str) -> "MemoryEstimate":
        """With what the machine's allocator keeps beside."""
        if device != "cpu":
            return self
        return self._replace(allocator=int((self.activations + self.logits) * _ALLOCATOR_SHARE))

    @property
    def total(self) -> int:
        return sum(self)

    def as_dict(self) -> dict[str, int]:
        """By name, with the total."""
        return {**self._asdict(), "total": self.total}


def estimate_memory(
    shape: ModelShape, precision: Precision, config: TrainingConfig, sequence: int
) -> MemoryEstimate:
    """What a run needs at its peak, beside what the process holds already.

    Args:
        sequence: tokens of the longest sequence that will be seen.
    """
    width = 4 if precision == "fp32" else 2
    full = config.method == "full"
    weights = _weights(shape, config, width)
    trained = shape.parameters if full else adapter_parameters(shape, config.lora)
    per_token = _block_elements(shape, config.lora) * width
    tokens = config.batch_size * sequence
    if config.gradient_checkpointing:
        activations = tokens * (shape.layers * shape.hidden * width + per_token)
    else:
        activations = tokens * shape.layers * per_token
    logits = min(LOGIT_CHUNK, tokens) * shape.vocabulary * 4 * 4
    return MemoryEstimate(
        weights=int(weights),
        adapters=0 if full else trained * 4,
        gradients=trained * 4,
        optimizer=int(trained * _OPTIMIZER_BYTES[config.optimizer.name]),
        activations=int(activations),
        logits=logits,
    )


def estimate_preference_memory(
    shape: ModelShape, precision: Precision, config: TrainingConfig, sequence: int
) -> MemoryEstimate:
    """What preference training needs: two sequences for each pair, a frozen copy of the adapters, and whole logits.

    Logits are computed for all tokens; with their softmax, gradient and fp32 copy four tables are held at once.
    """
    doubled = config.model_copy(update={"batch_size": 2 * config.batch_size})
    found = estimate_memory(shape, precision, doubled, sequence)
    logits = 2 * config.batch_size * sequence * shape.vocabulary * 4 * _PAIR_LOGITS
    return found._replace(adapters=2 * found.adapters, logits=logits)


def adapter_parameters(shape: ModelShape, lora: LoraConfig | None) -> int:
    """Trained parameters of the adapters: ``rank · (in + out)`` each."""
    return sum(lora.r * (inner + outer) for inner, outer in shape.adapted) if lora else 0


def _weights(shape: ModelShape, config: TrainingConfig, width: int) -> float:
    if config.method == "full":
        return shape.parameters * 4
    if config.method == "qlora":
        return shape.linear_parameters * _NF4_BYTES + (shape.parameters - shape.linear_parameters) * width
    return shape.parameters * width


def _block_elements(shape: ModelShape, lora: LoraConfig | None) -> float:
    """Elements that one block keeps for a token.

    Two norms: input and normalised value each (4 h); attention: queries, keys, values before and after the rotation
    (2 (a + 2 kv)), its output (a); MLP: gate, up, activated gate, their product (4 i). Where adapters are trained, the
    input of each is one of those already; added are its rank, and with dropout a masked copy of its input and the mask.
    """
    elements: float = (
        4 * shape.hidden
        + 2 * (shape.attention_width + 2 * shape.kv_width)
        + shape.attention_width
        + 4 * shape.intermediate
    )
    if lora is not None and shape.layers:
        elements += lora.r * len(shape.adapted) / shape.layers
        if lora.lora_dropout:
            elements += 1.25 * sum(inner for inner, _ in shape.adapted) / shape.layers
    return elements


Estimator = Callable[[TrainingConfig, int], MemoryEstimate]
"""The estimate for a configuration and the tokens of its longest sequence; for one model on one machine."""


def checked_estimate(
    estimator: Estimator, config: TrainingConfig, sequence: int, free: int, device: str
) -> MemoryEstimate:
    """The memory that the run will need, which is told, and is there.

    Args:
        sequence: tokens of the longest sequence.
        free: bytes that can be had now.

    Raises:
        ConfigurationError: the estimate is above the allowed share of the free memory; the message gives the parts and the
            knobs that would make it fit.
    """
    estimate = estimator(config, sequence).on(device)
    logger.info("Memory: about {} will be needed, {} are free.", _gib(estimate.total), _gib(free))
    allowed = int(free * config.max_memory_fraction)
    if estimate.total <= allowed:
        return estimate
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in estimate._asdict().items() if size)
    knobs = list(_knobs(estimator, config, sequence, device))
    enough = [f"{knob} (→ {_gib(total)})" for knob, total in knobs if total <= allowed]
    best = [f"{knob} (→ {_gib(total)})" for knob, total in knobs if total < estimate.total]
    if enough:
        advice = f"Any of these would make it fit: {'; '.join(enough)}."
    elif best:
        advice = f"Turn several of these: {'; '.join(best)}; or take a smaller base model."
    else:
        advice = "Take a smaller base model or a machine with more memory."
    raise ConfigurationError(
        f"This run needs about {_gib(estimate.total)} ({parts}); {_gib(allowed)} may be used "
        f"({config.max_memory_fraction:.0%} of the {_gib(free)} that are free). {advice}"
    )


def _knobs(
    estimator: Estimator, config: TrainingConfig, sequence: int, device: str
) -> Iterator[tuple[str, int]]:
    """Single changes that save memory, with the total each leads to."""

    def total(longest: int = sequence, **changed: object) -> int:
        return estimator(config.model_copy(update=changed), longest).on(device).total

    if not config.gradient_checkpointing:
        yield "gradient_checkpointing: true", total(gradient_checkpointing=True)
    if config.batch_size > 1:
        whole = config.batch_size * config.gradient_accumulation_steps
        yield (
            f"batch_size: 1 with gradient_accumulation_steps: {whole}",
            total(batch_size=1, gradient_accumulation_steps=whole),
        )
    if sequence >= 512:
        yield f"max_length: {sequence // 2}", total(sequence // 2)
    if not isinstance(config, SftConfig):
        return  # the method is that of the SFT model
    if config.method == "full":
        yield "method: lora", total(method="lora", lora=LoraConfig())
        if config.optimizer.name == "adamw":
            saved = config.optimizer.model_copy(update={"name": "adafactor"})
            yield "optimizer.name: adafactor", total(optimizer=saved)
    if device == "cuda" and config.method != "qlora":
        yield "method: qlora", total(method="qlora", lora=config.lora or LoraConfig())


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB"
