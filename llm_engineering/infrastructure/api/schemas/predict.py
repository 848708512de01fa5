"""One prediction, in the shapes that four platforms ask for."""

from typing import Annotated

from pydantic import BaseModel, Field

from llm_engineering.application.inference.support import Served
from llm_engineering.application.ports import Message
from llm_engineering.domain.documents import Span
from llm_engineering.domain.retrieval import MAX_QUESTION_CHARACTERS
from llm_engineering.infrastructure.api.schemas.rag import MAX_TURNS, Request, Turn

MAX_INSTANCES = 16
Input = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS, pattern=r"\S")]


class PredictBody(Request):
    """A customer's turn."""

    input: Input
    history: Annotated[tuple[Turn, ...], Field(fail_fast=True, max_length=MAX_TURNS)] = ()
    conversation: str | None = Field(
        default=None,
        max_length=100,
        pattern=r"^[\w.:-]+$",
        description="Your id of the conversation: one that is handed over is told to a person once, however often you ask.",
    )

    def to_messages(self) -> tuple[Message, ...]:
        """Return the earlier turns as the application knows them."""
        return tuple(Message(turn.role, turn.content) for turn in self.history)


class InstancesBody(Request):
    """Several turns of different customers, as Vertex AI sends them."""

    instances: Annotated[
        tuple[PredictBody, ...], Field(fail_fast=True, min_length=1, max_length=MAX_INSTANCES)
    ]


class PredictedSource(BaseModel):
    """What an answer rests on."""

    document_id: str
    title: str
    span: Span
    text: str


class Predicted(BaseModel):
    """What is said, and why."""

    response: str
    intent: str | None
    confidence: float | None = Field(description="Of the intent, 0 to 1; null: it was not told.")
    decision: str = Field(description="`answer`, `ask_back` or `hand_over`.")
    reason: str
    sources: tuple[PredictedSource, ...]
    trace_id: str


class Predictions(BaseModel):
    """In the order of the instances."""

    predictions: tuple[Predicted, ...]


def describe_served(served: Served) -> Predicted:
    """Return a finished turn as callers get it."""
    decision = served.decision
    return Predicted(
        response=served.response,
        intent=decision.intent,
        confidence=decision.confidence,
        decision=decision.action,
        reason=decision.reason,
        sources=tuple(
            PredictedSource(
                document_id=one.passage.document_id,
                title=one.passage.title,
                span=one.passage.span,
                text=one.passage.text,
            )
            for one in served.sources
        ),
        trace_id=served.trace_id,
    )
