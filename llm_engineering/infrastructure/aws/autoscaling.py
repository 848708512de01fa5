"""How an endpoint's copies follow the load: a scalable target with its policies, schedules, and the alarm that wakes it."""

from typing import Any

from llm_engineering.application.deployment.config import Deployment, ScalingConfig
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.faults import explain_failures
from llm_engineering.infrastructure.aws.requests import VARIANT
from llm_engineering.infrastructure.shared.aws import call_unless, is_absent

_NAMESPACE = "sagemaker"
_TRACK, _WAKE = "track", "wake"
_COMPONENT = "sagemaker:inference-component:DesiredCopyCount"
_INSTANCES = "sagemaker:variant:DesiredInstanceCount"


def scalable_targets(endpoint: str) -> list[dict[str, str]]:
    """Return what of an endpoint can be scaled: the copies of its component, or its machines."""
    return [
        {"ServiceNamespace": _NAMESPACE, "ResourceId": f"inference-component/{endpoint}", "ScalableDimension": _COMPONENT},
        {"ServiceNamespace": _NAMESPACE, "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}", "ScalableDimension": _INSTANCES},
    ]  # fmt: skip


def apply_scaling(clients: AwsClients, deployment: Deployment, tags: list[dict[str, str]]) -> None:
    """Have an endpoint scale as its configuration says; what it no longer says is taken away.

    Raises:
        ConfigurationError, DeploymentError: AWS refuses, or cannot be reached.
    """
    component, variant = scalable_targets(deployment.endpoint)
    target, other = (variant, component) if deployment.component is None else (component, variant)
    _remove(clients, deployment.endpoint, other, keep=frozenset())
    scaling = deployment.scaling
    if scaling is None:
        _remove(clients, deployment.endpoint, target, keep=frozenset())
        return
    client = clients.get("application-autoscaling")
    with explain_failures(f"Setting the bounds of {target['ResourceId']}"):
        client.register_scalable_target(
            **target, MinCapacity=scaling.min_copies, MaxCapacity=scaling.max_copies
        )
    with explain_failures(f"Setting how {target['ResourceId']} follows the load"):
        client.put_scaling_policy(
            **target,
            PolicyName=f"{deployment.endpoint}-{_TRACK}",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=_tracking(deployment, scaling),
        )
    kept = {f"{deployment.endpoint}-{_TRACK}"}
    if scaling.copies_range[0] == 0:  # by a schedule too
        kept.add(f"{deployment.endpoint}-{_WAKE}")
        _apply_waking(clients, deployment, target, tags)
    for schedule in scaling.schedules:
        kept.add(f"{deployment.endpoint}-{schedule.name}")
        with explain_failures(f"Setting the schedule {schedule.name}"):
            client.put_scheduled_action(
                **target,
                ScheduledActionName=f"{deployment.endpoint}-{schedule.name}",
                Schedule=schedule.schedule,
                Timezone=schedule.timezone,
                ScalableTargetAction={"MinCapacity": schedule.min_copies, "MaxCapacity": schedule.max_copies},
            )
    _remove(clients, deployment.endpoint, target, keep=frozenset(kept))


def remove_scaling(clients: AwsClients, endpoint: str) -> list[str]:
    """Take away all scaling of an endpoint; the names of what there was.

    Raises:
        ConfigurationError, DeploymentError: AWS refuses, or cannot be reached.
    """
    return [
        name
        for target in scalable_targets(endpoint)
        for name in _remove(clients, endpoint, target, keep=frozenset())
    ]


def _tracking(deployment: Deployment, scaling: ScalingConfig) -> dict[str, Any]:
    tracked: dict[str, Any] = {
        "TargetValue": scaling.target,
        "ScaleOutCooldown": scaling.scale_out_seconds,
        "ScaleInCooldown": scaling.scale_in_seconds,
    }
    if deployment.asynchronous is not None:  # requests wait in AWS's queue: its length is what tells the load
        tracked["CustomizedMetricSpecification"] = {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": deployment.endpoint}],
            "Statistic": "Average",
        }
        return tracked
    metric = {
        (True, "concurrency"): "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution",
        (True, "invocations"): "SageMakerInferenceComponentInvocationsPerCopy",
        (False, "concurrency"): "SageMakerVariantConcurrentRequestsPerModelHighResolution",
        (False, "invocations"): "SageMakerVariantInvocationsPerInstance",
    }[deployment.component is not None, scaling.metric]
    tracked["PredefinedMetricSpecification"] = {"PredefinedMetricType": metric}
    return tracked


def _apply_waking(
    clients: AwsClients, deployment: Deployment, target: dict[str, str], tags: list[dict[str, str]]
) -> None:
    """Have the first request that finds no copy start one: target tracking cannot, since nothing is measured at zero."""
    name = f"{deployment.endpoint}-{_WAKE}"
    with explain_failures(f"Setting what wakes {target['ResourceId']}"):
        policy = clients.get("application-autoscaling").put_scaling_policy(
            **target,
            PolicyName=name,
            PolicyType="StepScaling",
            StepScalingPolicyConfiguration={
                "AdjustmentType": "ChangeInCapacity",
                "MetricAggregationType": "Maximum",
                "Cooldown": 60,
                "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
            },
        )
        asynchronous = deployment.asynchronous is not None
        clients.get("cloudwatch").put_metric_alarm(
            AlarmName=name,
            AlarmDescription="A request found no copy of the model; starts one.",
            Namespace="AWS/SageMaker",
            MetricName="HasBacklogWithoutCapacity" if asynchronous else "NoCapacityInvocationFailures",
            Dimensions=[
                {"Name": "EndpointName", "Value": deployment.endpoint}
                if asynchronous
                else {"Name": "InferenceComponentName", "Value": deployment.endpoint}
            ],
            Statistic="Maximum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1.0,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            TreatMissingData="missing",
            AlarmActions=[policy["PolicyARN"]],
            Tags=tags,
        )


def _remove(clients: AwsClients, endpoint: str, target: dict[str, str], keep: frozenset[str]) -> list[str]:
    """Take away an endpoint's policies and schedules but those to keep, and the target where nothing is kept."""
    client = clients.get("application-autoscaling")
    removed = []
    with explain_failures(f"Removing the scaling of {target['ResourceId']}"):
        schedules = client.describe_scheduled_actions(**target)["ScheduledActions"]
        for name in [one["ScheduledActionName"] for one in schedules]:
            if name not in keep:
                call_unless(is_absent, client.delete_scheduled_action, **target, ScheduledActionName=name)
                removed.append(f"schedule {name}")
        policies = client.describe_scaling_policies(**target)["ScalingPolicies"]
        for name in [one["PolicyName"] for one in policies]:
            if name not in keep:
                call_unless(is_absent, client.delete_scaling_policy, **target, PolicyName=name)
                removed.append(f"scaling policy {name}")
        wake = f"{endpoint}-{_WAKE}"
        if wake not in keep and any(one["PolicyName"] == wake for one in policies):
            clients.get("cloudwatch").delete_alarms(AlarmNames=[wake])
        found = client.describe_scalable_targets(
            ServiceNamespace=_NAMESPACE,
            ResourceIds=[target["ResourceId"]],
            ScalableDimension=target["ScalableDimension"],
        )["ScalableTargets"]
        if found and not keep:
            call_unless(is_absent, client.deregister_scalable_target, **target)
            removed.append(f"scaling of {target['ResourceId']}")
    return removed
