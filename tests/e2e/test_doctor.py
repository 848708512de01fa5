"""The doctor in a folder where nothing was set up, and in one that is in use."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_ask import ROOT, environment
from tests.services import free_port, mongo_server

__all__ = ["environment", "mongo_server"]


def examine(environment: dict[str, str], *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "tools.doctor", "--json", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_where_nothing_was_set_up_it_says_what_to_do_and_leaves_no_trace(tmp_path: Path) -> None:
    port = free_port()
    code, found = examine(
        {
            "MODELS_DIR": str(tmp_path / "models"),
            "LOCAL_DATA_DIR": str(tmp_path / "data"),
            "VECTOR_INDEX_KIND": "qdrant_edge",
            "VECTOR_INDEX_PATH": str(tmp_path / "index"),
            "EMBEDDER_KIND": "onnx",
            "LLM_KIND": "llama_cpp",
            "ZENML_CONFIG_PATH": str(tmp_path / "zenml"),
            "LOCAL_MONGO_PORT": str(port),
            "DATABASE_URI": f"mongodb://127.0.0.1:{port}",
            "SERVICE_PORT": str(free_port()),
        }
    )
    assert code == 1
    assert found["Python"]["state"] == "ok"
    assert found["embedder"]["stops"]
    assert found["MongoDB"]["todo"] == "./poe local-infrastructure-up"
    assert found["index"]["state"] == "warn"
    assert list(tmp_path.iterdir()) == []


def test_where_all_is_there_it_counts_it_and_finds_what_does_not_fit(environment: dict[str, str]) -> None:
    own = {**environment, "LLM_KIND": "llama_cpp", "TWIN_AUTHOR": "ada  winter"}
    code, found = examine(own)
    assert code == 0, found
    assert "Ada Winter 2" in found["authors"]["detail"]
    assert "chunks" in found["index"]["detail"]
    assert found["whose twin"]["state"] == "ok"
    assert found["answers"]["state"] in ("ok", "warn")
    assert "steps an hour" in found["training"]["detail"]

    strange = {**own, "TWIN_AUTHOR": "Ada Wintr", "EMBEDDER_KIND": "openai_http"}
    strange |= {"EMBEDDER_BASE_URL": f"http://127.0.0.1:{free_port()}/v1"}
    code, found = examine(strange, "--quick")
    assert code == 1, "without its embedder nothing can be searched by meaning"
    assert found["embedder"]["state"] == "missing"
    assert found["index"]["todo"] == "./poe run-feature-engineering-pipeline"
    assert "answers" not in found


@pytest.mark.slow
def test_an_author_who_has_written_nothing_is_told_with_the_closest(environment: dict[str, str]) -> None:
    code, found = examine({**environment, "LLM_KIND": "llama_cpp", "TWIN_AUTHOR": "Ada Wintr"}, "--quick")
    assert code == 0
    assert found["whose twin"]["state"] == "warn"
    assert "Ada Winter" in found["whose twin"]["detail"]


@pytest.mark.slow
def test_wrong_settings_are_told_beside_the_rest(environment: dict[str, str]) -> None:
    code, found = examine({**environment, "LLM_CONTEXT_TOKENS": "many"})
    assert code == 1
    assert "LLM_CONTEXT_TOKENS" in found[".env"]["detail"]
    assert found["Python"]["state"] == "ok"


def test_nothing_heavy_is_imported(environment: dict[str, str]) -> None:
    told = (
        "import sys; from tools.doctor import run_checks; run_checks(quick=True); "
        "print({'zenml', 'torch', 'xllamacpp', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", told],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "set()"
