"""Endpoints against the emulator over HTTP: their whole life, what heals, and what is refused."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.deployment.model import find_model
from llm_engineering.application.ports import GenerationOptions, Message
from llm_engineering.domain.errors import (
    ConfigurationError,
    DeploymentError,
    DeploymentTimeoutError,
    InvalidInputError,
    ModelServiceError,
)
from llm_engineering.infrastructure.aws.clients import AwsClients, list_instance_types
from llm_engineering.infrastructure.aws.endpoint import Endpoints
from llm_engineering.infrastructure.aws.requests import Plan, ServingPlace
from llm_engineering.infrastructure.llms.sagemaker import SageMakerModel
from tests.aws_account import BUCKET, ROLE, client
from tests.fakes.aws_server import ACCOUNT, REGION, AwsServer
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.registry import FakeRegistry
from tests.unit.deployments import make_deployment, register_exported

PLACE = ServingPlace(ROLE, BUCKET)
SCALING = {
    "min_copies": 0,
    "max_copies": 3,
    "schedules": [{"name": "morning", "schedule": "cron(0 8 * * ? *)", "min_copies": 1, "max_copies": 3}],
}


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry()
    register_exported(registry, tmp_path / "one")
    return registry


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def endpoints(aws_account: AwsServer, aws_clients: AwsClients, told: list[str]) -> Endpoints:
    return Endpoints(aws_clients, PLACE, told.append, 1.0, sleep=lambda _: None)


@pytest.fixture
def plan(registry: FakeRegistry) -> Callable[..., Plan]:
    def make(**changes: Any) -> Plan:
        deployment = make_deployment(**changes)
        model = find_model(deployment.model, deployment.container.server, registry, "answer.v1")
        return Plan(deployment, model, PLACE, deployment.container.image)

    return make


def everything() -> dict[str, list[Any]]:
    """What the account holds of all kinds that a deployment can make."""
    sagemaker, scaling = client("sagemaker"), client("application-autoscaling")
    names = {"ServiceNamespace": "sagemaker"}
    return {
        "endpoints": sagemaker.list_endpoints()["Endpoints"],
        "configs": sagemaker.list_endpoint_configs()["EndpointConfigs"],
        "models": sagemaker.list_models()["Models"],
        "components": sagemaker.list_inference_components()["InferenceComponents"],
        "targets": scaling.describe_scalable_targets(**names)["ScalableTargets"],
        "policies": scaling.describe_scaling_policies(**names)["ScalingPolicies"],
        "schedules": scaling.describe_scheduled_actions(**names)["ScheduledActions"],
        "alarms": client("cloudwatch").describe_alarms()["MetricAlarms"],
        "files": client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", []),
        "logs": client("logs").describe_log_groups()["logGroups"],
    }


def left() -> dict[str, int]:
    return {kind: len(found) for kind, found in everything().items() if found}


def tags_of(name: str) -> dict[str, str]:
    sagemaker = client("sagemaker")
    arn = sagemaker.describe_endpoint(EndpointName=name)["EndpointArn"]
    return {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=arn)["Tags"]}


def answer(name: str, *, stream: bool) -> str:
    async def ask() -> str:
        model = SageMakerModel(name, name, stream=stream, max_retries=0)
        try:
            pieces = [
                delta.text
                async for delta in model.stream([Message("user", "Hi")], GenerationOptions(max_tokens=16))
            ]
        finally:
            await model.close()
        return "".join(pieces)

    return asyncio.run(ask())


def test_a_whole_life(
    aws_account: AwsServer,
    endpoints: Endpoints,
    plan: Callable[..., Plan],
    registry: FakeRegistry,
    tmp_path: Path,
    told: list[str],
) -> None:
    with OpenAIServer() as container:
        aws_account.model_server = container.base_url.removesuffix("/v1")
        container.default_reply = lambda messages: "A twin answers."
        aws_account.polls = 2
        first = endpoints.deploy(plan())
        assert (first.status, first.copies, first.instance_type) == ("InService", 1, "ml.g5.xlarge")
        assert first.tags["model"] == "twin:1"
        assert {"adapter", "template_hash", "prompt", "base", "project"} <= first.tags.keys()
        assert any("Creating" in line for line in told)
        assert answer("twin", stream=True) == "A twin answers."

        register_exported(registry, tmp_path / "two", b"better")
        before = {model["ModelName"] for model in everything()["models"]}
        machines = everything()["configs"]
        assert endpoints.deploy(plan()).tags["model"] == "twin:2"
        (component,) = aws_account.components.values()
        assert {"Key": "model", "Value": "twin:2"} in component.tags
        after = {model["ModelName"] for model in everything()["models"]}
        assert len(after) == 1
        assert everything()["configs"] == machines, "a model changes without other machines"
        assert not after & before, "the model that nothing uses any more is gone"

        endpoints.deploy(plan(scaling=SCALING))
        (target,) = everything()["targets"]
        assert (target["ResourceId"], target["MinCapacity"], target["MaxCapacity"]) == (
            "inference-component/twin",
            0,
            3,
        )
        assert {policy["PolicyType"] for policy in everything()["policies"]} == {
            "TargetTrackingScaling",
            "StepScaling",
        }
        (wake,) = [alarm for alarm in everything()["alarms"] if alarm["AlarmName"] == "twin-wake"]
        assert len(wake["AlarmActions"]) == 1
        assert len(everything()["schedules"]) == 1

        register_exported(registry, tmp_path / "three", b"worse")
        client("cloudwatch").set_alarm_state(AlarmName="twin-errors", StateValue="ALARM", StateReason="500s")
        with pytest.raises(DeploymentError, match=r"taken back.*twin-errors") as caught:
            endpoints.deploy(plan(scaling=SCALING))
        assert "The model before serves on" in str(caught.value)
        assert tags_of("twin")["model"] == "twin:2"
        assert answer("twin", stream=True) == "A twin answers."

    client("logs").create_log_group(logGroupName="/aws/sagemaker/InferenceComponents/twin")
    removed = endpoints.delete("twin", "llm-twin")
    assert "endpoint twin" in removed
    assert left() == {}


class TestUpdating:
    def test_the_same_again_changes_nothing(
        self, endpoints: Endpoints, plan: Callable[..., Plan], told: list[str]
    ) -> None:
        endpoints.deploy(plan(scaling=SCALING))
        before = everything()
        told.clear()
        endpoints.deploy(plan(scaling=SCALING))
        after = everything()
        for kind in ("endpoints", "configs", "models", "components", "files"):
            assert after[kind] == before[kind], kind
        assert not any("Updating" in line for line in told)

    def test_other_machines_come_beside_those_that_serve(
        self, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        endpoints.deploy(plan())
        state = endpoints.deploy(plan(instance={"type": "ml.g6.xlarge", "count": 2}))
        assert state.instance_type == "ml.g6.xlarge"
        assert len(everything()["configs"]) == 1

    def test_other_machines_are_taken_back_by_an_alarm(
        self, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        endpoints.deploy(plan())
        client("cloudwatch").set_alarm_state(AlarmName="twin-latency", StateValue="ALARM", StateReason="slow")
        with pytest.raises(DeploymentError, match=r"taken back.*twin-latency"):
            endpoints.deploy(plan(instance={"type": "ml.g6.xlarge"}))
        found = endpoints.find("twin")
        assert found is not None
        assert (found.status, found.instance_type) == ("InService", "ml.g5.xlarge")
        assert len(everything()["configs"]) == 1

    def test_copies_are_set_where_nothing_scales_and_left_alone_where_something_does(
        self, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        endpoints.deploy(plan())
        state = endpoints.deploy(plan(component={"copies": 2}, instance={"type": "ml.g5.xlarge", "count": 1}))
        assert state.copies == 2
        assert endpoints.deploy(plan(component={"copies": 1}, scaling={"max_copies": 2})).copies == 2

    def test_scaling_that_is_no_longer_asked_for_goes(
        self, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        endpoints.deploy(plan(scaling=SCALING))
        endpoints.deploy(plan(scaling={"max_copies": 2}))
        assert [policy["PolicyName"] for policy in everything()["policies"]] == ["twin-track"]
        assert "twin-wake" not in {alarm["AlarmName"] for alarm in everything()["alarms"]}
        endpoints.deploy(plan())
        assert not {"targets", "policies", "schedules"} & left().keys()

    def test_a_model_without_component_takes_the_machine(
        self, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        state = endpoints.deploy(plan(component=None, scaling={"max_copies": 2}))
        assert state.copies is None
        (target,) = everything()["targets"]
        assert target["ResourceId"] == "endpoint/twin/variant/main"
        endpoints.delete("twin", "llm-twin")
        assert left() == {}


class TestHealing:
    def test_a_first_start_that_fails_leaves_nothing_and_says_why(
        self, aws_account: AwsServer, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        write_log("Loading weights")
        aws_account.failures["twin"] = "The primary container did not pass the ping health check."
        with pytest.raises(DeploymentError, match=r"ping health check") as caught:
            endpoints.deploy(plan())
        assert "nothing costs" in str(caught.value)
        assert left() == {"logs": 1}, "the log stays, to be read"

    def test_a_component_that_fails_shows_the_end_of_its_log(
        self, aws_account: AwsServer, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        endpoints.deploy(plan())
        client("sagemaker").delete_inference_component(InferenceComponentName="twin")
        write_log("torch.OutOfMemoryError: CUDA out of memory")
        aws_account.failures["twin"] = "Container failed"
        with pytest.raises(DeploymentError, match=r"OutOfMemoryError.*instance\.type"):
            endpoints.deploy(plan())

    @pytest.mark.parametrize("kind", ["endpoint", "component"])
    def test_what_is_left_failed_is_made_anew(
        self, aws_account: AwsServer, endpoints: Endpoints, plan: Callable[..., Plan], kind: str
    ) -> None:
        asked = plan()
        endpoints.deploy(asked)
        if kind == "component":
            aws_account.components["twin"].status = "Failed"
        else:
            emulated(kind).endpoint_status = "Failed"
        assert endpoints.deploy(asked).status == "InService"
        assert aws_account.components["twin"].status == "InService"

    def test_a_model_that_serves_without_component_outlives_a_failed_change_to_one(
        self, endpoints: Endpoints, plan: Callable[..., Plan], aws_account: AwsServer
    ) -> None:
        endpoints.deploy(plan(component=None))
        before = emulated("endpoint").endpoint_config_name
        client("cloudwatch").set_alarm_state(AlarmName="twin-errors", StateValue="ALARM", StateReason="500s")
        with pytest.raises(DeploymentError, match="The model before serves on"):
            endpoints.deploy(plan())
        assert emulated("endpoint").endpoint_config_name == before
        assert emulated("endpoint").endpoint_status == "InService"
        assert left()["models"] == 1

    def test_what_takes_too_long_is_left_to_come(
        self, aws_account: AwsServer, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        asked = plan(max_minutes=1)
        aws_account.polls = 200
        with pytest.raises(DeploymentTimeoutError):
            endpoints.deploy(asked)
        assert {"endpoints", "configs", "models", "files"} <= left().keys()
        aws_account.polls = 1
        for change in aws_account.changes.values():
            change.polls = 1
        assert endpoints.deploy(asked).status == "InService"

    def test_what_was_begun_by_an_interrupted_run_is_followed(
        self, aws_clients: AwsClients, endpoints: Endpoints, plan: Callable[..., Plan], told: list[str]
    ) -> None:
        asked = plan()

        def interrupt(text: str) -> None:
            if "endpoint twin: Creating" in text:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Endpoints(aws_clients, PLACE, interrupt, sleep=lambda _: None).deploy(asked)
        assert left()["endpoints"] == 1
        assert endpoints.deploy(asked).status == "InService"
        assert "endpoint twin is made" not in told

    def test_what_an_interrupted_run_has_begun_can_be_deleted(
        self, aws_account: AwsServer, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        asked = plan()
        sagemaker = client("sagemaker")
        sagemaker.create_model(**asked.model_request())
        sagemaker.create_endpoint_config(**asked.config_request())
        aws_account.polls = 3
        sagemaker.create_endpoint(
            EndpointName="twin",
            EndpointConfigName=asked.config_request()["EndpointConfigName"],
            Tags=asked.tags,
        )
        endpoints.delete("twin", "llm-twin")
        assert left() == {}


class TestRefusing:
    def test_an_endpoint_of_another_project_is_left_alone(
        self, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        endpoints.deploy(plan(project="theirs"))
        for act in (lambda: endpoints.deploy(plan()), lambda: endpoints.delete("twin", "llm-twin")):
            with pytest.raises(DeploymentError, match="theirs"):
                act()
        found = endpoints.find("twin")
        assert found is not None
        assert found.status == "InService"

    def test_a_second_deployment_while_one_runs_is_refused(
        self, aws_account: AwsServer, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        endpoints.deploy(plan())
        other = plan(instance={"type": "ml.g6.xlarge"})
        sagemaker = client("sagemaker")
        sagemaker.create_endpoint_config(**other.config_request())
        aws_account.polls = 9
        sagemaker.update_endpoint(
            EndpointName="twin", EndpointConfigName=other.config_request()["EndpointConfigName"]
        )
        with pytest.raises(DeploymentError, match="somebody else deploys"):
            endpoints.deploy(plan(instance={"type": "ml.g5.2xlarge"}))
        aws_account.polls = 1

    def test_deleting_what_is_not_there_says_what_is(
        self, endpoints: Endpoints, plan: Callable[..., Plan]
    ) -> None:
        endpoints.deploy(plan())
        with pytest.raises(InvalidInputError, match=r"no endpoint other.*twin"):
            endpoints.delete("other", "llm-twin")

    def test_an_image_that_was_never_pushed(self, endpoints: Endpoints, plan: Callable[..., Plan]) -> None:
        image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/twin-vllm:7"
        asked = replace(plan(), image=image)
        with pytest.raises(DeploymentError, match="never pushed"):
            endpoints.check(asked, list_instance_types())
        client("ecr").create_repository(repositoryName="twin-vllm")
        with pytest.raises(DeploymentError, match="never pushed"):
            endpoints.check(asked, list_instance_types())
        client("ecr").put_image(repositoryName="twin-vllm", imageManifest=_MANIFEST, imageTag="7")
        endpoints.check(asked, list_instance_types())

    def test_a_machine_that_there_is_none_of(self, endpoints: Endpoints, plan: Callable[..., Plan]) -> None:
        with pytest.raises(ConfigurationError, match=r"ml\.g5\.2xlarge"):
            endpoints.check(plan(instance={"type": "ml.g5.3xlarge"}), list_instance_types())

    def test_secrets_in_the_environment(self, endpoints: Endpoints, plan: Callable[..., Plan]) -> None:
        container = {"image": "x/y:1", "environment": {"HF_TOKEN": "hf_x"}}
        with pytest.raises(ConfigurationError, match="HF_TOKEN") as caught:
            endpoints.check(plan(container=container), list_instance_types())
        assert "hf_x" not in str(caught.value)

    def test_no_credentials(
        self, endpoints: Endpoints, plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ConfigurationError, match="no complete credentials"):
            Endpoints(AwsClients(REGION), PLACE).deploy(plan())

    def test_no_region(
        self, aws_account: AwsServer, plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        with pytest.raises(ConfigurationError, match="SAGEMAKER_REGION"):
            Endpoints(AwsClients(), PLACE).deploy(plan())

    def test_a_wrong_region_is_named(self, aws_account: AwsServer, plan: Callable[..., Plan]) -> None:
        endpoints = Endpoints(AwsClients("eu-central-1"), PLACE)
        with pytest.raises(InvalidInputError, match="eu-central-1"):
            endpoints.delete("twin", "llm-twin")


def test_an_endpoint_that_does_not_serve_yet_refuses_questions(
    aws_account: AwsServer, endpoints: Endpoints
) -> None:
    with pytest.raises(ModelServiceError, match="not found"):
        answer("twin", stream=True)


def test_another_endpoints_component_is_not_ours(
    aws_account: AwsServer, endpoints: Endpoints, plan: Callable[..., Plan]
) -> None:
    endpoints.deploy(plan())
    aws_account.components["taken"] = replace(aws_account.components["twin"], name="taken")
    with pytest.raises(DeploymentError, match="taken by"):
        endpoints.deploy(plan(endpoint="taken"))
    assert left()["components"] == 2


def write_log(line: str) -> None:
    logs, group = client("logs"), "/aws/sagemaker/InferenceComponents/twin"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="main/1")
    event = {"timestamp": int(time.time() * 1000), "message": line}
    logs.put_log_events(logGroupName=group, logStreamName="main/1", logEvents=[event])


def emulated(kind: str) -> Any:
    from moto.sagemaker.models import sagemaker_backends

    return getattr(sagemaker_backends[ACCOUNT][REGION], f"{kind}s")["twin"]


_MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"digest": "sha256:00"},
        "layers": [],
    }
)
