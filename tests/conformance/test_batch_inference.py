"""Batches against the emulator: a transform job and an asynchronous endpoint, broken off and gone on with."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_engineering.application.deployment.batch import BatchRequest, read_requests
from llm_engineering.application.deployment.model import find_model
from llm_engineering.domain.errors import ConfigurationError, DeploymentError
from llm_engineering.infrastructure.aws.batch import Batches
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.endpoint import Endpoints
from llm_engineering.infrastructure.aws.requests import Plan
from tests.aws_account import BUCKET, ROLE, client
from tests.conformance.test_inference_endpoint import PLACE, left
from tests.fakes.aws_server import AwsServer
from tests.fakes.completions_server import CompletionsServer
from tests.fakes.registry import FakeRegistry
from tests.unit.deployments import make_deployment, register_exported
from tools.batch_inference import main


@pytest.fixture
def container(aws_account: AwsServer) -> Iterator[CompletionsServer]:
    with CompletionsServer() as container:
        aws_account.model_server = container.url
        yield container


@pytest.fixture
def batches(container: CompletionsServer, aws_clients: AwsClients) -> Batches:
    return Batches(aws_clients, PLACE, poll_seconds=1, max_hours=1, sleep=lambda _: None)


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    registry = FakeRegistry()
    register_exported(registry, tmp_path / "one")

    def make(**changes: Any) -> Plan:
        deployment = make_deployment(**changes)
        model = find_model(deployment.model, deployment.container.server, registry, "answer.v1")
        return Plan(deployment, model, PLACE, deployment.container.image)

    return make


def requests(*texts: str) -> list[BatchRequest]:
    return read_requests(
        [json.dumps({"id": f"n{number}", "text": text}) for number, text in enumerate(texts)]
    )


class TestTransform:
    def test_each_line_gets_its_answer(self, batches: Batches, plan: Callable[..., Plan]) -> None:
        found = list(batches.transform(plan(), requests("one", "two", "three")))
        assert [(answer.id, answer.text) for answer in found] == [
            ("n0", "ONE"),
            ("n1", "TWO"),
            ("n2", "THREE"),
        ]
        assert found[0].completion_tokens == 1
        assert "models" not in left()

    def test_what_is_written_is_encrypted_with_the_key_that_is_set(
        self, container: CompletionsServer, aws_clients: AwsClients, plan: Callable[..., Plan]
    ) -> None:
        key = client("kms").create_key()["KeyMetadata"]["Arn"]
        place = replace(PLACE, kms_key=key)
        batches = Batches(aws_clients, place, poll_seconds=1, max_hours=1, sleep=lambda _: None)
        asked = replace(plan(), place=place)
        assert [answer.text for answer in batches.transform(asked, requests("one"))] == ["ONE"]
        (job,) = client("sagemaker").list_transform_jobs()["TransformJobSummaries"]
        told = client("sagemaker").describe_transform_job(TransformJobName=job["TransformJobName"])
        assert told["TransformOutput"]["KmsKeyId"] == key
        (archive,) = [one for one in keys() if one.endswith(".tar.gz")]
        assert client("s3").head_object(Bucket=BUCKET, Key=archive)["SSEKMSKeyId"] == key

    def test_the_same_requests_are_the_same_job(
        self, batches: Batches, plan: Callable[..., Plan], container: CompletionsServer
    ) -> None:
        list(batches.transform(plan(), requests("one", "two")))
        list(batches.transform(plan(), requests("one", "two")))
        assert container.answered == 2
        assert len(client("sagemaker").list_transform_jobs()["TransformJobSummaries"]) == 1

    def test_a_job_that_failed_says_why_and_is_started_again(
        self, aws_account: AwsServer, batches: Batches, plan: Callable[..., Plan]
    ) -> None:
        asked = requests("one")
        aws_account.polls = 0
        spoil_first_job(aws_account)
        with pytest.raises(DeploymentError, match="bucket") as caught:
            list(batches.transform(plan(), asked))
        assert "again" in str(caught.value)
        assert [answer.text for answer in batches.transform(plan(), asked)] == ["ONE"]

    def test_what_the_model_refuses_is_an_error_of_that_line(
        self, batches: Batches, plan: Callable[..., Plan]
    ) -> None:
        found = list(batches.transform(plan(), requests("one", "REFUSE", "three")))
        assert [bool(answer.error) for answer in found] == [False, True, False]

    def test_requests_that_all_failed_are_asked_again(
        self, batches: Batches, plan: Callable[..., Plan], container: CompletionsServer
    ) -> None:
        (answer,) = batches.transform(plan(), requests("REFUSE"))
        assert answer.error
        container.refuses = False
        (answer,) = batches.transform(plan(), requests("REFUSE"))
        assert answer.text == "REFUSE"
        (answer,) = batches.transform(plan(), requests("REFUSE"))
        assert answer.text == "REFUSE"
        assert container.answered == 1, "what was answered is not asked again"

    def test_a_folder_in_s3_cannot_be_read_by_a_job(
        self, batches: Batches, plan: Callable[..., Plan]
    ) -> None:
        with pytest.raises(ConfigurationError, match="asynchronous"):
            list(batches.transform(plan(model={"s3": "s3://bucket/folder/"}), requests("one")))


class TestAsynchronous:
    @pytest.fixture(autouse=True)
    def endpoint(self, batches: Batches, aws_clients: AwsClients, plan: Callable[..., Plan]) -> None:
        endpoints = Endpoints(aws_clients, PLACE, sleep=lambda _: None)
        scaling = {"min_copies": 0, "max_copies": 2}
        endpoints.deploy(plan(component=None, asynchronous={}, scaling=scaling))

    def test_answers_come_by_their_ids(self, batches: Batches) -> None:
        found = {
            answer.id: answer.text for answer in batches.ask_asynchronously("twin", requests("one", "two"))
        }
        assert found == {"n0": "ONE", "n1": "TWO"}

    def test_what_was_asked_before_is_not_asked_again(
        self, batches: Batches, container: CompletionsServer
    ) -> None:
        next(batches.ask_asynchronously("twin", requests("one", "two")))  # broken off after the first answer
        found = {
            answer.text for answer in batches.ask_asynchronously("twin", requests("one", "two", "three"))
        }
        assert found == {"ONE", "TWO", "THREE"}
        assert container.answered == 3

    def test_a_request_that_failed_is_told_and_may_be_asked_again(
        self, batches: Batches, container: CompletionsServer
    ) -> None:
        (answer,) = batches.ask_asynchronously("twin", requests("REFUSE"))
        assert "refused" in answer.error
        container.refuses = False
        (answer,) = batches.ask_asynchronously("twin", requests("REFUSE"))
        assert answer.text == "REFUSE"

    def test_it_goes_to_the_last_resource(
        self, aws_clients: AwsClients, batches: Batches, plan: Callable[..., Plan]
    ) -> None:
        list(batches.ask_asynchronously("twin", requests("one", "two")))
        spoil_first_job(AwsServer.active)
        with pytest.raises(DeploymentError):  # leaves its model, NAME-batch-…
            list(batches.transform(plan(), requests("three")))
        list(batches.transform(plan(endpoint="twin-staging"), requests("four")))
        others = [key for key in keys() if "/twin-staging-" in key]
        assert others
        Endpoints(aws_clients, PLACE, sleep=lambda _: None).delete("twin", "llm-twin")
        assert keys() == others, "those of another endpoint stay, however alike its name"
        Endpoints(aws_clients, PLACE, sleep=lambda _: None).delete("twin-staging", "llm-twin")
        assert left() == {}


def test_the_task_says_what_failed_and_asks_only_that_again(
    container: CompletionsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {
        "endpoint": "twin",
        "model": {"hub": "some/model", "revision": "abc"},
        "container": {"image": "public.ecr.aws/example/vllm:1"},
        "instance": {"type": "ml.g5.xlarge"},
    }
    config, asked, output = tmp_path / "deploy.yaml", tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    config.write_text(json.dumps(given), encoding="utf-8")
    lines = [json.dumps({"id": name, "text": name}) for name in ("one", "REFUSE")]
    asked.write_text("\n".join(lines), encoding="utf-8")
    for name, value in (
        ("ROLE_ARN", ROLE),
        ("BUCKET", BUCKET),
        ("REGION", "us-east-1"),
        ("POLL_SECONDS", "0.05"),
    ):
        monkeypatch.setenv(f"SAGEMAKER_{name}", value)
    command = ["--config", str(config), "--input", str(asked), "--output", str(output), "--yes"]
    assert main(command) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "✗ 1 answered, 1 failed" in shown
    assert "✓" not in shown
    assert shown.count("unverified") == 2, "with the price, and with the cost"
    container.refuses = False
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "1 answered before" in shown
    assert "✓ 1 answered, 0 failed" in shown
    assert container.answered == 2


def keys() -> list[str]:
    return [item["Key"] for item in client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def spoil_first_job(server: AwsServer) -> None:
    """The next transform job fails, whatever its name."""

    class Once(dict[str, str]):
        def pop(self, key: str, default: Any = None) -> Any:
            return super().pop("any" if "any" in self else key, default)

    server.failures = Once(any="ClientError: See job logs for more information: the bucket cannot be read")


def test_the_container_is_a_real_server(container: CompletionsServer) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    told = httpx.post(f"{container.url}/v1/chat/completions", json=body).json()
    assert told["choices"][0]["message"]["content"] == "HELLO"
