"""What customer service does whatever a model says, and what it says where it does not answer."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from llm_engineering.application.config import StrictConfig


class Action(StrEnum):
    """What is done with a turn."""

    ANSWER = "answer"
    ASK_BACK = "ask_back"
    HAND_OVER = "hand_over"


class SupportRule(StrictConfig):
    """What is done whatever a model says. Of several conditions all must hold; the first rule that fits counts."""

    name: str = Field(min_length=1)
    then: Action
    intents: tuple[str, ...] = ()
    """What the customer wants, where the head is sure of it."""
    pattern: str | None = None
    """Regular expression that stands in the turn; case does not matter."""
    amount_above: float | None = None
    """The largest amount of money in the turn is above it."""

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not self.intents and self.pattern is None and self.amount_above is None:
            raise ValueError(f"the rule {self.name} has no condition: `intents`, `pattern` or `amount_above`")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(
                    f"the rule {self.name} has no regular expression as `pattern`: {error}"
                ) from None
        return self

    def matches(self, text: str, intent: str | None, amount: float | None) -> bool:
        """Return whether the rule fits a turn."""
        return (
            (not self.intents or intent in self.intents)
            and (self.pattern is None or re.search(self.pattern, text, re.IGNORECASE) is not None)
            and (self.amount_above is None or (amount is not None and amount > self.amount_above))
        )


class Replies(StrictConfig):
    """What is said in a language where nothing is answered."""

    notice: str
    """Before the first answer of a conversation: that no person speaks."""
    ask_back: str
    hand_over: str


class SupportConfig(StrictConfig):
    """How customers are served."""

    analysis: Path
    """File of the analysis whose head reads what they want."""
    field: str = "intent"
    """Its class."""
    amounts: str = "amount"
    """Its entities of money, for rules on amounts."""
    categories: tuple[str, ...] = ("question",)
    """Where answers are looked for: texts that a person approved."""
    rules: tuple[SupportRule, ...] = ()
    most_ask_backs: int = Field(default=2, ge=0, le=10)
    """In a row; then a person takes over."""
    language: str = "en"
    """Of replies in a language that `replies` does not have."""
    replies: dict[str, Replies] = Field(min_length=1)

    @model_validator(mode="after")
    def _speaks_its_language(self) -> Self:
        if self.language not in self.replies:
            raise ValueError(f"`replies` has no {self.language!r}; there are: {', '.join(self.replies)}")
        return self
