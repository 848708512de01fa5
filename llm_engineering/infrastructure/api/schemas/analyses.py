"""What the routes of analyses take."""

from typing import Annotated

from pydantic import Field

from llm_engineering.infrastructure.api.schemas.rag import Request

MAX_TEXT_CHARACTERS = 20_000
IDENTIFIER = r"^[\w.:@/-]+$"
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS, pattern=r"\S")]


class AnalysisBody(Request):
    """A text to analyse."""

    text: Text
    title: str = Field(default="", max_length=300)
    id: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        pattern=IDENTIFIER,
        description="Whose it is in your system: with the same text again, the result has the same id.",
    )
