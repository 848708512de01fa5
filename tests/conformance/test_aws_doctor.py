"""``poe aws-doctor`` against the emulated account."""

import json
from typing import Any

import boto3
import pytest

from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.diagnosis import find_caller, find_missing_rights
from llm_engineering.infrastructure.aws.roles import Scope, apply_role
from tests.aws_account import BUCKET, client
from tests.fakes.aws_server import ACCOUNT, REGION, AwsServer
from tools.aws_doctor import main

SCOPE = Scope(ACCOUNT, REGION, BUCKET)


def test_the_rights_of_a_role_as_it_should_be(aws_account: AwsServer, aws_clients: AwsClients) -> None:
    for kind in ("deployer", "execution"):
        apply_role(aws_clients, kind, SCOPE, "llm-twin")  # type: ignore[arg-type]
        assert find_missing_rights(aws_clients, SCOPE.role_arn(kind), kind, SCOPE) == []  # type: ignore[arg-type]


def test_rights_that_are_missing_are_named(aws_account: AwsServer, aws_clients: AwsClients) -> None:
    apply_role(aws_clients, "deployer", SCOPE, "llm-twin")
    client("iam").put_role_policy(
        RoleName="twin-sagemaker-deployer",
        PolicyName="deny",
        PolicyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Deny",
                        "Action": ["sagemaker:CreateEndpoint", "iam:PassRole"],
                        "Resource": ["*"],
                    }
                ],
            }
        ),
    )
    missing = find_missing_rights(aws_clients, SCOPE.role_arn("deployer"), "deployer", SCOPE)
    assert missing == ["sagemaker:CreateEndpoint", "iam:PassRole"]


def test_a_caller_that_cannot_be_simulated(aws_account: AwsServer, aws_clients: AwsClients) -> None:
    assert find_missing_rights(aws_clients, f"arn:aws:iam::{ACCOUNT}:root", "deployer", SCOPE) is None


def test_an_assumed_role_is_known_by_its_role(aws_account: AwsServer, aws_clients: AwsClients) -> None:
    apply_role(aws_clients, "deployer", SCOPE, "llm-twin")
    given = client("sts").assume_role(RoleArn=SCOPE.role_arn("deployer"), RoleSessionName="me")["Credentials"]
    session = boto3.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], REGION)
    clients = AwsClients(REGION, session)
    assert find_caller(clients) == SCOPE.role_arn("deployer")
    clients.close()


def findings(capsys: pytest.CaptureFixture[str], expected: int = 0) -> dict[str, dict[str, Any]]:
    assert main(["--json"]) == expected
    return {found["name"]: found for found in json.loads(capsys.readouterr().out)}


def test_the_task(
    aws_account: AwsServer,
    aws_clients: AwsClients,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    apply_role(aws_clients, "execution", SCOPE, "llm-twin")
    monkeypatch.setenv("SAGEMAKER_BUCKET", BUCKET)
    monkeypatch.setenv("SAGEMAKER_ROLE_ARN", SCOPE.role_arn("execution"))
    sagemaker = client("sagemaker")
    variant = {"VariantName": "main", "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 2}
    sagemaker.create_endpoint_config(EndpointConfigName="other", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="other", EndpointConfigName="other")
    aws_account.quotas["ml.g5.xlarge"] = 0.0
    found = findings(capsys)
    assert (found["ml.g5.xlarge"]["state"], found["bucket"]["state"]) == ("missing", "ok")
    assert "servicequotas" in found["ml.g5.xlarge"]["todo"]
    assert found["containers"]["state"] == "ok"
    assert found["their rights"]["state"] == "ok"
    assert found["image"]["state"] == "missing"
    assert "2 × ml.g5.xlarge" in found["endpoint other"]["detail"]


def test_without_credentials_nothing_else_is_asked(
    aws_account: AwsServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert [*findings(capsys, 1)] == ["credentials"]


def test_a_bucket_elsewhere_is_told(
    aws_account: AwsServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"LocationConstraint": "eu-central-1"}
    boto3.client("s3", region_name="eu-central-1").create_bucket(
        Bucket="far-away", CreateBucketConfiguration=place
    )
    monkeypatch.setenv("SAGEMAKER_BUCKET", "far-away")
    assert "eu-central-1" in findings(capsys)["bucket"]["detail"]
