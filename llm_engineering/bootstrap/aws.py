"""Open the account in AWS: endpoints, roles, prices, and what the doctor asks."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llm_engineering.application.deployment.config import Deployment
from llm_engineering.application.deployment.model import DeployableModel, find_model
from llm_engineering.application.deployment.prices import PriceTable
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.ports import LanguageModel
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import SageMakerTrainingSettings, Settings

if TYPE_CHECKING:
    from llm_engineering.infrastructure.aws.clients import AwsClients
    from llm_engineering.infrastructure.aws.endpoint import Endpoints
    from llm_engineering.infrastructure.aws.requests import Plan, ServingPlace
    from llm_engineering.infrastructure.aws.roles import Change, Kind, Scope

PRICES = Path("infra/aws/prices.yaml")


@contextmanager
def open_aws(settings: Settings) -> "Iterator[AwsClients]":
    """Clients of the account and region of SAGEMAKER_REGION, for the time of the block."""
    from llm_engineering.infrastructure.aws.clients import AwsClients

    with closing(AwsClients(settings.sagemaker.region)) as clients:
        yield clients


@contextmanager
def open_endpoints(
    settings: Settings, tell: Callable[[str], object] = lambda _: None
) -> "Iterator[Endpoints]":
    """Model endpoints, for the time of the block; ``tell`` is told each change of a state.

    Raises:
        ConfigurationError: the bucket or the role is not set.
    """
    from llm_engineering.infrastructure.aws.endpoint import Endpoints

    place = _serving_place(settings.sagemaker)
    with open_aws(settings) as clients:
        yield Endpoints(clients, place, tell, settings.sagemaker.poll_seconds)


def plan_deployment(settings: Settings, deployment: Deployment) -> "Plan":
    """Return what deploying a configuration means: with the registry's files, this account's image and role.

    Raises:
        ConfigurationError: the bucket or the role is not set; credentials or region are missing.
        InvalidInputError: the registry holds no such version.
        ModelFileError, TemplateMismatchError: the model's files do not fit.
    """
    from llm_engineering.infrastructure.aws.requests import Plan

    place = _serving_place(settings.sagemaker)
    model = _find_model(settings, deployment)
    with open_aws(settings) as clients:
        given = deployment.container.image
        image = given
        if "{" in given:
            try:
                image = given.format(account=clients.account, region=clients.region)
            except (KeyError, IndexError, ValueError):
                raise ConfigurationError(
                    f"container.image: only {{account}} and {{region}} are replaced, got '{given}'."
                ) from None
    return Plan(deployment, model, place, image)


def check_deployment(endpoints: "Endpoints", plan: "Plan") -> None:
    """Refuse a plan that cannot work, before anything is made or paid for.

    Raises:
        ConfigurationError, DeploymentError: says what to change.
    """
    from llm_engineering.infrastructure.aws.clients import list_instance_types

    endpoints.check(plan, list_instance_types())


def open_endpoint_model(settings: Settings, deployment: Deployment, endpoint: str) -> LanguageModel:
    """Return the language model behind an endpoint, as the twin would use it; close it in the end."""
    from llm_engineering.infrastructure.llms.sagemaker import SageMakerModel

    return SageMakerModel(
        endpoint,
        endpoint if deployment.component is not None else None,
        settings.sagemaker.region,
        context_tokens=deployment.limits.max_total_tokens,
    )


def role_scope(settings: Settings, clients: "AwsClients", bucket: str | None, name: str) -> "Scope":
    """Return what the roles' policies are about: this account and region, and the bucket.

    Raises:
        ConfigurationError: no bucket is named; credentials or region are missing.
    """
    from llm_engineering.infrastructure.aws.roles import Scope

    chosen = bucket or settings.sagemaker.bucket
    if not chosen:
        raise ConfigurationError(
            "The role is bound to one bucket: set SAGEMAKER_BUCKET, or give --bucket NAME."
        )
    return Scope(clients.account, clients.region, chosen, name, settings.sagemaker.prefix)


def render_role(kind: "Kind", scope: "Scope") -> dict[str, dict[str, Any]]:
    """Return a role's documents by what they say."""
    from llm_engineering.infrastructure.aws.roles import render_policy

    return {
        "who may take it": render_policy(f"{kind}_trust", scope),
        "what it may do": render_policy(kind, scope),
    }


def apply_sagemaker_role(
    clients: "AwsClients", kind: "Kind", scope: "Scope", project: str, *, dry_run: bool
) -> "list[Change]":
    """Make a role as the policies say, or change the one that is there into it."""
    from llm_engineering.infrastructure.aws.roles import apply_role

    return apply_role(clients, kind, scope, project, dry_run=dry_run)


def apply_deployer_user(
    clients: "AwsClients", scope: "Scope", project: str, *, keys_file: Path | None, dry_run: bool
) -> "list[Change]":
    """Make a user who may take the deployer's role; keys go into the file that is named, or are not made."""
    from llm_engineering.infrastructure.aws.roles import apply_user

    return apply_user(clients, scope, project, keys_file=keys_file, dry_run=dry_run)


def read_prices(file: Path = PRICES) -> PriceTable:
    """Return the table of prices."""
    return PriceTable.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def _find_model(settings: Settings, deployment: Deployment) -> DeployableModel:
    answering = InferenceConfig().answering
    prompt = f"{answering.prompt}.v{answering.template_version}"
    if deployment.model.name is None:
        return find_model(deployment.model, deployment.container.server, None, prompt)
    with open_resources(settings) as resources:
        return find_model(deployment.model, deployment.container.server, resources.registry, prompt)


def _serving_place(chosen: SageMakerTrainingSettings) -> "ServingPlace":
    from llm_engineering.infrastructure.aws.requests import ServingPlace

    if missing := [
        name
        for name, value in (("SAGEMAKER_ROLE_ARN", chosen.role_arn), ("SAGEMAKER_BUCKET", chosen.bucket))
        if not value
    ]:
        raise ConfigurationError(
            f"An endpoint on SageMaker needs {', '.join(missing)}. Set them; .env.example says what each is, and "
            "create-sagemaker-execution-role makes the role."
        )
    assert chosen.role_arn is not None
    assert chosen.bucket is not None
    return ServingPlace(
        chosen.role_arn,
        chosen.bucket,
        chosen.prefix,
        chosen.kms_key,
        _listed(chosen.subnets),
        _listed(chosen.security_groups),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
