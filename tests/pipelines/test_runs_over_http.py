"""A run that is started over HTTP ends as one of the command line does, with its documents in the warehouse."""

import time
from pathlib import Path

import httpx
import pytest

from llm_engineering.bootstrap.resources import Resources
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import serving
from tests.pipelines.clocks import BEFORE, write_source
from tools.pipeline_runs import PipelineRuns

ROOT = Path(__file__).parents[2]
RUNS = "/pipelines/end-to-end-data/runs"


@pytest.mark.nightly
def test_a_configuration_with_an_override_runs_to_its_end(
    project: Path, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (project / "configs").mkdir()
    write_source(project, BEFORE).rename(project / "configs" / "clocks.yaml")
    service = OperatedService(project, runner=PipelineRuns(project / "runs"))
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        body = {"config": "clocks", "overrides": {"features": {"batch_size": 3}}}
        started = client.post(RUNS, json=body).raise_for_status().json()
        deadline = time.monotonic() + 200
        while (ended := client.get(f"{RUNS}/{started['id']}").json())["state"] == "running":
            assert time.monotonic() < deadline
            time.sleep(0.3)
    assert ended["state"] == "succeeded", (project / "runs" / f"{started['id']}.log").read_text()
    assert ended["name"].startswith("end_to_end_data")
    assert len(list(resources.warehouse.documents.stream())) == len(BEFORE)
