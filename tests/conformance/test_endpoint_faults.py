"""Faults at every API call of deploy, update and delete: each run ends complete or cleaned up, and a second one heals it.

A fault is put in between boto3 and the network, by botocore's own events: the SDK sees what AWS would have sent it. The table of
(call × fault) is written to ``ENDPOINT_FAULTS_TABLE`` where that names a file.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.endpoint
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session

from llm_engineering.application.deployment.model import find_model
from llm_engineering.domain.errors import TwinError
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.endpoint import Endpoints
from llm_engineering.infrastructure.aws.requests import Plan
from tests.aws_account import BUCKET, client
from tests.conformance.test_inference_endpoint import PLACE, SCALING, everything, left
from tests.fakes.aws_server import REGION, AwsServer
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

    def begin(self, phase: str) -> None:
        self.server.reset()
        place = {"LocationConstraint": REGION}
        client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        self.server.polls = 0
        if phase != "deploy":
            self.endpoints.deploy(self.plans["first"])

    def act(self, phase: str) -> None:
        if phase == "delete":
            self.endpoints.delete("twin", "llm-twin")
        else:
            self.endpoints.deploy(self.plans["first" if phase == "deploy" else "second"])

    def serving(self) -> str | None:
        """The model that answers, None: nothing is there; else what is wrong."""
        found = everything()
        if not any(found.values()):
            return None
        state = self.endpoints.find("twin")
        part = self.server.components.get("twin")
        if state is None or part is None or (state.status, part.status) != ("InService", "InService"):
            return f"half: {left()}"
        name = part.specification["ModelName"]
        for label, plan in self.plans.items():
            if name == plan.model_request()["ModelName"]:
                return label
        return f"unknown model {name}"


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
    stage.act(phase)
    return list(dict.fromkeys(meddler.calls))


def spoil(stage: Stage, meddler: Meddler, phase: str, operation: str, fault: str) -> tuple[str, str]:
    """How a phase with a fault ended, and what is there then."""
    stage.begin(phase)
    meddler.operation, meddler.fault, meddler.fired = operation, fault, 0
    try:
        stage.act(phase)
        outcome = "done"
    except TwinError as error:
        outcome = type(error).__name__
    except Killed:
        outcome = "killed"
    assert meddler.fired
    meddler.operation = None
    return outcome, str(stage.serving())


GOALS = {"deploy": "first", "update": "second", "delete": "None"}
KEPT = {"deploy": "None", "update": "first", "delete": "first"}


def check(stage: Stage, phase: str, operation: str, fault: str, ended: tuple[str, str]) -> None:
    outcome, there = ended
    case = (phase, operation, fault, ended)
    if outcome == "done":
        assert there == GOALS[phase], case
    elif outcome != "killed" and phase != "delete":
        assert there in (KEPT[phase], GOALS[phase]), case
    if there != GOALS[phase]:
        stage.act(phase)
    assert str(stage.serving()) == GOALS[phase], ("not healed", *case)


@pytest.mark.parametrize("phase", PHASES)
def test_some_faults_of_each_kind(stage: Stage, meddler: Meddler, phase: str) -> None:
    """A handful that stand for the table below."""
    calls = calls_of(stage, meddler, phase)
    for number, fault in enumerate(FAULTS):
        changing = [name for name in calls if not name.startswith(("Describe", "List", "Get"))]
        operation = changing[number * 3 % len(changing)]
        check(stage, phase, operation, fault, spoil(stage, meddler, phase, operation, fault))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_call_with_every_fault(stage: Stage, meddler: Meddler) -> None:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for phase in PHASES:
        for operation, fault in product(calls_of(stage, meddler, phase), FAULTS):
            ended = spoil(stage, meddler, phase, operation, fault)
            check(stage, phase, operation, fault, ended)
            rows.setdefault((phase, operation), {})[fault] = f"{ended[0]}, {ended[1]}"
    assert len(rows) > 30
    if file := os.environ.get("ENDPOINT_FAULTS_TABLE"):
        lines = [f"| Phase | Call | {' | '.join(FAULTS)} |", "|---" * (len(FAULTS) + 2) + "|"]
        lines += [
            f"| {phase} | {operation} | {' | '.join(found[fault] for fault in FAULTS)} |"
            for (phase, operation), found in rows.items()
        ]
        Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")
