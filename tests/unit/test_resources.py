"""What the settings name is what the resources are. Making them opens nothing."""

from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.ports import NullTracer
from llm_engineering.bootstrap.llm_service import build_llm_service
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.bootstrap.training import open_prompt_library
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel
from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel
from llm_engineering.infrastructure.llms.sagemaker import SageMakerModel
from llm_engineering.infrastructure.tracing.jsonl import JsonLinesTracer
from llm_engineering.settings import Settings, load_settings

SMALL = "SmolLM2-135M-Instruct"
"""Named where a test means it: the larger one may have been downloaded."""


def settings(**groups: Any) -> Settings:
    return load_settings(None, **groups)


@pytest.mark.parametrize(
    ("llm", "kind", "name"),
    [
        ({"model": SMALL}, LlamaCppModel, "SmolLM2-135M-Instruct.Q4_1"),
        ({"base_url": "http://127.0.0.1:1/v1", "model": "m"}, OpenAIHttpModel, "m"),
        ({"endpoint": "twin"}, SageMakerModel, "twin"),
        ({"endpoint": "twin", "model": "m", "stream": False, "context_tokens": 512}, SageMakerModel, "m"),
    ],
)
def test_the_language_model(llm: dict[str, Any], kind: type, name: str) -> None:
    chosen = settings(llm=llm)
    with open_resources(chosen) as resources:
        assert isinstance(resources.language_model, kind)
        assert resources.language_model.name == name
        assert resources.language_model.context_tokens == chosen.llm.context_tokens


def test_a_file_that_is_not_in_the_catalogue_may_speak(tmp_path: Path) -> None:
    with open_resources(settings(llm={"model_path": tmp_path / "trained.gguf"})) as resources:
        assert resources.llm_profile.grounding == "quote"
    with open_resources(settings(llm={"model": SMALL})) as resources:
        assert resources.llm_profile.grounding == "extractive"


def test_prices_go_together() -> None:
    for kind in ({"base_url": "http://127.0.0.1:1/v1"}, {"endpoint": "twin"}):
        with pytest.raises(
            ConfigurationError, match="LLM_PROMPT_PRICE and LLM_COMPLETION_PRICE are set together"
        ):
            settings(llm={**kind, "prompt_price": 0.15})
        assert settings(llm={**kind, "prompt_price": 0.15, "completion_price": 0.6})


def test_judges_are_found_by_the_names_of_a_run_and_keys_stand_in_the_settings_alone() -> None:
    with open_resources(
        settings(judge={"model": "m"}, judge2={"base_url": "http://127.0.0.1:1/v1"})
    ) as resources:
        found = resources.make_judges(["judge", "judge:qwen2.5:7b", "judge2", "llm"])
        assert [one.name for one in found[:3]] == ["m", "qwen2.5:7b", "gpt-4o-mini"]
        assert found[3] is resources.language_model
        with pytest.raises(ConfigurationError, match=r"no JUDGE3_\* setting is there. Set JUDGE3_MODEL"):
            resources.make_judges(["judge3"])


def test_the_prices_of_judges_go_together() -> None:
    with pytest.raises(
        ConfigurationError, match="JUDGE_PROMPT_PRICE and JUDGE_COMPLETION_PRICE are set together"
    ):
        settings(judge={"prompt_price": 0.15})


def test_the_tracer(tmp_path: Path) -> None:
    def made(**tracing: Any) -> object:
        with open_resources(settings(tracing=tracing)) as resources:
            assert resources.tracer is resources.tracer
            return resources.tracer

    assert isinstance(made(), NullTracer)
    assert isinstance(made(path=tmp_path / "traces.jsonl"), JsonLinesTracer)
    assert list(tmp_path.iterdir()) == []


def test_answers_are_kept_in_the_warehouse_unless_that_is_switched_off() -> None:
    def resources(**service: Any) -> Resources:
        with open_resources(settings(service=service)) as resources:
            return resources

    kept = resources()
    assert kept.feedback is kept.warehouse.feedback
    assert kept.drafts is kept.warehouse.drafts
    off = resources(keep_answers=False)
    assert off.feedback is None
    assert off.drafts is None


@pytest.mark.parametrize("file", ["/model.gguf", "mine.gguf", "/srv/gguf/model.gguf"])
def test_a_file_in_no_trained_models_folder_is_called_by_its_name(file: str) -> None:
    with open_resources(settings(llm={"model_path": file})) as resources:
        assert resources.language_model.name == Path(file).stem


def test_other_models_of_the_endpoint_may_be_named() -> None:
    named = {"kind": "openai_http", "model": "a", "more_models": " b, c,,a, b"}
    with open_resources(settings(llm=named)) as resources:
        assert [model.name for model in resources.more_language_models] == ["b", "c"]
    with open_resources(settings(llm={"kind": "llama_cpp"})) as resources:
        assert resources.more_language_models == ()


class TestTheModelsService:
    def test_on_loopback_it_needs_no_key(self) -> None:
        for host in ("127.0.0.1", "localhost", "::1"):
            model, service = build_llm_service(settings(llm={"model": SMALL}), host)
            assert not service.keyed
            assert model.name == "SmolLM2-135M-Instruct.Q4_1"

    @pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "models.example"])
    def test_where_others_can_reach_it_it_needs_one(self, host: str) -> None:
        with pytest.raises(ConfigurationError, match="LLM_API_KEY"):
            build_llm_service(settings(), host)
        _, service = build_llm_service(settings(llm={"api_key": "long-and-random"}), host)
        assert service.keyed

    def test_the_twins_own_settings_for_it_bring_their_key_and_nothing_else(self, tmp_path: Path) -> None:
        resources = settings(llm={"base_url": "http://127.0.0.1:8089/v1", "model": "x", "api_key": "k"})
        model, service = build_llm_service(
            resources, "127.0.0.1", model_path=tmp_path / "mine.gguf", parallel=2, threads=None
        )
        assert service.keyed
        assert (model.name, model.context_tokens) == ("mine", 2048)


def test_without_opik_there_is_no_prompt_library() -> None:
    with pytest.raises(ConfigurationError, match="TRACING_KIND=opik"), open_prompt_library(settings()):
        raise AssertionError("there is none")
