"""Translate a training configuration into the arguments of TRL's trainers."""

from pathlib import Path
from typing import Any

from llm_engineering.application.training.finetune.config import SftConfig, TrainingConfig
from llm_engineering.application.training.finetune.dpo import DpoConfig
from llm_engineering.application.training.finetune.preflight import Hardware, Plan

_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
_SCHEDULES = {"exponential": "constant_with_warmup"}
"""For the library, where it goes by another name: the decay is added by :class:`.loop.WatchedLoss`."""


def common_arguments(
    config: TrainingConfig,
    plan: Plan,
    checkpoints: Path,
    machine: Hardware,
    *,
    validated: bool,
    resumed: bool,
) -> dict[str, Any]:
    """Arguments that SFT and DPO share.

    Args:
        validated: whether there is a validation set.
        resumed: whether a checkpoint is gone on from, so that the score before the first step is there already.
    """
    best = config.keep_best or config.early_stopping is not None
    schedule = config.optimizer.lr_scheduler_type
    return {
        "output_dir": str(checkpoints),
        "num_train_epochs": config.epochs or 1.0,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.evaluation_batch_size or config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "learning_rate": config.optimizer.learning_rate,
        "lr_scheduler_type": _SCHEDULES.get(schedule, schedule),
        "lr_scheduler_kwargs": {"min_lr": config.optimizer.min_lr} if config.optimizer.min_lr else None,
        "warmup_steps": config.optimizer.warmup_steps,
        "weight_decay": config.optimizer.weight_decay,
        "max_grad_norm": config.optimizer.max_grad_norm,
        "optim": _OPTIMIZERS[config.optimizer.name],
        "optim_args": f"momentum={config.optimizer.momentum}" if config.optimizer.momentum else None,
        "bf16": plan.precision == "bf16",
        "fp16": plan.precision == "fp16",
        "use_cpu": machine.device == "cpu",
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if config.gradient_checkpointing else None,
        "seed": config.seed,
        "data_seed": config.seed,
        "eval_strategy": "steps" if validated and config.eval_steps else "no",
        "eval_steps": config.eval_steps if validated else None,
        "eval_on_start": validated and not resumed,
        "save_strategy": "steps" if config.save_steps else "no",
        "save_steps": config.save_steps or 500,
        "save_total_limit": config.save_total_limit,
        "load_best_model_at_end": best,
        "metric_for_best_model": "eval_loss" if best else None,
        "greater_is_better": False if best else None,
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,  # it would put the last good loss in the place of one that is no number
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": machine.device == "cuda",
        "max_length": config.max_length,
    }


def sft_arguments(
    config: SftConfig, plan: Plan, checkpoints: Path, machine: Hardware, *, validated: bool, resumed: bool
) -> Any:
    """Arguments of the supervised trainer; see :func:`common_arguments`."""
    from trl import SFTConfig

    arguments = SFTConfig(
        **common_arguments(config, plan, checkpoints, machine, validated=validated, resumed=resumed),
        packing=config.packing,
        eval_packing=False,
        packing_strategy="bfd",
        # Sequences come with their labels, made from the template's spans: TRL has nothing to prepare.
        dataset_kwargs={"skip_prepare_dataset": True},
        # The output layer is computed for tokens with loss only, a part at a time; Unsloth brings its own way.
        loss_type="nll" if plan.backend == "unsloth" else "chunked_nll",
    )
    return one_device(arguments, machine)


def dpo_arguments(
    config: DpoConfig, plan: Plan, checkpoints: Path, machine: Hardware, *, validated: bool, resumed: bool
) -> Any:
    """Arguments of the preference trainer; see :func:`common_arguments`."""
    from trl import DPOConfig

    arguments = DPOConfig(
        **common_arguments(config, plan, checkpoints, machine, validated=validated, resumed=resumed),
        beta=config.beta,
        loss_type=config.loss,
        label_smoothing=config.label_smoothing,
    )
    return one_device(arguments, machine)


def one_device(arguments: Any, machine: Hardware) -> Any:
    """Use one device: several GPUs are for ``accelerate launch``, one process each, and not for threads of this one."""
    if machine.devices == 1:
        arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
