"""One training by several processes, one for each GPU, as ``accelerate launch`` starts them.

The first runs the pipeline as ever: it keeps the records and writes the model. The others take part in the training alone.
"""

import os
from typing import Any

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.ports import SilentProgress
from llm_engineering.application.training.finetune.dpo import newest_sft, train_dpo
from llm_engineering.application.training.finetune.record import NoTracker
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.application.training.finetune.sft import train_sft
from llm_engineering.bootstrap import open_resources
from llm_engineering.domain.errors import ConfigurationError


def several_processes() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Whether this process is the first, or the only one."""
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


def help_training(parameters: StrictConfig) -> None:
    """Take part in the training that the first process leads; nothing is recorded or written here."""
    if not isinstance(parameters, Training):
        return
    told: dict[str, Any] = {"tracker": NoTracker(), "progress": SilentProgress()}
    with open_resources() as twin:
        if (sft := parameters.training) is not None and sft.dataset is not None:
            train_sft(twin.trainer(), sft.sft, sft.dataset, name=sft.name, root=sft.output_dir, **told)
        if (dpo := parameters.dpo) is not None and dpo.dataset is not None:
            start = dpo.sft or newest_sft(dpo.output_dir, dpo.name)
            train_dpo(
                twin.preference_trainer(),
                dpo.dpo,
                dpo.dataset,
                start,
                name=dpo.name,
                root=dpo.output_dir,
                **told,
            )
