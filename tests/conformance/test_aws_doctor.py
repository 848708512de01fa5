"""``poe aws-doctor`` against the emulated account."""

import json
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.diagnosis import (
    check_bucket,
    find_caller,
    find_missing_rights,
    find_running_jobs,
)
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


def test_a_bucket_that_may_not_be_looked_at_is_not_said_to_be_missing(
    aws_account: AwsServer, aws_clients: AwsClients
) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

    def refuse(request: Any, **given: Any) -> AWSResponse:
        raw = SimpleNamespace(stream=lambda **_: iter([body]))
        return AWSResponse(request.url, 403, HTTPHeaders(), raw)

    events = aws_clients.get("s3").meta.events
    events.register("before-send.s3.GetBucketLocation", refuse)
    try:
        with pytest.raises(ConfigurationError, match="may not be looked at"):
            check_bucket(aws_clients, BUCKET)
    finally:
        events.unregister("before-send.s3.GetBucketLocation", refuse)
    assert check_bucket(aws_clients, BUCKET) == ""
    assert check_bucket(aws_clients, "never-made") == "it is not there"


def test_jobs_of_all_kinds_that_run_are_listed_over_all_pages(
    aws_account: AwsServer, aws_clients: AwsClients
) -> None:
    role, output = f"arn:aws:iam::{ACCOUNT}:role/x", {"S3OutputPath": f"s3://{BUCKET}/out"}
    machines = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1}
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in"}}
    sagemaker = client("sagemaker")
    aws_account.polls = 9
    for number in range(101):
        sagemaker.create_training_job(
            TrainingJobName=f"twin-{number}",
            AlgorithmSpecification={"TrainingImage": "x/y:1", "TrainingInputMode": "File"},
            RoleArn=role,
            OutputDataConfig=output,
            ResourceConfig={**machines, "VolumeSizeInGB": 30},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
        )
    sagemaker.create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer={"Image": "x/y:1"})
    sagemaker.create_transform_job(
        TransformJobName="batch",
        ModelName="m",
        TransformInput={"DataSource": source},
        TransformOutput=output,
        TransformResources=machines,
    )
    sagemaker.create_processing_job(
        ProcessingJobName="step",
        ProcessingResources={"ClusterConfig": {**machines, "VolumeSizeInGB": 30}},
        AppSpecification={"ImageUri": "x/y:1"},
        RoleArn=role,
    )
    from moto.sagemaker.models import sagemaker_backends

    backend = sagemaker_backends[ACCOUNT][REGION]
    for job in backend.training_jobs.values():
        job.training_job_status = "InProgress"
    for step in backend.processing_jobs.values():
        step.processing_job_status = "InProgress"
        vars(step)["processing_resources"] = {"ClusterConfig": machines}  # moto forgets them
    found = find_running_jobs(aws_clients)
    assert len(found) == 103
    assert {one.what for one in found} >= {
        "training job twin-100",
        "transform job batch",
        "processing job step",
    }
    assert {(one.instance_type, one.instances) for one in found} == {("ml.m5.xlarge", 1)}
