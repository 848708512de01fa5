"""Samples of a warehouse: grounded, resumable, none lost beside a bad reply, and clear where nothing can be made."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from llm_engineering.application.ports import Message
from llm_engineering.application.training.datasets.config import InstructDatasetRun, PreferenceDatasetRun
from llm_engineering.application.training.datasets.generate import (
    Generated,
    generate_instruct,
    generate_preference,
)
from llm_engineering.application.training.datasets.model_pairs import Evolution, ModelPairs
from llm_engineering.application.training.datasets.preferences import (
    Rejected,
    check_rejected,
    whole_sentences,
)
from llm_engineering.domain.datasets import InstructSample, PreferenceSample, Provenance
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.drafts import StoredDraft
from llm_engineering.domain.errors import InvalidInputError, TooManyFailuresError
from llm_engineering.domain.inference import Feedback, Interaction
from llm_engineering.domain.retrieval import GIVEN_TEXT
from tests.conformance.warehouse_contract import drafted
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.test_dataset_passages import document

TOPICS = ("adapters", "chunking", "caches", "reranking", "sampling")


def article(number: int, sentences: int = 14) -> CleanDocument:
    topic = TOPICS[number % len(TOPICS)]
    lines = [
        f"The {topic} of system {number} keep their state in part {n}, and the cost of {topic} depends on that choice."
        for n in range(sentences)
    ]
    return document(f"# On {topic}\n\n{' '.join(lines)}", number, title=f"Notes {number} about {topic}")


def warehouse(count: int = 5) -> FakeWarehouse:
    stores = FakeWarehouse()
    stores.clean.upsert([article(number) for number in range(count)])
    return stores


def verbatim(stores: FakeWarehouse, sample: InstructSample | PreferenceSample, text: str) -> bool:
    [source] = stores.clean.get([sample.origin.document_id])
    span = sample.origin.span
    return source.text[span.start : span.end] == text and source.content_hash == sample.origin.content_hash


def prose(words: int) -> str:
    return " ".join(f"Reply{n} shows {n} other in small{n} boxes." for n in range(words // 7 + 1))


async def instruct(
    stores: FakeWarehouse, model: ScriptedLanguageModel | None = None, **run: Any
) -> tuple[Generated, list[InstructSample]]:
    made = await generate_instruct(stores, InstructDatasetRun(**run), model)
    return made, [sample for sample in made.samples if isinstance(sample, InstructSample)]


async def preference(
    stores: FakeWarehouse, model: ScriptedLanguageModel | None = None, **run: Any
) -> tuple[Generated, list[PreferenceSample]]:
    made = await generate_preference(stores, PreferenceDatasetRun(**run), model)
    return made, [sample for sample in made.samples if isinstance(sample, PreferenceSample)]


class TestWithoutAModel:
    async def test_every_answer_is_the_authors_text_at_its_span(self) -> None:
        stores = warehouse()
        made, samples = await instruct(stores)
        assert len(samples) >= 5
        assert all(verbatim(stores, sample, sample.answer) for sample in samples)
        assert {sample.provenance.made_by for sample in samples} == {"back_translation"}
        assert made.asked == {}

    async def test_the_same_seed_makes_the_same_samples(self) -> None:
        first, second, other = [
            [s.id for s in (await instruct(warehouse(), seed=seed))[1]] for seed in (1, 1, 2)
        ]
        assert first == second != other

    async def test_at_most_so_many_passages_are_drawn(self) -> None:
        made, samples = await instruct(warehouse(8), max_passages=3)
        assert len({(s.origin.document_id, s.origin.span) for s in samples}) == 3
        assert made.counts["passages drawn"] == 3


class TestNothingToMake:
    async def test_an_empty_warehouse_names_the_task_that_fills_it(self) -> None:
        with pytest.raises(
            InvalidInputError, match=r"holds no clean documents.*run-end-to-end-data-pipeline"
        ):
            await instruct(FakeWarehouse())

    async def test_an_unknown_author_is_named(self) -> None:
        with pytest.raises(InvalidInputError, match="by Nobody"):
            await instruct(warehouse(), author="Nobody")

    async def test_documents_that_are_all_source_code_are_told(self) -> None:
        stores = FakeWarehouse()
        stores.clean.upsert(
            [document("x = 1", n, category="repository", language="python") for n in range(4)]
        )
        with pytest.raises(InvalidInputError, match="None of the 4 clean documents is prose"):
            await instruct(stores)

    async def test_documents_that_are_all_too_short_are_told(self) -> None:
        stores = FakeWarehouse()
        stores.clean.upsert([document("Short.", n) for n in range(4)])
        with pytest.raises(InvalidInputError, match=r"No passage came of 4 documents: .* 300 characters"):
            await instruct(stores)

    async def test_where_all_is_filtered_out_the_reasons_are_told(self) -> None:
        stores = warehouse()
        stores.clean.upsert([article(n).model_copy(update={"language": "fr"}) for n in range(5)])
        with pytest.raises(InvalidInputError, match=r"No sample came of 5 passages.*language"):
            await instruct(stores)

    @pytest.mark.parametrize(
        ("run", "problem"),
        [
            ({"template_instructions": None, "feedback": None}, "nothing would be made"),
            ({"chat_template": "chatlm"}, "no chat template 'chatlm'"),
            ({"name": "../elsewhere"}, "pattern"),
        ],
    )
    def test_a_run_that_cannot_be_is_refused(self, run: dict[str, Any], problem: str) -> None:
        with pytest.raises(ValidationError, match=problem):
            InstructDatasetRun(**run)

    def test_chosen_cannot_be_a_models_text(self) -> None:
        with pytest.raises(ValidationError, match="answers must be 'author'"):
            PreferenceDatasetRun(model_pairs=ModelPairs(answers="model"))


def instructions_of(number: int = 2) -> Callable[[Sequence[Message]], str]:
    def reply(messages: Sequence[Message]) -> str:
        title = messages[-1].content.splitlines()[0].removeprefix("Title: ")
        return json.dumps(
            {"instructions": [f"Tell me something ({n}) on {title}, please." for n in range(number)]}
        )

    return reply


class TestPairsByModel:
    async def test_instructions_of_a_model_keep_the_authors_text_as_answer(self) -> None:
        stores = warehouse()
        model = ScriptedLanguageModel(default=instructions_of())
        _, samples = await instruct(stores, model, template_instructions=None, model_pairs=ModelPairs())
        assert len(samples) == 10
        assert all(verbatim(stores, sample, sample.answer) for sample in samples)
        assert {(s.provenance.made_by, s.provenance.model) for s in samples} == {("model", "scripted")}
        schema = model.calls[0].options.json_schema
        assert schema is not None
        assert schema["required"] == ["instructions"]

    async def test_an_answer_of_a_model_must_be_grounded_in_the_passage(self) -> None:
        stores = warehouse(3)

        def pairs(messages: Sequence[Message]) -> str:
            passage = messages[-1].content.partition("<source>\n")[2]
            sentence = passage.split(". ")[1] + "."
            invented = "Penguins waddle across frozen harbours while violins play waltzes at midnight."
            return json.dumps(
                {
                    "pairs": [
                        {"instruction": "Where does it keep what it knows?", "answer": sentence},
                        {"instruction": "And what do birds do?", "answer": invented},
                    ]
                }
            )

        config = ModelPairs(answers="model")
        made, samples = await instruct(
            stores,
            ScriptedLanguageModel(default=pairs),
            template_instructions=None,
            model_pairs=config,
            feedback=None,
        )
        assert {sample.instruction for sample in samples} == {"Where does it keep what it knows?"}
        assert all(verbatim(stores, sample, sample.answer) for sample in samples), (
            "a quotation has its own span"
        )
        assert made.to_metadata()["unusable_items"] == 3
        letters = list(stores.dead_letters.stream("generate-instruct"))
        assert len(letters) == 3
        assert all("not grounded" in letter.reason for letter in letters)

    async def test_of_30_percent_malformed_replies_nothing_else_is_lost_and_the_share_is_reported(
        self,
    ) -> None:
        stores, replied = warehouse(20), instructions_of(1)

        def broken(messages: Sequence[Message]) -> str:
            number = int(messages[-1].content.split("Notes ")[1].split()[0])
            return '{"instructions": [' if number % 10 < 3 else replied(messages)

        made, samples = await instruct(
            stores,
            ScriptedLanguageModel(default=broken),
            template_instructions=None,
            model_pairs=ModelPairs(per_passage=1),
            requests={"attempts": 2},
        )
        assert len(samples) == 14
        told = made.to_metadata()
        assert told["given_up"] == stores.dead_letters.count() == 6
        assert told["malformed_replies"] == 12
        assert told["malformed_share"] == pytest.approx(12 / 26)

    async def test_too_much_lost_fails_the_run_with_the_reasons(self) -> None:
        with pytest.raises(TooManyFailuresError, match=r"5 of 5 things .*no JSON"):
            await instruct(warehouse(), ScriptedLanguageModel(default="{"), model_pairs=ModelPairs())

    @pytest.mark.parametrize(
        "instruction",
        [
            "What does the passage say on adapters?",
            "Short",
            "Tell me how the adapters of system 0 keep their state in part 0.",
        ],
    )
    async def test_instructions_that_speak_of_or_copy_the_source_are_refused(self, instruction: str) -> None:
        model = ScriptedLanguageModel(default=json.dumps({"instructions": [instruction]}))
        stores = warehouse(3)
        with pytest.raises(TooManyFailuresError):
            await instruct(
                stores, model, model_pairs=ModelPairs(), requests={"attempts": 1}, max_failed_share=0
            )

    async def test_a_spent_budget_keeps_what_was_made_and_says_so(self) -> None:
        model = ScriptedLanguageModel(default=instructions_of())
        made, samples = await instruct(
            warehouse(), model, model_pairs=ModelPairs(max_tokens=100), requests={"budget": {"tokens": 1200}}
        )
        told = made.to_metadata()
        assert "budget of 1,200 tokens is spent" in told["stopped"]
        assert 0 < told["not_asked"] < 5
        assert {s.provenance.made_by for s in samples} == {"back_translation", "model"}


class TestRejected:
    async def test_chosen_is_the_authors_text_and_rejected_a_models_who_has_not_seen_it(self) -> None:
        stores, model = warehouse(), ScriptedLanguageModel(default=prose(210))
        made, triples = await preference(stores, model)
        assert len(triples) == 5
        for triple in triples:
            assert verbatim(stores, triple, triple.chosen)
            assert triple.rejected.startswith("Reply0 shows")
        for call in model.calls:
            assert not any("keep their state" in message.content for message in call.messages)
        assert made.to_metadata()["given_up"] == 0

    async def test_the_length_of_rejected_is_steered_towards_chosen(self) -> None:
        stores, model = warehouse(), ScriptedLanguageModel(default=prose(2_000))
        _, triples = await preference(stores, model)
        for triple, call in zip(triples, model.calls, strict=True):
            words = len(triple.chosen.split())
            assert words < call.options.max_tokens <= 1.1 * words + 17
            assert f"about {round(words, -1)} words" in call.messages[0].content
            assert 0.6 <= len(triple.rejected) / len(triple.chosen) <= 1.4
            assert triple.rejected.endswith("."), "cut back to a whole sentence"

    async def test_a_reply_that_is_too_short_is_asked_for_again_and_then_given_up(self) -> None:
        stores = warehouse(3)
        model = ScriptedLanguageModel(["Yes.", prose(210)], default=prose(210))
        made, triples = await preference(stores, model, requests={"concurrency": 1})
        assert len(triples) == 3
        assert made.to_metadata()["reasons"] == {"a reply of another length": 1}

    async def test_a_killed_run_makes_no_request_twice(self) -> None:
        stores, asked = warehouse(6), list[str]()

        class Killed(BaseException):
            """As a signal would end the process."""

        def dying(messages: Sequence[Message]) -> str:
            if len(asked) == 4:
                raise Killed
            asked.append(messages[-1].content)
            return prose(210)

        with pytest.raises(Killed):
            await preference(stores, ScriptedLanguageModel(default=dying))

        def living(messages: Sequence[Message]) -> str:
            asked.append(messages[-1].content)
            return prose(210)

        made, triples = await preference(stores, ScriptedLanguageModel(default=living))
        assert len(triples) == 6
        assert len(asked) == len(set(asked)) == 6
        assert made.to_metadata()["replies_from_cache"] == 4

    @pytest.mark.parametrize(
        ("reply", "problem"),
        [
            ("{chosen}", "nothing to prefer"),
            ("Indeed. {chosen}", "a copy of the author's text"),
            ("You asked: What is it? " + prose(100), "repeats the prompt"),
            ("This is not a problem that is not a problem. " * 18, "goes round in circles"),
            ("No.", "another length"),
            (prose(600), "another length"),
        ],
    )
    def test_replies_that_would_teach_the_wrong_thing_are_refused(self, reply: str, problem: str) -> None:
        chosen = article(0, 8).text.partition("\n\n")[2]
        with pytest.raises(ValueError, match=problem):
            check_rejected(reply.replace("{chosen}", chosen), chosen, "What is it?", Rejected())

    @pytest.mark.parametrize(
        ("text", "whole"),
        [
            ("One. Two is cut in the mid", "One."),
            ("One. Two.", "One. Two."),
            ("Only a beginning", "Only a beginning"),
            ("He said: “Two.”", "He said: “Two.”"),
        ],
    )
    def test_a_sentence_that_breaks_off_is_left_out(self, text: str, whole: str) -> None:
        assert whole_sentences(text) == whole


NOW = datetime(2026, 5, 4, tzinfo=UTC)


def vote(stores: FakeWarehouse, rating: str, *, trace: str = "t", **fields: Any) -> None:
    defaults: dict[str, Any] = {
        "trace_id": trace,
        "question": "What does the cost of adapters depend on?",
        "answer": "It depends on the moon [1], as anybody can see who looks up at night and counts stars [1][2].",
        "sources": (article(0).id,),
        "model": "small",
        "prompt_hash": "abc",
        "created_at": NOW,
    }
    answer = Interaction(**{**defaults, **fields})
    said = Feedback.model_validate({"trace_id": trace, "rating": rating, "created_at": NOW})
    stores.feedback.restore([(answer, said)])


class TestFeedback:
    async def test_a_down_voted_answer_is_rejected_against_the_authors_words_of_like_length(self) -> None:
        stores = warehouse()
        vote(stores, "down")
        _, [triple] = await preference(stores, rejected=None)
        assert (
            triple.rejected
            == "It depends on the moon, as anybody can see who looks up at night and counts stars."
        )
        assert triple.prompt == "What does the cost of adapters depend on?"
        assert verbatim(stores, triple, triple.chosen)
        assert "the cost of adapters depends on that choice" in triple.chosen
        assert len(triple.chosen) < 200
        assert (triple.provenance.made_by, triple.provenance.model) == ("feedback", "small")

    async def test_an_up_voted_question_gets_the_authors_text_as_its_answer(self) -> None:
        stores = warehouse()
        vote(stores, "up")
        _, samples = await instruct(stores)
        [sample] = [sample for sample in samples if sample.provenance.made_by == "feedback"]
        assert sample.instruction == "What does the cost of adapters depend on?"
        assert verbatim(stores, sample, sample.answer)
        assert sample.provenance.model == ""

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"abstained": True}, "declined to answer"),
            ({"sources": ("gone",)}, "no cited document is there any more"),
            ({"question": "Which mushrooms grow in autumn?"}, "no cited passage covers the question"),
            ({"answer": article(0).text[15:140]}, "quotes the author"),
            ({"answer": "No. [1]"}, "too short an answer"),
            ({"answer": "It is so. " * 600}, "another length than any passage"),
        ],
    )
    async def test_a_vote_that_teaches_nothing_is_left_out_and_counted(
        self, fields: dict[str, Any], reason: str
    ) -> None:
        stores = warehouse()
        vote(stores, "down", **fields)
        vote(stores, "down", trace="good", question="What do adapters keep in their state of the system?")
        made, triples = await preference(stores, rejected=None)
        assert len(triples) == 1
        assert made.counts[f"feedback: {reason}"] == 1

    async def test_personal_data_in_a_question_is_masked(self) -> None:
        stores = warehouse()
        vote(stores, "down", question="What does the cost of adapters depend on, ann@example.org?")
        _, [triple] = await preference(stores, rejected=None)
        assert "ann@example.org" not in triple.prompt


DRAFT = (
    "The cost of adapters depends on that choice. In conclusion, the landscape of adapters is ever evolving."
)
EDITED = "The cost of adapters depends on that choice. Choose late: the state of a system is easier to move than to guess."


def edited(
    text: str = EDITED, draft: str = DRAFT, *, source: str | None = None, quoted: bool = False, **fields: Any
) -> StoredDraft:
    """A draft on the first article, and what a person made of it."""
    made = drafted(**fields)
    [citation] = made.answer.citations
    passage = citation.passage.model_copy(update={"document_id": source or article(0).id})
    answer = made.answer.model_copy(
        update={
            "question": "Write a post about adapters",
            "text": draft,
            "citations": (citation.model_copy(update={"passage": passage}),),
            "model": "small",
            "quoted": quoted,
        }
    )
    brief = made.brief.model_copy(update={"author": article(0).author})
    return made.model_copy(update={"answer": answer, "brief": brief}).revise(text, NOW)


class TestEdits:
    async def test_what_a_person_wrote_is_chosen_the_draft_rejected_and_the_request_the_prompt(self) -> None:
        stores = warehouse()
        stores.drafts.restore([edited()])
        made, [triple] = await preference(stores, rejected=None)
        assert (triple.prompt, triple.chosen, triple.rejected) == (
            "Write a post about adapters",
            EDITED,
            DRAFT,
        )
        assert triple.provenance == Provenance(made_by="edit", model="small", prompt_hash="abc")
        assert triple.origin.document_id == article(0).id
        assert triple.origin.content_hash == article(0).content_hash
        assert made.counts["feedback: preference sample of an edit"] == 1
        assert made.to_metadata()["made_by_edit"] == 1

    async def test_of_several_versions_the_newest_counts(self) -> None:
        stores = warehouse()
        stores.drafts.restore([edited("A first try that is long enough to be kept.").revise(EDITED, NOW)])
        _, [triple] = await preference(stores, rejected=None)
        assert triple.chosen == EDITED

    async def test_the_document_that_backs_most_is_where_it_comes_from(self) -> None:
        draft = edited()
        other = draft.answer.citations[0].model_copy(
            update={
                "number": 2,
                "passage": draft.answer.citations[0].passage.model_copy(
                    update={"document_id": article(1).id}
                ),
            }
        )
        support = draft.answer.supports[0].model_copy(update={"source": 2})
        answer = draft.answer.model_copy(
            update={"citations": (*draft.answer.citations, other), "supports": (support,)}
        )
        stores = warehouse()
        stores.drafts.restore([draft.model_copy(update={"answer": answer})])
        _, [triple] = await preference(stores, rejected=None)
        assert triple.origin.document_id == article(1).id

    async def test_a_given_text_stands_in_the_prompt_and_is_a_document_of_its_own(self) -> None:
        stores = warehouse()
        stores.drafts.restore([edited(source=GIVEN_TEXT)])
        _, [triple] = await preference(stores, rejected=None)
        assert triple.prompt == "Write a post about adapters\n\nA draft."
        assert triple.origin.document_id not in {article(number).id for number in range(5)}

    @pytest.mark.parametrize(
        ("draft", "reason"),
        [
            (edited(DRAFT.replace(". ", ".\n\n") + "\n"), "edit of spacing alone"),
            (edited(DRAFT), "edit of spacing alone"),
            (edited(quoted=True), "edit of quotations"),
            (edited(unfinished=True), "edit of a draft that broke off"),
            (edited("Too short."), "edit of too short a text"),
            (edited(source="gone"), "edit whose documents are gone"),
        ],
    )
    async def test_an_edit_that_teaches_nothing_is_left_out_and_counted(
        self, draft: StoredDraft, reason: str
    ) -> None:
        stores = warehouse()
        stores.drafts.restore([draft, edited(identifier="good")])
        made, triples = await preference(stores, rejected=None)
        assert len(triples) == 1
        assert made.counts[f"feedback: {reason}"] == 1

    async def test_a_data_set_of_one_author_has_edits_in_that_voice_alone(self) -> None:
        stores = warehouse()
        stores.drafts.restore([edited()])
        author = article(0).author
        _, triples = await preference(stores, rejected=None, author=f" {author.upper()} ")
        assert len(triples) == 1
        draft = edited()
        other = draft.brief.model_copy(update={"author": "Somebody Else"})
        stores.drafts.restore([draft.model_copy(update={"brief": other})])
        with pytest.raises(InvalidInputError, match="another author's voice"):
            await preference(stores, rejected=None, author=author)

    async def test_personal_data_is_masked_on_both_sides(self) -> None:
        stores = warehouse()
        stores.drafts.restore(
            [edited(f"{EDITED} Write to ann@example.org.", f"{DRAFT} Write to bob@example.org.")]
        )
        _, [triple] = await preference(stores, rejected=None)
        assert "example.org" not in triple.chosen + triple.rejected

    async def test_without_feedback_there_are_none(self) -> None:
        stores = warehouse()
        stores.drafts.restore([edited()])
        model = ScriptedLanguageModel(default=prose(270))
        _, triples = await preference(stores, model, feedback=None)
        assert "edit" not in {triple.provenance.made_by for triple in triples}


class Evolving(ScriptedLanguageModel):
    """Answers each of the three prompts of an evolution."""

    def __init__(self, *, instruction: str, quote: str = "", answer: str = "") -> None:
        def reply(messages: Sequence[Message]) -> str:
            rules = messages[0].content
            if "You rewrite instructions" in rules:
                number = len(self.calls)
                return json.dumps({"instruction": f"{instruction} ({number})"})
            if "You check whether" in rules:
                return json.dumps({"answered": bool(quote), "quote": quote})
            return json.dumps({"answer": answer})

        super().__init__(default=reply)


QUOTE = "keep their state in part 3"
GROUNDED = "The cost of the adapters depends on the choice of the part where the system keeps the state."


class TestEvolution:
    async def run(
        self, model: ScriptedLanguageModel, **evolution: Any
    ) -> tuple[Generated, list[InstructSample]]:
        config = Evolution(**{"share": 1.0, "keep_original": False, **evolution})
        stores = FakeWarehouse()
        stores.clean.upsert([document(article(0).text, n, title=f"Notes {n}") for n in range(3)])
        made, samples = await instruct(
            stores, model, template_instructions={"per_passage": 1}, evolution=config, feedback=None
        )
        return made, [
            sample
            for sample in samples
            if verbatim(stores, sample, sample.answer) or sample.answer == GROUNDED
        ]

    async def test_an_instruction_that_the_passage_still_answers_keeps_the_authors_answer(self) -> None:
        model = Evolving(instruction="Which state do adapters keep?", quote=QUOTE)
        made, samples = await self.run(model, kinds=("deepening",))
        assert made.counts["evolved, answer kept"] == 3
        assert all(sample.provenance.evolutions == ("deepening",) for sample in samples)
        assert all("their state in part" in sample.answer for sample in samples)

    @pytest.mark.parametrize(
        ("kind", "instruction", "quote"),
        [
            ("reasoning", "Which state do adapters keep?", ""),
            ("reasoning", "Which state do adapters keep?", "a sentence that stands nowhere in it"),
            ("concretising", "What of penguins, violins and harbours?", QUOTE),
            ("constraints", "Which state do adapters keep?", QUOTE),
            ("breadth", "Which state do adapters keep?", QUOTE),
        ],
    )
    async def test_an_instruction_that_it_may_not_answer_never_keeps_the_old_answer(
        self, kind: str, instruction: str, quote: str
    ) -> None:
        model = Evolving(instruction=instruction, quote=quote, answer=GROUNDED)
        made, samples = await self.run(model, kinds=(kind,))
        assert made.counts["evolved, answered anew"] == 3
        assert {sample.answer for sample in samples} == {GROUNDED}
        stores = warehouse()
        with pytest.raises(InvalidInputError, match="not answered by the passage"):
            await instruct(
                stores,
                Evolving(instruction=instruction, quote=quote, answer=GROUNDED),
                feedback=None,
                evolution=Evolution(share=1, keep_original=False, kinds=(kind,), unanswered="drop"),
            )

    async def test_an_empty_new_answer_drops_the_evolved_one_and_keeps_the_original(self) -> None:
        made, samples = await self.run(
            Evolving(instruction="Which state?", answer=""), kinds=("breadth",), keep_original=True
        )
        assert made.counts["evolved, dropped: no grounded answer"] == 3
        assert {sample.provenance.made_by for sample in samples} == {"back_translation"}

    async def test_two_rounds_apply_two_kinds(self) -> None:
        model = Evolving(instruction="Which state do adapters keep?", quote=QUOTE)
        _, samples = await self.run(model, kinds=("deepening", "reasoning"), rounds=2)
        assert {frozenset(sample.provenance.evolutions) for sample in samples} == {
            frozenset({"deepening", "reasoning"})
        }

    async def test_only_a_share_is_evolved(self) -> None:
        stores = warehouse(20)
        model = Evolving(instruction="Which state do adapters keep?", quote=QUOTE)
        made, _ = await instruct(
            stores,
            model,
            template_instructions={"per_passage": 1},
            evolution=Evolution(share=0.3, kinds=("deepening",)),
        )
        assert 1 <= made.counts["evolved, answer kept"] <= 12
