"""The systems that are evaluated, and the port they answer through."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llm_engineering.application.llm.chat_templates import ChatTemplate, TemplateUse, check_contract
from llm_engineering.application.ports import Message, Progress
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import ModelManifest, Score


@dataclass(frozen=True, slots=True)
class System:
    """A model to evaluate."""

    name: str
    """``base``, ``production``, ``sft``, ``dpo``."""
    label: str
    """The model's content hash or version; of a base model its name."""
    base: str
    template: str
    revision: str | None = None
    adapter: Path | None = None
    """Folder of a PEFT adapter over the base."""
    weights: Path | None = None
    """Folder of a whole model, in place of base and adapter."""
    system_message: str = ""
    """What the model was trained with, and gets here."""
    manifest: ModelManifest | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """An answer of a system."""

    text: str
    tokens: int
    cut: bool
    """It ended at the limit of tokens, not at the stop token."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How probable a system finds the author's answer."""

    nll: float
    """Sum of the negative log-likelihoods of the answer's tokens, stop token included, in nats."""
    tokens: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A system in memory, for a tool that asks it questions of its own. Valid while the system is open."""

    network: Any
    """Of transformers, the system's adapter switched on."""
    tokenizer: Any
    template: ChatTemplate


class AnsweringModel(Protocol):
    """A model on this machine.

    Raises:
        ModelError: it failed.
    """

    @property
    def loaded(self) -> LoadedModel: ...

    def generate_answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        repetition_penalty: float,
        batch_size: int,
        progress: Progress,
    ) -> list[Written]:
        """Return greedy answers, in the order given. A prompt that leaves no room in the context gets an empty, cut
        answer.

        Args:
            max_tokens: of an answer.
            repetition_penalty: what the logits of tokens that an answer holds already are divided by; 1: none.
        """
        ...

    def compute_likelihoods(
        self, conversations: Sequence[Sequence[Message]], *, batch_size: int, progress: Progress
    ) -> list[Likelihood | None]:
        """Return the likelihood of each last message, the assistant's, given those before it; None: it is too long for the
        model."""
        ...


class AnsweringModels(Protocol):
    """Opens systems one after the other; those over one base share it in memory."""

    def open(self, system: System) -> AbstractContextManager[AnsweringModel]:
        """
        Raises:
            ConfigurationError: there is no such model, or its tokenizer does not know the template.
            ModelFileError: its files cannot be loaded.
        """
        ...


class Harness(Protocol):
    """Tasks of lm-evaluation-harness."""

    def prepare(self) -> None:
        """Load the tasks and their data, so that what is missing is told before models work for minutes.

        Raises:
            MissingDependencyError: lm-evaluation-harness is not installed.
            ConfigurationError: there is no such task, or its data cannot be had.
        """
        ...

    def compute_scores(self, system: System, model: LoadedModel) -> list[Score]:
        """Return the tasks' metrics of an open system, named ``harness/TASK/METRIC``.

        Raises:
            ModelError: the model failed.
        """
        ...


def open_trained(name: str, folder: Path, manifest: ModelManifest, label: str | None = None) -> System:
    """Return a trained model's folder as a system.

    Raises:
        TemplateMismatchError: it was trained with another definition of its chat template than the code has now.
        ConfigurationError: the folder holds neither adapter nor weights.
    """
    check_contract(
        TemplateUse.of_this_version("the evaluation", manifest.template),
        TemplateUse(f"the model in {folder.name}", manifest.template, manifest.template_hash),
    )
    adapter, merged = folder / "adapter", folder / "merged"
    if not adapter.is_dir() and not merged.is_dir():
        raise ConfigurationError(
            f"{folder} holds neither adapter/ nor merged/; train the model again, or name another folder."
        )
    return System(
        name=name,
        label=label or manifest.content_hash,
        base=manifest.base,
        revision=manifest.base_revision,
        template=manifest.template,
        adapter=adapter if adapter.is_dir() else None,
        weights=None if adapter.is_dir() else merged,
        system_message=str(manifest.config.get("system", "")),
        manifest=manifest,
    )


def base_system(of: System | None, base: str | None, template: str) -> System:
    """Return the base model, asked in the same format as the model made from it.

    Raises:
        ConfigurationError: none is named, and there is no trained model to tell it.
    """
    if of is not None and base in (None, of.base):
        return System("base", of.base, of.base, of.template, of.revision, system_message=of.system_message)
    if base is None:
        raise ConfigurationError(
            "Which base model? No trained model is there to tell; name one ('base:' in the YAML), or train first: "
            f"{POE} run-training-pipeline"
        )
    return System("base", base, base, template)


def newest_folder(root: Path, name: str, stage: str) -> tuple[Path, ModelManifest] | None:
    """Return the newest trained model of a name and stage (``sft``, ``dpo``); None: there is none."""
    found = [
        (manifest.created_at, folder, manifest)
        for folder in sorted((root / name).glob("*"))
        if (folder / "model.json").is_file() and (manifest := read_manifest(folder)).stage == stage
    ]
    if not found:
        return None
    _, folder, manifest = max(found, key=lambda item: item[0])
    return folder, manifest


def read_manifest(folder: Path) -> ModelManifest:
    """Return ``model.json`` of a trained model's folder.

    Raises:
        ConfigurationError: it is not there, or is none.
    """
    try:
        return ModelManifest.model_validate_json((folder / "model.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder} holds no trained model: {error}") from None
