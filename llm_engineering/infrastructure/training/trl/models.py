"""The model to train, with its adapters: by plain transformers and PEFT, or by Unsloth."""

from typing import Any

from loguru import logger

from llm_engineering.application.training.finetune.config import LoraConfig, TrainingConfig
from llm_engineering.application.training.finetune.preflight import Plan
from llm_engineering.infrastructure.training.trl.base import Base, load_model
from llm_engineering.infrastructure.training.trl.shape import linear_layers


def trainable_model(base: Base, config: TrainingConfig, plan: Plan, device: str) -> Any:
    """Return the base model in the plan's precision, with fresh adapters where the method has them.

    Raises:
        ModelFileError: the base cannot be loaded.
    """
    from transformers import set_seed

    set_seed(config.seed)  # adapters begin with random weights
    if plan.backend == "unsloth":
        return _by_unsloth(base, config, plan)
    model = load_model(base, **loading_arguments(config, plan, device))
    model.config.use_cache = False
    if config.lora is None:
        return model
    return with_adapters(model, config.lora, quantised=config.method == "qlora")


def with_adapters(model: Any, lora: LoraConfig, *, quantised: bool = False) -> Any:
    """Return the model with new adapters; only these are trained."""
    import peft

    if quantised:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=_targets(model, lora),
            layers_to_transform=_chosen_layers(lora),
            bias="none",
            task_type="CAUSAL_LM",
        ),
    )


def _targets(model: Any, lora: LoraConfig) -> str | list[str]:
    if lora.target_modules != "all-linear":
        return list(lora.target_modules)
    if lora.layers_to_transform is None:
        return "all-linear"
    # PEFT chooses among layers only where they are listed by name.
    return sorted({name.rpartition(".")[2] for name, _ in linear_layers(model)})


def _chosen_layers(lora: LoraConfig) -> list[int] | None:
    return None if lora.layers_to_transform is None else list(lora.layers_to_transform)


def loading_arguments(config: TrainingConfig, plan: Plan, device: str) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for the base's weights."""
    import torch

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    # With method full, 32-bit weights take the small updates that 16 bits would round away; computing is in 16 bits then.
    dtype = torch.float32 if config.method == "full" else half.get(plan.precision, torch.float32)
    arguments: dict[str, Any] = {"dtype": dtype, "attn_implementation": plan.attention}
    if config.method == "qlora":
        from transformers import BitsAndBytesConfig

        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        arguments["device_map"] = {"": torch.cuda.current_device() if device == "cuda" else "cpu"}
    return arguments


def _by_unsloth(base: Base, config: TrainingConfig, plan: Plan) -> Any:
    import torch
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        model_name=base.location,
        revision=base.revision,
        max_seq_length=config.max_length,
        dtype=torch.bfloat16 if plan.precision == "bf16" else torch.float16,
        load_in_4bit=config.method == "qlora",
        full_finetuning=config.method == "full",
    )
    if config.lora is None:
        return model
    return FastLanguageModel.get_peft_model(
        model,
        r=config.lora.r,
        lora_alpha=config.lora.lora_alpha,
        lora_dropout=config.lora.lora_dropout,
        target_modules=_targets(model, config.lora),
        layers_to_transform=_chosen_layers(config.lora),
        bias="none",
        use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False,
        random_state=config.seed,
    )


def log_plan(plan: Plan, config: TrainingConfig, devices: int) -> None:
    """Say what ``auto`` came to, and the effective batch."""
    for line in plan.why:
        logger.info("Training: {}.", line)
    logger.info(
        "Effective batch: {} = {} sequences × {} accumulated × {} device(s).",
        config.batch_size * config.gradient_accumulation_steps * devices,
        config.batch_size,
        config.gradient_accumulation_steps,
        devices,
    )
