"""The parameters of the training pipelines, as their YAML says them."""

from pathlib import Path

from pydantic import Field

from llm_engineering.application.runs import RunPart
from llm_engineering.application.training.config import SftConfig


class SftRun(RunPart):
    """Parameters of the steps that train with instructions and answers."""

    name: str = Field(default="twin", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Of the model; its versions are listed under it."""
    dataset: Path | None = None
    """Folder of the data set; None: the newest ``instruct_dataset`` of the generation pipeline."""
    output: Path = Path("data/trained")
    sft: SftConfig = SftConfig()


class Training(RunPart):
    """Parameters of the pipeline ``training``."""

    training: SftRun = SftRun()
