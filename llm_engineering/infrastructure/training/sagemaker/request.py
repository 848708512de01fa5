"""The request that starts a training job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_engineering.application.training.finetune.remote import RemoteRun
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.shared.aws import refuse_secrets

SECRET_VARIABLE = "TWIN_SECRET"
"""Tells the container the name of its secret in Secrets Manager, never what is in it."""
PROJECT = "/app"
"""The project's folder in the image."""
_HOUR = 3600


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where jobs run, and with what."""

    image: str
    """In ECR: ``ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG``."""
    role_arn: str
    """What the container may do: read and write the bucket, write logs, read its secret."""
    bucket: str
    prefix: str = "twin"
    region: str | None = None
    instance_type: str = "ml.g5.xlarge"
    instance_count: int = 1
    volume_gb: int = 100
    max_hours: float = 24.0
    spot: bool = False
    max_wait_hours: float = 48.0
    """Of a spot job: waiting for a machine and training, together."""
    kms_key: str | None = None
    """For what is written to the bucket."""
    volume_kms_key: str | None = None
    """For the machine's volume; machines with disks of their own (g5, p4d, …) take none."""
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    secret: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what AWS would refuse later, or what would show a secret to everybody who may look at jobs.

        Raises:
            ConfigurationError: says which setting to change.
        """
        refuse_secrets(self.environment, "SAGEMAKER_ENVIRONMENT", "SAGEMAKER_SECRET")
        if bool(self.subnets) != bool(self.security_groups):
            raise ConfigurationError(
                "SAGEMAKER_SUBNETS and SAGEMAKER_SECURITY_GROUPS are set together or not at all."
            )
        if self.spot and self.max_wait_hours < self.max_hours:
            raise ConfigurationError(
                f"SAGEMAKER_MAX_WAIT_HOURS ({self.max_wait_hours:g}) counts the training too, so it cannot be less than "
                f"SAGEMAKER_MAX_HOURS ({self.max_hours:g})."
            )

    def object_key(self, *parts: str) -> str:
        """Return an object's key in the bucket."""
        return "/".join([part for part in (self.prefix.strip("/"),) if part] + list(parts))

    def object_uri(self, *parts: str) -> str:
        """Return an object's address."""
        return f"s3://{self.bucket}/{self.object_key(*parts)}"


def input_parts(channel: str, digest: str) -> tuple[str, ...]:
    """Return where an input's files lie: the same files at the same place, so that they are there once."""
    return ("inputs", f"{channel}-{digest}")


def job_request(name: str, run: RemoteRun, place: JobPlace) -> dict[str, Any]:
    """Arguments of ``create_training_job``.

    Checkpoints lie under the run's identity, not the job's name: a later job of the same run goes on from them.
    """
    request: dict[str, Any] = {
        "TrainingJobName": name,
        "RoleArn": place.role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": place.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["tini", "-g", "--", "python", "-m", "tools.sagemaker_entry"],
        },
        "InputDataConfig": [_channel(item.channel, item.digest, place) for item in run.inputs],
        "OutputDataConfig": {"S3OutputPath": place.object_uri("output"), **_key("KmsKeyId", place.kms_key)},
        "CheckpointConfig": {"S3Uri": place.object_uri("checkpoints", run.identity)},
        "ResourceConfig": {
            "InstanceType": place.instance_type,
            "InstanceCount": place.instance_count,
            "VolumeSizeInGB": place.volume_gb,
            **_key("VolumeKmsKeyId", place.volume_kms_key),
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": int(place.max_hours * _HOUR)},
        "EnableManagedSpotTraining": place.spot,
        "Environment": _environment(place),
        "Tags": [{"Key": key, "Value": value} for key, value in _tags(run, place).items()],
    }
    if place.spot:
        request["StoppingCondition"]["MaxWaitTimeInSeconds"] = int(place.max_wait_hours * _HOUR)
    if place.subnets:
        request["VpcConfig"] = {
            "Subnets": list(place.subnets),
            "SecurityGroupIds": list(place.security_groups),
        }
    return request


def _channel(channel: str, digest: str, place: JobPlace) -> dict[str, Any]:
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": place.object_uri(*input_parts(channel, digest)) + "/",
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"ChannelName": channel, "DataSource": {"S3DataSource": source}, "InputMode": "File"}


def _environment(place: JobPlace) -> dict[str, str]:
    # The entry point is a module of the project, wherever the platform starts the container.
    given = {"PYTHONPATH": PROJECT, "LOG_FORMAT": "human", **place.environment}
    return given if place.secret is None else {**given, SECRET_VARIABLE: place.secret}


def _tags(run: RemoteRun, place: JobPlace) -> dict[str, str]:
    return {"project": "llm-twin", "model": run.model, **place.tags}


def _key(name: str, key: str | None) -> dict[str, str]:
    return {} if key is None else {name: key}
