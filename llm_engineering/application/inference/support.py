"""Customer service: one decision for each turn. Answer from approved texts, ask back, or hand over to a person.

Rules of the configuration come first and outrank every model. Then the head that reads what the customer wants: where it is
unsure, it is asked back, and after two of these handed over. What is understood is answered from the approved texts; where
these say nothing, a person does.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property

from llm_engineering.application.analysis.patterns import read_amount
from llm_engineering.application.analysis.service import AnalysisService
from llm_engineering.application.inference.events import Finished, RagRequest
from llm_engineering.application.inference.pipeline import InferencePipeline
from llm_engineering.application.inference.support_config import Action, Replies, SupportConfig
from llm_engineering.application.ports import Message
from llm_engineering.domain.analyses import Analysis
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.inference import Intent, RagResult
from llm_engineering.domain.retrieval import Citation, MetadataFilter, Query


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
    ) -> None:
        self._config = config
        self._task = task
        self._analyses = analyses
        self._answer: Callable[[str], Awaitable[RagResult]] = lambda text: _answer(pipeline, text, config)
        self._detect = detect_language
        self._check_intents()

    async def serve(self, text: str, history: Sequence[Message] = ()) -> Served:
        """Decide what is done with a customer's turn, and do it.

        Args:
            history: earlier turns, oldest first.

        Raises:
            InvalidInputError: the turn is empty or too long.
            ModelFileError: the head is not trained.
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
