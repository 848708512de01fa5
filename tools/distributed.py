"""One training by several processes, one for each GPU, as ``accelerate launch`` starts them.

The leader (rank 0) runs the whole pipeline: it keeps the records and writes the model. The others only train.
"""

import os
from typing import Any

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.ports import SilentProgress
from llm_engineering.application.training.finetune.dpo import train_dpo
from llm_engineering.application.training.finetune.record import NoTracker
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.application.training.finetune.sft import train_sft
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.training import find_start
from llm_engineering.domain.errors import ConfigurationError


def is_distributed() -> bool:
    """Say whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_leader() -> bool:
    """Say whether this process is the first, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def check_shared(parameters: StrictConfig) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        ConfigurationError: it is no training; or processes could come to different answers on what to train with.
    """
    if not isinstance(parameters, Training):
        raise ConfigurationError("Only run-training-pipeline can be started by 'accelerate launch'.")
    if parameters.training is not None and parameters.dpo is not None:
        raise ConfigurationError(
            "On several GPUs, SFT and DPO are two runs: one process writes the SFT model, and the others must not start DPO "
            "before it is whole. Run the file with 'training' first, then one with 'dpo'."
        )
    part = parameters.training or parameters.dpo
    if part is not None and part.dataset is None:
        raise ConfigurationError(
            "On several GPUs, the data set is named by its folder ('dataset:' in the YAML), so that all processes take the same."
        )


def join_training(parameters: StrictConfig) -> None:
    """Take part in the training that the first process leads; nothing is recorded or written here."""
    if not isinstance(parameters, Training):
        return
    options: dict[str, Any] = {"tracker": NoTracker(), "progress": SilentProgress()}
    with open_resources() as resources:
        if (sft := parameters.training) is not None and sft.dataset is not None:
            train_sft(
                resources.make_trainer(), sft.sft, sft.dataset, name=sft.name, root=sft.output_dir, **options
            )
        if (dpo := parameters.dpo) is not None and dpo.dataset is not None:
            start = find_start(dpo, resources.registry)
            train_dpo(
                resources.preference_trainer(),
                dpo.dpo,
                dpo.dataset,
                start,
                name=dpo.name,
                root=dpo.output_dir,
                **options,
            )
