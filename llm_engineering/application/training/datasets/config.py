"""Quality settings of a data set: gates, length bias, splits, judges. Unknown keys are errors."""

import re
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.batch import BatchConfig
from llm_engineering.application.llm.chat_templates import template_names
from llm_engineering.application.llm.judges import JudgeBatchConfig, JudgeNames
from llm_engineering.application.training.datasets.feedback import FeedbackConfig
from llm_engineering.application.training.datasets.instructions import TemplateInstructions
from llm_engineering.application.training.datasets.model_pairs import Evolution, ModelPairs
from llm_engineering.application.training.datasets.passages import PassageConfig
from llm_engineering.application.training.datasets.preferences import Rejected

GateName = Literal[
    "format",
    "length",
    "rules",
    "language",
    "verbatim",
    "differs",
    "exact_duplicates",
    "near_duplicates",
    "semantic_duplicates",
]
ALL_GATES: tuple[GateName, ...] = (
    "format",
    "length",
    "rules",
    "language",
    "verbatim",
    "differs",
    "exact_duplicates",
    "near_duplicates",
)


class LengthBounds(StrictConfig):
    """Lengths of the texts. What is longer than the training's ``max_length`` would be cut there, or refused."""

    prompt_characters: tuple[int, int] = (8, 4_000)
    answer_characters: tuple[int, int] = (20, 8_000)
    max_tokens: int | None = Field(default=2_048, gt=0)
    """Tokens of prompt and answer in the chat template; None: not checked."""

    @field_validator("prompt_characters", "answer_characters")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"[least, most] with 0 < least ≤ most is needed, not {list(value)}")
        return value


class RuleBounds(StrictConfig):
    """Rules of thumb for text that is no prose."""

    RENAMED: ClassVar = {
        "least_letters": "min_letter_share",
        "most_links": "max_links",
        "most_repeated": "max_repeated_share",
    }

    min_letter_share: float = Field(default=0.5, ge=0, le=1)
    """Share of letters among the characters that are no blank space."""
    max_links: int = Field(default=8, ge=0)
    max_repeated_share: float = Field(default=0.3, gt=0, le=1)
    """Share of four-word runs that have stood before in the same text."""
    forbidden: tuple[str, ...] = ()
    """Regular expressions; a text that one of them matches is dropped. Case does not matter."""

    @field_validator("forbidden")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return value


class DecontaminationConfig(StrictConfig):
    """When a text counts as seen before."""

    words: int = Field(default=8, ge=2, le=50)
    """Length of the compared word sequences."""
    share: float = Field(default=0.1, gt=0, le=1)
    """Least share of the shorter text's sequences that the other text holds too. With 8 words and 0.1, a quarter of a passage
    of 100 words is found though one of its words is changed; of fifths, most are missed."""


class LengthBias(StrictConfig):
    """How far ``chosen`` may be told from ``rejected`` by length alone. A model learns that first, and little else."""

    RENAMED: ClassVar = {
        "most_share_longer": "max_longer_share",
        "most_effect": "max_effect_size",
        "beyond": "on_exceed",
        "least_pairs": "min_pairs",
    }

    max_longer_share: float = Field(default=0.65, ge=0.5, le=1)
    """Largest share of pairs in which the same side is the longer one; pairs of equal length count half."""
    max_effect_size: float = Field(default=0.33, gt=0, le=1)
    """Largest Cliff's delta, either sign. 0.147 is called negligible, 0.33 small, 0.474 medium."""
    on_exceed: Literal["error", "drop", "report"] = "drop"
    """``drop``: leave out the most unequal pairs until both bounds hold."""
    min_pairs: int = Field(default=2, ge=1)
    """With fewer left, dropping has failed, which is an error."""


class SplitShares(StrictConfig):
    """Shares of the documents (not of the samples)."""

    train: float = Field(default=0.8, gt=0, le=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, not {total:g}")
        return self


class JudgeConfig(StrictConfig):
    """What the run's ``judges`` decide. Costs one call (of pairs, two) a sample and judge."""

    RENAMED: ClassVar = {"least_score": "min_score", "unjudged": "on_missing", "asking": "requests"}

    min_score: float = Field(default=2.5, ge=1, le=4)
    """Samples whose mean score over the judges is below are dropped (rubric from 1 to 4)."""
    pairwise: bool = True
    """Of preference pairs: drop those whose rejected answer the majority of the judges finds better."""
    on_missing: Literal["keep", "drop"] = "keep"
    """What no judge gave an opinion on, because none answered usably, all were down, or the budget was spent. Kept samples
    are counted in the report and named in ``judgements.jsonl``."""
    max_tokens: int = Field(default=160, gt=0)
    """Of a reply."""
    requests: JudgeBatchConfig = JudgeBatchConfig()


class QualityConfig(StrictConfig):
    """The gates in their order, and what each is told."""

    gates: tuple[GateName, ...] = ALL_GATES
    lengths: LengthBounds = LengthBounds()
    rules: RuleBounds = RuleBounds()
    near_duplicate_similarity: float = Field(default=0.8, ge=0.5, le=1)
    """Least estimated share of common five-word sequences; texts of fewer than 50 words are compared exactly only."""
    semantic_similarity: float = Field(default=0.95, gt=0, le=1)
    """Least cosine of the embeddings, for the gate ``semantic_duplicates``, which is off unless named."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    length_bias: LengthBias = LengthBias()
    splits: SplitShares = SplitShares()
    judge: JudgeConfig = JudgeConfig()

    @field_validator("gates")
    @classmethod
    def _once(cls, value: tuple[GateName, ...]) -> tuple[GateName, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a gate is named twice")
        return value


class RecordSamples(StrictConfig):
    """Samples of records (tickets, transcripts, notes) beside those of passages: give one of ``answer``, ``speakers``,
    ``labels_of``."""

    categories: tuple[str, ...] = Field(min_length=1)
    platforms: tuple[str, ...] = ()
    """Tables' names, whose records alone are read; none: all."""
    answer: str | None = None
    """Metadata that holds the answer to the record's text, such as a ticket's resolution."""
    speakers: dict[str, Literal["user", "assistant"]] | None = None
    """Of transcripts: name at the beginning of a line → who it is. Every turn of the assistant is learned."""
    labels_of: str | None = None
    """Name of an analysis whose corrections are the answer, as JSON."""
    instruction: str = ""
    """What stands before the record's text, such as: Fill the fields as JSON."""
    group_by: str | None = None
    """Metadata (``client``, ``thread``, ``product``) whose records stay on one side of every split."""

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        given = [name for name in ("answer", "speakers", "labels_of") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"expected one of answer, speakers and labels_of, got {', '.join(given) or 'none'}"
            )
        if self.speakers and set(self.speakers.values()) != {"user", "assistant"}:
            raise ValueError("speakers need a user and an assistant")
        return self


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
    records: RecordSamples | None = None
    """Make samples of records; None: no."""

    @property
    def needs_passages(self) -> bool:
        """Whether samples are made of passages of prose."""
        return any((self.template_instructions, self.model_pairs, self.feedback))

    @model_validator(mode="after")
    def _from_somewhere(self) -> "InstructDatasetRun":
        if not self.needs_passages and self.records is None:
            raise ValueError(
                "nothing would be made: give template_instructions, model_pairs, feedback or records"
            )
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
    """Make triples of down-voted answers and of edited drafts; None: no."""

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
