"""The base of everything that a run's YAML in ``configs/`` can hold."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class StrictConfig(BaseModel):
    """Refuse unknown keys, so that a misspelt one is an error and not a silent default. Instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Former names of this class's keys, each with its present one; those of base classes hold too.

    A former name is refused with an error of type ``renamed_key`` that says the present name::

        class LoraConfig(StrictConfig):
            RENAMED: ClassVar = {"rank": "r"}
            r: int = 16
    """

    @model_validator(mode="before")
    @classmethod
    def _refuse_renamed_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        renamed = {key: cls._present_names()[key] for key in values if key in cls._present_names()}
        if renamed:
            listing = "; ".join(f"'{old}' is no longer a key, use '{new}'" for old, new in renamed.items())
            raise PydanticCustomError("renamed_key", "{listing}", {"listing": listing, "renamed": renamed})
        return values

    @classmethod
    def _present_names(cls) -> dict[str, str]:
        names: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            names |= vars(base).get("RENAMED", {})
        return names
