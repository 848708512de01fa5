"""Replay of old tickets: what customer service would have done with them, before it serves anybody."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from llm_engineering.application.evaluation.statistics import Interval, bootstrap_interval
from llm_engineering.application.inference.support import Served
from llm_engineering.application.inference.support_config import Action
from llm_engineering.domain.errors import InvalidInputError

ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class OldTicket:
    """A ticket with what became of it."""

    id: str
    text: str
    intent: str
    outcome: str
    """``answered`` from what is written down; anything else needed a person, or asked back."""
    client: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """A ticket, and what would be done with it now."""

    ticket: OldTicket
    served: Served

    @property
    def resolved(self) -> bool:
        """It is answered, for what it was about, and was answered before."""
        return self._is_answered and self._understood and self.ticket.outcome == ANSWERED

    @property
    def wrong(self) -> bool:
        """It is answered, for something else, or where it took a person."""
        return self._is_answered and not self.resolved

    @property
    def _is_answered(self) -> bool:
        return self.served.decision.action is Action.ANSWER

    @property
    def _understood(self) -> bool:
        return self.served.decision.intent == self.ticket.intent


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Shares of all tickets, with their 95 % intervals over clients."""

    replayed: tuple[Replayed, ...]
    resolved: Interval
    wrong: Interval
    asked_back: Interval
    handed_over: Interval

    @property
    def mistakes(self) -> list[Replayed]:
        """The tickets that are answered wrongly."""
        return [one for one in self.replayed if one.wrong]


async def replay_tickets(
    tickets: Iterable[OldTicket], serve: Callable[[str], Awaitable[Served]], *, seed: int = 0
) -> ReplayReport:
    """Serve each ticket as the first turn of a conversation, and count what comes of it.

    Raises:
        InvalidInputError: there are no tickets.
    """
    replayed = [Replayed(ticket, await serve(ticket.text)) for ticket in tickets]
    if not replayed:
        raise InvalidInputError(
            "There are no tickets to replay: the file holds none that the head has not learned from."
        )
    clients = [one.ticket.client or one.ticket.id for one in replayed]

    def share(hits: Sequence[bool]) -> Interval:
        return bootstrap_interval([float(hit) for hit in hits], clients, seed=seed)

    actions = [one.served.decision.action for one in replayed]
    return ReplayReport(
        tuple(replayed),
        share([one.resolved for one in replayed]),
        share([one.wrong for one in replayed]),
        share([action is Action.ASK_BACK for action in actions]),
        share([action is Action.HAND_OVER for action in actions]),
    )
