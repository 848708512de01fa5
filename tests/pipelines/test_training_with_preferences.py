"""``run-training-pipeline`` with SFT and DPO in one run: each leaves a model that can be served."""

from pathlib import Path

import pytest

from llm_engineering.application.training.finetune.model_folder import open_servable
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.domain.datasets import Split
from tests.conformance.test_dpo_training import pairs
from tests.fakes.toy_model import make_model, make_samples, write_dataset
from tools.run import run_pipeline

pytest.importorskip("trl", reason="the group 'training' is not installed")


def test_dpo_goes_on_from_the_sft_model_of_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    base = make_model(tmp_path / "base")
    taught = write_dataset(tmp_path / "instruct", make_samples(16), make_samples(4, split=Split.VALIDATION))
    preferred = write_dataset(tmp_path / "preference", make_samples(8), (), kind="preference")
    lines = "".join(pair.model_dump_json() + "\n" for pair in pairs(8, Split.TRAIN))
    (preferred / "train.jsonl").write_text(lines, encoding="utf-8")
    fast = {"max_steps": 4, "batch_size": 4, "max_length": 256}
    run = run_pipeline(
        "training",
        Training.model_validate(
            {
                "training": {
                    "name": "toy",
                    "dataset": str(taught),
                    "output_dir": str(tmp_path / "out"),
                    "sft": {**fast, "base_model": str(base), "lora": {"r": 4}},
                },
                "dpo": {
                    "name": "toy",
                    "dataset": str(preferred),
                    "output_dir": str(tmp_path / "out"),
                    "dpo": {**fast, "optimizer": {"learning_rate": 0.002}},
                },
            }
        ),
    )
    sft, dpo = (run.steps[name].outputs["training_report"][0].load() for name in ("train_sft", "train_dpo"))
    assert dpo["metrics"]["reward_margin_last"] > dpo["metrics"]["reward_margin_first"]
    manifests = [open_servable(Path(report["folder"])).manifest for report in (sft, dpo)]
    assert [manifest.stage for manifest in manifests] == ["sft", "dpo"]
    assert manifests[1].parent == manifests[0].files["adapter/adapter_model.safetensors"]
    assert list((tmp_path / "data" / "tracking" / "runs").glob("toy-*.jsonl"))
