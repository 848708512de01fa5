"""The Terraform module: formatted, valid by the provider's own schema, right by its own tests, applied to an emulated account."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.durations import allow

MODULE = Path(__file__).parents[2] / "infra" / "aws"
PROVIDER = "registry.terraform.io/hashicorp/aws"
VARIABLES = {
    "bucket": "twin-applied",
    "alert_email": "ops@example.com",
    "github_repository": "owner/twin",
    "region": "eu-west-1",
    "force_destroy": "true",
}

Terraform = Callable[..., subprocess.CompletedProcess[str]]


def find_mirror() -> Path | None:
    """A folder that holds the provider: TF_PLUGIN_MIRROR, or one among the machine's optional software."""
    named = os.environ.get("TF_PLUGIN_MIRROR")
    places = [Path(named)] if named else sorted(Path("/opt").glob("*"))
    return next((place for place in places if (place / PROVIDER).is_dir()), None)


@pytest.fixture
def terraform(tmp_path: Path) -> Terraform:
    """Runs Terraform on a copy of the module, with the provider of this machine's mirror alone."""
    program, mirror = shutil.which("terraform"), find_mirror()
    if program is None:
        pytest.skip("terraform is not on this machine (developer.hashicorp.com/terraform/install)")
    if mirror is None:
        pytest.skip(
            f"no mirror of {PROVIDER} on this machine; make one with `terraform providers mirror`, name it TF_PLUGIN_MIRROR"
        )
    config = tmp_path / "terraformrc"
    config.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path    = "{mirror}"\n'
        '    include = ["registry.terraform.io/*/*"]\n  }\n}\ndisable_checkpoint = true\n',
        encoding="utf-8",
    )
    work = tmp_path / "module"
    shutil.copytree(MODULE, work, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
    environment |= {"TF_CLI_CONFIG_FILE": str(config), "TF_IN_AUTOMATION": "1", "HOME": str(tmp_path)}

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [program, *arguments]
        return subprocess.run(
            command, cwd=work, env={**environment, **more}, capture_output=True, text=True, timeout=allow(400)
        )

    return call


def test_the_module_is_formatted(terraform: Terraform) -> None:
    done = terraform("fmt", "-check", "-recursive", "-no-color")
    assert done.returncode == 0, done.stdout


def test_opentofu_can_read_it_too() -> None:
    """Nothing that only newer Terraform has: OpenTofu went its own way after 1.5, and both know what stands here."""
    text = "".join(path.read_text(encoding="utf-8") for path in MODULE.glob("*.tf"))
    for word in ("provider::", "ephemeral ", "write_only", "removed {", 'check "', 'action "'):
        assert word not in text
    assert 'required_version = ">= 1.6"' in text


@pytest.mark.slow
def test_the_module_is_valid_and_passes_its_own_tests(terraform: Terraform) -> None:
    done = terraform("init", "-backend=false", "-input=false", "-no-color")
    assert done.returncode == 0, done.stderr
    valid = json.loads(terraform("validate", "-json").stdout)
    assert valid["valid"] is True, valid["diagnostics"]
    assert valid["warning_count"] == 0, valid["diagnostics"]
    tested = terraform("test", "-no-color")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def complete_budgets(patch: pytest.MonkeyPatch) -> None:
    """Add to moto what it has not: who is told about a budget, and its tags."""
    from moto.budgets.responses import BudgetsResponse

    create = BudgetsResponse.create_budget
    tags: dict[str, list[dict[str, str]]] = {}

    def create_budget(self: Any) -> str:
        tags[self._get_param("Budget")["BudgetName"]] = self._get_param("ResourceTags", [])
        return create(self)

    def list_tags(self: Any) -> str:
        return json.dumps({"ResourceTags": tags[self._get_param("ResourceARN").rpartition("/")[2]]})

    def list_subscribers(self: Any) -> str:
        asked = self._get_param("Notification")
        budget = self.backend.budgets[self._get_param("AccountId")][self._get_param("BudgetName")]
        same = ("NotificationType", "ComparisonOperator", "Threshold")
        found = next(
            one for one in budget.notifications if all(one.details[key] == asked[key] for key in same)
        )
        return json.dumps({"Subscribers": found.subscribers})

    patch.setattr(BudgetsResponse, "create_budget", create_budget)
    patch.setattr(BudgetsResponse, "list_tags_for_resource", list_tags, raising=False)
    patch.setattr(BudgetsResponse, "describe_subscribers_for_notification", list_subscribers, raising=False)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_module_is_applied_again_without_change_and_destroyed(
    terraform: Terraform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws_server = pytest.importorskip("tests.fakes.aws_server", reason="needs moto: the group dev")
    boto3 = pytest.importorskip("boto3")
    complete_budgets(monkeypatch)
    override = """
    provider "aws" {
      skip_credentials_validation = true
      skip_metadata_api_check     = true
      skip_requesting_account_id  = false
      s3_use_path_style           = true
      max_retries                 = 1
    }
    """
    (tmp_path / "module" / "emulator_override.tf").write_text(override, encoding="utf-8")
    variables = [f"-var={name}={value}" for name, value in VARIABLES.items()]
    with aws_server.AwsServer() as server:
        here = {**aws_server.CREDENTIALS, "AWS_ENDPOINT_URL": server.url}

        def client(service: str) -> object:
            session = boto3.Session(
                here["AWS_ACCESS_KEY_ID"], here["AWS_SECRET_ACCESS_KEY"], region_name=VARIABLES["region"]
            )
            return session.client(service, endpoint_url=server.url)

        def run(*arguments: str, expected: int = 0) -> str:
            done = terraform(*arguments, **here)
            assert done.returncode == expected, done.stdout[-3000:] + done.stderr[-3000:]
            return done.stdout

        run("init", "-input=false", "-no-color")
        run("apply", "-auto-approve", "-input=false", "-no-color", *variables)
        outputs = {name: one["value"] for name, one in json.loads(run("output", "-json")).items()}
        assert outputs["bucket"] == VARIABLES["bucket"]
        assert (
            outputs["execution_role_arn"]
            == f"arn:aws:iam::{aws_server.ACCOUNT}:role/twin-sagemaker-execution"
        )
        assert set(outputs["github_role_arns"]) == {"build", "train", "deploy"}
        roles = {role["RoleName"] for role in client("iam").list_roles()["Roles"]}  # type: ignore[attr-defined]
        assert {"twin-sagemaker-execution", "twin-sagemaker-deployer", "twin-github-build"} <= roles
        run("plan", "-detailed-exitcode", "-input=false", "-no-color", *variables)
        run("destroy", "-auto-approve", "-input=false", "-no-color", *variables)
        assert json.loads(run("show", "-json")).get("values") is None
        assert client("s3").list_buckets()["Buckets"] == []  # type: ignore[attr-defined]
        assert not {role["RoleName"] for role in client("iam").list_roles()["Roles"]} & roles  # type: ignore[attr-defined]
        assert client("ecr").describe_repositories()["repositories"] == []  # type: ignore[attr-defined]
