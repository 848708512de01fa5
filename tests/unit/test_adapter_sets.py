"""Which trained models may share one server as adapters: every refusal names both sides and says what to do."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.training.finetune.model_folder import (
    ADAPTER_GGUF,
    GGUF,
    AdapterServing,
    ServableModel,
    adapter_set,
)
from llm_engineering.domain.errors import InvalidInputError, ModelFileError, TemplateMismatchError
from llm_engineering.domain.models import ModelManifest


def model(folder: str, **values: Any) -> ServableModel:
    manifest = ModelManifest.model_validate(
        {
            "name": "twin",
            "base": "toy",
            "method": "lora",
            "stage": "sft",
            "template": "chatml",
            "template_hash": load_template("chatml").hash,
            "dataset": "toy@1",
            "dataset_hash": "0" * 64,
            "config": {},
            "metrics": {},
            "files": {GGUF: "0" * 64, ADAPTER_GGUF: "1" * 64},
            "created_at": datetime.now(UTC),
            **values,
        }
    )
    return ServableModel(manifest, Path(folder))


def test_adapters_of_one_base_stand_together() -> None:
    found = adapter_set({"articles": model("a"), "posts": model("b", stage="dpo", method="qlora")})
    assert (found.base, found.template) == ("toy", "chatml")
    assert found.files == {"articles": Path("a") / ADAPTER_GGUF, "posts": Path("b") / ADAPTER_GGUF}


def test_a_full_fine_tune_is_no_adapter() -> None:
    with pytest.raises(InvalidInputError, match=r"posts \(b\) is a full fine-tune.*--model b"):
        adapter_set({"articles": model("a"), "posts": model("b", method="full")})


def test_a_model_exported_without_its_adapter_says_how_to_get_it() -> None:
    with pytest.raises(ModelFileError, match=r"posts \(b\) has no gguf/adapter\.gguf.*Delete b/merged"):
        adapter_set({"posts": model("b", files={GGUF: "0" * 64})})


@pytest.mark.parametrize(
    ("other", "told"), [({"base": "another"}, "another"), ({"base_revision": "v2"}, "toy at v2")]
)
def test_adapters_of_two_bases_are_refused_by_name(other: dict[str, str], told: str) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"articles was trained over toy, posts over {told}.*two servers"
    ):
        adapter_set({"articles": model("a"), "posts": model("b", **other)})


def test_a_base_that_was_changed_in_between_is_told() -> None:
    with pytest.raises(InvalidInputError, match=r"had other weights when articles.*\(aaaaaaaaaaaa\).*posts"):
        adapter_set({"articles": model("a", base_hash="a" * 64), "posts": model("b", base_hash="b" * 64)})
    assert adapter_set({"articles": model("a", base_hash="a" * 64), "posts": model("b")}).base == "toy"


def test_adapters_of_two_templates_are_refused_by_name() -> None:
    other = {"template": "llama3", "template_hash": load_template("llama3").hash}
    with pytest.raises(TemplateMismatchError, match=r"the adapter articles has 'chatml'.*the adapter posts"):
        adapter_set({"articles": model("a"), "posts": model("b", **other)})


@pytest.mark.parametrize("name", ["", " posts", "a/b", 'a"b', "posté", "a\nb", "x" * 101])
def test_a_name_that_cannot_be_asked_for_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        AdapterServing.model_validate({"adapters": {name: "twin"}})


def test_a_file_without_adapters_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        AdapterServing.model_validate({"base": "toy", "adapters": {}})
