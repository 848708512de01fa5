"""``poe build-docker-image``, ``push-docker-image`` and the like: what they ask Docker for, and what they refuse.

A program called docker writes down its arguments and its input; the real engine is in ``test_service_image.py``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("moto", reason="needs the group dev")

from tests.fakes.aws_server import ACCOUNT, CREDENTIALS, REGION, AwsServer

ROOT = Path(__file__).parents[2]
STUB = """#!/bin/sh
printf '%s\\n' "$*" >> "$CALLS"
case "$1 $2" in
  "version --format") [ -z "$NO_ENGINE" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }; echo 28 ;;
  "image inspect") case "$*" in *absent*) exit 1 ;; *Size*) echo "$SIZE" ;; esac ;;
  "build --target") printf '%s' "$PIP_INDEX_URL" > "$CALLS.index" ;;
  "login --username") cat > "$CALLS.password" ;;
esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With the stand-in first on the PATH."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(STUB, encoding="utf-8")
    program.chmod(0o755)
    own = {"CALLS": str(tmp_path / "calls"), "SIZE": "876000000", "COLUMNS": "200", "POE_COMMAND": "./poe"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PIP_"))}
    return {**clean, **own, "PATH": f"{program.parent}:{os.environ['PATH']}"}


def call(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.images", *arguments]
    return subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def calls(environment: dict[str, str]) -> list[str]:
    return Path(environment["CALLS"]).read_text(encoding="utf-8").splitlines()


def test_an_image_is_built_by_target_and_weighed(environment: dict[str, str]) -> None:
    environment["PIP_INDEX_URL"] = "https://user:hidden-word@mirror.test/simple"
    done = call(environment, "build", "--target", "service", "--tag", "abc", "--platform", "linux/amd64")
    assert done.returncode == 0, done.stderr
    (build,) = [line for line in calls(environment) if line.startswith("build")]
    assert build == (
        "build --target service --tag twin-service:abc --tag twin-service:latest --platform linux/amd64 "
        "--build-arg PIP_INDEX_URL ."
    ), "the name alone: the value may hold a password"
    given = Path(environment["CALLS"] + ".index").read_text(encoding="utf-8")
    assert given == environment["PIP_INDEX_URL"], "Docker finds the value in its environment"
    assert "876 MB" in done.stdout
    assert "900" not in done.stdout


def test_an_image_that_grew_too_large_is_told(environment: dict[str, str]) -> None:
    done = call({**environment, "SIZE": "1380000000"}, "build", "--target", "service", "--tag", "abc")
    assert done.returncode == 0
    assert "1,380 MB" in done.stdout
    assert "900 MB" in done.stdout


def test_it_is_pushed_to_amazon_with_a_log_in_that_no_command_line_shows(environment: dict[str, str]) -> None:
    registry = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
    with AwsServer() as server:
        there = {**environment, **CREDENTIALS, "AWS_ENDPOINT_URL": server.url}
        done = call(there, "push", "--target", "service", "--tag", "abc", "--registry", registry)
    assert done.returncode == 0, done.stderr
    asked = calls(environment)
    assert asked[2:] == [
        f"login --username AWS --password-stdin {registry}",
        f"tag twin-service:abc {registry}/twin-service:abc",
        f"push {registry}/twin-service:abc",
    ]
    password = Path(environment["CALLS"] + ".password").read_text(encoding="utf-8")
    assert password
    assert password not in done.stdout + done.stderr + "".join(asked)
    assert f"--registry {registry} --tag abc" in done.stdout


@pytest.mark.parametrize(
    ("target", "told"),
    [("pipelines", "set-aws-stack --tag abc"), ("training", "SAGEMAKER_IMAGE=r.test/twin-training:abc")],
)
def test_what_an_image_is_for_is_said(environment: dict[str, str], target: str, told: str) -> None:
    done = call(environment, "push", "--target", target, "--tag", "abc", "--registry", "r.test")
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    assert "kubernetes" not in done.stdout


def test_without_credentials_the_right_that_is_needed_is_named(environment: dict[str, str]) -> None:
    registry = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
    nothing = {
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = call({**environment, **nothing}, "push", "--tag", "abc", "--registry", registry)
    assert done.returncode == 1
    assert "ecr:GetAuthorizationToken" in done.stderr
    assert not any(line.startswith("push") for line in calls(environment))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("push", "--tag", "abc-changed", "--registry", "r.test"), "Commit them"),
        (
            ("push", "--tag", "absent", "--registry", "r.test"),
            "build-docker-image --target pipelines --tag absent",
        ),
    ],
)
def test_what_must_not_or_cannot_be_pushed(
    environment: dict[str, str], arguments: tuple[str, ...], told: str
) -> None:
    done = call(environment, *arguments)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_does_not_run_is_told(environment: dict[str, str]) -> None:
    done = call({**environment, "NO_ENGINE": "1"}, "build", "--tag", "abc")
    assert done.returncode == 1
    assert "DOCKER_HOST" in done.stderr


def test_a_pipeline_runs_confined_and_gets_its_own_arguments(environment: dict[str, str]) -> None:
    done = call(environment, "run", "run-end-to-end-data-pipeline", "--config", "configs/mine.yaml")
    assert done.returncode == 0, done.stderr
    started = calls(environment)[-1]
    assert started.startswith("run --rm --network host --read-only ")
    assert started.endswith(" twin-pipelines:latest run-end-to-end-data-pipeline --config configs/mine.yaml")
    shell = call(environment, "shell")
    assert shell.returncode == 0
    assert "--entrypoint bash twin-pipelines:latest" in calls(environment)[-1]
