"""Open the account in AWS: endpoints, roles, prices, and what the doctor asks."""

import base64
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from llm_engineering.application.deployment.config import Deployment
from llm_engineering.application.deployment.model import DeployableModel, find_model
from llm_engineering.application.deployment.prices import PriceTable
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.ports import LanguageModel
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import SageMakerTrainingSettings, Settings

if TYPE_CHECKING:
    from llm_engineering.infrastructure.aws.batch import Batches
    from llm_engineering.infrastructure.aws.clients import AwsClients
    from llm_engineering.infrastructure.aws.diagnosis import Running
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


@contextmanager
def open_batches(
    settings: Settings, tell: Callable[[str], object] = lambda _: None
) -> "Iterator[tuple[Batches, str]]":
    """Batches, and the region that they run in, for the time of the block.

    Raises:
        ConfigurationError: the bucket or the role is not set.
    """
    from llm_engineering.infrastructure.aws.batch import Batches

    place = _serving_place(settings.sagemaker)
    with open_aws(settings) as clients:
        yield Batches(clients, place, tell, settings.sagemaker.poll_seconds), clients.region


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
        return Plan(deployment, model, place, _fill_image(clients, deployment.container.image))


def _fill_image(clients: "AwsClients", given: str) -> str:
    if "{" not in given:
        return given
    try:
        return given.format(account=clients.account, region=clients.region)
    except (KeyError, IndexError, ValueError):
        raise ConfigurationError(
            f"container.image: only {{account}} and {{region}} are replaced, got '{given}'."
        ) from None


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


class Account:
    """What the doctor asks of the account."""

    def __init__(self, settings: Settings, deployment: Deployment, clients: "AwsClients") -> None:
        self._settings = settings
        self._deployment = deployment
        self._clients = clients

    @property
    def region(self) -> str:
        return self._clients.region

    @property
    def scope(self) -> "Scope | None":
        """What the policies are about; None: no bucket is set."""
        if self._settings.sagemaker.bucket is None:
            return None
        return role_scope(self._settings, self._clients, None, self._deployment.endpoint)

    @property
    def images(self) -> dict[str, str]:
        """Images by the setting that names them."""
        found = {"container.image": _fill_image(self._clients, self._deployment.container.image)}
        if self._settings.sagemaker.image:
            found["SAGEMAKER_IMAGE"] = self._settings.sagemaker.image
        return found

    @property
    def quotas_page(self) -> str:
        from llm_engineering.infrastructure.aws.faults import QUOTAS

        return QUOTAS

    def find_caller(self) -> str:
        """Return the ARN of the role or user that the credentials belong to."""
        from llm_engineering.infrastructure.aws.diagnosis import find_caller

        return find_caller(self._clients)

    def find_missing_rights(self, principal: str, kind: "Kind") -> list[str] | None:
        """Return which actions of a policy a role or user may not do; None: it may not be asked."""
        from llm_engineering.infrastructure.aws.diagnosis import find_missing_rights

        scope = self.scope
        return None if scope is None else find_missing_rights(self._clients, principal, kind, scope)

    def check_execution_role(self, arn: str) -> str:
        """Return what is wrong with the containers' role; empty: nothing is."""
        from llm_engineering.infrastructure.aws.diagnosis import check_execution_role

        return check_execution_role(self._clients, arn)

    def check_bucket(self, bucket: str) -> str:
        """Return what is wrong with the bucket; empty: nothing is."""
        from llm_engineering.infrastructure.aws.diagnosis import check_bucket

        return check_bucket(self._clients, bucket)

    def check_image(self, image: str) -> str:
        """Return what is wrong with an image; empty: nothing is."""
        from llm_engineering.infrastructure.aws.endpoint import is_pushed

        return "" if is_pushed(self._clients, image) else f"{image} was never pushed"

    def find_quota(self, instance_type: str) -> float | None:
        """Return how many machines of a type may serve models; None: nobody says."""
        from llm_engineering.infrastructure.aws.diagnosis import find_quota

        return find_quota(self._clients, instance_type)

    def find_running(self) -> "list[Running]":
        """Return what is paid for by the hour now: endpoints and jobs, whoever's they are."""
        from llm_engineering.infrastructure.aws.diagnosis import Running, find_running_jobs
        from llm_engineering.infrastructure.aws.endpoint import Endpoints
        from llm_engineering.infrastructure.aws.requests import ServingPlace

        states = Endpoints(self._clients, ServingPlace("", "")).list_endpoints()
        serving = [Running(f"endpoint {one.name}", one.instance_type, one.instances) for one in states]
        return serving + find_running_jobs(self._clients)


@contextmanager
def open_account(settings: Settings, deployment: Deployment) -> Iterator[Account]:
    """Yield what the doctor asks of the account, for the time of the block."""
    with open_aws(settings) as clients:
        yield Account(settings, deployment, clients)


def fetch_registry_login(registry: str, region: str) -> tuple[str, str]:
    """Return user and password of Amazon's image registry, which hold for twelve hours.

    Raises:
        MissingDependencyError: boto3 is not installed.
        ConfigurationError, DeploymentError: AWS does not know or let in who asks, or cannot be reached.
    """
    from llm_engineering.infrastructure.aws.clients import AwsClients
    from llm_engineering.infrastructure.aws.faults import explain_failures

    with (
        closing(AwsClients(region)) as clients,
        explain_failures(f"Logging in to {registry}, which takes the right ecr:GetAuthorizationToken,"),
    ):
        told = clients.get("ecr").get_authorization_token()
    user, _, password = (
        base64.b64decode(told["authorizationData"][0]["authorizationToken"]).decode().partition(":")
    )
    return user, password


def read_prices(file: Path = PRICES) -> PriceTable:
    """Return the table of prices.

    Raises:
        ConfigurationError: the file is not there, or is no such table.
    """
    try:
        return PriceTable.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"The prices {file} cannot be read: {error.strerror}.") from None
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The prices {file} are no table of prices: {error}") from None


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
