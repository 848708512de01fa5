"""Instructions by rule: seeded, grounded in what stands around a passage, never a copy of its text."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.text.overlap import longest_copy
from llm_engineering.application.training.datasets.instructions import (
    PHRASINGS,
    QUESTION_WORDS,
    TemplateInstructions,
    key_terms,
    language_for,
    rule_questions,
    write_instructions,
)
from llm_engineering.application.training.datasets.passages import Passage, split_passages
from tests.unit.test_dataset_passages import document

BODY = (
    "An adapter is a small pair of matrices beside the frozen weights of a model. The adapter needs little memory, and the "
    "weights of the model stay as they are. A low rank keeps the number of parameters small. "
) + "Training changes only the adapter, so that the model keeps what it knew of the language. " * 10


def one(text: str, title: str = "Fine-tuning on one card", **fields: str) -> Passage:
    return next(iter(split_passages(document(text, title=title, **fields))))


def asked(passage: Passage, count: int = 4, seed: int = 1) -> list[tuple[str, str]]:
    rules = rule_questions(passage.document)
    made = write_instructions(passage, TemplateInstructions(per_passage=count), seed=seed, rules=rules)
    return [(one.kind, one.text) for one in made]


class TestKinds:
    def test_a_section_is_asked_for_by_its_heading_and_title(self) -> None:
        kinds = dict(asked(one(f"# Low rank\n\n{BODY}")))
        assert "“Low rank”" in kinds["section"]
        assert "“Fine-tuning on one card”" in kinds["section"]

    def test_it_is_asked_for_as_an_owner_types(self) -> None:
        drafts = {
            text
            for seed in range(30)
            for kind, text in asked(one(f"# The Low rank\n\n{BODY}"), seed=seed)
            if kind == "draft"
        }
        assert "Draft a LinkedIn post about the Low rank." in drafts
        assert not any("“" in text for text in drafts)

    @pytest.mark.parametrize(
        ("heading", "within"),
        [
            ("Weights and ranks", " weights and ranks"),
            ("GGUF", " GGUF"),
            ("A checklist", " a checklist"),
            ("Kolmogorov’s test", " Kolmogorov’s test"),
            ("Why is it small?", " fine-tuning on one card"),
        ],
    )
    def test_a_heading_stands_in_the_sentence_as_one_writes_it(self, heading: str, within: str) -> None:
        text = f"{BODY} It is what they call Kolmogorov’s test."
        assert within in dict(asked(one(f"# {heading}\n\n{text}")))["draft"]

    def test_a_later_passage_of_a_section_is_asked_for_otherwise(self) -> None:
        more = (
            "The trainer saves the checkpoint. A run goes on from the checkpoint, and the trainer says so. "
            * 24
        )
        first, second = split_passages(
            document(f"# Low rank\n\n{BODY[:900]}once.\n\n{more[:2_000]}", title="Tuning")
        )
        assert (
            dict(asked(first))["draft"].partition("rank")[2]
            != dict(asked(second))["draft"].partition("rank")[2]
        )

    def test_a_definition_that_opens_the_passage_is_asked_for(self) -> None:
        assert ("definition", "What is an adapter?") in asked(one(f"# Low rank\n\n{BODY}"))

    def test_a_definition_in_the_middle_is_not(self) -> None:
        late = "Memory is scarce on a card. It is used up by the weights. " * 3 + BODY
        assert "definition" not in dict(asked(one(f"# Low rank\n\n{late}")))

    def test_a_heading_that_is_a_question_is_the_question(self) -> None:
        kinds = dict(asked(one(f"# Why is a low rank enough?\n\n{BODY}")))
        assert "Why is a low rank enough?" in kinds["question"]

    def test_the_beginning_of_a_text_is_asked_for_by_its_title(self) -> None:
        assert "“Fine-tuning on one card”" in dict(asked(one(BODY)))["title"]

    def test_of_several_sections_all_are_named(self) -> None:
        kinds = dict(asked(one(f"# 1. Ranks\n\n{BODY}\n\n## Costs\n\n{BODY[:600]}")))
        assert "“Ranks” and “Costs”" in kinds["sections"]

    def test_a_heading_that_names_no_topic_is_passed_over(self) -> None:
        assert not any("Introduction" in text for _, text in asked(one(f"# Introduction\n\n{BODY}")))

    def test_a_passage_within_a_section_is_asked_for_by_going_on_from_the_sentence_before(self) -> None:
        more = " ".join(
            f"Run{number} of{number} a{number} trainer{number} saved{number} it{number}."
            for number in range(40)
        )
        _, second = split_passages(
            document(f"# Low rank\n\n{BODY[:900]}once.\n\n{more[:1_300]}", title="Tuning")
        )
        kinds = dict(asked(second))
        assert second.before.split(".")[0] in kinds["continue"]
        assert "section" not in kinds, "another passage has the section's beginning"

    def test_without_title_and_headings_the_words_it_is_about_are_named(self) -> None:
        [(kind, text)] = asked(one(BODY.removeprefix("An adapter is"), title=""), count=1)
        assert kind == "terms"
        assert "adapter" in text

    def test_german_is_asked_in_german(self) -> None:
        text = (
            "Der Adapter ist klein. Das Modell behält die Gewichte. Ein Rang begrenzt die Zahl der Parameter. "
            * 8
        )
        made = asked(one(f"# Der Rang\n\n{text}", title="Feinabstimmung", language="de"))
        assert "„Der Rang“" in dict(made)["section"]

    def test_a_language_without_phrasings_makes_none(self) -> None:
        passage = one(BODY, language="fr")
        assert language_for(passage) is None
        assert asked(passage) == []

    def test_a_markdown_file_of_a_repository_is_asked_in_the_language_of_its_text(self) -> None:
        assert language_for(one(BODY, category="repository", language="markdown")) == "en"


class TestText:
    def test_the_same_seed_asks_the_same_and_another_asks_otherwise(self) -> None:
        passage = one(f"# Low rank\n\n{BODY}")
        assert asked(passage) == asked(passage)
        assert len({tuple(asked(passage, seed=seed)) for seed in range(8)}) > 1

    @given(seed=st.integers(0, 10_000), copied=st.integers(2, 8))
    def test_no_instruction_shares_a_long_run_with_its_answer(self, seed: int, copied: int) -> None:
        title = "The adapter needs little memory, and the weights of the model"
        passage = one(f"# The weights of the model stay as they are\n\n{BODY}", title=title)
        config = TemplateInstructions(per_passage=6, max_ngram_overlap=copied)
        for made in write_instructions(passage, config, seed=seed, rules=rule_questions(passage.document)):
            assert longest_copy(made.text, passage.text) <= copied

    def test_quotation_marks_in_a_heading_do_not_end_the_quote(self) -> None:
        made = dict(asked(one(f"# “Small” ranks\n\n{BODY}")))
        assert "“‘Small’ ranks”" in made["section"]

    @pytest.mark.parametrize("language", sorted(PHRASINGS))
    def test_every_language_has_several_phrasings_of_every_kind_and_its_question_words(
        self, language: str
    ) -> None:
        assert PHRASINGS[language].keys() == PHRASINGS["en"].keys()
        assert all(len(set(phrasings)) >= 2 for phrasings in PHRASINGS[language].values())
        assert QUESTION_WORDS[language]

    def test_the_words_a_passage_is_about_are_nouns_of_its_opening(self) -> None:
        passage = replace(one(BODY, title=""), headings=())
        assert key_terms(passage, "en") == ["adapter", "model", "language"]
