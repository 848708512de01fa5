"""A training run at Weights & Biases: online, or as a folder that ``wandb sync`` uploads later."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llm_engineering.application.training.finetune.tracking import flatten
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError

_QUIET = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
_TOLD: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
}
"""What is sent is the run's parameters and numbers: nothing of the machine, its code or its output."""


class WandbTracker:
    """One run for each training.

    Args:
        api_key: for ``online``.
        folder: where runs are kept until they are sent; with ``offline``, for good.

    Raises:
        ConfigurationError: online without a key.
        MissingDependencyError: the SDK is not installed.
    """

    def __init__(
        self,
        mode: Literal["online", "offline"],
        api_key: str | None,
        project: str,
        entity: str | None,
        folder: Path,
    ) -> None:
        if mode == "online" and not api_key:
            raise ConfigurationError(
                "Weights & Biases online needs TRACKING_WANDB_API_KEY; or set TRACKING_WANDB=offline for files on this machine."
            )
        if importlib.util.find_spec("wandb") is None:
            raise MissingDependencyError("wandb", "training", "Tracking with Weights & Biases")
        self._mode = mode
        self._key = api_key
        self._project = project
        self._entity = entity
        self._folder = folder
        self._run: Any = None

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Begin a run with these parameters."""
        for variable, value in _QUIET.items():
            os.environ.setdefault(variable, value)
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._project,
            entity=self._entity,
            name=name,
            config=flatten(parameters),
            dir=str(self._folder),
            settings=wandb.Settings(mode=self._mode, api_key=self._key, **_TOLD),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to the curve of each metric."""
        self._run.log(dict(metrics), step=step)

    def finish(self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]) -> None:
        """End the run; what is still to be sent is sent."""
        self._run.summary.update({"status": status, **{f"summary.{k}": v for k, v in summary.items()}})
        self._run.finish(exit_code=1 if status == "failed" else 0)
