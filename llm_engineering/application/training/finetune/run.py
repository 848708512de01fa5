"""Parameters of the training pipelines, as in their YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.dpo import DpoRun


class SftRun(StrictConfig):
    """Parameters of the steps that train with instructions and answers."""

    RENAMED: ClassVar = {"output": "output_dir"}

    name: str = Field(default="twin", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Of the model; its versions are listed under it."""
    dataset: Path | None = None
    """Folder of the data set; None: the newest ``instruct_dataset`` of the generation pipeline."""
    output_dir: Path = Path("data/trained")
    sft: SftConfig = SftConfig()


class Training(StrictConfig):
    """Parameters of the pipeline ``training``: SFT, DPO, or one after the other."""

    training: SftRun | None = SftRun()
    dpo: DpoRun | None = None
    """Starts from what ``training`` has made in the same run, or else from the model that it names."""

    @model_validator(mode="before")
    @classmethod
    def _dpo_alone(cls, values: Any) -> Any:
        """A file that speaks of DPO alone is no wish for SFT with all its defaults."""
        if isinstance(values, Mapping) and values.get("dpo") is not None and "training" not in values:
            return {**values, "training": None}
        return values

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.training is None and self.dpo is None:
            raise ValueError("there is nothing to train: give 'training' (SFT), 'dpo', or both")
        if self.training is not None and self.dpo is not None and self.dpo.sft is not None:
            raise ValueError(
                "dpo.sft has no effect beside 'training': DPO starts from what that has made; leave one out"
            )
        return self
