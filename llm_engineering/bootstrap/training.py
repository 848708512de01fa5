"""Open what training needs outside this machine: jobs, secrets, the hubs of data sets and prompts, the bundled models."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.application.ports import ModelRegistry
from llm_engineering.application.training.finetune.dpo import DpoRun, newest_sft
from llm_engineering.application.training.registry.register import find_newest
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import (
    OpikTracingSettings,
    Settings,
)

if TYPE_CHECKING:
    from llm_engineering.application.ports import HeadLearner, Progress
    from llm_engineering.application.training.datasets.store import SaveForHub
    from llm_engineering.application.training.finetune.search import Study
    from llm_engineering.infrastructure.hub.datasets import DatasetsHub
    from llm_engineering.infrastructure.model_files import BundledModels
    from llm_engineering.infrastructure.registry.local_store import StoreSummary
    from llm_engineering.infrastructure.tracing.opik import OpikPromptLibrary
    from llm_engineering.infrastructure.training.sagemaker import SageMakerJobs
    from llm_engineering.infrastructure.training.tiny import TinyModel


@contextmanager
def open_training_jobs(settings: Settings) -> "Iterator[SageMakerJobs]":
    """Training jobs on SageMaker, for the time of the block.

    Raises:
        ConfigurationError: image, role or bucket are not set.
    """
    from llm_engineering.infrastructure.training.sagemaker import JobPlace, SageMakerJobs

    chosen = settings.sagemaker
    needed = {
        "SAGEMAKER_IMAGE": chosen.image,
        "SAGEMAKER_ROLE_ARN": chosen.role_arn,
        "SAGEMAKER_BUCKET": chosen.bucket,
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise ConfigurationError(
            f"A training job on SageMaker needs {', '.join(missing)}. Set them; .env.example says what each is."
        )
    told = chosen.model_dump(exclude={"poll_seconds", "subnets", "security_groups"})
    told |= {name: _listed(getattr(chosen, name)) for name in ("subnets", "security_groups")}
    with closing(SageMakerJobs(JobPlace(**told), chosen.poll_seconds)) as jobs:
        yield jobs


def read_container_secrets() -> dict[str, str]:
    """Variables from the secret that this container was told the name of; empty where it was told none.

    Raises:
        ConfigurationError, TrainingError: the secret cannot be had.
        MissingDependencyError: boto3 is not in the image.
    """
    from llm_engineering.infrastructure.training.sagemaker import SECRET_VARIABLE, read_secret

    name = os.environ.get(SECRET_VARIABLE)
    # SageMaker tells its containers their region as AWS_REGION, which boto3 does not read.
    return read_secret(name, os.environ.get("AWS_REGION")) if name else {}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def open_datasets_hub(settings: Settings) -> "DatasetsHub":
    """Return the hub that data sets are pushed to; ``HF_ENDPOINT`` names another one than the public.

    Raises:
        ConfigurationError: there is no token.
    """
    from llm_engineering.infrastructure.hub.datasets import DatasetsHub

    if settings.hf_token is None or not settings.hf_token.get_secret_value():
        raise ConfigurationError(
            "There is no token to push with: set HF_TOKEN to one with the right to write (on the hub: Settings, Access "
            "Tokens). Add --dry-run to see what would be pushed."
        )
    return DatasetsHub(settings.hf_token.get_secret_value(), os.environ.get("HF_ENDPOINT") or None)


def load_dataset_saver() -> "SaveForHub":
    """Return what writes splits for the library ``datasets``; it raises MissingDependencyError where that is not
    installed."""
    from llm_engineering.infrastructure.hub.datasets import save_for_hub

    return save_for_hub


def make_head_learner() -> "HeadLearner":
    """Return what learns heads of analyses; it raises MissingDependencyError where scikit-learn is not installed."""
    from llm_engineering.infrastructure.training.heads import LogisticLearner

    return LogisticLearner()


def train_tiny_model(texts: Sequence[str], folder: Path, progress: "Progress", **wanted: Any) -> "TinyModel":
    """Train a language model from nothing; see :func:`llm_engineering.infrastructure.training.tiny.train_tiny_model`."""
    from llm_engineering.infrastructure.training import tiny

    return tiny.train_tiny_model(texts, folder, progress=progress, **wanted)


def open_study(file: Path, subject: str, seed: int) -> "Study":
    """Return the trials of a search of hyper-parameters; see :class:`OptunaStudy`."""
    from llm_engineering.infrastructure.training.search import OptunaStudy

    return OptunaStudy(file, subject, seed)


def quantise_model(source: Path, target: Path, kind: str) -> None:
    """Write a GGUF file's copy in 8 or 4 bits.

    Args:
        kind: ``q8_0``, ``q4_0`` or ``q4_1``.

    Raises:
        InvalidInputError: there is no such kind, or the file is quantised already.
        ModelFileError: it cannot be read.
        MissingDependencyError: the package ``gguf`` is not installed.
    """
    from llm_engineering.infrastructure.training.gguf.quantise import quantise_gguf

    quantise_gguf(source, target, kind)


def open_bundled_models(settings: Settings) -> "BundledModels":
    """Return the bundled models' files, to fetch and to check."""
    from llm_engineering.infrastructure.model_files import BundledModels

    return BundledModels(settings.models_dir)


def read_zenml_store(home: Path) -> "StoreSummary | None":
    """Return what ZenML's local store holds, without importing ZenML; None where it has not been used yet."""
    from llm_engineering.infrastructure.registry.local_store import read_store

    return read_store(home)


@contextmanager
def open_prompt_library(settings: Settings) -> "Iterator[OpikPromptLibrary]":
    """Yield the library of prompts that the tracing settings name.

    Raises:
        ConfigurationError: they name none.
        MissingDependencyError: Opik's SDK is not installed.
    """
    from llm_engineering.infrastructure.tracing.opik import OpikPromptLibrary

    chosen = settings.tracing
    if not isinstance(chosen, OpikTracingSettings):
        raise ConfigurationError(
            "There is no prompt library to push to: set TRACING_KIND=opik, with TRACING_URL for a server of your own or "
            "TRACING_API_KEY for Comet's cloud."
        )
    key = chosen.api_key.get_secret_value() if chosen.api_key else None
    with closing(OpikPromptLibrary(chosen.url, key, chosen.workspace, chosen.project)) as library:
        yield library


def compare_with_references(texts: Sequence[str], references: Sequence[str]) -> Mapping[str, Sequence[float]]:
    """Return scores of each text against its reference, 0 to 1, by metric (``rougeL`` …).

    Raises:
        MissingDependencyError: what computes them is not installed.
    """
    from llm_engineering.infrastructure.evaluation.text_metrics import reference_scores

    return reference_scores(texts, references)


def find_start(run: DpoRun, registry: ModelRegistry) -> Path:
    """Return the folder of the SFT model to train on: the one that the run names; or the newest, which is the registry's where
    machines share files, and is fetched from there.

    Raises:
        ConfigurationError: there is none.
        ModelFileError: its files cannot be fetched.
    """
    if run.sft is not None:
        return run.sft
    newest = find_newest(registry, run.name, "sft") if registry.files.shared else None
    return registry.files.fetch(newest.location) if newest else newest_sft(run.output_dir, run.name)
