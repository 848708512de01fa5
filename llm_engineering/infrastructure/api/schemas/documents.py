"""What adding a file gives."""

from typing import Literal

from pydantic import BaseModel, Field


class LeftOutRecord(BaseModel):
    """A part of the file that was not taken."""

    source: str
    reason: str


class DocumentAdded(BaseModel):
    """What became of a file."""

    name: str
    status: Literal["saved", "updated", "unchanged"]
    documents: int = Field(description="Texts in it that are now in the collection.")
    left_out: int = Field(description="Texts in it that could not be used.")
    reasons: tuple[LeftOutRecord, ...] = Field(description="Why, for the first of them.")
    searchable: bool = Field(description="It can be found by the next question.")
    message: str
