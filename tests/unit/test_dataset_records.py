"""Samples of records: resolutions, labels as JSON, conversations; groups on one side; loss on every assistant's turn."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from llm_engineering.application.llm.chat_templates import template_names
from llm_engineering.application.training.datasets.config import (
    InstructDatasetRun,
    RecordSamples,
    SplitShares,
)
from llm_engineering.application.training.datasets.generate import generate_instruct
from llm_engineering.application.training.datasets.records import read_conversation
from llm_engineering.application.training.datasets.splits import split_by_document
from llm_engineering.application.training.finetune.data import to_conversation
from llm_engineering.application.training.finetune.labels import IGNORED, encode_chat, fit_template
from llm_engineering.domain.datasets import ChatTurn, InstructSample, Split
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.inference import Feedback, Subject
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.test_analyses import ticket
from tests.unit.test_training_labels import tokenizer

SPEAKERS: dict[str, Any] = {"Customer": "user", "Agent": "assistant"}
CHAT = """Agent: Welcome.
Customer: My lamp is dark.
It was fine before.
Agent: Which lamp: the Lumo?
customer: Yes.
Agent: Hold the button.
Agent: For ten seconds.
Customer: Thanks!"""


async def made(
    *records: CleanDocument, votes: tuple[Feedback, ...] = (), **config: Any
) -> list[InstructSample]:
    stores = FakeWarehouse()
    stores.clean.upsert(records)
    for vote in votes:
        stores.feedback.vote(vote)
    run = InstructDatasetRun(
        template_instructions=None, feedback=None, records=RecordSamples(categories=("ticket",), **config)
    )
    found = (await generate_instruct(stores, run)).samples
    assert all(isinstance(one, InstructSample) for one in found)
    return [one for one in found if isinstance(one, InstructSample)]


class TestSamples:
    async def test_a_ticket_with_its_resolution(self) -> None:
        record = ticket(1, "My lamp is dark.", metadata={"resolution": "Write to [e-mail].", "client": "C1"})
        other = ticket(2, "Nothing was done.")
        [sample] = await made(record, other, answer="resolution", group_by="client")
        assert (sample.instruction, sample.answer) == ("My lamp is dark.", "Write to [e-mail].")
        assert (sample.origin.group, sample.provenance.made_by) == ("client:C1", "record")

    async def test_what_people_corrected_as_json(self) -> None:
        record = ticket(1, "My lamp is dark.")
        vote = Feedback(
            subject=Subject(kind="analysis", id="a"),
            correction={"mood": "calm", "things": ("lamp",)},
            task="tickets",
            document_ids=(record.id,),
            created_at=datetime(2026, 5, 4, tzinfo=UTC),
        )
        [sample] = await made(
            record, ticket(2), votes=(vote,), labels_of="tickets", instruction="Fill the fields."
        )
        assert sample.instruction == "Fill the fields.\n\nMy lamp is dark."
        assert json.loads(sample.answer) == {"mood": "calm", "things": ["lamp"]}

    async def test_of_several_people_the_majority_counts(self) -> None:
        record = ticket(1, "My lamp is dark.")
        votes = [
            Feedback(
                subject=Subject(kind="analysis", id="a"),
                correction={"mood": mood},
                task="tickets",
                document_ids=(record.id,),
                voter=voter,
                created_at=datetime(2026, 5, 4, minute, tzinfo=UTC),
            )
            for minute, (voter, mood) in enumerate([("ann", "calm"), ("ben", "calm"), ("cy", "cross")])
        ]
        [sample] = await made(record, votes=tuple(votes), labels_of="tickets")
        assert json.loads(sample.answer) == {"mood": "calm"}

    async def test_a_conversation_keeps_its_turns(self) -> None:
        [sample] = await made(ticket(1, CHAT), ticket(2, "No conversation."), speakers=SPEAKERS)
        assert [turn.content for turn in sample.history] == [
            "My lamp is dark.\nIt was fine before.",
            "Which lamp: the Lumo?",
        ]
        assert (sample.instruction, sample.answer) == ("Yes.", "Hold the button.\nFor ten seconds.")

    async def test_the_same_last_turn_of_two_conversations_is_no_repeat(self) -> None:
        second = CHAT.replace("lamp is dark", "kettle leaks")
        assert len(await made(ticket(1, CHAT), ticket(2, second), speakers=SPEAKERS)) == 2

    def test_a_transcript_without_an_answer_has_no_turns(self) -> None:
        assert read_conversation("Customer: hello\nCustomer: anybody?", SPEAKERS) == ()
        assert read_conversation("", SPEAKERS) == ()

    @pytest.mark.parametrize(
        "config", [{}, {"answer": "a", "speakers": SPEAKERS}, {"speakers": {"A": "user", "B": "user"}}]
    )
    def test_one_kind_of_answer_is_needed(self, config: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            RecordSamples(categories=("ticket",), **config)

    def test_a_history_alternates(self) -> None:
        sample = {"instruction": "a", "answer": "b", "provenance": {"made_by": "record"}, "origin": None}
        with pytest.raises(ValidationError, match="alternation"):
            InstructSample.model_validate({**sample, "history": [ChatTurn(role="user", content="a")]})


class TestSplits:
    async def test_a_client_is_on_one_side_only(self) -> None:
        records = [
            ticket(
                number,
                f"Text {number}.",
                metadata={"resolution": f"Done {number}.", "client": f"C{number % 7}"},
            )
            for number in range(60)
        ]
        samples = await made(*records, answer="resolution", group_by="client")
        splits = split_by_document(samples, {}, SplitShares(train=0.7, validation=0.15, test=0.15), seed=3)
        sides: dict[str, set[Split]] = {}
        for split, found in splits.items():
            for sample in found:
                sides.setdefault(sample.origin.group, set()).add(split)
        assert len(sides) == 7
        assert {len(found) for found in sides.values()} == {1}
        assert all(splits.values())


@pytest.mark.parametrize("name", template_names())
async def test_every_assistants_turn_is_learned_with_its_stop_and_nothing_else(name: str) -> None:
    [sample] = await made(ticket(1, CHAT), speakers=SPEAKERS)
    small = tokenizer()
    template = fit_template(name, small, "a model")
    rendered = template.render(to_conversation(sample, "Be kind."))
    encoded = encode_chat(rendered, small)
    texts = [small.decode(run) for run in _runs(encoded.labels)]
    assert len(texts) == 2
    for text, turn in zip(texts, (sample.history[1].content, sample.answer), strict=True):
        assert text.removesuffix(template.stop).strip() == turn
        assert template.stop in text


def _runs(labels: list[int]) -> list[list[int]]:
    """Labels with loss that stand in a row."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
