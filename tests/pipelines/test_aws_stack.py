"""The AWS stack, end to end on one machine: ZenML's own server, an emulated account, and what SageMaker would do done here.

A pipeline is submitted by its task. SageMaker's pipeline definition is then read back, and each of its steps is run as a machine
of SageMaker would run it: in a folder that holds what the image holds, with the definition's environment and command line and
nothing of the project's settings, which come from ZenML's secret store.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytest.importorskip("sagemaker", reason="needs the group aws")
pytest.importorskip("s3fs", reason="needs the group aws")
pytest.importorskip("moto", reason="needs the group dev")

import boto3
from pymongo import MongoClient

from llm_engineering.settings import list_variables
from tests.durations import allow
from tests.fakes.aws_server import ACCOUNT, CREDENTIALS, REGION, AwsServer
from tests.fakes.toy_model import make_model
from tests.services import free_port
from tools.services import LocalMongo

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
BUCKET = "twin-zenml"
PASSWORD = "zenml-password"  # not-a-secret
OUTPUTS = {
    "region": REGION,
    "bucket": BUCKET,
    "prefix": "twin",
    "ecr_registry": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com",
    "execution_role_arn": f"arn:aws:iam::{ACCOUNT}:role/twin-sagemaker-execution",
}


@dataclass
class Cloud:
    """What the test's processes share."""

    folder: Path
    environment: dict[str, str]
    sagemaker: Any
    steps_run: int = 0

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a task as its user would."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=allow(400),
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    def read_steps(self, pipeline: str) -> list[dict[str, Any]]:
        """Return the steps of SageMaker's newest pipeline of that name, each after those it depends on."""
        summaries = self.sagemaker.list_pipelines(SortBy="CreationTime", SortOrder="Descending")[
            "PipelineSummaries"
        ]
        name = next(
            one["PipelineName"]
            for one in summaries
            if one["PipelineName"].startswith(pipeline.replace("_", "-"))
        )
        definition = json.loads(self.sagemaker.describe_pipeline(PipelineName=name)["PipelineDefinition"])
        return list(definition["Steps"])

    def run_step(self, step: dict[str, Any], execution: str) -> None:
        """Run a step as SageMaker would, on a machine that has the image's files and nothing else."""
        asked = step["Arguments"]
        algorithm = asked["AlgorithmSpecification"]
        self.steps_run += 1
        folder = self.folder / f"machine-{self.steps_run}"
        folder.mkdir()
        for part in (
            "llm_engineering",
            "steps",
            "pipelines",
            "tools",
            "configs",
        ):  # as the Dockerfile copies them
            (folder / part).symlink_to(ROOT / part)
        given = {
            name: execution if isinstance(value, dict) else str(value)
            for name, value in asked.get("Environment", {}).items()
        }
        bare = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        bare |= {"HOME": str(folder), "ZENML_CONFIG_PATH": str(folder / "zenml"), "PYTHONUNBUFFERED": "1"}
        bare |= {name: self.environment[name] for name in (*CREDENTIALS, "AWS_ENDPOINT_URL", "MODELS_DIR")}
        command = [*algorithm["ContainerEntrypoint"], *algorithm.get("ContainerArguments", [])]
        command[0] = sys.executable if command[0].startswith("python") else command[0]
        done = subprocess.run(
            command, cwd=folder, env={**bare, **given}, capture_output=True, text=True, timeout=allow(400)
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def run_pipeline(self, task: str, pipeline: str, *arguments: str) -> list[str]:
        """Submit a pipeline by its task, and run its steps; their names."""
        self.run("tools.run", task, *arguments)
        steps = self.read_steps(pipeline)
        execution = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:pipeline/{task}/execution/one"
        for step in steps:
            self.run_step(step, execution)
        return [str(step["Name"]) for step in steps]

    def look(self, code: str) -> str:
        """Return the last line that a few lines of Python print where the user sits, with ``client``."""
        done = subprocess.run(
            [sys.executable, "-c", f"from zenml.client import Client; client = Client(); {code}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()[-1]


@contextmanager
def serve_zenml(folder: Path) -> Iterator[str]:
    """ZenML's server in a process of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "ZENML_CONFIG_PATH": str(folder / "server"),
        "ZENML_SERVER_DEPLOYMENT_TYPE": "other",
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        "ZENML_DEFAULT_USER_NAME": "default",
        "ZENML_DEFAULT_USER_PASSWORD": PASSWORD,
        "ZENML_SERVER_JWT_SECRET_KEY": "0" * 64,
        "ZENML_ANALYTICS_OPT_IN": "false",
    }
    command = [sys.executable, "-m", "uvicorn", "zenml.zen_server.zen_server_api:app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + allow(240)
            while not _answers(url):
                assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
                assert time.monotonic() < deadline, "ZenML's server does not answer"
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def cloud(tmp_path: Path, mongo_server: LocalMongo, mongo_database: str) -> Iterator[Cloud]:
    """An account with a bucket, a ZenML server, and the environment of a user who is connected to both."""
    with AwsServer() as server, serve_zenml(tmp_path) as url:
        session = boto3.Session(
            CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], region_name=REGION
        )
        s3 = session.client("s3", endpoint_url=server.url)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        names = {name for name, _, _ in list_variables()}
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in names and not name.startswith("AWS_")
        }
        environment = {
            **clean,
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": server.url,
            "ZENML_STORE_URL": url,
            "ZENML_STORE_USERNAME": "default",
            "ZENML_STORE_PASSWORD": PASSWORD,
            "ZENML_CONFIG_PATH": str(tmp_path / "client"),
            "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
            "DATABASE_URI": mongo_server.uri,
            "DATABASE_NAME": mongo_database,
            "VECTOR_INDEX_PATH": str(tmp_path / "index"),
            "LOCAL_DATA_DIR": str(tmp_path / "data"),
            "MODELS_DIR": str(ROOT / "models"),
            "COLUMNS": "200",
        }
        yield Cloud(tmp_path, environment, session.client("sagemaker", endpoint_url=server.url))


def write_outputs(folder: Path) -> Path:
    """What Terraform tells of the account."""
    outputs = folder / "outputs.json"
    outputs.write_text(
        json.dumps({name: {"value": value} for name, value in OUTPUTS.items()}), encoding="utf-8"
    )
    return outputs


def test_a_pipeline_runs_on_the_aws_stack_step_by_step(
    cloud: Cloud, mongo_server: LocalMongo, mongo_database: str
) -> None:
    outputs = write_outputs(cloud.folder)
    told = cloud.run("tools.zenml_stack", "set-aws", "--outputs", str(outputs), "--tag", "abc").stdout
    assert "twin-aws" in told
    assert "export-settings-to-zenml" in told, "steps would have no settings yet"
    exported = cloud.run("tools.zenml_stack", "export").stdout
    assert "DATABASE_URI" in exported
    assert mongo_server.uri not in exported
    again = cloud.run("tools.zenml_stack", "set-aws", "--outputs", str(outputs)).stdout
    assert "set-aws-stack --tag" not in again, "the image of before is still named"
    cloud.run("tools.zenml_stack", "set-asynchronous")

    writings = cloud.folder / "writings"
    writings.mkdir()
    for number in range(3):
        text = (
            f"# Note {number}\n\n"
            + f"The tide of Marrow Bay turned at hour {number}, as the table had said. " * 12
        )
        (writings / f"note-{number}.md").write_text(text, encoding="utf-8")
    arguments = ("--link", str(writings), "--author", "Ada Winter")
    cloud.run("tools.run", "end-to-end-data", *arguments)
    steps = cloud.read_steps("end_to_end_data")
    assert [step["Name"] for step in steps] == [
        "collect_links",
        "clean_documents",
        "mark_near_duplicates",
        "index_documents",
        "build_voice_profiles",
    ]
    for step in steps:
        image = step["Arguments"]["AlgorithmSpecification"]["TrainingImage"]
        assert image == f"{OUTPUTS['ecr_registry']}/twin-pipelines:abc"
        assert mongo_server.uri not in json.dumps(step), (
            "who may describe the pipeline must not read the settings"
        )
        cloud.run_step(step, f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:pipeline/end-to-end-data/execution/one")

    assert cloud.look("print(client.list_pipeline_runs(size=1).items[0].status.value)") == "completed"
    with MongoClient(mongo_server.uri) as client:
        counts = {
            name: client[mongo_database][name].count_documents({})
            for name in ("documents", "clean_documents")
        }
        assert counts == {"documents": 3, "clean_documents": 3}
        assert client[mongo_database]["embeddings"].count_documents({}) > 0

    waits = []
    for _ in range(2):
        waits.append(
            cloud.look(
                "from zenml.enums import StackComponentType as Kind; "
                "print(client.active_stack_model.components[Kind.ORCHESTRATOR][0].configuration['synchronous'])"
            )
        )
        cloud.run("tools.zenml_stack", "set-aws", "--outputs", str(outputs))
    assert waits == ["False", "True"], "set-aws-stack makes runs wait again"


def test_data_sets_training_evaluation_and_promotion_run_on_the_aws_stack(cloud: Cloud) -> None:
    """Steps share the bucket, the database and nothing else: each machine is new."""
    pytest.importorskip("trl", reason="needs the group training")
    cloud.environment["SHARED_FILES_URI"] = f"s3://{BUCKET}/shared"
    base = make_model(cloud.folder / "base")  # as if the image held it
    cloud.run("tools.zenml_stack", "set-aws", "--outputs", str(write_outputs(cloud.folder)), "--tag", "abc")
    cloud.run("tools.zenml_stack", "export")
    cloud.run("tools.zenml_stack", "set-asynchronous")

    def configure(name: str, parameters: dict[str, Any]) -> tuple[str, str]:
        file = cloud.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"parameters": parameters}), encoding="utf-8")
        return "--config", str(file)

    articles = ("--link", str(ROOT / "samples" / "site" / "articles"), "--author", "Ada Winter")
    cloud.run_pipeline("end-to-end-data", "end_to_end_data", *articles)
    instruct = {
        "name": "toy",
        "feedback": None,
        "passages": {"shortest": 150, "min_characters": 150, "max_characters": 250},
    }
    made = cloud.run_pipeline(
        "generate-instruct-datasets",
        "generate_instruct_dataset",
        *configure("instruct", {"instruct": instruct}),
    )
    assert "write_instruct_dataset" in made
    sft = {"base_model": str(base), "max_steps": 4, "max_length": 512, "eval_steps": 2}
    cloud.run_pipeline(
        "training", "training", *configure("training", {"training": {"name": "toy", "sft": sft}})
    )
    evaluation = {"name": "toy", "max_tokens": 8, "samples": 30, "similarity": False, "resamples": 200}
    decided = cloud.run_pipeline(
        "evaluation",
        "model_evaluation",
        *configure(
            "evaluation",
            {"model_evaluation": evaluation, "promotion": {"metric": "perplexity", "min_items": 20}},
        ),
    )
    assert decided == ["compare_models", "decide_on_candidate"]
    assert cloud.look("print(client.list_pipeline_runs(size=1).items[0].status.value)") == "completed"
