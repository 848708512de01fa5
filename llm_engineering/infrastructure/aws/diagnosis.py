"""What of an account is missing for this project, and what runs in it and costs. Asks only, changes nothing."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.faults import explain_failures
from llm_engineering.infrastructure.aws.roles import Kind, Scope, render_policy
from llm_engineering.infrastructure.shared.aws import DENIED, call_unless, code_of, is_absent

_ASSUMED = re.compile(r"arn:(?P<partition>aws[\w-]*):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/.*")


@dataclass(frozen=True, slots=True)
class Running:
    """Something that is paid for by the hour."""

    what: str
    instance_type: str
    instances: int


def find_caller(clients: AwsClients) -> str:
    """Return the ARN of whoever the credentials belong to; of an assumed role, the role's.

    Raises:
        ConfigurationError, DeploymentError: there are no credentials, they are refused, or AWS cannot be reached.
    """
    client = clients.get("sts")
    with explain_failures("Asking AWS whose credentials these are"):
        arn = str(client.get_caller_identity()["Arn"])
    found = _ASSUMED.fullmatch(arn)
    return f"arn:{found['partition']}:iam::{found['account']}:role/{found['role']}" if found else arn


def find_missing_rights(clients: AwsClients, principal: str, kind: Kind, scope: Scope) -> list[str] | None:
    """Return which actions of a policy a role or user may not do, by AWS's own simulation; None: it may not be asked.

    Args:
        principal: ARN of a role or user.
        kind: the policy whose actions are needed.
    """
    iam = clients.get("iam")
    missing: list[str] = []
    for statement in render_policy(kind, scope)["Statement"]:
        with explain_failures(f"Asking what {principal} may do"):
            told = call_unless(
                lambda error: code_of(error) in (*DENIED, "NoSuchEntity", "InvalidInput"),
                iam.simulate_principal_policy,
                PolicySourceArn=principal,
                ActionNames=statement["Action"],
                ResourceArns=[_example(resource) for resource in statement["Resource"]],
                ContextEntries=list(_context(statement)),
            )
        if told is None:
            return None
        refused = {
            one["EvalActionName"] for one in told["EvaluationResults"] if one["EvalDecision"] != "allowed"
        }
        missing += [action for action in statement["Action"] if action in refused]
    return list(dict.fromkeys(missing))


def check_execution_role(clients: AwsClients, role_arn: str) -> str:
    """Return what is wrong with the containers' role; empty: nothing is."""
    name = role_arn.rpartition("/")[2]
    with explain_failures(f"Looking for the role {name}"):
        told = call_unless(is_absent, clients.get("iam").get_role, RoleName=name)
    if told is None:
        return f"there is no role {name}"
    statements = told["Role"]["AssumeRolePolicyDocument"].get("Statement", [])
    services = [statement.get("Principal", {}).get("Service", []) for statement in statements]
    trusted = {name for one in services for name in ([one] if isinstance(one, str) else one)}
    return (
        ""
        if "sagemaker.amazonaws.com" in trusted
        else f"sagemaker.amazonaws.com may not take the role {name}"
    )


def check_bucket(clients: AwsClients, bucket: str) -> str:
    """Return what is wrong with the bucket; empty: nothing is.

    Raises:
        ConfigurationError: it may not be looked at; AWS does not say whether it is there.
    """
    refusals: list[Exception] = []

    def is_expected(error: Exception) -> bool:
        refusals.append(error)
        return code_of(error) in ("404", "NoSuchBucket", *DENIED)

    with explain_failures(f"Looking for the bucket {bucket}"):
        told = call_unless(is_expected, clients.get("s3").get_bucket_location, Bucket=bucket)
    if told is None and code_of(refusals[-1]) in DENIED:
        raise ConfigurationError(
            f"The bucket {bucket} may not be looked at: the right s3:GetBucketLocation is missing (create-sagemaker-role gives "
            "it), or the bucket is somebody else's."
        )
    if told is None:
        return "it is not there"
    region = told["LocationConstraint"] or "us-east-1"
    return "" if region == clients.region else f"it lies in {region}, and the machines in {clients.region}"


def find_quota(clients: AwsClients, instance_type: str) -> float | None:
    """Return how many machines of a type may serve models; None: nobody says."""
    client = clients.get("service-quotas")
    wanted = f"{instance_type} for endpoint usage"
    with explain_failures("Asking for quotas"):
        token: dict[str, str] = {}
        while True:
            told = call_unless(lambda _: True, client.list_service_quotas, ServiceCode="sagemaker", **token)
            for quota in (told or {}).get("Quotas", ()):
                if quota["QuotaName"] == wanted:
                    return float(quota["Value"])
            if not (told or {}).get("NextToken"):
                return None
            token = {"NextToken": told["NextToken"]}


def find_running_jobs(clients: AwsClients) -> list[Running]:
    """Return the jobs that run now, of training, transforming and processing, whoever's they are."""
    client = clients.get("sagemaker")
    found = []
    for kind, resources in (
        ("Training", ("ResourceConfig",)),
        ("Transform", ("TransformResources",)),
        ("Processing", ("ProcessingResources", "ClusterConfig")),
    ):
        what, key = f"{kind.lower()} job", f"{kind}JobName"
        with explain_failures(f"Listing {what}s"):
            pages = client.get_paginator(f"list_{kind.lower()}_jobs").paginate(StatusEquals="InProgress")
            for name in [job[key] for page in pages for job in page[f"{kind}JobSummaries"]]:
                told = call_unless(
                    lambda error: is_absent(error) or code_of(error) in DENIED,
                    getattr(client, f"describe_{kind.lower()}_job"),
                    **{key: name},
                )
                for part in resources:
                    told = (told or {}).get(part)
                machines = told or {}
                found.append(
                    Running(
                        f"{what} {name}",
                        machines.get("InstanceType", "unknown"),
                        machines.get("InstanceCount", 1),
                    )
                )
    return found


def _example(resource: str) -> str:
    """A resource that a pattern stands for."""
    return resource if resource == "*" else resource.replace("*", "example")


def _context(statement: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the simulation takes for given: that the statement's conditions hold."""
    for test in statement.get("Condition", {}).values():
        for key, values in test.items():
            listed = [values] if isinstance(values, str) else values
            yield {
                "ContextKeyName": key,
                "ContextKeyType": "string",
                "ContextKeyValues": [_example(value) for value in listed],
            }
