"""Roles against the emulator's IAM."""

import json
import stat
from pathlib import Path

import pytest

from llm_engineering.domain.errors import ConfigurationError, DeploymentError
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.roles import Scope, apply_role, apply_user, render_policy
from tests.aws_account import BUCKET, client
from tests.fakes.aws_server import ACCOUNT, REGION, AwsServer
from tools.sagemaker_roles import main

SCOPE = Scope(ACCOUNT, REGION, BUCKET)


@pytest.mark.parametrize("kind", ["execution", "deployer"])
def test_a_role_is_made_once_and_then_kept(
    aws_account: AwsServer, aws_clients: AwsClients, kind: str
) -> None:
    first = apply_role(aws_clients, kind, SCOPE, "llm-twin")  # type: ignore[arg-type]
    assert [change.act for change in first] == ["create", "create"]
    again = apply_role(aws_clients, kind, SCOPE, "llm-twin")  # type: ignore[arg-type]
    assert [change.act for change in again] == ["keep", "keep"]
    held = client("iam").get_role_policy(RoleName=f"twin-sagemaker-{kind}", PolicyName=kind)["PolicyDocument"]
    assert held == render_policy(kind, SCOPE)


def test_what_somebody_changed_is_set_right(aws_account: AwsServer, aws_clients: AwsClients) -> None:
    apply_role(aws_clients, "execution", SCOPE, "llm-twin")
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    client("iam").put_role_policy(
        RoleName="twin-sagemaker-execution", PolicyName="execution", PolicyDocument=json.dumps(everything)
    )
    changes = apply_role(aws_clients, "execution", SCOPE, "llm-twin")
    assert [change.act for change in changes] == ["keep", "update"]
    assert [change.act for change in apply_role(aws_clients, "execution", SCOPE, "llm-twin")] == [
        "keep",
        "keep",
    ]


def test_a_dry_run_changes_nothing(aws_account: AwsServer, aws_clients: AwsClients) -> None:
    changes = apply_role(aws_clients, "execution", SCOPE, "llm-twin", dry_run=True)
    changes += apply_user(aws_clients, SCOPE, "llm-twin", keys_file=Path("never"), dry_run=True)
    assert {change.act for change in changes} == {"create"}
    assert client("iam").list_roles()["Roles"] == []
    assert client("iam").list_users()["Users"] == []
    assert not Path("never").exists()


def test_another_projects_role_is_left_alone(aws_account: AwsServer, aws_clients: AwsClients) -> None:
    apply_role(aws_clients, "execution", SCOPE, "theirs")
    with pytest.raises(ConfigurationError, match="theirs"):
        apply_role(aws_clients, "execution", SCOPE, "llm-twin")


def test_no_key_is_made_unless_a_file_is_named(
    aws_account: AwsServer, aws_clients: AwsClients, tmp_path: Path
) -> None:
    apply_user(aws_clients, SCOPE, "llm-twin")
    assert client("iam").list_access_keys(UserName="twin-sagemaker")["AccessKeyMetadata"] == []
    file = tmp_path / "keys"
    apply_user(aws_clients, SCOPE, "llm-twin", keys_file=file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (key,) = client("iam").list_access_keys(UserName="twin-sagemaker")["AccessKeyMetadata"]
    assert key["AccessKeyId"] in file.read_text(encoding="utf-8")
    with pytest.raises(ConfigurationError, match="not overwritten"):
        apply_user(aws_clients, SCOPE, "llm-twin", keys_file=file)
    assert len(client("iam").list_access_keys(UserName="twin-sagemaker")["AccessKeyMetadata"]) == 1


def test_no_key_is_made_where_it_cannot_be_written(
    aws_account: AwsServer, aws_clients: AwsClients, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="none was made"):
        apply_user(aws_clients, SCOPE, "llm-twin", keys_file=tmp_path / "no-folder" / "keys")
    assert client("iam").list_access_keys(UserName="twin-sagemaker")["AccessKeyMetadata"] == []


def test_no_empty_file_is_left_where_no_key_is_made(
    aws_account: AwsServer, aws_clients: AwsClients, tmp_path: Path
) -> None:
    for number in range(2):  # the most that AWS allows
        apply_user(aws_clients, SCOPE, "llm-twin", keys_file=tmp_path / str(number))
    with pytest.raises(DeploymentError, match="LimitExceeded"):
        apply_user(aws_clients, SCOPE, "llm-twin", keys_file=tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_the_task_shows_no_key(
    aws_account: AwsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    assert main(["deployer", "--bucket", BUCKET, "--keys-file", str(file)]) == 0
    shown = capsys.readouterr()
    secret = file.read_text(encoding="utf-8").split("aws_secret_access_key = ")[1].splitlines()[0]
    assert secret not in shown.out + shown.err


def test_the_task_says_what_to_set(aws_account: AwsServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["execution", "--bucket", BUCKET, "--dry-run"]) == 0
    assert "would be made" in capsys.readouterr().out
    assert main(["execution", "--bucket", BUCKET]) == 0
    assert f"SAGEMAKER_ROLE_ARN={SCOPE.role_arn('execution')}" in capsys.readouterr().out


def test_a_bucket_is_needed(aws_account: AwsServer) -> None:
    with pytest.raises(ConfigurationError, match="SAGEMAKER_BUCKET"):
        main(["execution"])
