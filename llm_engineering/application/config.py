"""The base of everything that a run's YAML in ``configs/`` can hold."""

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """Refuse unknown keys, so that a misspelt one is an error and not a silent default. Instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
