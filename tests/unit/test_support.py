"""Customer service: rules before models, asking back at most twice, and what a replay counts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llm_engineering.application.analysis.patterns import find_entities, read_amount
from llm_engineering.application.evaluation.replay import OldTicket, replay_tickets
from llm_engineering.application.inference.support import Decision, Served, SupportDesk
from llm_engineering.application.inference.support_config import Action, SupportConfig
from llm_engineering.application.notices import Outbox, deliver
from llm_engineering.application.ports import Message
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.analyses import AnalysisField, FieldKind
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    NotificationError,
    StoreUnavailableError,
)
from llm_engineering.domain.notices import Notice
from llm_engineering.infrastructure.personal_data import RulesFinder
from tests.fakes.support import CONFIG, Desk
from tests.fakes.warehouse import FakeNoticeStore, FakeWarehouse
from tools.support import read_tickets

AMOUNT = AnalysisField(name="amount", kind=FieldKind.ENTITIES, pattern="amount")


def turns(*said: str) -> list[Message]:
    roles = ("user", "assistant")
    return [Message(roles[place % 2], text) for place, text in enumerate(said)]  # type: ignore[arg-type]


class TestDecisions:
    async def test_what_is_understood_is_answered_from_approved_texts(self) -> None:
        served = await Desk().serve("What does overlap repeat at the start of the next chunk?")
        assert (served.decision.action, served.decision.intent) == (Action.ANSWER, "overlap")
        assert "Overlap repeats" in served.response
        assert served.sources[0].passage.title == "Chunk overlap"

    async def test_the_first_answer_says_that_no_person_speaks(self) -> None:
        desk = Desk()
        first = await desk.serve("What does overlap repeat?")
        later = await desk.serve("What does overlap repeat?", turns("Hi there", first.response))
        assert first.response.startswith("I am an AI.\n\n")
        assert "I am an AI." not in later.response

    async def test_what_customers_say_is_not_kept(self) -> None:
        desk = Desk()
        await desk.serve("What does overlap repeat?")
        assert desk.analysed
        assert list(desk.twin.warehouse.analyses.stream()) == []

    async def test_a_rule_outranks_a_sure_model(self) -> None:
        served = await Desk().serve("Let me talk to a person about overlap")
        assert (served.decision.action, served.decision.reason) == (Action.HAND_OVER, "wants a person")
        assert served.decision.intent == "overlap"

    async def test_an_intent_and_an_amount_can_be_a_persons(self) -> None:
        desk = Desk()
        assert (await desk.serve("refund money")).decision.reason == "refund"
        dear = await desk.serve("overlap for 1.200,50 €")
        cheap = await desk.serve("overlap for 499 €")
        assert dear.decision.reason == "dear"
        assert cheap.decision.reason != "dear"

    async def test_it_is_asked_back_twice_and_then_handed_over(self) -> None:
        desk = Desk()
        history: list[Message] = []
        actions = []
        for said in ("help", "help", "help"):
            served = await desk.serve(said, history)
            actions.append(served.decision.action)
            history += [Message("user", said), Message("assistant", served.response)]
        assert actions == [Action.ASK_BACK, Action.ASK_BACK, Action.HAND_OVER]

    async def test_an_unsure_head_asks_back_and_reads_both_turns_together(self) -> None:
        desk = Desk()
        first = await desk.serve("mumble")
        assert (first.decision.action, first.decision.reason) == (Action.ASK_BACK, "unsure")
        second = await desk.serve(
            "about overlap", [Message("user", "mumble"), Message("assistant", first.response)]
        )
        assert second.decision.intent == "overlap"
        assert desk.analysed[-1] == "mumble\nabout overlap"

    async def test_where_no_approved_text_says_it_a_person_does(self) -> None:
        served = await Desk(min_similarity=0.99).serve("overlap zebra giraffe quantum tax")
        assert (served.decision.action, served.decision.reason) == (Action.HAND_OVER, "no approved answer")
        assert served.sources == ()

    async def test_replies_are_in_the_customers_language(self) -> None:
        served = await Desk(language="de").serve("mumble")
        assert served.response == "Ich bin eine KI.\n\nWorum geht es?"

    @pytest.mark.parametrize(
        ("text", "amount"),
        [
            ("£1,299.00", 1299),
            ("1.299,00 €", 1299),
            ("49 €", 49),
            ("3.5 dollars", 3.5),
            ("1 200 €", 1200),
            ("€", 0),
            ("$5k", 5_000),
            ("2m dollars", 2_000_000),
            ("1’299.00 CHF", 1299),
            ("$1,299.5", 1299.5),
            ("1,299,000 €", 1_299_000),
            ("1\u202f299,00 €", 1299),
        ],
    )
    def test_amounts_are_read_whatever_their_marks(self, text: str, amount: float) -> None:
        assert read_amount(text) == amount
        found = [value for value, _ in find_entities(AMOUNT, f"I paid {text} for it")]
        assert found == ([text] if amount else [])


class Person:
    """A place that people read; it takes nothing while it is down."""

    name, for_people = "person", True

    def __init__(self, *, down: bool = False) -> None:
        self.down, self.read = down, list[Notice]()

    def send(self, notice: Notice) -> None:
        if self.down:
            raise NotificationError("it is down")
        self.read.append(notice)


class TestHandOver:
    """Who takes over is told, once, and has what was said."""

    def open(self) -> tuple[Desk, list[Notice]]:
        told: list[Notice] = []

        async def tell(notice: Notice) -> None:
            told.append(notice)

        return Desk(tell=tell, privacy=PrivacyPolicy(RulesFinder(), "keep")), told

    async def test_the_person_gets_the_conversation_without_personal_data(self) -> None:
        desk, told = self.open()
        history = turns("My mail is ada@example.org", "What is it about?")
        await desk.serve("Let me talk to a person about LK-12345", history)
        [notice] = told
        assert (notice.rule, notice.facts["reason"]) == ("handed_over", "wants a person")
        assert "Customer: My mail is [e-mail]" in notice.text
        assert "Assistant: What is it about?" in notice.text
        assert "about LK-12345" in notice.text

    async def test_nobody_is_told_of_what_is_answered_or_asked_back(self) -> None:
        desk, told = self.open()
        for said in ("What does overlap repeat at the start of the next chunk?", "mumble"):
            await desk.serve(said)
        assert told == []

    async def test_a_conversation_is_told_once_and_two_of_the_same_words_are_two(self) -> None:
        desk, told = self.open()
        first = await desk.serve("Let me talk to a person")
        await desk.serve("I want to talk to a person!", turns("Let me talk to a person", first.response))
        assert len(told) == 1
        await desk.serve("Let me talk to a person")
        assert len({notice.id for notice in told}) == 2

    async def test_the_callers_id_makes_a_repeated_request_the_same_notice(self) -> None:
        desk, told = self.open()
        for _ in range(2):
            await desk.serve("Let me talk to a person", conversation="chat-7")
        assert len({notice.id for notice in told}) == 1

    async def test_of_a_long_conversation_the_end_is_told(self) -> None:
        desk, told = self.open()
        history = [turn for n in range(40) for turn in turns(f"{n} {'word ' * 200}", "I see.")]
        await desk.serve("Let me talk to a person", history)
        assert told[0].text.endswith("Customer: Let me talk to a person")
        assert len(told[0].text) < 10_000

    async def test_no_reply_promises_what_could_not_be_kept(self) -> None:
        desk = Desk(tell=Outbox(self.broken(), []).tell)
        with pytest.raises(StoreUnavailableError):
            await desk.serve("Let me talk to a person")

    def broken(self) -> FakeNoticeStore:
        warehouse = FakeWarehouse()
        warehouse.down = True
        return warehouse.notices

    async def test_what_a_killed_service_kept_the_next_one_sends_once(self) -> None:
        store, person = FakeWarehouse().notices, Person()
        desk = Desk(tell=Outbox(store, [person]).tell)  # never started: killed before it sends
        await desk.serve("Let me talk to a person")
        assert person.read == []
        outbox = Outbox(store, [person])
        await outbox.start()
        await self.wait_until_sent(store)
        await outbox.close()
        assert deliver(store, [person]).sent == 0
        assert len(person.read) == 1

    async def test_a_place_that_is_down_is_asked_again(self) -> None:
        store, person, waits = FakeWarehouse().notices, Person(down=True), list[float]()

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            person.down = len(waits) < 3

        outbox = Outbox(store, [person], sleep=sleep)
        await outbox.start()
        await Desk(tell=outbox.tell).serve("Let me talk to a person")
        await self.wait_until_sent(store)
        await outbox.close()
        assert len(person.read) == 1
        assert waits == [30, 60, 120]

    async def wait_until_sent(self, store: FakeNoticeStore) -> None:
        async with asyncio.timeout(5):
            while list(store.read_open()):  # noqa: ASYNC110 - a store tells nobody
                await asyncio.sleep(0.01)


class TestConfig:
    def changed(self, **changes: Any) -> dict[str, Any]:
        return {**CONFIG.model_dump(), **changes}

    def test_a_rule_needs_a_condition_and_a_regular_expression_that_is_one(self) -> None:
        with pytest.raises(ValidationError, match="no condition"):
            SupportConfig.model_validate(self.changed(rules=[{"name": "a", "then": "answer"}]))
        with pytest.raises(ValidationError, match="regular expression"):
            SupportConfig.model_validate(
                self.changed(rules=[{"name": "a", "then": "answer", "pattern": "("}])
            )

    def test_its_own_language_has_replies(self) -> None:
        with pytest.raises(ValidationError, match="no 'fr'"):
            SupportConfig.model_validate(self.changed(language="fr"))

    def test_a_rule_on_an_unknown_intent_is_refused_at_the_start(self) -> None:
        rules = [{"name": "a", "then": "hand_over", "intents": ["weather"]}]
        with pytest.raises(ConfigurationError, match="weather"):
            Desk(SupportConfig.model_validate(self.changed(rules=rules)))


class TestReplay:
    @pytest.mark.parametrize("row", ["5", "[1]", '"text"', "null"])
    def test_a_row_that_is_no_object_is_told_with_its_number(self, tmp_path: Path, row: str) -> None:
        file = tmp_path / "tickets.jsonl"
        file.write_text(f'{{"description": "a", "intent": "b", "outcome": 1}}\n{row}\n', encoding="utf-8")
        with pytest.raises(InvalidInputError, match="row 2"):
            read_tickets(file)

    async def test_shares_are_of_all_tickets(self) -> None:
        rows = [
            ("1", "overlap", "answered"),  # answered, rightly
            ("2", "overlap", "handed over"),  # answered, where it took a person
            ("3", "refund", "answered"),  # answered, for something else
            ("4", "unclear", "asked back"),
        ]
        said = {
            "1": Decision(Action.ANSWER, "understood", "overlap", 0.9),
            "2": Decision(Action.ANSWER, "understood", "overlap", 0.9),
            "3": Decision(Action.ANSWER, "understood", "overlap", 0.9),
            "4": Decision(Action.ASK_BACK, "unsure", None, None),
        }

        async def serve(text: str) -> Served:
            return Served("", said[text])

        report = await replay_tickets([OldTicket(n, n, intent, end, "") for n, intent, end in rows], serve)
        assert (report.resolved.mean, report.wrong.mean) == (0.25, 0.5)
        assert (report.asked_back.mean, report.handed_over.mean) == (0.25, 0)
        assert [one.ticket.id for one in report.mistakes] == ["2", "3"]
        assert report.resolved.low <= 0.25 <= report.resolved.high

    async def test_without_tickets_there_is_nothing_to_say(self) -> None:
        async def serve(text: str) -> Served:
            raise AssertionError

        with pytest.raises(InvalidInputError, match="no tickets"):
            await replay_tickets([], serve)


def test_the_desk_is_the_real_one() -> None:
    assert issubclass(Desk, SupportDesk)
