"""Roles in IAM, made from the reviewed policies in ``infra/aws/policies``: again and again with the same end."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.faults import explain_failures
from llm_engineering.infrastructure.shared.aws import call_unless, code_of, is_absent

Kind = Literal["execution", "deployer"]
POLICIES = Path("infra/aws/policies")
_DESCRIPTIONS = {
    "execution": "What containers of training and serving may do.",
    "deployer": "What whoever trains, deploys and asks may do.",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What the policies' placeholders stand for."""

    account: str
    region: str
    bucket: str
    name: str = "twin"
    """Beginning of the names of all that the roles may touch: endpoints, models, jobs, images, secrets."""
    prefix: str = "twin"
    """Of the bucket's keys."""

    def role_name(self, kind: Kind) -> str:
        """Return the name of a role."""
        return f"{self.name}-sagemaker-{kind}"

    def role_arn(self, kind: Kind) -> str:
        """Return the ARN of a role."""
        return f"arn:aws:iam::{self.account}:role/{self.role_name(kind)}"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was done, or would be."""

    act: Literal["create", "update", "keep"]
    what: str


def render_policy(name: str, scope: Scope, folder: Path = POLICIES) -> dict[str, Any]:
    """Return a policy's document with its placeholders filled.

    Raises:
        ConfigurationError: there is no such file, or it names a placeholder that nobody knows.
    """
    values = {
        "account": scope.account, "region": scope.region, "bucket": scope.bucket, "name": scope.name, "prefix": scope.prefix
    }  # fmt: skip
    try:
        text = (folder / f"{name}.json").read_text(encoding="utf-8")
        document: dict[str, Any] = json.loads(Template(text).substitute(values))
    except OSError as error:
        raise ConfigurationError(
            f"The policy {folder / name}.json cannot be read: {error.strerror}."
        ) from None
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            f"The policy {folder / name}.json is no JSON with the placeholders {', '.join(values)}: {error}."
        ) from None
    return document


def apply_role(
    clients: AwsClients, kind: Kind, scope: Scope, project: str, *, dry_run: bool = False
) -> list[Change]:
    """Make a role as the policies say, or change the one that is there into it.

    Args:
        dry_run: only say what would be done.

    Raises:
        ConfigurationError: a right is missing, or the role is another project's.
        DeploymentError: AWS refuses, or cannot be reached.
    """
    name, tags = scope.role_name(kind), [{"Key": "project", "Value": project}]
    trust, policy = render_policy(f"{kind}_trust", scope), render_policy(kind, scope)
    iam = clients.get("iam")
    there = _find(lambda: call_unless(is_absent, iam.get_role, RoleName=name), f"Looking for the role {name}")
    changes = []
    if there is None:
        changes.append(Change("create", f"role {name}"))
        if not dry_run:
            with explain_failures(f"Making the role {name}"):
                call_unless(
                    lambda error: code_of(error) == "EntityAlreadyExists",
                    iam.create_role,
                    RoleName=name,
                    AssumeRolePolicyDocument=json.dumps(trust),
                    Description=_DESCRIPTIONS[kind],
                    MaxSessionDuration=3600 * 4,
                    Tags=tags,
                )
    else:
        _refuse_foreign(there["Role"], project)
        same = there["Role"].get("AssumeRolePolicyDocument") == trust
        changes.append(Change("keep" if same else "update", f"who may take the role {name}"))
        if not same and not dry_run:
            with explain_failures(f"Changing who may take the role {name}"):
                iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))
    held = None
    if there is not None:
        held = _find(
            lambda: call_unless(is_absent, iam.get_role_policy, RoleName=name, PolicyName=kind),
            f"Reading what the role {name} may",
        )
    same = held is not None and held["PolicyDocument"] == policy
    changes.append(
        Change("keep" if same else "create" if held is None else "update", f"policy {kind} of {name}")
    )
    if not same and not dry_run:
        with explain_failures(f"Setting what the role {name} may"):
            iam.put_role_policy(RoleName=name, PolicyName=kind, PolicyDocument=json.dumps(policy))
    return changes


def apply_user(
    clients: AwsClients, scope: Scope, project: str, *, keys_file: Path | None = None, dry_run: bool = False
) -> list[Change]:
    """Make a user who may do one thing: take the deployer's role. Keys are made only for a file that is named.

    Args:
        keys_file: where to write the access key, readable to its owner alone; it must not be there yet. None: no key is made.

    Raises:
        ConfigurationError: a right is missing, the file is there, or the user is another project's.
        DeploymentError: AWS refuses, or cannot be reached.
    """
    name, iam = f"{scope.name}-sagemaker", clients.get("iam")
    if keys_file is not None and keys_file.exists():
        raise ConfigurationError(f"{keys_file} is there already, and is not overwritten: name another file.")
    there = _find(lambda: call_unless(is_absent, iam.get_user, UserName=name), f"Looking for the user {name}")
    changes = [
        Change("keep" if there else "create", f"user {name}, who may take {scope.role_name('deployer')}")
    ]
    if there is not None:
        _refuse_foreign(there["User"], project)
    if keys_file is not None:
        changes.append(Change("create", f"access key of {name}, into {keys_file}"))
    if dry_run:
        return changes
    with explain_failures(f"Making the user {name}"):
        if there is None:
            iam.create_user(UserName=name, Tags=[{"Key": "project", "Value": project}])
        document = json.dumps(render_policy("assume_deployer", scope))
        iam.put_user_policy(UserName=name, PolicyName="assume-deployer", PolicyDocument=document)
    if keys_file is not None:
        _make_key(iam, name, keys_file, scope)
    return changes


def _make_key(iam: Any, user: str, file: Path, scope: Scope) -> None:
    """Make an access key for a file that can be written: it is shown once, and must not be lost."""
    try:
        file.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise ConfigurationError(
            f"The key cannot be written to {file} ({error.strerror}), so none was made: name another file."
        ) from None
    try:
        with explain_failures(f"Making an access key of {user}"):
            key = iam.create_access_key(UserName=user)["AccessKey"]
    except BaseException:
        file.unlink()
        raise
    _write_keys(file, key, scope)


def _write_keys(file: Path, key: Mapping[str, str], scope: Scope) -> None:
    """As a profile of AWS's own credentials file."""
    file.write_text(
        f"[{scope.name}-keys]\naws_access_key_id = {key['AccessKeyId']}\n"
        f"aws_secret_access_key = {key['SecretAccessKey']}\n\n[{scope.name}]\nsource_profile = {scope.name}-keys\n"
        f"role_arn = {scope.role_arn('deployer')}\nregion = {scope.region}\n",
        encoding="utf-8",
    )


def _find(call: Callable[[], Any], doing: str) -> Any:
    with explain_failures(doing):
        return call()


def _refuse_foreign(found: Mapping[str, Any], project: str) -> None:
    name = found.get("RoleName") or found.get("UserName")
    owner = {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}.get("project")
    if owner != project:
        raise ConfigurationError(
            f"{name} is there and belongs to {f'the project {owner}' if owner else 'somebody else (it has no tag project)'}, not "
            f"to {project}: it is left alone. Take another --name."
        )
