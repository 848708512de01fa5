"""TRL on CPU or CUDA, with Unsloth where it is installed and there is a GPU.

Nothing here imports torch before a training begins.
"""

from llm_engineering.infrastructure.training.trl.base import Bases
from llm_engineering.infrastructure.training.trl.trainer import TrlTrainer

__all__ = ["Bases", "TrlTrainer"]
