"""The Dockerfile and the Compose file: clean by hadolint, pinned, and each service with a health of its own."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_engineering.bootstrap.aws import PRICES
from llm_engineering.infrastructure.aws.roles import POLICIES
from tests.architecture.test_tasks import TASKS
from tools.container_health import SERVERS
from tools.images import TARGETS

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"models", "api-key", "pipelines"}
"""Services of the Compose file that end when their work is done."""


def test_hadolint_finds_nothing() -> None:
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if (hadolint := shutil.which("hadolint", path=own)) is None:
        pytest.skip("hadolint is not here; the group infra brings it: ./poe setup --with infra")
    done = subprocess.run([hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_targets_are_those_that_tasks_name_and_the_base_is_pinned() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert set(TARGETS) <= {name for _, name in stages}
    assert re.search(r"^ARG PYTHON_IMAGE=python:[\w.-]+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    known = {"${PYTHON_IMAGE}", *(name for _, name in stages)}
    assert {base for base, _ in stages} <= known, "every stage comes from the pinned base"


def test_groups_that_are_installed_exist_and_the_service_has_the_fewest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = {"main", *project["dependency-groups"]}
    installed = [set(line.split(",")) for line in re.findall(r"install --only (\S+)", DOCKERFILE)]
    assert len(installed) == len(TARGETS)
    assert set.union(*installed) <= groups
    assert installed[0] == {"main"}
    main = {re.split(r"[\[=]", line)[0] for line in project["project"]["dependencies"]}
    assert not main & {"zenml", "selenium", "pyarrow", "torch", "boto3"}


def test_what_is_copied_is_sent_to_the_builder_and_what_tasks_of_aws_read_is_there() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[0] == "!"}
    assert copied == sent
    assert {str(PRICES), str(POLICIES)} <= copied
    assert all((ROOT / source).exists() for source in copied)


def test_nothing_calls_home_from_a_container() -> None:
    for library in ("ORT", "HF_HUB"):
        assert f"{library}_DISABLE_TELEMETRY=1" in DOCKERFILE
    assert SERVICES["qdrant"]["environment"]["QDRANT__TELEMETRY_DISABLED"] == "true"


def test_servers_know_their_health_and_others_have_none() -> None:
    assert set(SERVERS) <= set(TASKS)
    for name, service in SERVICES.items():
        if name in ONCE:
            assert service["healthcheck"] == {"disable": True}, name
            assert "restart" not in service, name
        else:
            own = service["image"].startswith("twin-")
            assert own or service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name


def test_what_a_service_waits_for_can_come_true() -> None:
    for name, service in SERVICES.items():
        waits = service.get("depends_on") or {}
        for other, how in waits.items():
            expected = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how["condition"] == expected, (name, other)


def test_all_listens_on_this_machine_only_and_what_is_ours_is_confined() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), (name, port)
        if service["image"].startswith("twin-"):
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
        elif not service["image"].startswith("twin-"):
            assert re.search(r":v?\d+\.\d+", service["image"]), f"{name} is not pinned"


def test_volumes_are_declared_and_commands_are_tasks() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith("./") or source in COMPOSE["volumes"], (name, volume)
            assert not source.startswith("./") or (ROOT / source).exists(), (name, volume)
        command = service.get("command", [])
        if service["image"].startswith("twin-") and "entrypoint" not in service and command != ["--help"]:
            assert command[0] in TASKS, name


def test_prometheus_of_compose_asks_with_the_key_that_is_made_for_it() -> None:
    config = yaml.safe_load((ROOT / "ops" / "prometheus" / "compose.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    key = job["authorization"]["credentials_file"]
    assert "keys:/twin:ro" in SERVICES["prometheus"]["volumes"]
    assert key == "/twin/compose"
    assert "keys/compose" in SERVICES["api-key"]["command"][0]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in SERVICES
    assert SERVICES[host]["ports"][0].endswith(f":{port}")
    assert (ROOT / "ops" / "prometheus" / config["rule_files"][0]).is_file()


def test_the_onnx_runtime_is_silent_wherever_it_is_loaded() -> None:
    """It looks up a host of its maker unless a variable forbids it before it loads, so there is one place that loads it."""
    loading = {
        path.relative_to(ROOT).as_posix()
        for folder in ("llm_engineering", "steps", "pipelines", "tools", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*(import|from) onnxruntime\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert loading == {"llm_engineering/infrastructure/shared/onnx.py"}
    text = (ROOT / "llm_engineering" / "infrastructure" / "shared" / "onnx.py").read_text(encoding="utf-8")
    assert text.index('os.environ["ORT_DISABLE_TELEMETRY"] = "1"') < text.index("import onnxruntime")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for library in ("ORT", "HF_HUB"):
        assert project["tool"]["poe"]["env"][f"{library}_DISABLE_TELEMETRY"] == "1"
