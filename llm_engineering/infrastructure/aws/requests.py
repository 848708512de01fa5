"""An endpoint's configuration and model as the requests of SageMaker's API. Names are derived from what they stand for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_engineering.application.deployment.config import Deployment
from llm_engineering.application.deployment.model import DeployableModel
from llm_engineering.application.deployment.prices import estimate_range
from llm_engineering.domain.documents import text_hash
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.shared.aws import refuse_secrets

VARIANT = "main"
MODEL_FOLDER = "/opt/ml/model"
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class ServingPlace:
    """Where endpoints are made, and with what."""

    role_arn: str
    """What the container may do: read the bucket and the image, write logs and metrics."""
    bucket: str
    prefix: str = "twin"
    kms_key: str | None = None
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment, ready to be carried out."""

    deployment: Deployment
    model: DeployableModel
    place: ServingPlace
    image: str

    @property
    def endpoint(self) -> str:
        return self.deployment.endpoint

    @property
    def model_folder(self) -> str:
        """Key in the bucket under which the model's files lie."""
        return artifact_folder(self.place, self.endpoint) + f"{self.model.content_hash[:16]}/"

    @property
    def tags(self) -> list[dict[str, str]]:
        """Whose it is, and which model: for the endpoint, its component and its model."""
        facts = [{"Key": key, "Value": _tag(value)} for key, value in self.model.facts.items()]
        return self.owner_tags + facts

    @property
    def owner_tags(self) -> list[dict[str, str]]:
        """Whose it is: for what serves one model after the other."""
        return [
            {"Key": "project", "Value": self.deployment.project},
            {"Key": "endpoint", "Value": self.endpoint},
        ]

    def model_request(self) -> dict[str, Any]:
        """Return the arguments of ``create_model``."""
        container: dict[str, Any] = {"Image": self.image, "Environment": self._environment()}
        if self.model.hub is None:
            uri = self.model.s3 or f"s3://{self.place.bucket}/{self.model_folder}"
            source = {"S3Uri": uri, "S3DataType": "S3Prefix", "CompressionType": "None"}
            container["ModelDataSource"] = {"S3DataSource": source}
        request: dict[str, Any] = {"ExecutionRoleArn": self.place.role_arn, "PrimaryContainer": container}
        if self.place.subnets:
            request["VpcConfig"] = {
                "Subnets": list(self.place.subnets),
                "SecurityGroupIds": list(self.place.security_groups),
            }
        return {"ModelName": self._named(request), **request, "Tags": self.tags}

    def config_request(self) -> dict[str, Any]:
        """Return the arguments of ``create_endpoint_config``."""
        deployment = self.deployment
        seconds = deployment.container.startup_minutes * 60
        variant: dict[str, Any] = {
            "VariantName": VARIANT,
            "InstanceType": deployment.instance.type,
            "InitialInstanceCount": deployment.instance.count,
        }
        request: dict[str, Any] = {"ProductionVariants": [variant]}
        if deployment.component is None:
            variant["ModelName"] = self.model_request()["ModelName"]
            variant["InitialVariantWeight"] = 1.0
            variant["ModelDataDownloadTimeoutInSeconds"] = seconds
            variant["ContainerStartupHealthCheckTimeoutInSeconds"] = seconds
        else:
            request["ExecutionRoleArn"] = self.place.role_arn
            variant["RoutingConfig"] = {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
            if deployment.scaling is not None:
                start, least, most = estimate_range(deployment)
                variant["ManagedInstanceScaling"] = {
                    "Status": "ENABLED",
                    "MinInstanceCount": min(start, least),
                    "MaxInstanceCount": most,
                }
        if deployment.asynchronous is not None:
            request["AsyncInferenceConfig"] = self._asynchronous()
        if self.place.kms_key is not None:
            request["KmsKeyId"] = self.place.kms_key
        return {"EndpointConfigName": self._named(request), **request, "Tags": self.owner_tags}

    def component_specification(self) -> dict[str, Any]:
        """Return the ``Specification`` of the inference component."""
        component = self.deployment.component
        assert component is not None
        seconds = self.deployment.container.startup_minutes * 60
        needs: dict[str, Any] = {
            "NumberOfCpuCoresRequired": component.cpus,
            "MinMemoryRequiredInMb": component.memory_mb,
        }
        if component.accelerators:
            needs["NumberOfAcceleratorDevicesRequired"] = component.accelerators
        return {
            "ModelName": self.model_request()["ModelName"],
            "ComputeResourceRequirements": needs,
            "StartupParameters": {
                "ModelDataDownloadTimeoutInSeconds": seconds,
                "ContainerStartupHealthCheckTimeoutInSeconds": seconds,
            },
        }

    def endpoint_rollout(self) -> dict[str, Any]:
        """Return the ``DeploymentConfig`` of ``update_endpoint``: blue/green, a canary first, back where an alarm goes off."""
        rollout = self.deployment.rollout
        routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": rollout.bake_minutes * 60}
        if self.deployment.instance.count > 1:  # of one machine there is no share
            routing |= {
                "Type": "CANARY",
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": rollout.canary_percent},
            }
        return {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": routing,
                "TerminationWaitInSeconds": rollout.bake_minutes * 60,
                "MaximumExecutionTimeoutInSeconds": max(600, self.deployment.max_minutes * 60),
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in self.alarm_names]},
        }

    def component_rollout(self) -> dict[str, Any]:
        """Return the ``DeploymentConfig`` of ``update_inference_component``: some copies at a time."""
        rollout = self.deployment.rollout
        return {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": rollout.batch_percent},
                "WaitIntervalInSeconds": rollout.bake_minutes * 60,
                "MaximumExecutionTimeoutInSeconds": max(600, self.deployment.max_minutes * 60),
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in self.alarm_names]},
        }

    @property
    def alarm_names(self) -> tuple[str, str]:
        return f"{self.endpoint}-errors", f"{self.endpoint}-latency"

    def alarm_requests(self) -> list[dict[str, Any]]:
        """Return the arguments of ``put_metric_alarm`` for the alarms that take an update back."""
        rollout = self.deployment.rollout
        errors, latency = self.alarm_names
        common = {
            "Namespace": "AWS/SageMaker",
            "Dimensions": [
                {"Name": "EndpointName", "Value": self.endpoint},
                {"Name": "VariantName", "Value": VARIANT},
            ],
            "Period": 60,
            "EvaluationPeriods": 1,
            "ComparisonOperator": "GreaterThanThreshold",
            "TreatMissingData": "notBreaching",  # nobody asks: nothing is wrong
            "Tags": self.owner_tags,
        }
        if self.deployment.component is not None:
            common["Dimensions"] = [{"Name": "InferenceComponentName", "Value": self.endpoint}]
        return [
            common
            | {
                "AlarmName": errors,
                "AlarmDescription": "Replies with a status of 500 or more; takes an update back.",
                "MetricName": "Invocation5XXErrors",
                "Statistic": "Sum",
                "Threshold": float(rollout.max_errors),
            },
            common
            | {
                "AlarmName": latency,
                "AlarmDescription": "Time that the model takes, 95th percentile; takes an update back.",
                "MetricName": "ModelLatency",
                "ExtendedStatistic": "p95",
                "Threshold": rollout.max_latency_seconds * 1e6,  # the metric counts microseconds
            },
        ]

    def _named(self, request: Mapping[str, Any]) -> str:
        """A name of what the request asks for: the same request is the same resource, another one is a new resource."""
        return f"{self.endpoint}-{text_hash(json.dumps(request, sort_keys=True))[:_DIGEST]}"

    def _asynchronous(self) -> dict[str, Any]:
        asked = self.deployment.asynchronous
        assert asked is not None
        folder = f"s3://{self.place.bucket}/{async_folder(self.place, self.endpoint)}"
        output: dict[str, Any] = {"S3OutputPath": f"{folder}replies", "S3FailurePath": f"{folder}failures"}
        if self.place.kms_key is not None:
            output["KmsKeyId"] = self.place.kms_key
        topics = {"SuccessTopic": asked.success_topic, "ErrorTopic": asked.error_topic}
        if any(topics.values()):
            output["NotificationConfig"] = {name: topic for name, topic in topics.items() if topic}
        return {
            "OutputConfig": output,
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": asked.concurrent_per_instance},
        }

    def _environment(self) -> dict[str, str]:
        """What each server reads: limits, quantisation, and where the model is."""
        deployment, limits = self.deployment, self.deployment.limits
        source = self.model.hub or MODEL_FOLDER
        accelerators = 0 if deployment.component is None else deployment.component.accelerators
        quantization = deployment.container.quantization
        if deployment.container.server == "vllm":
            given = {
                "SM_VLLM_MODEL": source,
                "SM_VLLM_SERVED_MODEL_NAME": self.endpoint,
                "SM_VLLM_MAX_MODEL_LEN": str(limits.max_total_tokens),
                "SM_VLLM_MAX_NUM_BATCHED_TOKENS": str(limits.max_batch_tokens),
            }
            if accelerators > 1:
                given["SM_VLLM_TENSOR_PARALLEL_SIZE"] = str(accelerators)
            if quantization:
                given["SM_VLLM_QUANTIZATION"] = quantization
            if self.model.revision:
                given["SM_VLLM_REVISION"] = self.model.revision
        elif deployment.container.server == "tgi":
            given = {
                "HF_MODEL_ID": source,
                "MESSAGES_API_ENABLED": "true",
                "MAX_INPUT_TOKENS": str(limits.max_input_tokens),
                "MAX_TOTAL_TOKENS": str(limits.max_total_tokens),
                "MAX_BATCH_PREFILL_TOKENS": str(limits.max_batch_tokens),
                "MAX_BATCH_TOTAL_TOKENS": str(limits.max_batch_tokens),
            }
            if accelerators:
                given["SM_NUM_GPUS"] = str(accelerators)
            if quantization:
                given["HF_MODEL_QUANTIZE"] = quantization
            if self.model.revision:
                given["REVISION"] = self.model.revision
        else:
            given = {
                "LLAMA_ARG_MODEL": f"{MODEL_FOLDER}/model.gguf",
                "LLAMA_ARG_ALIAS": self.endpoint,
                "LLAMA_ARG_CTX_SIZE": str(limits.max_batch_tokens),
                "LLAMA_ARG_N_PARALLEL": str(max(1, limits.max_batch_tokens // limits.max_total_tokens)),
                "LLAMA_ARG_HOST": "0.0.0.0",
                "LLAMA_ARG_PORT": "8080",
            }
        return given | deployment.container.environment


def artifact_folder(place: ServingPlace, endpoint: str) -> str:
    """Return the key under which an endpoint's model files lie."""
    return "/".join(part for part in (place.prefix.strip("/"), "endpoints", endpoint) if part) + "/"


def async_folder(place: ServingPlace, endpoint: str) -> str:
    """Return the key under which an asynchronous endpoint's requests and replies lie."""
    return "/".join(part for part in (place.prefix.strip("/"), "asynchronous", endpoint) if part) + "/"


def batch_folder(place: ServingPlace, name: str) -> str:
    """Return the key under which a transform job's input and answers lie: that of ``ENDPOINT-DIGEST``, or ``ENDPOINT-models``."""
    return "/".join(part for part in (place.prefix.strip("/"), "batch", name) if part) + "/"


def check_plan(plan: Plan, instance_types: frozenset[str]) -> None:
    """Refuse what AWS would refuse later, or what would show a secret to everybody who may look at models.

    Raises:
        ConfigurationError: says which key to change.
    """
    refuse_secrets(plan.deployment.container.environment, "container.environment")
    chosen = plan.deployment.instance.type
    if chosen not in instance_types:
        family = chosen.rpartition(".")[0]
        alike = sorted(name for name in instance_types if name.startswith(f"{family}."))
        there = f" Of this family there are: {', '.join(alike)}." if alike else ""
        raise ConfigurationError(f"instance.type {chosen} is none that SageMaker serves models on.{there}")
    if plan.deployment.container.server == "llama_cpp" and plan.model.hub is not None:
        raise ConfigurationError(
            "container.server llama_cpp reads a GGUF file: name a model of the registry or a folder in S3 with model.gguf."
        )


def _tag(value: str) -> str:
    """A value of the characters that tags may hold."""
    return "".join(letter if letter.isalnum() or letter in " _.:/=+-@" else "-" for letter in value)[:256]
