"""Training configuration in the names of TRL and PEFT. Unknown keys are errors, and so are keys without effect."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.chat_templates import load_template, template_names

Method = Literal["lora", "qlora", "full"]
Precision = Literal["fp32", "bf16", "fp16"]
Backend = Literal["trl", "unsloth"]
OptimizerName = Literal["adamw", "adamw_8bit", "adafactor", "sgd"]

Scheduler = Literal[
    "linear", "cosine", "cosine_with_min_lr", "exponential", "constant", "constant_with_warmup"
]

_WITHOUT_WARMUP = "constant"
_PARAMETER_OF = {"exponential": "gamma", "cosine_with_min_lr": "min_lr"}
"""What a schedule needs and no other one takes."""


class LoraConfig(StrictConfig):
    """Low-rank adapters (Hu et al. 2021): ``W + lora_alpha / r · B A``, with A of r × in and B of out × r."""

    RENAMED: ClassVar = {
        "rank": "r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "targets": "target_modules",
    }

    r: int = Field(default=16, ge=1, le=1024)
    lora_alpha: float = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the layers that get adapters; ``all-linear``: every linear layer but the output layer."""

    layers_to_transform: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Numbers of the blocks that get adapters, counted from 0; None: all."""

    @field_validator("layers_to_transform")
    @classmethod
    def _chosen_once(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is None:
            return None
        if not value:
            raise ValueError(
                "name at least one layer, or leave it out for all; without any, nothing would be trained"
            )
        if len(set(value)) < len(value):
            raise ValueError(f"names a layer twice: {sorted(value)}")
        return tuple(sorted(value))  # the order has no effect, and must not make another run of it

    @field_validator("target_modules")
    @classmethod
    def _some(cls, value: object) -> object:
        if value == ():
            raise ValueError(
                "name at least one layer, or 'all-linear'; without any, nothing would be trained"
            )
        return value


class OptimizerConfig(StrictConfig):
    """How weights follow gradients."""

    RENAMED: ClassVar = {"scheduler": "lr_scheduler_type"}

    name: OptimizerName = "adamw"
    """``adamw_8bit`` keeps its two moments in a byte each (CUDA and bitsandbytes only)."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Share of the last update that goes into the next one; ``sgd`` only."""
    lr_scheduler_type: Scheduler = "cosine"
    """``exponential``: learning_rate · gammaᵗ, with t the optimizer steps after the warm-up."""
    gamma: float | None = Field(default=None, gt=0, lt=1)
    """Factor of a step; with ``exponential``."""
    min_lr: float | None = Field(default=None, gt=0)
    """Where the learning rate ends; with ``cosine_with_min_lr``."""
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _warmup_has_an_effect(self) -> Self:
        if self.lr_scheduler_type == _WITHOUT_WARMUP and self.warmup_steps:
            raise ValueError(
                "warmup_steps has no effect with lr_scheduler_type 'constant'; take 'constant_with_warmup' or set it to 0"
            )
        if self.lr_scheduler_type == "constant_with_warmup" and not self.warmup_steps:
            raise ValueError(
                "lr_scheduler_type 'constant_with_warmup' without warmup_steps is 'constant'; set one of them"
            )
        return self

    @model_validator(mode="after")
    def _schedule_has_its_parameter(self) -> Self:
        for schedule, name in _PARAMETER_OF.items():
            given = getattr(self, name) is not None
            if given and self.lr_scheduler_type != schedule:
                raise ValueError(
                    f"{name} has no effect with lr_scheduler_type '{self.lr_scheduler_type}'; leave it out, or take '{schedule}'"
                )
            if not given and self.lr_scheduler_type == schedule:
                raise ValueError(f"lr_scheduler_type '{schedule}' needs '{name}'")
        if self.min_lr is not None and self.min_lr >= self.learning_rate:
            raise ValueError(f"min_lr ({self.min_lr:g}) is not below learning_rate ({self.learning_rate:g})")
        return self

    @model_validator(mode="after")
    def _momentum_has_an_effect(self) -> Self:
        if self.momentum and self.name != "sgd":
            raise ValueError(
                f"momentum has no effect with name '{self.name}', which has averages of its own; leave it out, or take 'sgd'"
            )
        return self


class EarlyStopping(StrictConfig):
    """End when the validation loss no longer falls."""

    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without progress."""
    min_delta: float = Field(default=0.0, ge=0)
    """A smaller fall of the loss counts as none."""


class TrainingConfig(StrictConfig):
    """What SFT and DPO have in common."""

    RENAMED: ClassVar = {
        "base": "base_model",
        "accumulation": "gradient_accumulation_steps",
        "over_limit": "on_too_long",
        "evaluate_every": "eval_steps",
        "save_every": "save_steps",
        "keep_checkpoints": "save_total_limit",
        "log_every": "logging_steps",
        "memory_share": "max_memory_fraction",
    }

    base_model: str = Field(default="SmolLM2-135M-Instruct", min_length=1)
    """The model to start from: a bundled name, a folder, a GGUF file, or a name on the hub."""
    revision: str | None = None
    """Of a model on the hub; None: its main branch."""
    template: str = "chatml"
    method: Method = "lora"
    lora: LoraConfig | None = None
    """Left out with ``lora`` and ``qlora``: the defaults."""
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: float | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; give this or ``epochs``."""
    batch_size: int = Field(default=4, ge=1)
    """Sequences at a time on each device."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches whose gradients are added before a step: effective batch = batch_size × gradient_accumulation_steps × devices."""
    evaluation_batch_size: int | None = Field(default=None, ge=1)
    """None: as ``batch_size``."""
    max_length: int = Field(default=1024, ge=16)
    """Tokens of a sequence. Longer ones are never cut."""
    on_too_long: Literal["drop", "error"] = "drop"
    max_dropped_share: float | None = Field(default=None, ge=0, lt=1)
    """Left out with ``drop``: 0.2. The run refuses to start when more samples than this would be dropped."""
    gradient_checkpointing: bool = False
    """Compute activations again on the way back in place of keeping them: less memory, about a third more time."""
    precision: Literal["auto"] | Precision = "auto"
    """``auto``: bf16 where the GPU has it, else fp16 on a GPU, fp32 on a CPU."""
    backend: Literal["auto"] | Backend = "auto"
    """``auto``: Unsloth where it is installed and there is a CUDA GPU, else plain TRL."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    eval_steps: int | None = Field(default=None, ge=1)
    """Steps between scores of the validation set; None: at the end only (it is scored before the first step too)."""
    save_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; None: a killed run begins again."""
    save_total_limit: int | None = Field(default=None, ge=2, le=100)
    """Left out with ``save_steps``: 2. At least 2, so that a kill while one is written leaves the one before."""
    logging_steps: int = Field(default=1, ge=1)
    keep_best: bool = False
    """Hand over the weights with the lowest validation loss in place of the last."""
    early_stopping: EarlyStopping | None = None
    max_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """The run refuses to start when its estimate is above this share of the free memory."""

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, values: Any) -> Any:
        """Defaults that exist only where they have an effect."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        if filled.get("method", "lora") in ("lora", "qlora") and filled.get("lora") is None:
            filled["lora"] = LoraConfig()
        if filled.get("on_too_long", "drop") == "drop" and filled.get("max_dropped_share") is None:
            filled["max_dropped_share"] = 0.2
        if filled.get("save_steps") is not None and filled.get("save_total_limit") is None:
            filled["save_total_limit"] = 2
        if filled.get("epochs") is None and filled.get("max_steps") is None:
            filled["epochs"] = 1.0
        return filled

    @field_validator("template")
    @classmethod
    def _known_template(cls, value: str) -> str:
        if value not in template_names():
            raise ValueError(f"there is no such chat template; there are: {', '.join(template_names())}")
        return value

    @model_validator(mode="after")
    def _all_has_an_effect(self) -> Self:
        problems = list(self._without_effect())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _without_effect(self) -> Iterator[str]:
        if self.method == "full" and self.lora is not None:
            yield "'lora' has no effect with method 'full': leave it out, or take method 'lora'"
        if self.epochs is not None and self.max_steps is not None:
            yield "'epochs' has no effect beside 'max_steps': give one of them"
        if self.on_too_long == "error" and self.max_dropped_share is not None:
            yield "'max_dropped_share' has no effect with on_too_long 'error': nothing is dropped"
        if self.save_steps is None and self.save_total_limit is not None:
            yield "'save_total_limit' has no effect without 'save_steps'"
        if self.early_stopping is not None and self.eval_steps is None:
            yield "'early_stopping' has no effect without 'eval_steps'"
        if (self.keep_best or self.early_stopping is not None) and not self._best_can_be_kept():
            yield (
                "'keep_best' and 'early_stopping' need 'eval_steps', and a 'save_steps' that is a multiple of it: "
                "the best weights can be handed over only where they were saved"
            )
        if self.max_steps is not None:
            yield from self.steps_without_effect(self.max_steps)

    def _best_can_be_kept(self) -> bool:
        return (
            self.eval_steps is not None
            and self.save_steps is not None
            and self.save_steps % self.eval_steps == 0
        )

    def steps_without_effect(self, steps: int) -> Iterator[str]:
        """Yield what would never happen in a run of so many optimizer steps."""
        if self.optimizer.warmup_steps >= steps:
            yield (
                f"optimizer.warmup_steps ({self.optimizer.warmup_steps}) is not below the {steps} steps of the run: "
                "the learning rate would never be reached"
            )
        for name in ("eval_steps", "save_steps"):
            every = getattr(self, name)
            if every is not None and every > steps:
                yield f"{name} ({every}) has no effect: the run has {steps} steps"
        if self.logging_steps > steps:
            yield f"logging_steps ({self.logging_steps}) has no effect: the run has {steps} steps"
        stopping, every = self.early_stopping, self.eval_steps
        if stopping is not None and every is not None and stopping.patience * every >= steps:
            yield (
                f"early_stopping.patience ({stopping.patience}) × eval_steps ({every}) is not below the {steps} steps "
                "of the run: it could never stop it"
            )

    @property
    def chat_template_hash(self) -> str:
        return load_template(self.template).hash


class SftConfig(TrainingConfig):
    """Supervised fine-tuning: the answer is to follow from the instruction."""

    system: str = ""
    """A system message in front of every sample, the one to be served with; empty: none."""
    packing: bool = False
    """Several samples to a sequence. Only where attention can keep them apart: CUDA with flash-attn."""
