"""An account in AWS for tests: an emulator over HTTP, dummy credentials, and nothing of this machine's own configuration."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from llm_engineering.infrastructure.aws.clients import AwsClients
from tests.fakes.aws_server import ACCOUNT, CREDENTIALS, REGION, AwsServer

SERVICES = (
    "application-autoscaling", "cloudwatch", "ecr", "iam", "logs", "s3", "sagemaker", "sagemaker-runtime", "sts"
)  # fmt: skip
BUCKET = "twin-serving"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/twin-sagemaker-execution"


@pytest.fixture(scope="session")
def aws_server() -> Iterator[AwsServer]:
    """The emulator, for the whole run."""
    with AwsServer() as server:
        yield server


@pytest.fixture(scope="session")
def aws_clients(aws_server: AwsServer) -> Iterator[AwsClients]:
    """Clients of the account that are opened once: reading the API's description takes longer than most calls."""
    session = boto3.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], region_name=REGION
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", aws_server.url)
        clients = AwsClients(REGION, session)
        for service in SERVICES:
            clients.get(service)
    _CLIENTS.append(clients)
    yield clients
    _CLIENTS.clear()
    clients.close()


_CLIENTS: list[AwsClients] = []


def client(service: str) -> Any:
    """boto3's client of a service in the emulated account."""
    return _CLIENTS[0].get(service)


@pytest.fixture
def aws_account(aws_server: AwsServer, aws_clients: AwsClients, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    """An empty account with a bucket, which this process and its children work in."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_server.url)
    aws_server.reset()
    aws_server.model_server = None
    place = {"LocationConstraint": REGION}
    aws_clients.get("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
    return aws_server
