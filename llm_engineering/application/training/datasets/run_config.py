"""Parameters of the data-set pipelines, as in their YAML."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.batch import BatchConfig
from llm_engineering.application.llm.chat_templates import template_names
from llm_engineering.application.llm.judges import JudgeNames
from llm_engineering.application.training.datasets.config import QualityConfig
from llm_engineering.application.training.datasets.evolution import Evolution
from llm_engineering.application.training.datasets.feedback import FeedbackConfig
from llm_engineering.application.training.datasets.model_pairs import ModelPairs
from llm_engineering.application.training.datasets.passages import PassageConfig
from llm_engineering.application.training.datasets.preferences import Rejected
from llm_engineering.application.training.datasets.template_instructions import TemplateInstructions


class DatasetRun(StrictConfig):
    """What both kinds of data sets share."""

    RENAMED: ClassVar = {"asking": "requests"}

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")
    folder: Path = Path("data/datasets")
    """The data set is written to ``folder/name/version``."""
    author: str | None = None
    """Only this author's documents; None: everybody's."""
    passages: PassageConfig = PassageConfig()
    max_passages: int | None = Field(default=None, ge=1)
    """At most so many, drawn by seed; None: all."""
    requests: BatchConfig = BatchConfig()
    quality: QualityConfig = QualityConfig()
    """Gates that every sample must pass, and the shares of the splits."""
    protected: tuple[Path, ...] = ()
    """Files of evaluation texts (JSON Lines, or plain text) that nothing in the data set may overlap with."""
    judges: JudgeNames = ()
    """Language models that score what the gates let through; what they score low is dropped as ``quality.judge`` says."""
    chat_template: str = "chatml"
    """The template that a model is to be trained with; its hash goes into the manifest."""
    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the things asked of the model that may come to nothing before the run fails."""
    seed: int = 0

    @field_validator("chat_template")
    @classmethod
    def _known_template(cls, value: str) -> str:
        if value not in template_names():
            raise ValueError(f"there is no chat template '{value}'; there are: {', '.join(template_names())}")
        return value


class InstructDatasetRun(DatasetRun):
    """Parameters of the steps that make an instruction data set."""

    name: str = Field(default="instruct", pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")
    RENAMED: ClassVar = {"back_translation": "template_instructions"}

    template_instructions: TemplateInstructions | None = TemplateInstructions()
    """Instructions by rule; None: none."""
    model_pairs: ModelPairs | None = None
    """Instructions, or pairs, by the language model; None: none."""
    evolution: Evolution | None = None
    """Evolve instructions with the language model; None: leave them."""
    feedback: FeedbackConfig | None = FeedbackConfig()
    """Make samples of up-voted questions; None: no."""

    @model_validator(mode="after")
    def _from_somewhere(self) -> "InstructDatasetRun":
        if self.template_instructions is None and self.model_pairs is None and self.feedback is None:
            raise ValueError("nothing would be made: give template_instructions, model_pairs or feedback")
        return self

    @property
    def needs_model(self) -> bool:
        """Whether making samples asks a language model."""
        return self.model_pairs is not None or self.evolution is not None


class PreferenceDatasetRun(DatasetRun):
    """Parameters of the steps that make a preference data set."""

    name: str = Field(default="preference", pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")
    RENAMED: ClassVar = {"back_translation": "template_instructions"}

    template_instructions: TemplateInstructions | None = TemplateInstructions(per_passage=1)
    """Prompts by rule; None: none."""
    model_pairs: ModelPairs | None = None
    """Prompts by the language model; None: none."""
    rejected: Rejected | None = Rejected()
    """Let the language model write the worse answers; None: only feedback gives triples."""
    feedback: FeedbackConfig | None = FeedbackConfig()
    """Make triples of down-voted answers; None: no."""

    @model_validator(mode="after")
    def _from_somewhere(self) -> "PreferenceDatasetRun":
        if self.rejected is None and self.feedback is None:
            raise ValueError("nothing would be made: give 'rejected' or 'feedback'")
        if self.rejected is not None and self.template_instructions is None and self.model_pairs is None:
            raise ValueError("there would be no prompts: give template_instructions or model_pairs")
        if self.model_pairs is not None and self.model_pairs.answers != "author":
            raise ValueError(
                "'chosen' is the author's own text, so model_pairs.answers must be 'author' here"
            )
        return self

    @property
    def needs_model(self) -> bool:
        """Whether making samples asks a language model."""
        return self.rejected is not None


class GenerateInstructDataset(StrictConfig):
    """Parameters of the pipeline ``generate_instruct_dataset``."""

    instruct: InstructDatasetRun = InstructDatasetRun()


class GeneratePreferenceDataset(StrictConfig):
    """Parameters of the pipeline ``generate_preference_dataset``."""

    preference: PreferenceDatasetRun = PreferenceDatasetRun()
