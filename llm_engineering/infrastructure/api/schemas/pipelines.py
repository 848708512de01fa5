"""What the routes of pipelines take."""

from typing import Annotated, Any

from pydantic import Field

from llm_engineering.infrastructure.api.schemas.rag import Request

NAME = r"^[a-z][a-z0-9_-]{0,63}$"


class RunBody(Request):
    """A run to start."""

    config: Annotated[
        str, Field(pattern=NAME, description="A file of the operator's `configs`, without `.yaml`.")
    ]
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Values in place of some of the file's `parameters`, nested as they are there. None of them says where a run "
        "reads or writes.",
    )
