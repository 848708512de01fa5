"""The policies in ``infra/aws/policies``, held against AWS's own tables of actions, resources and condition keys."""

import fnmatch
import json
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("parliament") is None or find_spec("policy_sentry") is None:
    pytest.skip("needs parliament and policy-sentry: the group infra", allow_module_level=True)

from policy_sentry.querying.actions import get_action_data

from llm_engineering.infrastructure.aws.roles import POLICIES, Scope, render_policy

ROOT = Path(__file__).parents[2]
SCOPE = Scope("123456789012", "eu-west-1", "twin-bucket")
NAMES = sorted(path.stem for path in (ROOT / POLICIES).glob("*.json"))
IDENTITY = [name for name in NAMES if not name.endswith("_trust")]
TRUST = [name for name in NAMES if name.endswith("_trust")]


def statements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = render_policy(name, SCOPE, ROOT / POLICIES)["Statement"]
    return found


def rows(action: str) -> list[dict[str, Any]]:
    service, name = action.split(":")
    data = get_action_data(service, name)
    assert data, f"AWS has no action {action}"
    return list(data[service])


@pytest.mark.parametrize("name", IDENTITY)
def test_parliament_finds_nothing(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources
        import parliament
    policy = parliament.analyze_policy_string(json.dumps(render_policy(name, SCOPE, ROOT / POLICIES)))
    assert [str(finding) for finding in policy.findings] == []


@pytest.mark.parametrize("name", IDENTITY)
def test_actions_are_written_out_and_exist(name: str) -> None:
    for statement in statements(name):
        for action in statement["Action"]:
            assert "*" not in action
            assert rows(action)


@pytest.mark.parametrize("name", IDENTITY)
def test_resources_are_named_wherever_aws_lets_them_be(name: str) -> None:
    for statement in statements(name):
        if "*" not in statement["Resource"]:
            continue
        for action in statement["Action"]:
            kinds = {row["resource_arn_format"] for row in rows(action)}
            assert kinds == {"*"}, f"{action} can be bound to {kinds - {'*'}}"


@pytest.mark.parametrize("name", IDENTITY)
def test_every_action_can_act_on_a_resource_beside_it(name: str) -> None:
    for statement in statements(name):
        if "*" in statement["Resource"]:
            continue
        for action in statement["Action"]:
            patterns = [re.sub(r"\$\{[^}]+\}", "*", row["resource_arn_format"]) for row in rows(action)]
            assert any(
                fnmatch.fnmatchcase(resource, pattern)
                for resource in statement["Resource"]
                for pattern in patterns
                if pattern != "*"
            ), f"{action} acts on none of {statement['Resource']}"


@pytest.mark.parametrize("name", IDENTITY)
def test_conditions_are_of_keys_that_the_action_knows(name: str) -> None:
    for statement in statements(name):
        keys = {key.lower() for test in statement.get("Condition", {}).values() for key in test}
        for action in statement["Action"]:
            known = {key.lower() for row in rows(action) for key in row["condition_keys"]}
            assert keys <= known, f"{action}: {keys - known}"


def test_a_role_is_passed_to_sagemaker_alone() -> None:
    passing = [one for name in IDENTITY for one in statements(name) if "iam:PassRole" in one["Action"]]
    (statement,) = passing
    assert statement["Action"] == ["iam:PassRole"]
    assert statement["Resource"] == [SCOPE.role_arn("execution")]
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_a_container_reads_the_secrets_of_training_alone() -> None:
    (statement,) = [
        one for one in statements("execution") if "secretsmanager:GetSecretValue" in one["Action"]
    ]
    assert [resource.rpartition(":")[2] for resource in statement["Resource"]] == ["twin-training-*"]


@pytest.mark.parametrize("name", TRUST)
def test_trust_is_bound_to_the_account(name: str) -> None:
    for statement in statements(name):
        assert statement["Action"] == "sts:AssumeRole"
        assert "*" not in json.dumps(statement["Principal"])
        assert SCOPE.account in json.dumps(statement["Condition"])


def test_no_managed_policy_is_named_anywhere() -> None:
    assert [
        path.name for path in (ROOT / POLICIES).glob("*.json") if "FullAccess" in path.read_text("utf-8")
    ] == []


@pytest.mark.parametrize("name", IDENTITY)
def test_a_policy_fits_into_a_role(name: str) -> None:
    """AWS allows a role's inline policies 10,240 characters, white space not counted."""
    assert len(re.sub(r"\s", "", json.dumps(render_policy(name, SCOPE, ROOT / POLICIES)))) <= 10_240
