"""The configuration of training: what would have no effect is an error, here and on this machine."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.evaluation.models.config import HarnessConfig, ModelEvaluationRun
from llm_engineering.application.training.datasets.config import JudgeConfig, LengthBias, RuleBounds
from llm_engineering.application.training.datasets.preferences import Rejected
from llm_engineering.application.training.finetune.config import LoraConfig, OptimizerConfig, SftConfig
from llm_engineering.application.training.finetune.dpo import ADAPTER, DpoConfig, DpoRun, inherit_from_sft
from llm_engineering.application.training.finetune.preflight import Hardware, plan
from llm_engineering.application.training.finetune.run import SftRun
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError
from llm_engineering.domain.models import ModelManifest

CPU = Hardware("cpu", "CPU, 2 cores", 8 << 30)
GPU = Hardware("cuda", "a GPU", 80 << 30, bf16=True, bitsandbytes=True, flash_attention=True)
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "training_sft.yaml"


class TestWithoutEffect:
    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"method": "full", "lora": {"r": 8}}, "'lora' has no effect with method 'full'"),
            ({"epochs": 1, "max_steps": 5}, "'epochs' has no effect beside 'max_steps'"),
            (
                {"optimizer": {"lr_scheduler_type": "constant", "warmup_steps": 2}},
                "warmup_steps has no effect",
            ),
            (
                {"optimizer": {"lr_scheduler_type": "constant_with_warmup"}},
                "without warmup_steps is 'constant'",
            ),
            ({"optimizer": {"momentum": 0.9}}, "momentum has no effect with name 'adamw'"),
            ({"optimizer": {"name": "sgd", "momentum": 1.0}}, "less than 1"),
            ({"optimizer": {"gamma": 0.9}}, "gamma has no effect with lr_scheduler_type 'cosine'"),
            ({"optimizer": {"lr_scheduler_type": "exponential"}}, "'exponential' needs 'gamma'"),
            ({"optimizer": {"lr_scheduler_type": "exponential", "gamma": 1}}, "less than 1"),
            ({"optimizer": {"min_lr": 1e-5}}, "min_lr has no effect"),
            ({"optimizer": {"lr_scheduler_type": "cosine_with_min_lr"}}, "needs 'min_lr'"),
            (
                {"optimizer": {"lr_scheduler_type": "cosine_with_min_lr", "min_lr": 1e-3}},
                r"min_lr \(0.001\) is not below learning_rate",
            ),
            ({"max_steps": 5, "optimizer": {"warmup_steps": 5}}, "learning rate would never be reached"),
            ({"max_steps": 5, "eval_steps": 6}, r"eval_steps \(6\) has no effect"),
            ({"max_steps": 5, "save_steps": 6}, r"save_steps \(6\) has no effect"),
            ({"max_steps": 5, "logging_steps": 6}, r"logging_steps \(6\) has no effect"),
            ({"on_too_long": "error", "max_dropped_share": 0.1}, "nothing is dropped"),
            ({"save_total_limit": 3}, "'save_total_limit' has no effect without 'save_steps'"),
            ({"early_stopping": {}}, "'early_stopping' has no effect without 'eval_steps'"),
            ({"keep_best": True}, "'keep_best' and 'early_stopping' need 'eval_steps'"),
            ({"keep_best": True, "eval_steps": 4, "save_steps": 6}, "multiple of it"),
            (
                {"max_steps": 8, "eval_steps": 2, "save_steps": 2, "early_stopping": {"patience": 4}},
                "it could never stop it",
            ),
            ({"lora": {"target_modules": []}}, "name at least one layer"),
            ({"lora": {"layers_to_transform": []}}, "name at least one layer"),
            ({"lora": {"layers_to_transform": [1, 1]}}, "names a layer twice"),
            ({"lora": {"layers_to_transform": [-1]}}, "greater than or equal to 0"),
            ({"template": "chatlm"}, "there is no such chat template"),
            ({"learning_rat": 1}, "Extra inputs"),
            ({"lora": {"rnk": 1}}, "Extra inputs"),
        ],
    )
    def test_it_is_refused_with_the_key(self, values: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError, match=told):
            SftConfig.model_validate(values)

    @pytest.mark.parametrize(
        "values", [{}, {"method": "full"}, {"max_steps": 9, "save_steps": 3}, {"on_too_long": "error"}]
    )
    def test_what_was_filled_in_is_read_again_as_it_is(self, values: dict[str, Any]) -> None:
        config = SftConfig.model_validate(values)
        assert SftConfig.model_validate(config.model_dump(mode="json")) == config

    def test_adapters_have_their_defaults_only_where_there_are_adapters(self) -> None:
        assert SftConfig().lora == LoraConfig()
        assert SftConfig(method="full").lora is None


class TestMachine:
    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"method": "qlora"}, "4-bit weights need a CUDA GPU"),
            ({"packing": True}, "attention on a CPU cannot keep the samples"),
            ({"backend": "unsloth"}, "'unsloth' needs a CUDA GPU"),
            ({"precision": "fp16"}, "precision 'fp16'"),
            ({"optimizer": {"name": "adamw_8bit"}}, "needs a CUDA GPU"),
        ],
    )
    def test_what_a_cpu_cannot_do_is_refused_with_what_it_can(
        self, values: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=told):
            plan(SftConfig.model_validate(values), CPU)

    @pytest.mark.parametrize(
        ("values", "machine", "told"),
        [
            (
                {"precision": "bf16"},
                Hardware("cuda", "an old GPU", 1 << 30),
                "this GPU has none; take 'auto'",
            ),
            ({"packing": True, "precision": "fp32"}, GPU, "computes in 16 bits"),
            ({"backend": "unsloth", "precision": "fp32"}, GPU, "Unsloth computes in 16 bits"),
        ],
    )
    def test_what_this_gpu_cannot_do_is_refused_with_what_it_can(
        self, values: dict[str, Any], machine: Hardware, told: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=told):
            plan(SftConfig.model_validate(values), machine)

    def test_all_problems_are_told_at_once(self) -> None:
        config = SftConfig.model_validate({"method": "qlora", "packing": True, "backend": "unsloth"})
        with pytest.raises(ConfigurationError) as refusal:
            plan(config, CPU)
        assert str(refusal.value).count("\n  - ") == 3

    def test_packing_needs_attention_that_keeps_samples_apart(self) -> None:
        without = Hardware("cuda", "a GPU", 80 << 30, bf16=True)
        with pytest.raises(ConfigurationError, match="install 'flash-attn'"):
            plan(SftConfig(packing=True), without)
        assert plan(SftConfig(packing=True), GPU).attention == "flash_attention_2"

    @pytest.mark.parametrize(
        ("values", "package"),
        [
            ({"backend": "unsloth"}, "unsloth"),
            ({"method": "qlora"}, "bitsandbytes"),
            ({"optimizer": {"name": "adamw_8bit"}}, "bitsandbytes"),
        ],
    )
    def test_a_missing_package_is_named_with_its_group(self, values: dict[str, Any], package: str) -> None:
        bare = Hardware("cuda", "a GPU", 80 << 30, bf16=True)
        with pytest.raises(MissingDependencyError, match=f"'{package}'.*--with gpu"):
            plan(SftConfig.model_validate(values), bare)

    @pytest.mark.parametrize(
        ("machine", "precision"),
        [(CPU, "fp32"), (GPU, "bf16"), (Hardware("cuda", "an old GPU", 1 << 30), "fp16")],
    )
    def test_precision_follows_the_hardware(self, machine: Hardware, precision: str) -> None:
        assert plan(SftConfig(), machine).precision == precision

    def test_unsloth_is_taken_where_it_is_and_the_choice_is_told(self) -> None:
        with_unsloth = Hardware("cuda", "a GPU", 80 << 30, bf16=True, unsloth=True)
        assert plan(SftConfig(), with_unsloth).backend == "unsloth"
        assert plan(SftConfig(), GPU).backend == "trl"
        assert any("Unsloth is not installed" in line for line in plan(SftConfig(), GPU).why)
        assert any("no GPU for Unsloth" in line for line in plan(SftConfig(), CPU).why)

    def test_unsloth_is_not_taken_for_what_it_does_not_do(self) -> None:
        with_unsloth = Hardware("cuda", "a GPU", 80 << 30, bf16=True, unsloth=True)
        assert plan(SftConfig(precision="fp32"), with_unsloth).backend == "trl"
        preferences = plan(DpoConfig(), with_unsloth)
        assert preferences.backend == "trl"
        assert any("SFT alone" in line for line in preferences.why)
        with pytest.raises(ValidationError, match="'auto' or 'trl'"):
            DpoConfig.model_validate({"backend": "unsloth"})


def test_every_knob_stands_in_the_yaml_with_a_reason() -> None:
    text = CONFIG.read_text(encoding="utf-8")
    section = yaml.safe_load(text)["parameters"]["training"]["sft"]
    optional = {"revision", "epochs", "evaluation_batch_size", "keep_best", "early_stopping"}
    assert set(SftConfig.model_fields) - set(section) == optional
    knobs = [line for line in text.splitlines() if ":" in line and not line.strip().startswith("#")]
    assert [line for line in knobs if "#" not in line and not line.rstrip().endswith(":")] == []


class TestRenamedKeys:
    @pytest.mark.parametrize(
        ("model", "key", "name"),
        [
            (model, key, name)
            for model in (
                SftConfig,
                DpoConfig,
                LoraConfig,
                OptimizerConfig,
                SftRun,
                DpoRun,
                RuleBounds,
                LengthBias,
                JudgeConfig,
                HarnessConfig,
                Rejected,
                ModelEvaluationRun,
            )
            for base in model.__mro__
            for key, name in vars(base).get("RENAMED", {}).items()
        ],
    )
    def test_a_former_key_is_refused_with_the_present_one_which_exists(
        self, model: type[StrictConfig], key: str, name: str
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            model.model_validate({key: 1})
        assert caught.value.errors()[0]["ctx"]["renamed"] == {key: name}
        assert name.split(".")[0] in model.model_fields

    def test_an_adapter_trained_under_the_former_keys_is_still_a_start_for_dpo(self) -> None:
        sft = ModelManifest.model_validate(
            {
                "stage": "sft",
                "name": "toy",
                "base": "toy",
                "template": "chatml",
                "template_hash": SftConfig().chat_template_hash,
                "method": "lora",
                "config": {"lora": {"rank": 8, "alpha": 4.0, "dropout": 0.0, "targets": "all-linear"}},
                "metrics": {},
                "files": {ADAPTER: "0" * 64},
                "dataset": "toy@1",
                "dataset_hash": "0" * 64,
                "created_at": "2026-01-01T00:00:00Z",
            }
        )
        assert inherit_from_sft(DpoConfig(), sft).lora == LoraConfig(r=8, lora_alpha=4.0)
