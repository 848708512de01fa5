"""Questions made by rule or by a model: grounded, no copies, unique, repeatable."""

import json

import pytest

from llm_engineering.application.evaluation.rag.make_questions import (
    Candidate,
    QuestionMaking,
    find_fault,
    make_questions,
)
from llm_engineering.application.evaluation.rag.questions import resolve
from llm_engineering.application.text.overlap import longest_copy, reword
from llm_engineering.application.text.question_rules import draft_questions, language_of
from llm_engineering.domain.documents import CleanDocument, Span, derive_id
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse

GARDEN = """# Keeping bees

A smoker is a small tin in which dry grass glows under a lid of sheet metal.

- If the queen dies, the workers raise another one from a young larva.
- To protect a hive from wasps in autumn, make the entrance as narrow as two of its own inhabitants need.

It is a calm trade. This means that it suits patient people.

```text
A varroa mite is a parasite that must not be asked about, since this is code.
```
"""
GERMAN = "Eine Beute ist der Kasten aus Holz, in dem ein Volk von Bienen das ganze Jahr über lebt.\n"


def document(name: str, text: str, title: str = "Bees", **fields: object) -> CleanDocument:
    link = f"https://bees.example/{name}"
    base = {
        "id": derive_id("document", link),
        "category": "article",
        "title": title,
        "text": text,
        "link": link,
        "platform": "bees",
        "author": "Ada Winter",
        "author_id": "ada",
        "language": "en",
        "source_hash": "1",
    }
    return CleanDocument.model_validate(base | fields)


def store(*documents: CleanDocument) -> FakeWarehouse:
    warehouse = FakeWarehouse()
    warehouse.clean.upsert(documents)
    return warehouse


def candidate(**changes: object) -> Candidate:
    base: dict[str, object] = {
        "question": "What happens if the queen dies?",
        "kind": "condition",
        "answer": "the workers raise another one",
        "document_id": "d",
        "link": "l",
        "span": Span(start=0, end=50),
        "block": Span(start=0, end=50),
        "passage": "Bees\nIf the queen dies, the workers raise another one from a larva.",
        "quote": "If the queen dies, the workers raise another one from a larva.",
        "language": "en",
        "source": "rule",
    }
    return Candidate(**(base | changes))  # type: ignore[arg-type]


class TestRules:
    def test_definitions_conditions_and_purposes_become_questions(self) -> None:
        made = {draft.question: draft for draft in draft_questions(document("a", GARDEN))}
        assert "What is a smoker?" in made
        assert "What occurs if the queen dies?" in made
        assert any(question.startswith("How can somebody protect a hive") for question in made)
        smoker = made["What is a smoker?"]
        assert smoker.answer.startswith("a small tin")
        assert GARDEN[smoker.span.start : smoker.span.end].startswith("A smoker is")

    def test_code_and_what_points_elsewhere_make_none(self) -> None:
        questions = " ".join(draft.question for draft in draft_questions(document("a", GARDEN)))
        assert "varroa" not in questions
        assert "calm trade" not in questions

    def test_german_is_asked_in_german(self) -> None:
        [draft] = draft_questions(document("b", GERMAN, language="de"))
        assert (draft.question, draft.language) == ("Was ist Beute?", "de")

    def test_languages_are_told_by_their_small_words(self) -> None:
        assert language_of("The hive is in the garden") == "en"
        assert language_of("Der Kasten ist aus Holz") == "de"
        assert language_of("Varroa destructor") is None

    def test_common_words_are_exchanged_with_their_form_kept(self) -> None:
        assert reword("Avoid a problem") == "Prevent an issue"

    def test_the_longest_copied_run_is_counted_in_words(self) -> None:
        assert (
            longest_copy(
                "Why would the queen die so early?", "Once the queen die-off began, THE QUEEN DIE so"
            )
            == 4
        )


class TestChecks:
    def test_a_good_candidate_passes(self) -> None:
        assert find_fault(candidate(), max_copied_share=0.8, max_copied_run=5) is None

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"answer": "the beekeeper buys a swarm"}, "not grounded"),
            ({"question": "What if the queen dies, the workers raise another one?"}, "copied run"),
            ({"question": "Queen larva, workers raise, dies another"}, "copied words"),
            ({"question": "Was passiert, wenn die Königin stirbt?", "language": "de"}, "language"),
            ({"question": "The workers raise one more?", "answer": "the workers raise"}, "gives itself away"),
            ({"question": "What is it?"}, "no content"),
        ],
    )
    def test_a_bad_one_is_refused_with_the_reason(self, changes: dict[str, object], reason: str) -> None:
        assert find_fault(candidate(**changes), max_copied_share=0.8, max_copied_run=5) == reason


class TestMaking:
    async def test_every_question_leads_back_to_its_sentence(self) -> None:
        warehouse = store(document("a", GARDEN), document("b", GERMAN, "Imkern", language="de"))
        made = await make_questions(warehouse.clean, QuestionMaking())
        resolved = resolve(made.questions, warehouse.clean)
        assert len(resolved.questions) == len(made.questions) >= 3
        assert not resolved.stale
        assert made.documents == 2

    async def test_the_same_seed_makes_the_same_set(self) -> None:
        warehouse = store(*(document(str(i), GARDEN.replace("smoker", f"smoker{i}")) for i in range(5)))
        config = QuestionMaking(questions=4)
        first = await make_questions(warehouse.clean, config, seed=7)
        assert first == await make_questions(warehouse.clean, config, seed=7)
        assert len(first.questions) <= 4

    async def test_what_two_documents_answer_is_no_question(self) -> None:
        alone = await make_questions(store(document("a", GARDEN)).clean, QuestionMaking())
        assert any("smoker" in question.question for question in alone.questions)
        both = store(document("a", GARDEN), document("b", f"More on it.\n\n{GARDEN.split('- If')[0]}"))
        made = await make_questions(both.clean, QuestionMaking())
        assert not any("smoker" in question.question for question in made.questions)
        assert made.refused["not unique"] >= 1

    async def test_copies_within_a_group_of_duplicates_are_asked_about_once(self) -> None:
        first = document("a", GARDEN)
        copy = document("b", GARDEN, duplicate_group=first.id)
        made = await make_questions(store(first, copy).clean, QuestionMaking())
        assert made.documents == 1


class TestWithAModel:
    LONG = (
        "Winter feed must be given early. In the second half of September the bees still carry water out of the syrup and "
        "seal the combs; later, when nights are cold, they cannot, and the syrup ferments in open cells. A colony needs "
        "about fifteen kilograms to come through until the willows bloom, more where the spring is late and cold."
    )
    QUOTE = "A colony needs about fifteen kilograms to come through until the willows bloom"

    async def make(self, *replies: Reply | str) -> tuple[list[str], dict[str, int]]:
        model = ScriptedLanguageModel(replies)
        config = QuestionMaking(with_model=True, per_document=1)
        made = await make_questions(store(document("a", self.LONG)).clean, config, model=model)
        assert model.calls[0].options.json_schema is not None
        return [question.question for question in made.questions if question.source == "model"], made.refused

    async def test_its_questions_pass_the_same_checks(self) -> None:
        question = "How much sugar does one hive eat before the first flowers?"
        assert await self.make(json.dumps({"question": question, "quote": self.QUOTE})) == ([question], {})

    async def test_an_invented_quote_is_refused(self) -> None:
        reply = json.dumps({"question": "How much sugar?", "quote": "A colony needs ninety kilograms"})
        assert await self.make(reply) == ([], {"not grounded": 1})

    @pytest.mark.parametrize(
        "reply", ["no JSON at all", "[1, 2]", '{"question": "?"}', Reply("x", fail_after=0)]
    )
    async def test_nonsense_and_failures_are_counted(self, reply: Reply | str) -> None:
        assert await self.make(reply) == ([], {"model reply unusable": 1})
