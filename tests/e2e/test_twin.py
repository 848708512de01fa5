"""From links to a twin in one command: what a first run does, what a second one leaves alone, and how it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import yaml

from tests.durations import allow
from tests.fakes.operated_service import eventually
from tests.services import free_port, own_mongo_server
from tools.sample_site import SampleSite
from tools.services import LocalMongo

__all__ = ["own_mongo_server"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path: Path, own_mongo_server: LocalMongo) -> dict[str, str]:
    """A project where nothing was done yet. The fixture stops the database that the command starts."""
    return {
        "DATABASE_URI": own_mongo_server.uri,
        "DATABASE_NAME": "twin",
        "LOCAL_DATA_DIR": str(own_mongo_server.storage.parent),
        "LOCAL_MONGO_PORT": str(own_mongo_server.port),
        "VECTOR_INDEX_KIND": "qdrant_edge",
        "VECTOR_INDEX_PATH": str(tmp_path / "index"),
        "EMBEDDER_KIND": "onnx",
        "LLM_KIND": "llama_cpp",
        "MODELS_DIR": os.environ.get("MODELS_DIR", str(ROOT / "models")),
        "ZENML_CONFIG_PATH": str(tmp_path / "zenml"),
        "ZENML_LOGGING_VERBOSITY": "CRITICAL",
        "CRAWLER_PER_HOST_DELAY_SECONDS": "0",
        "SERVICE_PORT": str(free_port()),
        "SERVICE_KEYS_FILE": str(tmp_path / "keys.json"),
        "COLUMNS": "200",
    }


@pytest.fixture
def site() -> Iterator[SampleSite]:
    with SampleSite() as site:
        yield site


def start(environment: Mapping[str, str], *arguments: str, folder: Path = ROOT) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tools.twin", "--small", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(
    environment: Mapping[str, str], *arguments: str, seconds: float = 120, folder: Path = ROOT
) -> tuple[int, str]:
    with start(environment, *arguments, folder=folder) as process:
        output, _ = process.communicate(timeout=allow(seconds))
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_ctrl_c_the_same_command_goes_on_and_a_second_one_does_what_is_new(
    environment: dict[str, str], site: SampleSite
) -> None:
    articles = [f"{site.base_url}/articles/{name}.html" for name in ("hybrid-search", "kv-cache-and-serving")]
    arguments = ("--author", "Ada Winter", "--no-training", "--no-serve")
    process = start(environment, *arguments, "--link", articles[0])
    assert process.stdout is not None
    shown = ""
    while "Collect and build features ──" not in shown:
        line = process.stdout.readline()
        assert line, shown
        shown += line
    assert "Ada Winter's twin" in shown, "the plan comes first"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=allow(60))
    assert process.returncode == 130, rest
    assert "Traceback" not in rest

    code, output = run(environment, *arguments, "--link", articles[0])
    assert code == 0, output
    assert "index documents: 1 documents, 1 changed" in output
    links = [word for article in articles for word in ("--link", article)]
    code, output = run(environment, *arguments, *links)
    assert code == 0, output
    assert "index documents: 2 documents, 1 changed" in output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_chat_page_is_served_at_the_address_of_the_plan(
    environment: dict[str, str], site: SampleSite
) -> None:
    url = f"http://127.0.0.1:{environment['SERVICE_PORT']}"
    link = f"{site.base_url}/articles/hybrid-search.html"
    process = start(environment, "--author", "Ada Winter", "--no-training", "--link", link)

    def serves() -> bool:
        assert process.poll() is None, process.stdout and process.stdout.read()
        try:
            return httpx.get(f"{url}/health/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    eventually(serves, allow(120))
    assert "<html" in httpx.get(f"{url}/").text
    asked = {"query": "Who are you?"}
    assert "Ada Winter" in httpx.post(f"{url}/rag", json=asked, timeout=allow(30)).text, (
        "it knows whose twin it is"
    )
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=allow(60))
    assert process.returncode == 0, output
    assert f"{url}/" in output


def test_what_cannot_be_done_is_told_before_anything_starts(
    environment: dict[str, str], site: SampleSite, own_mongo_server: LocalMongo
) -> None:
    code, output = run(environment, "--link", f"{site.base_url}/feed.xml")
    assert code == 1
    assert "TWIN_AUTHOR" in output
    port = {"SERVICE_PORT": site.base_url.rpartition(":")[2]}
    code, output = run(
        {**environment, **port}, "--author", "Ada Winter", "--link", f"{site.base_url}/feed.xml"
    )
    assert code == 1
    assert "SERVICE_PORT" in output
    assert "Traceback" not in output
    assert not own_mongo_server.status().running


@pytest.mark.slow
def test_an_author_of_whom_nothing_was_collected_needs_links(environment: dict[str, str]) -> None:
    code, output = run(environment, "--author", "Ada Winter", "--no-training", "--no-serve")
    assert code == 1
    assert "--link" in output
    assert "Traceback" not in output


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_twin_is_trained_evaluated_and_not_trained_again(
    environment: dict[str, str], site: SampleSite, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    project = tmp_path / "project"
    project.mkdir()
    for name in ("configs", "samples"):
        (project / name).symlink_to(ROOT / name)
    environment = environment | {"PYTHONPATH": str(ROOT), "POE_CWD": str(project)}
    config = yaml.safe_load((ROOT / "configs/model_evaluation.yaml").read_text())
    config["parameters"]["model_evaluation"] |= {"samples": 4, "max_tokens": 8}
    evaluation = tmp_path / "model_evaluation.yaml"
    evaluation.write_text(yaml.safe_dump(config))
    arguments = ["--author", "Ada Winter", "--steps", "1", "--no-serve"]
    arguments += ["--evaluation", str(evaluation)]
    link = f"{site.base_url}/feed.xml"
    code, output = run(environment, *arguments, "--link", link, seconds=1200, folder=project)
    assert code == 0, output
    [model] = (project / "data/trained/ada-winter").glob("*/model.json")
    assert (model.parent / "evaluation.json").is_file()
    written = model.stat().st_mtime_ns
    assert "ada-winter:1" in output

    code, output = run(environment, *arguments, seconds=300, folder=project)
    assert code == 0, output
    assert "Evaluated before" in output
    assert model.stat().st_mtime_ns == written
