"""Secrets that a container fetches itself, with its role."""

import json

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.shared.aws import require_boto3
from llm_engineering.infrastructure.training.sagemaker.faults import explain_failures


def read_secret(name: str, region: str | None = None) -> dict[str, str]:
    """Return environment variables from a secret of AWS Secrets Manager: a JSON object of names and values.

    Raises:
        ConfigurationError: it is none, or may not be read; its content is never told.
        TrainingError: AWS cannot be asked.
        MissingDependencyError: boto3 is not installed.
    """
    require_boto3("Training on SageMaker")
    import boto3

    with explain_failures(f"Reading the secret {name}"):
        text = (
            boto3.Session(region_name=region)
            .client("secretsmanager")
            .get_secret_value(SecretId=name)["SecretString"]
        )
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ConfigurationError(
            f'The secret {name} is no JSON object of names and texts, such as {{"HF_TOKEN": "…"}}. Write it so.'
        )
    return found
