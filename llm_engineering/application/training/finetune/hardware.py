"""Plan precision, backend and attention for a machine, and refuse what it cannot do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm_engineering.application.training.finetune.config import Backend, Precision, SftConfig, TrainingConfig
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError


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
        return "trl", "backend trl: Unsloth is not installed (poetry install --with gpu)"
    return "unsloth", "backend Unsloth: it is installed, and there is a GPU"
