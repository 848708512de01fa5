"""Trackers of training runs: what they were told is where they say, and none can stop a training."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest

from llm_engineering.application.training.finetune.tracking import NamedTracker, SafeTrackers
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.tracking.comet import CometTracker
from llm_engineering.infrastructure.tracking.jsonl import JsonLinesTracker
from llm_engineering.infrastructure.tracking.tensorboard import TensorBoardTracker
from llm_engineering.settings import load_settings
from tests.conformance.sft_runs import base, dataset, train
from tests.fakes.tracker import RecordingTracker
from tests.services import free_port

__all__ = ["base", "dataset"]

ROOT = Path(__file__).resolve().parents[2]

needs_training = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("tensorboard") is None,
    reason="the group 'training' is not installed",
)

PARAMETERS = {"base": "toy", "optimizer": {"learning_rate": 0.01}, "targets": ["q_proj"], "revision": None}


def tell(tracker: Any) -> None:
    tracker.start("run", PARAMETERS)
    for step in (1, 2, 3):
        tracker.log({"loss": 3.0 / step, "learning_rate": 0.01}, step)
    tracker.finish("finished", {"loss": 1.0})


class FailingTracker:
    """Raises from the step on that it is told."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.calls: list[str] = []

    def _do(self, call: str) -> None:
        self.calls.append(call)
        if call == self.at:
            raise OSError("no network")

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        self._do("start")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._do("log")

    def finish(self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]) -> None:
        self._do("finish")


def test_lines_hold_parameters_every_step_and_the_end(tmp_path: Path) -> None:
    tell(JsonLinesTracker(tmp_path))
    [file] = tmp_path.iterdir()
    first, *steps, last = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert first["parameters"] == PARAMETERS
    assert [(line["step"], line["loss"]) for line in steps] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert (last["status"], last["summary"]) == ("finished", {"loss": 1.0})


def test_tensorboard_reads_the_curves_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(TensorBoardTracker(tmp_path))
    [folder] = tmp_path.iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert b'"base": "toy"' in events.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0]


def test_comet_keeps_an_archive_without_any_network(tmp_path: Path) -> None:
    """Sockets raise in this test."""
    pytest.importorskip("comet_ml")
    tell(CometTracker("offline", None, "twin", None, tmp_path))
    [archive] = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive) as files:
        names = files.namelist()
        lines = [json.loads(line) for line in files.read("messages.json").decode().splitlines()]
        about = json.loads(files.read("experiment.json"))
    assert about["project_name"] == "twin"
    payloads = [line["payload"] for line in lines]
    losses = [
        (p["metric"]["step"] if "step" in p["metric"] else p.get("step"), p["metric"]["metricValue"])
        for p in payloads
        if p.get("metric") and p["metric"]["metricName"] == "loss"
    ]
    assert losses == [(1, 3.0), (2, 1.5), (3, 1.0)]
    told = json.dumps(payloads)
    assert "optimizer.learning_rate" in told
    assert "summary.loss" in told
    assert not [name for name in names if name.endswith((".py", ".patch"))]


@pytest.mark.skipif(find_spec("wandb") is None, reason="the group 'training' is not installed")
def test_weights_and_biases_keeps_a_run_without_any_network(tmp_path: Path) -> None:
    """Sockets raise in this test. In a process of its own: the SDK starts one that outlives a test."""
    code = (
        "from pathlib import Path; from tests.conformance.test_experiment_trackers import tell;"
        "from llm_engineering.infrastructure.tracking.wandb import WandbTracker;"
        f"tell(WandbTracker('offline', None, 'twin', None, Path({str(tmp_path)!r})))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    [run] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    written = run.read_bytes()
    for told in (b"optimizer.learning_rate", b"summary.loss", b"finished", b"loss"):
        assert told in written
    assert not list(tmp_path.rglob("*.py"))
    assert not list(tmp_path.rglob("wandb-metadata.json"))  # host, user, command line


@pytest.mark.nightly  # the SDK tries for half a minute before it gives up
@pytest.mark.allow_hosts(["127.0.0.1"])
def test_comet_that_cannot_be_reached_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("comet_ml")
    monkeypatch.setenv("COMET_URL_OVERRIDE", f"http://127.0.0.1:{free_port()}/clientlib/")
    healthy = RecordingTracker()
    comet = CometTracker("online", "a-key", "twin", None, tmp_path)
    tell(SafeTrackers([NamedTracker("Comet", comet), NamedTracker("ours", healthy)]))
    assert [step for step, _ in healthy.logged] == [1, 2, 3]
    assert healthy.finished


@pytest.mark.parametrize(
    ("at", "calls"),
    [("start", ["start"]), ("log", ["start", "log"]), ("finish", ["start", "log", "log", "log", "finish"])],
)
def test_a_tracker_that_fails_is_told_nothing_more_and_others_everything(at: str, calls: list[str]) -> None:
    failing, healthy = FailingTracker(at), RecordingTracker()
    tell(SafeTrackers([NamedTracker("Failing", failing), NamedTracker("ours", healthy)]))
    assert failing.calls == calls
    assert [step for step, _ in healthy.logged] == [1, 2, 3]
    assert healthy.finished == [("finished", {"loss": 1.0})]


@needs_training
def test_a_failing_tracker_stops_no_training(base: Path, dataset: Path, tmp_path: Path) -> None:
    failing = FailingTracker("log")
    model = train(base, dataset, tmp_path, SafeTrackers([NamedTracker("Failing", failing)]), max_steps=2)  # type: ignore[arg-type]
    assert model.record.steps == 2
    assert failing.calls == ["start", "log"]


def resources_with(tmp_path: Path, **tracking: Any) -> Any:
    return open_resources(load_settings(None, tracking={"folder": tmp_path, **tracking}))


@needs_training
def test_without_a_key_a_run_is_told_to_files_here_and_to_nobody_else(tmp_path: Path) -> None:
    resources: Resources
    with resources_with(tmp_path) as resources:
        tell(resources.experiment_tracker())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "tensorboard"]


@needs_training
@pytest.mark.parametrize("service", ["comet", "wandb"])
def test_online_without_a_key_is_refused_with_the_variable_to_set(tmp_path: Path, service: str) -> None:
    resources: Resources
    with (
        resources_with(tmp_path, **{service: "online"}) as resources,
        pytest.raises(ConfigurationError, match=f"TRACKING_{service.upper()}_API_KEY"),
    ):
        resources.experiment_tracker()


@needs_training
def test_no_sdk_is_imported_that_was_not_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys; from llm_engineering.bootstrap.resources import open_resources;"
        "from llm_engineering.settings import load_settings\n"
        f"with open_resources(load_settings(None, tracking={{'folder': {str(tmp_path)!r}}})) as resources:\n"
        "    resources.experiment_tracker()\n"
        "sys.exit(bool({'wandb', 'comet_ml', 'optuna'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
