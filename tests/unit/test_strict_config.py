"""Keys of a run's YAML: unknown ones are refused, renamed ones with their present name."""

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from llm_engineering.application.config import StrictConfig
from llm_engineering.domain.errors import ConfigurationError
from tools.run_config import check_parameters


class Base(StrictConfig):
    RENAMED: ClassVar = {"rank": "r"}
    r: int = 16


class Derived(Base):
    RENAMED: ClassVar = {"alpha": "lora_alpha"}
    lora_alpha: int = 32


class Outer(StrictConfig):
    lora: Derived = Derived()


def test_a_former_key_is_an_error_that_names_the_present_one() -> None:
    with pytest.raises(ValidationError) as caught:
        Base.model_validate({"rank": 8})
    (error,) = caught.value.errors()
    assert (error["type"], error["ctx"]["renamed"]) == ("renamed_key", {"rank": "r"})


def test_former_keys_of_base_classes_are_known_too_and_all_are_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Derived.model_validate({"rank": 8, "alpha": 16})
    (error,) = caught.value.errors()
    assert error["ctx"]["renamed"] == {"rank": "r", "alpha": "lora_alpha"}


def test_present_keys_are_accepted() -> None:
    assert Derived.model_validate({"r": 8, "lora_alpha": 16}) == Derived(r=8, lora_alpha=16)


def test_a_run_with_a_former_key_is_told_the_path_and_the_present_name() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_parameters({"lora": {"rank": 8}}, Outer, Path("run.yaml"))
    assert "parameters.lora: 'rank' is no longer a key, use 'r'" in str(caught.value)
