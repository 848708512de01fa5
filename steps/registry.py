"""The registry: a trained model in, its version, the decision on it and its card out."""

from pathlib import Path
from typing import Annotated, Any

from loguru import logger
from zenml import get_step_context, log_metadata, step
from zenml.types import MarkdownString

from llm_engineering.application.training.registry.promotion import PromotionPolicy
from llm_engineering.application.training.registry.register import read_dataset_manifest, register_model
from llm_engineering.domain.datasets import DatasetManifest
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.models import EvaluationReport
from steps.context import open_step_resources

__all__ = ["PromotionPolicy", "decide_on_candidate", "register_and_decide"]


@step(enable_cache=False)
def register_and_decide(
    model: str | dict[str, Any],
    evaluation: dict[str, Any] | None = None,
    policy: PromotionPolicy | None = None,
    dataset: str | None = None,
) -> tuple[Annotated[dict[str, Any], "promotion"], Annotated[MarkdownString, "model_card"]]:
    """Register a model's folder; with an evaluation and a policy, let it go to staging or be refused.

    Args:
        model: path of ``model.json``, a model's folder or location; or a report with the key ``folder``, as training makes.
        evaluation: an ``EvaluationReport`` as JSON; None: the model is registered, and nothing is decided.
        policy: when it is better; None: nothing is decided.
        dataset: folder of the data set that it was trained on, for the card; None: what training has kept beside the model.
    """
    report = EvaluationReport.model_validate(evaluation) if evaluation is not None else None
    manifest = read_dataset_manifest(Path(dataset)) if dataset else None
    found, card = _registered(_location(model), report, policy, manifest)
    return found, card  # written out: ZenML reads from this line that there are two outputs


@step(enable_cache=False)
def decide_on_candidate(
    candidate: dict[str, Any], evaluation: dict[str, Any], policy: PromotionPolicy | None = None
) -> tuple[Annotated[dict[str, Any], "promotion"], Annotated[MarkdownString, "model_card"]]:
    """Put the evaluation into the registry beside the newest model that it measured, and decide on that one.

    Args:
        candidate: the key ``folder``; without it there is none, because no trained model was evaluated or it serves already.
        policy: when it is better; None: nothing is decided.
    """
    if "folder" not in candidate:
        reason = str(candidate["reason"])
        logger.info("Nothing to decide: {}.", reason)
        none = {"version": "", "stage": "", "decided": False, "promoted": False, "reasons": [reason]}
        return none, MarkdownString("")
    report = EvaluationReport.model_validate(evaluation)
    found, card = _registered(candidate["folder"], report, policy, None)
    return found, card


def _registered(
    location: str,
    report: EvaluationReport | None,
    policy: PromotionPolicy | None,
    dataset: DatasetManifest | None,
) -> tuple[dict[str, Any], MarkdownString]:
    with open_step_resources() as (resources, _):
        folder = resources.shared_files.fetch(location)
        done = register_model(resources.registry, folder, report=report, policy=policy, dataset=dataset)
        inputs = [artifact.id for given in get_step_context().inputs.values() for artifact in given]
        resources.registry.link(done.version.name, done.version.number, inputs)
    decision = done.decision
    undecided = "not evaluated yet" if report is None else "no policy to decide by ('promotion:' in the YAML)"
    found: dict[str, Any] = {
        "version": done.version.label,
        "stage": done.version.stage.value,
        "decided": decision is not None,
        "promoted": decision is not None and decision.promoted_to is not None,
        "reasons": list(decision.reasons) if decision else [undecided],
    }
    logger.info("{} is in stage '{}': {}", found["version"], found["stage"], "; ".join(found["reasons"]))
    log_metadata(found)
    return found, MarkdownString(done.card)


def _location(model: str | dict[str, Any]) -> str:
    folder = model.get("folder") if isinstance(model, dict) else model
    if not isinstance(folder, str) or not folder:
        raise InvalidInputError(
            f"Expected the path of a model's folder, or a report with the key 'folder'; got {type(model).__name__} without it."
        )
    return folder
