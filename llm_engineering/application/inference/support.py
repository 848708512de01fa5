"""Customer service: one decision for each turn. Answer from approved texts, ask back, or hand over to a person.

Rules of the configuration come first and outrank every model. Then the head that reads what the customer wants: where it is
unsure, it is asked back, and after two of these handed over. What is understood is answered from the approved texts; where
these say nothing, a person does.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from uuid import uuid4

from llm_engineering.application.analysis.patterns import read_amount
from llm_engineering.application.analysis.service import AnalysisService
from llm_engineering.application.inference.events import Finished, RagRequest
from llm_engineering.application.inference.pipeline import InferencePipeline
from llm_engineering.application.inference.support_config import Action, Replies, SupportConfig
from llm_engineering.application.ports import Message
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.analyses import Analysis
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.inference import Intent, RagResult
from llm_engineering.domain.notices import Notice
from llm_engineering.domain.retrieval import Citation, MetadataFilter, Query

HANDED_OVER = "handed_over"
"""Rule of the notice of a conversation that a person takes over."""
_TOLD_CHARACTERS = 8_000
"""Of a conversation, its end: more than anybody reads before taking over."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with a turn, and why."""

    action: Action
    reason: str
    """The rule's name, ``unsure``, ``asked back before``, ``no approved answer``, or ``understood``."""
    intent: str | None
    confidence: float | None
    """Of the intent, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Served:
    """A finished turn."""

    response: str
    decision: Decision
    sources: tuple[Citation, ...] = ()
    trace_id: str = ""


class SupportDesk:
    """Serves customers, turn by turn. For one event loop.

    Args:
        detect_language: ISO code of a text.
        tell: keeps a notice to the person who takes over; None: only the caller learns of it.
        privacy: what is done with personal data in that notice.

    Raises:
        ConfigurationError: a rule names an intent that the analysis does not have.
    """

    def __init__(
        self,
        config: SupportConfig,
        task: str,
        analyses: AnalysisService,
        pipeline: InferencePipeline,
        detect_language: Callable[[str], str],
        tell: Callable[[Notice], Awaitable[None]] | None = None,
        privacy: PrivacyPolicy | None = None,
    ) -> None:
        self._tell = tell
        self._privacy = privacy
        self._config = config
        self._task = task
        self._analyses = analyses
        self._answer: Callable[[str], Awaitable[RagResult]] = lambda text: _answer(pipeline, text, config)
        self._detect = detect_language
        self._check_intents()

    async def serve(
        self, text: str, history: Sequence[Message] = (), *, conversation: str | None = None
    ) -> Served:
        """Decide what is done with a customer's turn, and do it.

        A conversation that is handed over is told to a person once, with what was said, before the reply promises it.

        Args:
            history: earlier turns, oldest first.
            conversation: the caller's id of it, under which it is told once whatever the history says; None: each history
                without a reply that hands over is one of its own.

        Raises:
            InvalidInputError: the turn is empty or too long.
            ModelFileError: the head is not trained.
            StoreError: it is to be handed over, and that could not be kept.
        """
        asked = self._count_ask_backs(history)
        whole = "\n".join([*_open_turns(history, asked), text])
        replies = self._choose_replies(whole)
        done = await self._analyses.analyse(self._task, whole, keep=False)
        decision = self.decide(whole, text, done.analysis, asked)
        sources: tuple[Citation, ...] = ()
        said, trace = {Action.ASK_BACK: replies.ask_back}.get(decision.action, replies.hand_over), ""
        if decision.action is Action.ANSWER:
            result = await self._answer(whole)
            trace = result.trace_id
            if result.answer.abstained:
                decision = Decision(
                    Action.HAND_OVER, "no approved answer", decision.intent, decision.confidence
                )
            else:
                said = result.answer.text
                sources = tuple(one for one in result.answer.citations if one.number in result.answer.cited)
        if not any(turn.role == "assistant" for turn in history):
            said = f"{replies.notice}\n\n{said}"
        if decision.action is Action.HAND_OVER and self._tell is not None and not self._was_told(history):
            turns = [*history, Message("user", text)]
            await self._tell(self._write_notice(conversation or uuid4().hex, turns, decision))
        return Served(said, decision, sources, trace)

    def decide(self, whole: str, turn: str, analysis: Analysis, asked: int) -> Decision:
        """Return what is done with a turn.

        Args:
            whole: the turn with those before it that were asked back.
            turn: the turn alone.
            asked: how often it was asked back before, in a row.
        """
        found = next((one for one in analysis.findings if one.field == self._config.field), None)
        intent = str(found.value) if found is not None else None
        confidence = found.confidence if found is not None else None
        amounts = [read_amount(str(value)) for value in analysis.list_values(self._config.amounts)]
        for rule in self._config.rules:
            if rule.matches(
                turn if rule.then is Action.ASK_BACK else whole, intent, max(amounts, default=None)
            ):
                if rule.then is Action.ASK_BACK and asked >= self._config.most_ask_backs:
                    break
                return Decision(rule.then, rule.name, intent, confidence)
        else:
            if intent is not None:
                return Decision(Action.ANSWER, "understood", intent, confidence)
        if asked >= self._config.most_ask_backs:
            return Decision(Action.HAND_OVER, "asked back before", intent, confidence)
        return Decision(Action.ASK_BACK, "unsure", intent, confidence)

    def _was_told(self, history: Sequence[Message]) -> bool:
        """Whether a turn of the conversation was handed over before."""
        ends = tuple(one.hand_over.strip() for one in self._config.replies.values())
        return any(turn.role == "assistant" and turn.content.strip().endswith(ends) for turn in history)

    def _write_notice(self, conversation: str, turns: Sequence[Message], decision: Decision) -> Notice:
        names = {"user": "Customer", "assistant": "Assistant"}
        said = "\n\n".join(f"{names.get(turn.role, turn.role)}: {turn.content.strip()}" for turn in turns)
        if self._privacy is not None:
            said = self._privacy.apply_outside(said)
        now = datetime.now(UTC)
        return Notice(
            subject=f"conversation {conversation}",
            rule=HANDED_OVER,
            day=now.date(),
            title=f"A customer waits: {decision.reason}"[:200],
            text=f"…{said[-_TOLD_CHARACTERS:]}" if len(said) > _TOLD_CHARACTERS else said,
            severity="warning",
            facts={
                "conversation": conversation,
                "reason": decision.reason,
                **({"intent": decision.intent} if decision.intent is not None else {}),
            },
            created_at=now,
        )

    def _count_ask_backs(self, history: Sequence[Message]) -> int:
        """How often it was asked back, in a row, at the end of the conversation."""
        count = 0
        for turn in reversed(history):
            if turn.role == "assistant":
                if not any(turn.content.strip().endswith(text) for text in self._ask_backs):
                    break
                count += 1
        return count

    @cached_property
    def _ask_backs(self) -> tuple[str, ...]:
        return tuple(one.ask_back.strip() for one in self._config.replies.values())

    def _choose_replies(self, text: str) -> Replies:
        replies: Mapping[str, Replies] = self._config.replies
        return replies.get(self._detect(text), replies[self._config.language])

    def _check_intents(self) -> None:
        spec = self._analyses.find_spec(self._task)
        field = spec.find_field(self._config.field) if spec is not None else None
        if field is None or not field.values:
            raise ConfigurationError(
                f"The analysis {self._task} has no class {self._config.field!r} for customer service to go by."
            )
        named = {intent for rule in self._config.rules for intent in rule.intents}
        if beyond := sorted(named - set(field.values)):
            raise ConfigurationError(
                f"Rules of customer service name intents that {self._task}.{field.name} does not have: {', '.join(beyond)}. "
                f"It has: {', '.join(field.values)}."
            )


def _open_turns(history: Sequence[Message], asked: int) -> list[str]:
    """The customer's turns since the last answer: each was asked back."""
    turns = [turn.content for turn in history if turn.role == "user"]
    return turns[-asked:] if asked else []


async def _answer(pipeline: InferencePipeline, text: str, config: SupportConfig) -> RagResult:
    query = Query.ask(text, filter=MetadataFilter(categories=config.categories))
    result: RagResult | None = None
    async with aclosing(pipeline.answer(RagRequest(query, intent=Intent.ANSWER))) as events:
        async for event in events:
            if isinstance(event, Finished):
                result = event.result
    assert result is not None, "a pipeline that raises nothing ends with its result"
    return result
