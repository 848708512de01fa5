"""Finding personal data in text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

PersonalKind = Literal["e-mail", "phone", "card", "iban", "ssn", "ip", "token", "name"]


@dataclass(frozen=True, slots=True)
class PersonalSpan:
    """Where something personal stands in a text, and what it is."""

    kind: PersonalKind
    start: int
    end: int


class PersonalDataFinder(Protocol):
    """Finds personal data. What it cannot find stays: names that nobody told it need a model."""

    @property
    def version(self) -> str:
        """Return what changes whenever it may find something else."""
        ...

    def find(self, text: str) -> Sequence[PersonalSpan]:
        """Return what is personal, in order, without overlaps."""
        ...
