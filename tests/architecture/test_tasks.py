"""The tasks of ``pyproject.toml``: the promised names, a help line each, and a command that exists."""

import importlib.util
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tools.tasks import list_names, list_tasks, read_groups

ROOT = Path(__file__).parents[2]
GROUPS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["poe"][
    "groups"
]
TASKS: dict[str, dict[str, Any]] = {
    name: task for group in GROUPS.values() for name, task in group["tasks"].items()
}

PROMISED = [
    "run-digital-data-etl",
    "run-feature-engineering-pipeline",
    "run-end-to-end-data-pipeline",
    "call-rag-retrieval-module",
    "ask",
    "demo",
    "doctor",
    "init",
    "vote",
    "twin",
    "test",
    "lint-check",
    "lint-fix",
    "type-check",
    "check",
    "benchmark",
    "set-local-stack",
    "local-infrastructure-up",
    "local-infrastructure-down",
    "local-infrastructure-status",
    "local-zenml-server-up",
    "local-zenml-server-down",
    "download-models",
    "write",
    "train-intent-router",
    "export-data-warehouse-to-json",
    "import-data-warehouse-from-json",
    "status",
    "rejected",
    "forget",
    "serve-sample-site",
    "run-generate-instruct-datasets-pipeline",
    "run-generate-preference-datasets-pipeline",
    "run-training-pipeline",
    "run-training-job-on-sagemaker",
    "run-evaluation-pipeline",
    "list-models",
    "promote-model",
    "rollback-model",
    "push-to-huggingface",
    "run-inference-ml-service",
    "call-inference-ml-service",
    "run-llm-server",
    "run-rag-evaluation",
    "push-prompts-to-opik",
    "create-api-key",
    "list-api-keys",
    "revoke-api-key",
    "set-aws-stack",
    "set-asynchronous-runs",
    "zenml-server-disconnect",
    "export-settings-to-zenml",
    "delete-settings-zenml",
    "run-export-artifact-to-json-pipeline",
    "build-docker-image",
    "push-docker-image",
    "run-docker-end-to-end-data-pipeline",
    "bash-docker-container",
    "deploy-service-on-kubernetes",
    "run-chat-page",
    "check-endpoint",
    "create-sagemaker-role",
    "create-sagemaker-execution-role",
    "deploy-inference-endpoint",
    "list-inference-endpoints",
    "test-sagemaker-endpoint",
    "delete-inference-endpoint",
    "run-batch-inference",
    "simulate-autoscaling",
    "aws-doctor",
]


def commands(task: dict[str, Any]) -> list[str]:
    """The command lines that a task ends in, through the tasks that it names."""
    if "cmd" in task:
        return [task["cmd"]]
    return [
        line
        for part in task["sequence"]
        for line in (commands(TASKS[part]) if isinstance(part, str) else commands(part))
    ]


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_task_exists(name: str) -> None:
    assert name in TASKS


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_in_one_short_line_what_it_does(name: str) -> None:
    assert 10 < len(TASKS[name]["help"]) <= 100
    assert "\n" not in TASKS[name]["help"]


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_starts_exists(name: str) -> None:
    for line in commands(TASKS[name]):
        program, *arguments = shlex.split(line)
        if program == "python" and arguments[0] != "-m":
            assert (ROOT / arguments[0]).is_file(), f"no file {arguments[0]}"
        elif program == "python":
            spec = importlib.util.find_spec(arguments[1])
            assert spec is not None, f"no module {arguments[1]}"
            if spec.submodule_search_locations is not None:
                assert importlib.util.find_spec(f"{arguments[1]}.__main__"), (
                    f"{arguments[1]} cannot be run with -m"
                )
        else:
            assert shutil.which(program, path=str(Path(sys.executable).parent)), f"no program {program}"


def test_tasks_stand_in_the_groups_of_a_users_way() -> None:
    headings = [GROUPS[name]["heading"] for name in sorted(GROUPS)]
    assert headings == ["Start", "Collect", "Ask and write", "Train", "Operate", "Develop"]


def test_no_line_of_the_task_list_is_longer_than_the_terminal() -> None:
    groups = read_groups(ROOT / "pyproject.toml")
    for width in (60, 80, 200):
        for told in (list_tasks(groups, width), list_names(groups, width)):
            assert max(len(line) for line in told.splitlines()) <= width
            assert {"demo", "ask", "test"} <= set(re.findall(r"[\w-]+", told))


def test_check_runs_every_check() -> None:
    assert {"lint-check", "type-check", "import-check", "test"} <= set(TASKS["check"]["sequence"])


@pytest.mark.parametrize(
    "name", [name for name in TASKS if name.startswith("serve-") or name.endswith(("-service", "-server"))]
)
def test_a_server_gets_its_signals_itself(name: str) -> None:
    """In between, poe would end at once on SIGTERM and leave the server to be killed in the middle of an answer."""
    assert TASKS[name].get("use_exec") or name.startswith("call-")


_CALL = re.compile(rf"(?<![\w./`-])(?:poetry )?poe (?=(?:{'|'.join(map(re.escape, TASKS))})\b)")
_SOURCES = [
    *(
        path
        for folder in ("llm_engineering", "steps", "tools", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ),
    *(ROOT / "configs").glob("*.yaml"),
    ROOT / ".env.example",
]


def test_no_hint_calls_a_task_by_a_name_that_is_not_there() -> None:
    """In code by ``{POE}``, which is as the user called it; in files by ``./poe``, as in the README."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in _SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if _CALL.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("../poe", ("../poe", "../poe setup --with training")),
        ("poetry poe", ("poetry poe", "poetry install --with training")),
        (None, ("./poe", "./poe setup --with training")),
    ],
)
def test_hints_call_tasks_as_the_user_did(
    monkeypatch: pytest.MonkeyPatch, called: str | None, expected: tuple[str, str]
) -> None:
    if called:
        monkeypatch.setenv("POE_COMMAND", called)
    else:
        monkeypatch.delenv("POE_COMMAND", raising=False)
    found = runpy.run_path(str(ROOT / "llm_engineering/domain/hints.py"))
    assert (found["POE"], found["describe_install"]("training")) == expected
