"""The service's image with a real engine: small, without what answering does not need, on a read-only root, ends with 0.

``TWIN_IMAGE`` names an image that is built already; else it is built here, which takes minutes and the network.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.durations import allow

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
CONFINED = (
    "--network",
    "host",
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
)


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=check, timeout=allow(1200)
    )


@pytest.fixture(scope="module")
def image() -> str:
    if shutil.which("docker") is None or docker("version", check=False).returncode:
        pytest.skip("no Docker engine answers on this machine (DOCKER_HOST)")
    if named := os.environ.get("TWIN_IMAGE"):
        return named
    docker("build", "--target", "service", "--tag", "twin-service:test", ".")
    return "twin-service:test"


@pytest.fixture(scope="module")
def folders() -> Iterator[tuple[str, ...]]:
    """Volumes for data and models, as options; removed at the end."""
    names = [f"twin-test-{uuid4().hex[:8]}-{what}" for what in ("data", "models")]
    yield (
        "--volume",
        f"{names[0]}:/app/data",
        "--volume",
        f"{names[1]}:/app/models",
        "--env",
        "HOME=/app/data",
    )
    docker("volume", "rm", "--force", *names)


def test_it_is_small_and_not_root(image: str) -> None:
    told = json.loads(docker("image", "inspect", image).stdout)[0]
    assert told["Size"] <= 900_000_000
    assert told["Config"]["User"] == "10001:10001"
    assert "ORT_DISABLE_TELEMETRY=1" in told["Config"]["Env"]


def test_it_holds_nothing_that_answering_does_not_need(image: str) -> None:
    names = ("zenml", "torch", "pytest", "selenium", "pyarrow", "boto3")
    look = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    done = docker("run", "--rm", "--entrypoint", "python", image, "-c", look)
    assert done.stdout.strip() == "[]"


def test_it_lists_its_tasks(image: str) -> None:
    told = docker("run", "--rm", *CONFINED, image, "--help").stdout
    assert "run-inference-ml-service" in told


def test_without_a_key_it_refuses_to_serve(image: str, folders: tuple[str, ...]) -> None:
    done = docker("run", "--rm", *CONFINED, *folders, image, "run-inference-ml-service", check=False)
    assert done.returncode == 1
    assert "create-api-key" in done.stderr


def test_it_serves_on_a_read_only_root_and_ends_in_peace(image: str, folders: tuple[str, ...]) -> None:
    key = docker("run", "--rm", *CONFINED, *folders, image, "create-api-key", "test").stdout.strip()
    assert key.startswith("twin_")
    models = Path("models").resolve()  # what the tests use already, so that nothing is fetched
    port = "18288"
    options = (
        *CONFINED,
        *folders[:2],
        *folders[4:],
        "--volume",
        f"{models}:/app/models:ro",
        "--env",
        f"SERVICE_PORT={port}",
    )
    options += (
        "--env",
        "LLM_BASE_URL=http://127.0.0.1:9/v1",
        "--health-interval",
        "2s",
        "--health-start-period",
        "1s",
    )
    name = f"twin-test-{uuid4().hex[:8]}"
    docker("run", "--detach", "--name", name, *options, image, "run-inference-ml-service")
    try:
        ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/health/live').status)"
        deadline = time.monotonic() + allow(120)
        while docker("exec", name, "python", "-c", ask, check=False).stdout.strip() != "200":
            assert time.monotonic() < deadline, docker("logs", name).stderr
            time.sleep(1)
        checked = docker("exec", name, "python", "-m", "tools.container_health", check=False)
        assert checked.returncode == 1, "it lives, but its model's service is not there: not ready"
        assert docker("exec", name, "touch", "/app/x", check=False).returncode != 0
        docker("stop", "--time", "40", name)
        state = json.loads(docker("inspect", name).stdout)[0]["State"]
        assert state["ExitCode"] == 0
        assert state["OOMKilled"] is False
    finally:
        docker("rm", "--force", name, check=False)
