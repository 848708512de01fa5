"""The whole inference service as ``bootstrap`` puts it together, with all its layers, over fakes in place of models and stores.

::

    service = OperatedService(tmp_path, ScriptedLanguageModel(["…"]), max_concurrent=8)
    with serving(service.app) as url:
        ...
"""

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.ports import LanguageModel, PipelineRunner, VectorIndex
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.bootstrap.service import build_service_app
from llm_engineering.infrastructure.api.middleware.auth import ApiKeyFile
from llm_engineering.settings import load_settings
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.service import first_sentence_of_the_sources, write
from tests.fakes.support import CONFIG, SPEC, WordHeads
from tests.fakes.warehouse import FakeWarehouse


class OperatedService:
    """The service over fakes. ``settings``: fields of ``ServiceSettings``; limits of rate are off unless given."""

    def __init__(
        self,
        folder: Path,
        model: LanguageModel | None = None,
        *,
        index: VectorIndex | None = None,
        embedder: HashEmbedder | None = None,
        warehouse: Any = None,
        runner: PipelineRunner | None = None,
        **settings: Any,
    ) -> None:
        self.embedder = embedder or HashEmbedder()
        self.model = model or ScriptedLanguageModel(default=first_sentence_of_the_sources)
        self.index = index or FakeVectorIndex()
        if index is None:
            write(self.index, self.embedder)
        self.warehouse = warehouse or FakeWarehouse()
        self.keys = ApiKeyFile(folder / "keys.json")
        given = {"rate_per_minute": 0, "keys_file": self.keys.path, "host": "127.0.0.1"} | settings
        chosen = load_settings(
            None,
            service=given,
            local={"data_dir": folder},
            reranker={"kind": "none"},
            tracing={"kind": "none"},
            llm={"kind": "llama_cpp", "grounding": "annotate"},
        )
        resources = Resources(chosen, ExitStack())
        # In place of what the settings name: the properties are cached, and so not asked.
        resources.__dict__.update(
            index=self.index,
            embedder=self.embedder,
            language_model=self.model,
            reranker=None,
            warehouse=self.warehouse,
            heads=WordHeads(self.embedder),
        )
        config = InferenceConfig(support=CONFIG)
        self.app = build_service_app(resources, config, analyses={CONFIG.analysis: SPEC}, runner=runner)


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """The value of one series of ``/metrics``; 0 where it is not there (yet)."""
    text = client.get("/metrics").raise_for_status().text
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name and dict(re.findall(r'(\w+)="([^"]*)"', found[2] or "")) == labels:
            return float(found[3])
    return 0.0


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"it did not come true within {seconds:g} s"
        time.sleep(0.01)
