"""Check before training: what the machine offers, what the model allows, and whether it fits into memory.

How memory is estimated, in bytes of one device:

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

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from loguru import logger

from llm_engineering.application.training.finetune.config import (
    Backend,
    LoraConfig,
    Precision,
    SftConfig,
    TrainingConfig,
)
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    MissingDependencyError,
    TooManyFailuresError,
)
from llm_engineering.domain.hints import describe_install


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine, as far as training asks."""

    device: Literal["cpu", "cuda"]
    name: str
    free_memory: int
    """Bytes that can be had now, on the device."""
    devices: int = 1
    bf16: bool = False
    """Whether the GPU computes in bf16 (compute capability 8.0 and above)."""
    unsloth: bool = False
    bitsandbytes: bool = False
    flash_attention: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``auto`` came to."""

    precision: Precision
    backend: Backend
    attention: Literal["sdpa", "flash_attention_2"]
    why: tuple[str, ...]
    """A line for each choice, for the log."""


def plan(config: TrainingConfig, hardware: Hardware) -> Plan:
    """Decide what ``auto`` means here.

    Raises:
        MissingDependencyError: something asked for is not installed.
        ConfigurationError: something asked for cannot have its effect on this machine; all of it is told at once.
    """
    problems = list(_impossible(config, hardware))
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigurationError(f"This cannot be trained on this machine ({hardware.name}):\n{listing}")
    _check_installed(config, hardware)
    precision, precision_why = _precision(config, hardware)
    backend, backend_why = _backend(config, hardware)
    flash = hardware.device == "cuda" and hardware.flash_attention and precision != "fp32"
    return Plan(precision, backend, "flash_attention_2" if flash else "sdpa", (precision_why, backend_why))


def _impossible(config: TrainingConfig, hardware: Hardware) -> Iterator[str]:
    on_cpu = hardware.device == "cpu"
    if on_cpu and config.method == "qlora":
        yield "method 'qlora': 4-bit weights need a CUDA GPU; take method 'lora'"
    if on_cpu and config.optimizer.name == "adamw_8bit":
        yield "optimizer.name 'adamw_8bit' needs a CUDA GPU; take 'adamw', or 'adafactor' to save memory"
    if on_cpu and config.backend == "unsloth":
        yield "backend 'unsloth' needs a CUDA GPU; take 'auto' or 'trl'"
    elif config.backend == "unsloth" and config.precision == "fp32":
        yield "precision 'fp32': Unsloth computes in 16 bits; take 'auto', or backend 'trl'"
    if config.precision == "fp16" and on_cpu:
        yield "precision 'fp16': a CPU has no fast 16-bit floats of this kind; take 'auto' or 'fp32'"
    if config.precision == "bf16" and not on_cpu and not hardware.bf16:
        yield "precision 'bf16': this GPU has none; take 'auto' or 'fp16'"
    if isinstance(config, SftConfig) and config.packing:
        if on_cpu:
            yield "packing: attention on a CPU cannot keep the samples of a sequence apart; set it to false"
        elif config.precision == "fp32":
            yield "packing needs flash attention, which computes in 16 bits; set precision to 'auto', or packing to false"
        elif not hardware.flash_attention:
            yield "packing needs flash attention to keep samples apart; install 'flash-attn', or set packing to false"


def _check_installed(config: TrainingConfig, hardware: Hardware) -> None:
    if config.backend == "unsloth" and not hardware.unsloth:
        raise MissingDependencyError("unsloth", "gpu", "backend 'unsloth'")
    if not hardware.bitsandbytes:
        for asked, purpose in (
            (config.method == "qlora", "method 'qlora'"),
            (config.optimizer.name == "adamw_8bit", "optimizer.name 'adamw_8bit'"),
        ):
            if asked:
                raise MissingDependencyError("bitsandbytes", "gpu", purpose)


def _precision(config: TrainingConfig, hardware: Hardware) -> tuple[Precision, str]:
    if config.precision != "auto":
        return config.precision, f"precision {config.precision}, as configured"
    if hardware.device == "cpu":
        return "fp32", "precision fp32: there is no GPU"
    if hardware.bf16:
        return "bf16", "precision bf16: the GPU computes in it"
    return "fp16", "precision fp16: the GPU has no bf16"


def _backend(config: TrainingConfig, hardware: Hardware) -> tuple[Backend, str]:
    if config.backend != "auto":
        return config.backend, f"backend {config.backend}, as configured"
    if not isinstance(config, SftConfig):
        return "trl", "backend trl: Unsloth is used for SFT alone"
    if hardware.device == "cpu":
        return "trl", "backend trl: there is no GPU for Unsloth"
    if config.precision == "fp32":
        return "trl", "backend trl: Unsloth does not compute in fp32"
    if not hardware.unsloth:
        return "trl", f"backend trl: Unsloth is not installed ({describe_install('gpu')})"
    return "unsloth", "backend Unsloth: it is installed, and there is a GPU"


T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """Sequences within the limit, and how many were not."""

    train: list[T]
    validation: list[T]
    over_limit: int
    longest: int
    """Tokens of the longest sequence, those over the limit too."""

    @property
    def longest_kept(self) -> int:
        """Tokens of the longest sequence that is trained on or scored."""
        return max(len(sequence) for sequence in (*self.train, *self.validation))


def within_limit(
    config: TrainingConfig, train: Sequence[T], validation: Sequence[T], what: str = "samples"
) -> Kept[T]:
    """Leave out sequences over ``max_length``. None is ever cut: an answer without its end teaches never to stop.

    Args:
        what: what a sequence is called in messages; its length is in tokens.

    Raises:
        ConfigurationError: a sequence is over the limit and that is to be refused, or the validation set is asked for and
            has nothing.
        TooManyFailuresError: more were over the limit than the configuration allows.
        InvalidInputError: nothing is left to train on.
    """
    total, longest = len(train) + len(validation), max(map(len, (*train, *validation)), default=0)
    fitting, scored = (
        [one for one in split if len(one) <= config.max_length] for split in (train, validation)
    )
    kept = Kept(fitting, scored, total - len(fitting) - len(scored), longest)
    if kept.over_limit:
        _judge_dropped(config, kept.over_limit, total, longest, what)
    if not kept.train:
        raise InvalidInputError(
            f"Nothing is left to train on: {kept.over_limit} of {total} {what} are over max_length ({config.max_length} "
            f"tokens; the longest has {longest}). Raise max_length, or make a data set of shorter passages."
        )
    if not kept.validation and (asked := list(_asks_for_validation(config))):
        raise ConfigurationError(
            f"{', '.join(asked)}: without effect, since the validation set is empty. Leave out what is named, or make a data "
            "set with a validation split (more documents)."
        )
    return kept


def _asks_for_validation(config: TrainingConfig) -> Sequence[str]:
    asked = {
        "eval_steps": config.eval_steps,
        "evaluation_batch_size": config.evaluation_batch_size,
        "keep_best": config.keep_best,
        "early_stopping": config.early_stopping,
    }
    return [name for name, value in asked.items() if value]


def _judge_dropped(config: TrainingConfig, dropped: int, total: int, longest: int, what: str) -> None:
    found = f"{dropped} of {total} {what} are longer than max_length ({config.max_length} tokens); the longest has {longest}"
    advice = "Raise max_length, or make a data set of shorter passages."
    if config.on_too_long == "error":
        raise ConfigurationError(f"{found}. {advice} With on_too_long: drop they would be left out.")
    if config.max_dropped_share is not None and dropped > config.max_dropped_share * total:
        raise TooManyFailuresError(
            f"{found}: more than max_dropped_share ({config.max_dropped_share:.0%}) allows. {advice}"
        )
    logger.warning("{}: left out, never cut.", found)


def check_context(base: str, longest: int, context: int | None) -> None:
    """Refuse sequences that are longer than the base model can read.

    Args:
        longest: tokens of the longest sequence.
        context: tokens that the base was made for; None: it does not say.

    Raises:
        ConfigurationError: the longest sequence is longer.
    """
    if context is not None and longest > context:
        raise ConfigurationError(
            f"A sequence has {longest} tokens, and {base} was made for {context} at most: behind them it would be taught "
            f"nothing that it can use. Set max_length to {context} or less, or take a base with a longer context."
        )


def check_steps(config: TrainingConfig, samples: int, devices: int, *, packed: bool = False) -> int:
    """Return the number of the run's optimizer steps.

    Raises:
        ConfigurationError: something would have no effect in a run of so many steps.
    """
    if config.max_steps is not None:
        return config.max_steps
    batches = math.ceil(samples / (config.batch_size * devices))
    steps = math.ceil(math.ceil(batches / config.gradient_accumulation_steps) * (config.epochs or 1))
    if packed:
        return steps  # an upper bound: how many sequences packing leaves is not known yet
    if problems := list(config.steps_without_effect(steps)):
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigurationError(f"{samples} samples make a run of {steps} steps, so that:\n{listing}")
    return steps


LOGIT_CHUNK = 256
_PAIR_LOGITS = 4
_ALLOCATOR_SHARE = 0.8
_NF4_BYTES = 0.5 + 0.127 / 8
_OPTIMIZER_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0, "adafactor": 0.04, "sgd": 0.0}
_MOMENTUM_BYTES = 4.0
"""Of ``sgd`` with momentum: it keeps its last update."""
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
    """Return what a run needs at its peak, beside what the process holds already.

    Args:
        sequence: tokens of the longest sequence that will be seen.
    """
    width = 4 if precision == "fp32" else 2
    full = config.method == "full"
    weights = _weights(shape, config, width)
    trained = shape.parameters if full else adapter_parameters(shape, config.lora)
    per_token = _block_elements(shape, config.lora) * width
    momentum = config.optimizer.momentum > 0
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
        optimizer=int(trained * (_MOMENTUM_BYTES if momentum else _OPTIMIZER_BYTES[config.optimizer.name])),
        activations=int(activations),
        logits=logits,
    )


def estimate_preference_memory(
    shape: ModelShape, precision: Precision, config: TrainingConfig, sequence: int
) -> MemoryEstimate:
    """Return what preference training needs: two sequences for each pair, a frozen copy of the adapters, and whole
    logits.

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


def check_memory(
    estimator: Estimator, config: TrainingConfig, sequence: int, free: int, device: str
) -> MemoryEstimate:
    """Log the memory that the run will need, and refuse where it is not there.

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
