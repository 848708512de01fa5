"""The way to an endpoint and back on the command line, with a real llama.cpp server as the container behind the emulator."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.aws_account import BUCKET, ROLE, aws_account, aws_clients, aws_server, client
from tests.e2e.test_ask import QUESTION, call, environment
from tests.e2e.test_llm_server import CONTEXT, Running, serving
from tests.fakes.aws_server import CREDENTIALS, AwsServer
from tests.services import mongo_server

__all__ = ["aws_account", "aws_clients", "aws_server", "environment", "mongo_server"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def container() -> Iterator[Running]:
    with serving(("--context-tokens", str(2 * CONTEXT), "--parallel", "1")) as server:
        yield server


@pytest.fixture
def account(aws_account: AwsServer, container: Running) -> AwsServer:
    aws_account.model_server = container.url.removesuffix("/v1")
    return aws_account


@pytest.fixture
def settings(account: AwsServer) -> dict[str, str]:
    return {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": account.url,
        "SAGEMAKER_ROLE_ARN": ROLE,
        "SAGEMAKER_BUCKET": BUCKET,
        "SAGEMAKER_POLL_SECONDS": "0.05",
    }


@pytest.fixture
def config(tmp_path: Path) -> Path:
    content: dict[str, Any] = yaml.safe_load((ROOT / "configs/deploy_inference.yaml").read_text("utf-8"))
    content["model"] = {"s3": f"s3://{BUCKET}/models/twin/"}
    content["container"]["image"] = "public.ecr.aws/example/vllm:1"
    file = tmp_path / "deploy.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.mark.slow
def test_to_the_cloud_and_back(
    account: AwsServer, settings: dict[str, str], environment: dict[str, str], config: Path
) -> None:
    chosen = ("--config", str(config))
    code, output, errors = call(settings, "tools.inference_endpoint", "deploy", *chosen)
    assert code == 1, errors
    assert "an hour" in output or "unknown" in output
    assert client("sagemaker").list_endpoints()["Endpoints"] == []

    code, output, errors = call(settings, "tools.inference_endpoint", "deploy", *chosen, "--yes")
    assert code == 0, errors
    assert "LLM_INFERENCE_COMPONENT=twin" in output
    told = dict(line.strip().split("=", 1) for line in output.splitlines() if line.startswith("  LLM_"))

    code, output, errors = call(settings, "tools.inference_endpoint", "list")
    assert code == 0, errors
    assert "InService" in output
    assert "unverified" in output

    code, output, errors = call(settings, "tools.inference_endpoint", "test", *chosen, "--max-tokens", "24")
    assert code == 0, errors
    assert "First words after" in output

    asked = len(account.invocations)
    twin = {**environment, **settings, **told, "LLM_KEEP_WARM": "0", "LLM_MAX_RETRIES": "0"}
    twin["LLM_CONTEXT_TOKENS"] = str(CONTEXT)
    code, output, errors = call(twin, "tools.ask", QUESTION)
    assert code == 0, errors
    assert len(account.invocations) > asked, "the twin's answer came by way of the endpoint"
    assert account.invocations[-1]["stream"] is True

    code, output, errors = call({**twin, "LLM_STREAM": "false"}, "tools.ask", QUESTION)
    assert code == 0, errors
    assert "stream" not in account.invocations[-1]

    code, output, errors = call(settings, "tools.inference_endpoint", "delete", *chosen)
    assert code == 1
    code, output, errors = call(settings, "tools.inference_endpoint", "delete", *chosen, "--yes")
    assert code == 0, errors
    code, output, errors = call(settings, "tools.inference_endpoint", "delete", *chosen, "--yes")
    assert code == 1
    assert "no endpoint twin" in errors


@pytest.mark.parametrize("missing", ["SAGEMAKER_ROLE_ARN", "SAGEMAKER_BUCKET"])
def test_a_setting_that_is_missing_is_named(settings: dict[str, str], config: Path, missing: str) -> None:
    code, _, errors = call(
        {**settings, missing: ""}, "tools.inference_endpoint", "deploy", "--config", str(config)
    )
    assert code == 1
    assert missing in errors


def test_a_trace_is_simulated(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"at": n, "seconds": 2}) + "\n" for n in range(600)))
    code, output, errors = call(
        {"SAGEMAKER_REGION": "us-east-1"},
        "tools.simulate_autoscaling",
        "--trace",
        str(trace),
        "--vary",
        "max_copies=1,3",
    )
    assert code == 0, errors
    assert "max_copies=3" in output
    assert "Cost per 1,000" in output
    assert "unverified" in output
    code, output, errors = call({"SAGEMAKER_REGION": ""}, "tools.simulate_autoscaling", "--trace", str(trace))
    assert code == 0, errors
    assert "SAGEMAKER_REGION" in output
    assert "Cost" not in output
