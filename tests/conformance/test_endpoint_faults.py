"""Faults at every API call of deploy, update and delete: each run ends complete or cleaned up, and a second one heals it.

A fault is put in between boto3 and the network, by botocore's own events: the SDK sees what AWS would have sent it. The table of
(call × fault) is written to ``ENDPOINT_FAULTS_TABLE`` where that names a file.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.endpoint
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session
from moto.applicationautoscaling.models import applicationautoscaling_backends
from moto.cloudwatch.models import cloudwatch_backends
from moto.s3.models import s3_backends
from moto.sagemaker.models import sagemaker_backends

from llm_engineering.application.deployment.model import find_model
from llm_engineering.domain.errors import ConfigurationError, DeploymentError, TwinError
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.endpoint import Endpoints
from llm_engineering.infrastructure.aws.requests import Plan
from tests.aws_account import BUCKET, client
from tests.conformance.test_inference_endpoint import PLACE, SCALING
from tests.fakes.aws_server import ACCOUNT, REGION, AwsServer
from tests.fakes.registry import FakeRegistry
from tests.unit.deployments import make_deployment, register_exported

FAULTS = ("throttled twice", "quota exceeded", "reset before", "reset after", "killed after")
"""``reset before``: the connection breaks before AWS has the request; ``reset after``: it has done it, and its answer is lost.
``killed after``: so too, and the process ends."""
PHASES = ("deploy", "update", "delete")


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Meddler:
    """Spoils the first call of one operation, and notes all calls."""

    operation: str | None = None
    fault: str = ""
    calls: list[str] = field(default_factory=list)
    fired: int = 0

    def before_send(self, request: Any, **given: Any) -> AWSResponse | None:
        operation = given["event_name"].rpartition(".")[2]
        self.calls.append(operation)
        if operation != self.operation or self.fired >= (2 if self.fault == "throttled twice" else 1):
            return None
        self.fired += 1
        if self.fault == "throttled twice":
            return refusal(request.url, "ThrottlingException", "Rate exceeded")
        if self.fault == "quota exceeded":
            return refusal(
                request.url, "ResourceLimitExceeded", "The account-level service limit is 0 Instances"
            )
        if ": " in self.fault:
            return refusal(request.url, *self.fault.split(": ", 1))
        if self.fault != "reset before":
            URLLib3Session().send(request)
        if self.fault == "killed after":
            raise Killed
        raise ConnectionClosedError(endpoint_url=request.url)


def refusal(url: str, code: str, message: str) -> AWSResponse:
    body = json.dumps({"__type": code, "message": message}).encode()
    if "<" not in code and not url.endswith("/"):  # S3 speaks XML
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    raw = SimpleNamespace(stream=lambda **_: iter([body]), read=lambda *_, **__: body)
    return AWSResponse(url, 400, {"x-amzn-errortype": code, "content-type": "application/json"}, raw)


@pytest.fixture(scope="module")
def meddler(aws_clients: AwsClients) -> Iterator[Meddler]:
    """Between the clients of this process and the network."""
    meddler = Meddler()
    services = ("application-autoscaling", "cloudwatch", "ecr", "logs", "s3", "sagemaker", "sts")
    for service in services:
        aws_clients.get(service).meta.events.register("before-send.*.*", meddler.before_send)
    yield meddler
    for service in services:
        aws_clients.get(service).meta.events.unregister("before-send.*.*", meddler.before_send)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore waits before it tries again, by the module's own clock."""
    clock = SimpleNamespace(sleep=lambda _: None, time=botocore.endpoint.time.time)
    monkeypatch.setattr(botocore.endpoint, "time", clock)


@dataclass
class Stage:
    """An account in the state that a phase begins with, and what the phase does."""

    server: AwsServer
    endpoints: Endpoints
    plans: dict[str, Plan]
    goal: str = "None"
    """What serves when the phase is done; ``None``: nothing is there."""
    before: str = "None"

    def begin(self, phase: str) -> None:
        """Bring about what the phase begins with; an update goes to the other of the two plans."""
        self.server.polls = 0
        self.before = self.serving()
        if phase == "deploy":
            if self.before != "None":
                self.server.reset()
                self.server.polls = 0
                place = {"LocationConstraint": REGION}
                client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
            self.before, self.goal = "None", "first"
            return
        if self.before not in self.plans:
            self.endpoints.deploy(self.plans["first"])
            self.before = "first"
        self.goal = "None" if phase == "delete" else next(name for name in self.plans if name != self.before)

    def act(self) -> None:
        if self.goal == "None":
            self.endpoints.delete("twin", "llm-twin")
        else:
            self.endpoints.deploy(self.plans[self.goal])

    def serving(self) -> str:
        """The plan whose model answers; ``None``: nothing is there; else what is wrong. Looked up beside the API."""
        sagemaker = sagemaker_backends[ACCOUNT][REGION]
        scaling = applicationautoscaling_backends[ACCOUNT][REGION]
        alarms = cloudwatch_backends[ACCOUNT][REGION].alarms
        files = s3_backends[ACCOUNT]["aws"].buckets[BUCKET].keys
        there = {
            "endpoints": len(sagemaker.endpoints),
            "configs": len(sagemaker.endpoint_configs),
            "models": len(sagemaker._models),
            "components": len(self.server.components),
            "targets": sum(map(len, scaling.targets.values())),
            "policies": len(scaling.policies),
            "schedules": len(scaling.scheduled_actions),
            "alarms": len(alarms),
            "files": len(list(files)),
        }
        if not any(there.values()):
            return "None"
        part = self.server.components.get("twin")
        endpoint = sagemaker.endpoints.get("twin")
        states = (endpoint and endpoint.endpoint_status, part and part.status)
        if part is None or states != ("InService", "InService"):
            return f"half: {there}"
        for label, plan in self.plans.items():
            if part.specification["ModelName"] == plan.model_request()["ModelName"]:
                wanted = plan.config_request()["EndpointConfigName"]
                return (
                    label
                    if endpoint.endpoint_config_name == wanted
                    else f"half: model {label}, other machines"
                )
        return "half: unknown model"


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    folder, registry = tmp_path_factory.mktemp("models"), FakeRegistry()
    found = {}
    for label, kind in (("first", "ml.g5.xlarge"), ("second", "ml.g6.xlarge")):
        register_exported(registry, folder / label, label.encode())
        deployment = make_deployment(instance={"type": kind}, scaling=SCALING)
        model = find_model(deployment.model, "vllm", registry, "answer.v1")
        found[label] = Plan(deployment, model, PLACE, deployment.container.image)
    return found


@pytest.fixture
def stage(aws_account: AwsServer, aws_clients: AwsClients, meddler: Meddler, plans: dict[str, Plan]) -> Stage:
    return Stage(aws_account, Endpoints(aws_clients, PLACE, sleep=lambda _: None), plans)


def calls_of(stage: Stage, meddler: Meddler, phase: str) -> list[str]:
    """Operations of a phase, each once, in the order of their first call."""
    stage.begin(phase)
    meddler.operation, meddler.calls = None, []
    stage.act()
    return list(dict.fromkeys(meddler.calls))


def spoil(stage: Stage, meddler: Meddler, phase: str, operation: str, fault: str) -> str:
    """Carry out a phase with a fault, check how it ended, and that a second run heals it; how it ended, in words."""
    stage.begin(phase)
    meddler.operation, meddler.fault, meddler.fired = operation, fault, 0
    try:
        stage.act()
        outcome = "done"
    except TwinError as error:
        outcome = type(error).__name__
    except Killed:
        outcome = "killed"
    meddler.operation = None
    there = stage.serving()
    case = (phase, operation, fault, outcome, there)
    assert meddler.fired, case
    if outcome == "done":
        assert there == stage.goal, case
    elif outcome != "killed" and phase != "delete":
        # Machines and model change one after the other; what answers is the model before, or the one asked for.
        assert there in (stage.before, f"{stage.before} on the new machines", stage.goal), case
    if there != stage.goal:
        stage.act()
        assert stage.serving() == stage.goal, ("not healed", *case)
    if outcome == "done":
        return "done"
    left = {
        stage.goal: "complete",
        stage.before: "as before",
        f"{stage.before} on the new machines": "old model on the new machines",
    }.get(there, "half made")
    return f"{outcome}, {left}{'' if there == stage.goal else ', healed'}"


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:iam::123456789012:user/ada is not authorized to perform: sagemaker:CreateEndpoint on resource: x",
            r"sagemaker:CreateEndpoint is missing",
        ),
        ("AccessDeniedException", "no", "CreateEndpoint is missing"),
        ("ExpiredTokenException", "The security token included in the request is expired", "credentials"),
        (
            "ResourceLimitExceeded",
            "The account-level service limit is 0 Instances",
            "https://.*servicequotas",
        ),
        (
            "ValidationException",
            "Could not assume role arn:aws:iam::123456789012:role/x",
            "SAGEMAKER_ROLE_ARN",
        ),
    ],
)
def test_a_refusal_says_what_to_change_and_leaves_nothing(
    stage: Stage, meddler: Meddler, code: str, message: str, expected: str
) -> None:
    stage.begin("deploy")
    meddler.operation, meddler.fault, meddler.fired = "CreateEndpoint", f"{code}: {message}", 0
    with pytest.raises((ConfigurationError, DeploymentError), match=expected) as caught:
        stage.act()
    meddler.operation = None
    assert ACCOUNT not in str(caught.value)
    assert stage.serving() == "None"


@pytest.mark.parametrize("phase", PHASES)
def test_some_faults_of_each_kind(stage: Stage, meddler: Meddler, phase: str) -> None:
    """A handful that stand for the table below."""
    changing = [name for name in calls_of(stage, meddler, phase) if not is_reading(name)]
    for number, fault in enumerate(FAULTS):
        spoil(stage, meddler, phase, changing[number * 3 % len(changing)], fault)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_every_call_with_every_fault(stage: Stage, meddler: Meddler) -> None:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for phase in PHASES:
        for operation in calls_of(stage, meddler, phase):
            row = rows.setdefault((phase, operation), {})
            for fault in FAULTS:
                # What a call that only reads did or did not do at AWS makes no difference.
                row[fault] = (
                    "as reset before"
                    if fault == "reset after" and is_reading(operation)
                    else spoil(stage, meddler, phase, operation, fault)
                )
    assert len(rows) > 30
    if file := os.environ.get("ENDPOINT_FAULTS_TABLE"):
        lines = [f"| Phase | Call | {' | '.join(FAULTS)} |", "|---" * (len(FAULTS) + 2) + "|"]
        lines += [
            f"| {phase} | {operation} | {' | '.join(found[fault] for fault in FAULTS)} |"
            for (phase, operation), found in rows.items()
        ]
        Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def is_reading(operation: str) -> bool:
    return operation.startswith(("Describe", "List", "Get"))
