"""Direct preference optimisation (Rafailov et al. 2023): a trained SFT model and preference pairs in, a better model out.

The reference that rewards are measured against is the SFT model: a frozen second copy of its adapter over the same base,
switched to for the reference's half of each step.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from loguru import logger
from pydantic import Field, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.chat_templates import ChatTemplate, TemplateUse, check_contract
from llm_engineering.application.ports import ExperimentTracker, Message, Progress
from llm_engineering.application.training.finetune.config import LoraConfig, TrainingConfig
from llm_engineering.application.training.finetune.data import open_dataset, read_preferences
from llm_engineering.application.training.finetune.labels import IGNORED, ChatTokenizer, encode_chat
from llm_engineering.application.training.finetune.model_folder import verify_folder
from llm_engineering.application.training.finetune.sft import (
    MANIFEST,
    TrainedModel,
    finish_stage,
    load_model_folder,
)
from llm_engineering.application.training.finetune.trainer import Trained
from llm_engineering.domain.datasets import PreferenceSample, Split
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import ModelManifest

ADAPTER = "adapter/adapter_model.safetensors"
_INHERITED = ("base_model", "revision", "template", "method", "lora")


class DpoConfig(TrainingConfig):
    """Preference training. Base, template, method and adapters are those of the SFT model."""

    backend: Literal["auto", "trl"] = "auto"
    """Unsloth is for SFT: this one runs on plain TRL."""
    beta: float = Field(default=0.1, gt=0, le=10)
    """How strongly the reference holds: small values let the model go further from it."""
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs thought to be the wrong way round (conservative DPO)."""
    system: str = ""

    @model_validator(mode="after")
    def _smoothing_has_an_effect(self) -> "DpoConfig":
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(
                f"label_smoothing has no effect with loss '{self.loss}'; it belongs to 'sigmoid'"
            )
        return self


class DpoRun(StrictConfig):
    """Parameters of the step that trains with preferences."""

    RENAMED: ClassVar = {"output": "output_dir"}

    name: str = Field(default="twin", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    sft: Path | None = None
    """Folder of the SFT model to start from; None: the newest of that name under ``output_dir``."""
    dataset: Path | None = None
    """Folder of the data set; None: the newest ``preference_dataset`` of the generation pipeline."""
    output_dir: Path = Path("data/trained")
    dpo: DpoConfig = DpoConfig()

    @model_validator(mode="after")
    def _inherited(self) -> "DpoRun":
        # By value, not by what was set: a run's parameters come back from where they were kept with defaults filled in.
        untouched = DpoConfig()
        changed = [name for name in _INHERITED if getattr(self.dpo, name) != getattr(untouched, name)]
        if changed:
            raise ValueError(
                f"{', '.join(changed)} in 'dpo' would have no effect: DPO goes on with what the SFT model has. Leave it out."
            )
        return self


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A preference pair as tokens; both answers end with the stop token."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    def __len__(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


@dataclass(frozen=True, slots=True)
class DpoJob:
    """A preference training to do."""

    name: str
    config: DpoConfig
    """With base, template, method and adapters of the SFT model."""
    sft: Path
    """Folder of the SFT model, with ``adapter/`` and ``tokenizer/``."""
    train: Sequence[PreferenceSample]
    validation: Sequence[PreferenceSample]
    folder: Path
    base_hash: str | None = None
    """Of the base's weights, as the SFT model has it; None: it does not say."""


class PreferenceTrainer(Protocol):
    """Trains with preferences on the hardware that is there."""

    def train_dpo(self, job: DpoJob, tracker: ExperimentTracker, progress: Progress) -> Trained:
        """Train; leaves ``adapter/`` and ``tokenizer/`` in the job's folder. Raises as :meth:`Trainer.train_sft` does."""
        ...


def train_dpo(
    trainer: PreferenceTrainer,
    config: DpoConfig,
    dataset_folder: Path,
    sft_folder: Path,
    *,
    name: str,
    root: Path,
    tracker: ExperimentTracker,
    progress: Progress,
) -> TrainedModel:
    """Train on preferences from an SFT model; the model goes to ``root/name/RUN``. Doing it again does nothing.

    Raises:
        ModelFileError: the SFT folder is not what its manifest says.
        TemplateMismatchError: data set and SFT model have different chat templates.
        ConfigurationError: the model is no SFT model with an adapter, or see :meth:`Trainer.train_sft`.
        InvalidInputError, TooManyFailuresError, TrainingError: see :meth:`Trainer.train_sft`.
    """
    sft = verify_folder(sft_folder)
    dataset = open_dataset(dataset_folder, "preference", sft.template)
    effective = inherit_from_sft(config, sft)
    folder = root / name / _run_name(effective, dataset.hash, sft)
    if (folder / MANIFEST).exists():
        logger.info("Already trained with this configuration and data: {}. Delete it to train again.", folder)
        return load_model_folder(folder)
    train, validation = (read_preferences(dataset, split) for split in (Split.TRAIN, Split.VALIDATION))
    job = DpoJob(name, effective, sft_folder, train, validation, folder, sft.base_hash)
    trained = trainer.train_dpo(job, tracker, progress)
    return finish_stage("dpo", name, effective, dataset, trained, folder, parent=sft.files[ADAPTER])


def inherit_from_sft(config: DpoConfig, sft: ModelManifest) -> DpoConfig:
    """Return the configuration with what the SFT model decides.

    Raises:
        ConfigurationError: the model has no adapter, is none of SFT, or learned another template than is known here.
    """
    if sft.stage != "sft" or ADAPTER not in sft.files:
        raise ConfigurationError(
            f"DPO starts from the adapter of an SFT model; {sft.name} is of the stage '{sft.stage}' and the method "
            f"'{sft.method}'. Train one with method 'lora' or 'qlora': {POE} run-training-pipeline"
        )
    check_contract(
        TemplateUse.of_this_version("the training run", sft.template),
        TemplateUse(f"the SFT model {sft.name}", sft.template, sft.template_hash),
    )
    told = {
        "base_model": sft.base,
        "revision": sft.base_revision,
        "template": sft.template,
        "method": sft.method,
        "lora": _with_present_names(sft.config["lora"]),
    }
    system = sft.config.get("system", "")
    if config.system and config.system != system:
        raise ConfigurationError(
            f"The SFT model was trained with the system message {system!r}; 'system' says {config.system!r}. Use the same."
        )
    return DpoConfig.model_validate({**config.model_dump(), **told, "system": system})


def _with_present_names(lora: object) -> object:
    # A model trained before the keys took PEFT's names has the former ones in its manifest.
    if not isinstance(lora, Mapping):
        return lora
    return {LoraConfig.RENAMED.get(key, key): value for key, value in lora.items()}


def newest_sft(root: Path, name: str) -> Path:
    """Return the folder of the SFT model of that name that was finished last.

    Raises:
        ConfigurationError: there is none.
    """
    found = []
    for file in (root / name).glob(f"*/{MANIFEST}"):
        manifest = load_model_folder(file.parent).manifest
        if manifest.stage == "sft":
            found.append((manifest.created_at, file.parent))
    if not found:
        raise ConfigurationError(
            f"There is no SFT model under {root / name} to start from. Train one: {POE} run-training-pipeline; or name a folder "
            "('sft:' in the YAML). Where another machine trained it, set SHARED_FILES_URI on both; the registry knows it then."
        )
    return max(found)[1]


def encode_pair(
    sample: PreferenceSample, template: ChatTemplate, tokenizer: ChatTokenizer, system: str = ""
) -> EncodedPair:
    """Return a pair as tokens: the same prompt, and each answer with its stop token and nothing behind it."""
    head = [Message("system", system)] if system else []
    prompts, answers = [], []
    for answer in (sample.chosen, sample.rejected):
        messages = [*head, Message("user", sample.prompt), Message("assistant", answer)]
        encoded = encode_chat(template.render(messages), tokenizer)
        places = [place for place, label in enumerate(encoded.labels) if label != IGNORED]
        prompts.append(encoded.input_ids[: places[0]])
        answers.append(encoded.input_ids[places[0] : places[-1] + 1])
    if prompts[0] != prompts[1]:
        raise InvalidInputError(
            f"The prompt of a pair has other tokens before each answer: {sample.prompt!r}"
        )
    return EncodedPair(prompts[0], answers[0], answers[1])


def _run_name(config: DpoConfig, dataset_hash: str, sft: ModelManifest) -> str:
    told = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    parts = f"dpo\x00{told}\x00{config.chat_template_hash}\x00{dataset_hash}\x00{sft.files[ADAPTER]}"
    return hashlib.sha256(parts.encode()).hexdigest()[:12]
