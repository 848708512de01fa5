"""TRL's preference trainer with throughput and a stop at a NaN loss. Imported only when a training starts."""

from typing import Any

from trl import DPOTrainer

from llm_engineering.infrastructure.training.trl.loop import WatchedLoss


class WatchedDpoTrainer(WatchedLoss, DPOTrainer):  # type: ignore[misc]
    """With pairs that are tokens already, made by the project's own template: there is nothing to prepare."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers loads the adapters in sub-folders, which here is the reference alone: the policy, which lies in the
        # checkpoint itself, would begin again as the SFT model with the optimizer of a later step.
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        policy = self.accelerator.unwrap_model(model or self.model)
        name = policy.active_adapter
        policy.load_adapter(resume_from_checkpoint, name, is_trainable=True)
        policy.set_adapter(name)
