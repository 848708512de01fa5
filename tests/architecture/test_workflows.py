"""The workflows: free of mistakes that a linter can see, pinned, with the least rights; and executed.

act runs them on this machine without images. Actions are stand-ins that check their inputs; ``./poe``, ``docker``, ``aws`` and
``gh`` write down how they were called. What they really do is proved where they are tested themselves.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_engineering.application.deployment.config import Deployment
from tests.architecture.test_tasks import TASKS
from tools.registry import REFUSED

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yml"))
}
COMMIT = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
NODE_24 = {
    "actions/checkout": 5,
    "actions/setup-python": 6,
    "actions/upload-artifact": 6,
    "aws-actions/configure-aws-credentials": 6,
    "aquasecurity/trivy-action": 0,  # made of steps, needs no node
}
"""The first major version of each action that runs on node 24."""


def find_tool(name: str) -> str:
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if (found := shutil.which(name, path=own)) is None:
        pytest.skip(f"{name} is not here; the group infra brings it: ./poe setup --with infra")
    return found


def steps() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{name}.{job}", step)
        for name, workflow in WORKFLOWS.items()
        for job, definition in workflow["jobs"].items()
        for step in definition.get("steps", [])
    ]


def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(
        [find_tool("actionlint"), "-no-color", *map(str, FOLDER.glob("*.yml"))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing() -> None:
    command = [find_tool("zizmor"), "--offline", "--no-progress", "--color=never", str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned_by_commit_with_their_version_beside_it() -> None:
    for path in FOLDER.glob("*.yml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if (match := re.search(r"uses: ([^\s#]+)(.*)", line)) is None or match[1].startswith("./"):
                continue
            assert COMMIT.fullmatch(match[1]), f"{path.name}: {line.strip()}"
            version = re.fullmatch(r" # v(\d+)\.\d+\.\d+", match[2])
            assert version is not None, f"{path.name}: {line.strip()}"
            assert int(version[1]) >= NODE_24[match[1].partition("@")[0]], f"{path.name}: {line.strip()}"


def test_a_checkout_leaves_no_token_behind() -> None:
    checkouts = [
        (where, step) for where, step in steps() if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert checkouts
    for where, step in checkouts:
        assert step["with"]["persist-credentials"] is False, where


def test_rights_are_read_only_unless_a_job_says_why() -> None:
    for name, workflow in WORKFLOWS.items():
        at_top = workflow["permissions"]
        if name == "training":
            at_top = {key: value for key, value in at_top.items() if key != "id-token"}
        assert at_top == {"contents": "read"}, name
        for job, definition in workflow["jobs"].items():
            wide = {right for right, level in definition.get("permissions", {}).items() if level == "write"}
            assert wide <= {"id-token", "pull-requests"}, f"{name}.{job}"


def test_no_workflow_holds_a_long_lived_key_and_none_runs_into_itself() -> None:
    for path in FOLDER.glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        assert "secrets." not in text, (
            f"{path.name}: roles are taken on by OIDC, settings are read from the secret store"
        )
    for name, workflow in WORKFLOWS.items():
        assert "concurrency" in workflow, name
        for job, definition in workflow["jobs"].items():
            assert "timeout-minutes" in definition or "uses" in definition, f"{name}.{job}"


def test_tasks_that_are_called_exist() -> None:
    called = {
        task
        for _, step in steps()
        for task in re.findall(r"\./poe ([a-z][\w-]*)", step.get("run", ""))
        if task not in {"setup", "poetry"}
    }
    assert called <= set(TASKS)
    assert called >= {
        "run-training-job-on-sagemaker",
        "promote-model",
        "deploy-inference-endpoint",
        "check-endpoint",
    }


class _ParsedError(Exception):
    """A task has understood its arguments, and goes no further."""


ENVIRONMENT = {
    "VERSION": "twin:7",
    "RUNNER_TEMP": "/tmp/runner",
    "TRAINING": "training_sft.yaml",
    "CONFIG": "training_sft.yaml",
    "DATASET": "instruct",
}
"""What the workflows' variables may be where tasks are called."""


def called_tools() -> list[tuple[str, str, list[str]]]:
    """Each call of a task that is a tool of ours: where, the tool's module, its arguments as the shell hands them over."""
    found = []
    for where, step in steps():
        for line in re.findall(r"\./poe ([a-z][^\n;|>]*)", step.get("run", "")):
            done = subprocess.run(
                ["bash", "-euc", f"printf '%s\\n' {line}"],
                env={**os.environ, **ENVIRONMENT},
                capture_output=True,
                text=True,
                check=True,
            )
            task, *arguments = done.stdout.splitlines()
            command = TASKS.get(task, {}).get("cmd", "").split()
            if command[:2] == ["python", "-m"] and command[2].startswith("tools."):
                found.append((where, command[2], [*command[3:], *arguments]))
    return found


def test_tasks_understand_the_arguments_that_workflows_give_them(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = ArgumentParser.parse_args

    def parse_only(self: ArgumentParser, *given: Any) -> None:
        parse(self, *given)
        raise _ParsedError

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_only)
    calls = called_tools()
    assert {module for _, module, _ in calls} >= {
        "tools.inference_endpoint",
        "tools.check_endpoint",
        "tools.registry",
        "tools.run",
        "tools.training_job",
    }
    for where, module, arguments in calls:
        try:
            with pytest.raises(_ParsedError):
                importlib.import_module(module).main(arguments)
        except SystemExit as refused:
            pytest.fail(f"{where}: {module} {' '.join(arguments)} ends with {refused.code}")


def test_the_staging_endpoint_is_one_of_its_own_with_what_is_in_staging(tmp_path: Path) -> None:
    (script,) = [step["run"] for _, step in steps() if step.get("name") == "Staging endpoint"]
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "deploy_inference.yaml", tmp_path / "configs")
    (tmp_path / "poe").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "poe").chmod(0o755)
    environment = {**os.environ, "RUNNER_TEMP": str(tmp_path)}
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=environment, check=True)
    made = Deployment.model_validate(yaml.safe_load((tmp_path / "staging.yaml").read_text(encoding="utf-8")))
    production = Deployment.model_validate(
        yaml.safe_load((tmp_path / "configs" / "deploy_inference.yaml").read_text(encoding="utf-8"))
    )
    assert (made.endpoint, made.model.stage) == ("twin-staging", "staging")
    assert (production.endpoint, production.model.stage) == ("twin", "production")
    assert made.instance == production.instance
    for job, endpoint in (("staging", made.endpoint), ("production", production.endpoint)):
        (asking,) = [
            step["env"]
            for where, step in steps()
            if where == f"deploy.{job}" and "check-endpoint" in step.get("run", "")
        ]
        assert asking == {
            "LLM_KIND": "sagemaker",
            "LLM_ENDPOINT": endpoint,
            "LLM_INFERENCE_COMPONENT": endpoint,
        }


# --- executed ---------------------------------------------------------------------------------------------------------

STUB = """#!/bin/sh
# Writes down how it was called; ends as the file FAIL says.
printf '%s\\n' "$(basename "$0") $*" >> "$CALLS"
[ "$(basename "$0")" = aws ] && [ "$1" = secretsmanager ] && printf '{"DATABASE_URI": "mongodb://u:hidden-word@h"}'
[ "$(basename "$0")" = docker ] && [ "$1" = login ] && cat > /dev/null
[ "$(basename "$0")" = poe ] && [ "$1" = promote-model ] && echo "twin:7 is in staging now"
if [ -f "$FAIL" ] && printf '%s' "$*" | grep -qE -e "$(cat "$FAIL")"; then
  echo "failed, as it was told" >&2
  exit "$(cat "$FAIL.code")"
fi
exit 0
"""
ACTIONS = {
    "actions/checkout": ("persist-credentials", "false"),
    "actions/setup-python": ("python-version", "3.11"),
    "actions/upload-artifact": ("name", ""),
    "aws-actions/configure-aws-credentials": ("role-to-assume", "arn:aws:iam::123456789012:role/"),
    "aquasecurity/trivy-action": ("image-ref", "twin-"),
}
"""Each action with an input that it must be given, and how its value begins."""
VARIABLES = {
    "AWS_REGION": "eu-central-1",
    "AWS_ROLE_BUILD": "arn:aws:iam::123456789012:role/twin-build",
    "AWS_ROLE_TRAIN": "arn:aws:iam::123456789012:role/twin-train",
    "AWS_ROLE_DEPLOY": "arn:aws:iam::123456789012:role/twin-deploy",
    "ECR_REGISTRY": "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
    "TWIN_SECRET": "twin-service",
    "SAGEMAKER_IMAGE": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/twin-training:1",
    "SAGEMAKER_ROLE_ARN": "arn:aws:iam::123456789012:role/twin-execution",
    "SAGEMAKER_BUCKET": "twin-bucket",
}


@dataclass
class Run:
    """What a run of a workflow did."""

    code: int
    output: str
    calls: list[str]

    def find(self, pattern: str) -> list[str]:
        """Calls that match, in their order."""
        return [call for call in self.calls if re.search(pattern, call)]


class Runner:
    """A copy of what workflows see, as a git repository of its own, and act."""

    def __init__(self, folder: Path) -> None:
        self.act = find_tool("act")
        self.folder = folder / "repository"
        self.programs = folder / "programs"
        self.actions = folder / "actions"
        self.calls, self.fail = folder / "calls", folder / "fail"
        shutil.copytree(ROOT / ".github", self.folder / ".github")
        shutil.copytree(ROOT / ".ci", self.folder / ".ci")
        (self.folder / "configs").mkdir()
        (self.folder / "configs" / "deploy_inference.yaml").write_text(
            "model:\n  stage: production\n", encoding="utf-8"
        )
        self.programs.mkdir()
        for place in (self.folder / "poe", *(self.programs / name for name in ("docker", "aws", "gh"))):
            place.write_text(STUB, encoding="utf-8")
            place.chmod(0o755)
        for name, (needed, begins) in ACTIONS.items():
            there = self.actions / name
            there.mkdir(parents=True)
            check = f'case "$GIVEN" in "{begins}"?*|"{begins}") echo "action {name} $GIVEN" >> "$CALLS" ;; *) exit 1 ;; esac'
            if not begins:
                check = f'test -n "$GIVEN" && echo "action {name} $GIVEN" >> "$CALLS"'
            step = {"shell": "bash", "run": check, "env": {"GIVEN": f"${{{{ inputs.{needed} }}}}"}}
            inputs = {key: {"required": False} for key in self._inputs(name)}
            action = {
                "name": name,
                "description": "a stand-in",
                "inputs": inputs,
                "runs": {"using": "composite", "steps": [step]},
            }
            (there / "action.yml").write_text(yaml.safe_dump(action), encoding="utf-8")
        self._git("init", "--quiet", "--initial-branch=main")
        self._git("add", ".")
        self._git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "all")

    def run(
        self,
        workflow: str,
        event: str,
        payload: dict[str, Any] | None = None,
        *,
        fail: str = "",
        code: int = 1,
    ) -> Run:
        """Execute a workflow. ``fail``: calls that match this expression end with ``code``."""
        self.calls.write_text("", encoding="utf-8")
        self.fail.unlink(missing_ok=True)
        if fail:
            self.fail.write_text(fail, encoding="utf-8")
            self.fail.with_suffix(".code").write_text(str(code), encoding="utf-8")
        payload_file = self.folder.parent / "event.json"
        payload_file.write_text(json.dumps(payload or {}), encoding="utf-8")
        command = [
            self.act,
            event,
            "--workflows",
            f".github/workflows/{workflow}.yml",
            "--eventpath",
            str(payload_file),
        ]
        command += [
            "--platform",
            "ubuntu-24.04=-self-hosted",
            "--platform",
            "macos-14=-self-hosted",
            "--pull=false",
        ]
        command += ["--env", f"CALLS={self.calls}", "--env", f"FAIL={self.fail}", "--concurrent-jobs", "1"]
        command += ["--env", f"PATH={self.programs}:{os.environ['PATH']}", "--secret", "GITHUB_TOKEN=none"]
        for name, value in VARIABLES.items():
            command += ["--var", f"{name}={value}"]
        for used in sorted({step["uses"] for _, step in steps() if "uses" in step}):
            command += ["--local-repository", f"{used}={self.actions / used.partition('@')[0]}"]
        environment = {
            **os.environ,
            "HOME": str(self.folder.parent),
            "NO_COLOR": "1",
            "XDG_CACHE_HOME": str(self.folder.parent),
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240
        )
        return Run(
            done.returncode, done.stdout + done.stderr, self.calls.read_text(encoding="utf-8").splitlines()
        )

    @staticmethod
    def _inputs(action: str) -> set[str]:
        return {
            name
            for _, step in steps()
            if step.get("uses", "").startswith(f"{action}@")
            for name in step.get("with", {})
        } | {ACTIONS[action][0]}

    def _git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.folder, check=True)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("act"))


@pytest.mark.slow
def test_cd_builds_scans_and_pushes_each_image_by_its_commit(runner: Runner) -> None:
    run = runner.run("cd", "workflow_dispatch")
    assert run.code == 0, run.output[-3000:]
    for target in ("service", "pipelines", "training"):
        (built,) = run.find(rf"^docker build .*--target {target} ")
        (pushed,) = run.find(rf"^docker push .*/twin-{target}:")
        commit = pushed.rpartition(":")[2]
        assert re.fullmatch(r"[0-9a-f]{40}", commit)
        assert f"twin-{target}:{commit}" in built
        scans = run.find(rf"^action aquasecurity/trivy-action twin-{target}:")
        assert len(scans) == 2
        order = [run.calls.index(call) for call in (built, scans[-1], pushed)]
        assert order == sorted(order)
    assert run.find("^docker login --username AWS --password-stdin")
    assert run.find("^action aws-actions/configure-aws-credentials .*twin-build")


@pytest.mark.slow
def test_an_image_that_cannot_be_built_is_not_pushed(runner: Runner) -> None:
    run = runner.run("cd", "workflow_dispatch", fail="^build ")
    assert run.code != 0
    assert not run.find("^docker push")


@pytest.mark.slow
def test_ct_trains_evaluates_decides_and_tells(runner: Runner) -> None:
    payload = {"action": "retrain", "client_payload": {"reason": "drift", "pull_request": "12"}}
    run = runner.run("ct", "repository_dispatch", payload)
    assert run.code == 0, run.output[-3000:]
    tasks = [call.split()[1] for call in run.find("^poe (run|promote)-")]
    assert tasks[:4] == [
        "run-generate-instruct-datasets-pipeline",
        "run-training-job-on-sagemaker",
        "run-evaluation-pipeline",
        "promote-model",
    ]
    (comment,) = run.find("^gh pr comment 12 ")
    assert "promoted" in comment
    assert "twin:7" in comment
    assert "hidden-word" not in run.output
    assert run.find(r"^poe deploy-inference-endpoint --config \S+/staging\.yaml "), (
        "what was promoted is deployed"
    )


@pytest.mark.slow
def test_what_is_refused_is_told_and_not_deployed(runner: Runner) -> None:
    inputs = {"inputs": {"reason": "by hand", "training": "training_sft.yaml", "pull_request": "9"}}
    run = runner.run("ct", "workflow_dispatch", inputs, fail="^promote-model", code=REFUSED)
    assert run.code == 0, run.output[-3000:]
    (comment,) = run.find("^gh pr comment 9 ")
    assert "refused" in comment
    assert not run.find("deploy-inference-endpoint")


@pytest.mark.slow
@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_decision_that_breaks_is_no_refusal(runner: Runner, code: int) -> None:
    run = runner.run("ct", "schedule", fail="^promote-model", code=code)
    assert run.code != 0
    assert not run.find("^gh pr comment|deploy-inference-endpoint")


@pytest.mark.slow
def test_a_training_that_fails_ends_there(runner: Runner) -> None:
    run = runner.run("ct", "schedule", fail="^run-training-job")
    assert run.code != 0
    assert not run.find("run-evaluation-pipeline|promote-model|deploy")


@pytest.mark.slow
def test_deploy_goes_by_staging_and_leaves_nothing_there(runner: Runner) -> None:
    payload = {"action": "model-promoted", "client_payload": {"version": "twin:7"}}
    run = runner.run("deploy", "repository_dispatch", payload)
    assert run.code == 0, run.output[-3000:]
    called = [
        " ".join(call.split()[1:3]) for call in run.find("^poe (deploy|check|delete|promote|rollback)-")
    ]
    assert called == [
        "deploy-inference-endpoint --config",
        "check-endpoint --config",
        "delete-inference-endpoint twin-staging",
        "promote-model twin:7",
        "deploy-inference-endpoint --config",
        "check-endpoint --config",
    ]


@pytest.mark.slow
def test_wrong_answers_on_staging_never_reach_production(runner: Runner) -> None:
    payload = {"action": "model-promoted", "client_payload": {"version": "twin:7"}}
    run = runner.run("deploy", "repository_dispatch", payload, fail="^check-endpoint")
    assert run.code != 0
    assert run.find("^poe delete-inference-endpoint twin-staging")
    assert not run.find(r"promote-model|deploy-inference-endpoint --config configs/")


@pytest.mark.slow
def test_a_failure_in_production_brings_the_version_before_back(runner: Runner) -> None:
    payload = {"action": "model-promoted", "client_payload": {"version": "twin:7"}}
    run = runner.run("deploy", "repository_dispatch", payload, fail="--without-load")
    assert run.code != 0
    called = [
        " ".join(call.split()[1:3])
        for call in run.find("^poe (deploy-inference-endpoint --config configs/|rollback)")
    ]
    assert called == [
        "deploy-inference-endpoint --config",
        "rollback-model twin",
        "deploy-inference-endpoint --config",
    ]


@pytest.mark.slow
def test_a_version_that_is_none_is_refused_before_anything_costs(runner: Runner) -> None:
    payload = {"action": "model-promoted", "client_payload": {"version": "twin; rm -rf /"}}
    run = runner.run("deploy", "repository_dispatch", payload)
    assert run.code != 0
    assert not run.find("deploy-inference-endpoint|promote-model")


# --- settings from the secret store -------------------------------------------------------------------------------------


def export_secret(text: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], str]:
    target = folder / "env"
    target.write_text("", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "export_secret.py")],
        input=text,
        capture_output=True,
        text=True,
        env={"GITHUB_ENV": str(target)},
    )
    return done, target.read_text(encoding="utf-8")


def test_values_of_a_secret_are_masked_before_they_are_handed_on(tmp_path: Path) -> None:
    done, written = export_secret(json.dumps({"DATABASE_URI": "one\ntwo", "LOG_LEVEL": "INFO"}), tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[:3] == ["::add-mask::one", "::add-mask::two", "::add-mask::INFO"]
    assert re.fullmatch(r"DATABASE_URI<<(\w+)\none\ntwo\n\1\nLOG_LEVEL<<(\w+)\nINFO\n\2\n", written)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"A": 1}',
        '{"PATH": "x"}',
        '{"LD_PRELOAD": "x"}',
        '{"GITHUB_ENV": "x"}',
        '{"a b": "x"}',
    ],
)
def test_what_is_no_setting_is_refused_whole(text: str, tmp_path: Path) -> None:
    done, written = export_secret(text, tmp_path)
    assert done.returncode == 1
    assert written == ""
