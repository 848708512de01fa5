"""The registry: a trained model in, its version, the decision on it and its card out."""

from pathlib import Path
from typing import Annotated, Any

from loguru import logger
from zenml import get_step_context, log_metadata, step
from zenml.types import MarkdownString

from llm_engineering.application.promotion import PromotionPolicy
from llm_engineering.application.registration import read_dataset_manifest, register_model
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.models import EvaluationReport
from steps.resources import step_resources

__all__ = ["PromotionPolicy", "register_and_decide"]


@step(enable_cache=False)
def register_and_decide(
    model: str | dict[str, Any],
    evaluation: dict[str, Any] | None = None,
    policy: PromotionPolicy | None = None,
    dataset: str | None = None,
) -> tuple[Annotated[dict[str, Any], "promotion"], Annotated[MarkdownString, "model_card"]]:
    """Register a model's folder; with an evaluation and a policy, let it go to staging or be refused.

    Args:
        model: path of ``model.json`` or of its folder; or a report with the key ``folder``, as training makes.
        evaluation: an ``EvaluationReport`` as JSON; None: the model is registered, and nothing is decided.
        policy: when it is better; None: nothing is decided.
        dataset: folder of the data set that it was trained on, for the card.
    """
    report = EvaluationReport.model_validate(evaluation) if evaluation is not None else None
    manifest = read_dataset_manifest(Path(dataset)) if dataset else None
    with step_resources() as (twin, _):
        done = register_model(twin.registry, _path(model), report=report, policy=policy, dataset=manifest)
        inputs = [artifact.id for given in get_step_context().inputs.values() for artifact in given]
        twin.registry.link(done.version.name, done.version.number, inputs)
    decision = done.decision
    found: dict[str, Any] = {
        "version": done.version.label,
        "stage": done.version.stage.value,
        "decided": decision is not None,
        "promoted": decision is not None and decision.promoted_to is not None,
        "reasons": list(decision.reasons)
        if decision
        else ["there was no evaluation or no policy to decide by"],
    }
    logger.info("{} is in stage '{}': {}", found["version"], found["stage"], "; ".join(found["reasons"]))
    log_metadata(found)
    return found, MarkdownString(done.card)


def _path(model: str | dict[str, Any]) -> Path:
    folder = model.get("folder") if isinstance(model, dict) else model
    if not isinstance(folder, str) or not folder:
        raise InvalidInputError(
            f"Expected the path of a model's folder, or a report with the key 'folder'; got {type(model).__name__} without it."
        )
    return Path(folder)
