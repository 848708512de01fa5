"""``configs/deploy_inference.yaml``, the model that it names, requests and prices."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from llm_engineering.application.deployment.config import Deployment
from llm_engineering.application.deployment.model import find_model
from llm_engineering.application.deployment.prices import PriceTable, estimate_range
from llm_engineering.application.training.finetune.record import write_json
from llm_engineering.application.training.finetune.sft import MANIFEST
from llm_engineering.bootstrap.aws import read_prices
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    ModelFileError,
    TemplateMismatchError,
)
from llm_engineering.domain.models import ModelManifest
from llm_engineering.infrastructure.aws.requests import Plan, ServingPlace
from tests.fakes.registry import FakeRegistry
from tests.unit.deployments import exported_folder, make_deployment, register_exported
from tools.inference_endpoint import describe_price
from tools.run_config import read_service_config

ROOT = Path(__file__).parents[2]
PLACE = ServingPlace("arn:aws:iam::123456789012:role/twin", "bucket")


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry()
    register_exported(registry, tmp_path / "one")
    return registry


def planned(registry: FakeRegistry | None = None, **changes: Any) -> Plan:
    deployment = make_deployment(**changes)
    model = find_model(deployment.model, deployment.container.server, registry, "answer.v1")
    return Plan(deployment, model, PLACE, deployment.container.image)


def environment(plan: Plan) -> dict[str, str]:
    return dict(plan.model_request()["PrimaryContainer"]["Environment"])


class TestTheFile:
    def test_the_one_in_configs_is_valid(self) -> None:
        deployment = read_service_config(ROOT / "configs/deploy_inference.yaml", Deployment)
        assert (deployment.endpoint, deployment.model.name) == ("twin", "twin")

    @pytest.mark.parametrize(
        ("section", "value"),
        [
            ("model", {}),
            ("model", {"name": "twin", "hub": "a/b"}),
            ("model", {"hub": "a/b"}),
            ("model", {"s3": "s3://bucket/folder"}),
            ("model", {"s3": "s3://bucket/folder/", "template": "chatml"}),
            ("instance", {"type": "g5.xlarge"}),
            ("limits", {"max_input_tokens": 4096, "max_total_tokens": 4096}),
            ("limits", {"max_batch_tokens": 64}),
            ("scaling", {"min_copies": 3, "max_copies": 2}),
            (
                "scaling",
                {"schedules": [{"name": "a", "schedule": "daily", "min_copies": 0, "max_copies": 1}]},
            ),
            ("component", {"copies": 2, "gpus": 1}),
            ("asynchronous", {}),
            ("endpoint", "a_b"),
        ],
    )
    def test_what_cannot_be_is_refused(self, section: str, value: object) -> None:
        with pytest.raises(ValidationError):
            make_deployment(**{section: value})

    def test_zero_needs_a_component(self) -> None:
        with pytest.raises(ValidationError, match="component"):
            make_deployment(component=None, scaling={"min_copies": 0})
        assert make_deployment(component=None, scaling={"min_copies": 0}, asynchronous={})

    def test_a_misspelt_key_is_named_with_the_right_one(self, tmp_path: Path) -> None:
        content = yaml.safe_load((ROOT / "configs/deploy_inference.yaml").read_text("utf-8"))
        content["limits"]["max_totl_tokens"] = 1
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(ConfigurationError, match="max_total_tokens"):
            read_service_config(tmp_path / "run.yaml", Deployment)


class TestTheModel:
    def test_production_with_its_facts(self, registry: FakeRegistry) -> None:
        plan = planned(registry)
        tags = {tag["Key"]: tag["Value"] for tag in plan.tags}
        manifest = registry.get("twin").manifest
        assert tags["model"] == "twin:1"
        assert tags["adapter"] == manifest.files["adapter/adapter_model.safetensors"]
        assert (tags["template_hash"], tags["prompt"]) == (manifest.template_hash, "answer.v1")
        assert set(plan.model.files) == {"model.safetensors"}

    def test_llama_cpp_takes_the_gguf(self, registry: FakeRegistry) -> None:
        plan = planned(registry, container={"server": "llama_cpp", "image": "x/y:1"})
        assert set(plan.model.files) == {"model.gguf"}
        assert environment(plan)["LLAMA_ARG_MODEL"] == "/opt/ml/model/model.gguf"

    def test_a_version_that_is_not_registered(self, registry: FakeRegistry) -> None:
        with pytest.raises(InvalidInputError, match="7"):
            planned(registry, model={"name": "twin", "version": 7})
        with pytest.raises(InvalidInputError, match="other"):
            planned(registry, model={"name": "other"})

    def test_a_model_of_another_template(self, tmp_path: Path) -> None:
        folder = exported_folder(tmp_path / "old")
        manifest = ModelManifest.model_validate_json((folder / MANIFEST).read_bytes())
        manifest = manifest.model_copy(update={"template_hash": "0" * 64})
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        registry = FakeRegistry()
        registry.register(manifest, str(folder))
        with pytest.raises(TemplateMismatchError, match="twin:1"):
            planned(registry, model={"name": "twin", "version": 1})

    def test_files_of_another_template_in_s3(self) -> None:
        model = {"s3": "s3://bucket/folder/", "template": "chatml", "template_hash": "0" * 64}
        with pytest.raises(TemplateMismatchError):
            planned(model=model)

    def test_files_that_changed(self, registry: FakeRegistry, tmp_path: Path) -> None:
        (tmp_path / "one" / "merged" / "model.safetensors").write_bytes(b"others")
        with pytest.raises(ModelFileError, match="changed"):
            planned(registry)

    def test_a_model_without_export(self, tmp_path: Path) -> None:
        from tests.unit.training_archives import model_folder

        folder = model_folder(tmp_path / "bare")
        registry = FakeRegistry()
        registry.register(ModelManifest.model_validate_json((folder / MANIFEST).read_bytes()), str(folder))
        with pytest.raises(ModelFileError, match="merged/"):
            planned(registry, model={"name": "twin", "version": 1})


class TestRequests:
    def test_the_same_plan_has_the_same_names_and_another_model_others(
        self, registry: FakeRegistry, tmp_path: Path
    ) -> None:
        first, again = planned(registry), planned(registry)
        assert first.model_request() == again.model_request()
        register_exported(registry, tmp_path / "two", b"better")
        other = planned(registry)
        assert other.model_request()["ModelName"] != first.model_request()["ModelName"]
        assert other.config_request() == first.config_request(), (
            "machines stay while the component gets another model"
        )
        assert planned(registry, component=None).config_request() != first.config_request()

    @pytest.mark.parametrize(
        ("server", "names"),
        [
            ("vllm", {"SM_VLLM_MODEL", "SM_VLLM_MAX_MODEL_LEN", "SM_VLLM_QUANTIZATION", "SM_VLLM_REVISION"}),
            (
                "tgi",
                {"HF_MODEL_ID", "MAX_TOTAL_TOKENS", "HF_MODEL_QUANTIZE", "MESSAGES_API_ENABLED", "REVISION"},
            ),
        ],
    )
    def test_each_server_is_told_its_way(self, server: str, names: set[str]) -> None:
        container = {"server": server, "image": "x/y:1", "quantization": "awq"}
        plan = planned(model={"hub": "some/model", "revision": "abc"}, container=container)
        assert names <= environment(plan).keys()
        assert "ModelDataSource" not in plan.model_request()["PrimaryContainer"]

    def test_tags_hold_what_aws_lets_them(self) -> None:
        plan = planned(model={"s3": "s3://bucket/folder/"})
        assert all(len(tag["Value"]) <= 256 for tag in plan.tags)


class TestPrices:
    @pytest.fixture
    def prices(self) -> PriceTable:
        return PriceTable.model_validate(yaml.safe_load((ROOT / "infra/aws/prices.yaml").read_text("utf-8")))

    def test_the_range_follows_the_scaling(self) -> None:
        assert estimate_range(make_deployment()) == (1, 1, 1)
        assert estimate_range(make_deployment(scaling={"min_copies": 0, "max_copies": 3})) == (1, 0, 3)
        two = make_deployment(component={"copies": 2}, scaling={"min_copies": 1, "max_copies": 5})
        assert estimate_range(two) == (1, 1, 3), "two copies share a machine"

    def test_what_is_asked_of_aws_is_the_range_that_is_said(self) -> None:
        night = {"name": "night", "schedule": "cron(0 20 * * ? *)", "min_copies": 0, "max_copies": 12}
        plan = planned(
            model={"hub": "some/model", "revision": "abc"},
            component={"copies": 4},
            scaling={"min_copies": 4, "max_copies": 8, "schedules": [night]},
        )
        assert estimate_range(plan.deployment) == (1, 0, 3), "four copies share a machine; schedules count"
        (variant,) = plan.config_request()["ProductionVariants"]
        asked = variant["ManagedInstanceScaling"]
        assert (asked["MinInstanceCount"], asked["MaxInstanceCount"]) == (0, 3)

    def test_bounds_of_a_schedule_the_wrong_way_round_are_refused(self) -> None:
        wrong = {"name": "night", "schedule": "cron(0 20 * * ? *)", "min_copies": 3, "max_copies": 1}
        with pytest.raises(ValidationError, match="min_copies"):
            make_deployment(scaling={"max_copies": 4, "schedules": [wrong]})

    def test_it_is_said_with_its_date(self, prices: PriceTable) -> None:
        told = describe_price(
            prices, make_deployment(scaling={"min_copies": 0, "max_copies": 3}), "us-east-1"
        )
        assert "1.41 USD" in told
        assert "0.00 to 4.22" in told
        assert str(prices.written) in told
        assert "unverified" in told

    def test_what_is_not_in_the_table_is_said_to_be_unknown(self, prices: PriceTable) -> None:
        assert describe_price(prices, make_deployment(), "eu-west-1").startswith("unknown")

    @pytest.mark.parametrize("content", [None, "currency: USD", "[", "\x00"])
    def test_a_table_that_cannot_be_read_is_told(self, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "prices.yaml"
        if content is not None:
            file.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigurationError, match=r"prices\.yaml"):
            read_prices(file)
