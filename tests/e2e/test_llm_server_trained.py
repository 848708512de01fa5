"""``poe run-llm-server --model FOLDER``: a trained model in a process of its own, or a refusal before it starts."""

import subprocess
from pathlib import Path

import openai
import pytest

from llm_engineering.application.training.finetune.model_folder import GGUF
from llm_engineering.infrastructure.training.export import Exporter
from tests.conformance.sft_runs import base, dataset, train
from tests.e2e.test_llm_server import command, environment, serving

pytest.importorskip("trl", reason="the group 'training' is not installed")
pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

__all__ = ["base", "dataset"]


@pytest.fixture(scope="module")
def folder(base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = train(base, dataset, tmp_path_factory.mktemp("served"), max_steps=2, lora={"r": 2})
    Exporter(lambda name, _: name).export(model.folder)
    return model.folder


@pytest.mark.slow
def test_a_trained_model_answers_by_openais_protocol(folder: Path) -> None:
    with serving(["--model", str(folder), "--context-tokens", "256", "--threads", "1"]) as running:
        with openai.OpenAI(base_url=running.url, api_key="none", max_retries=0) as client:
            [served] = client.models.list().data
            reply = client.chat.completions.create(
                model=served.id, messages=[{"role": "user", "content": "Why?"}], max_tokens=8, temperature=0
            )
        assert served.id.startswith("toy-")
        assert reply.usage is not None
        assert reply.usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("model.json", '"template_hash": "', '"template_hash": "0', "Chat templates differ"),
        (GGUF, "", "", f"{GGUF} was changed"),
    ],
)
def test_another_template_or_a_changed_file_refuses_to_start(
    folder: Path, name: str, old: str, new: str, told: str
) -> None:
    file = folder / name
    whole = file.read_bytes()
    file.write_bytes(whole.replace(old.encode(), new.encode(), 1) if old else whole + b"x")
    try:
        run = subprocess.run(
            command("--port", "0", "--model", str(folder)),
            capture_output=True,
            text=True,
            env=environment(),
            timeout=60,
            check=False,
        )
    finally:
        file.write_bytes(whole)
    assert run.returncode != 0
    assert told in " ".join((run.stdout + run.stderr).split())
