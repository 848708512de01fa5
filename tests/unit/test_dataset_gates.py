"""Gates over samples: what each drops, with which words, and that nothing is lost."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.training.datasets.config import LengthBounds, QualityConfig, RuleBounds
from llm_engineering.application.training.datasets.curate import gates_of
from llm_engineering.application.training.datasets.gates import (
    Differs,
    ExactDuplicates,
    Format,
    Gate,
    Language,
    Length,
    NearDuplicates,
    Rules,
    SemanticDuplicates,
    Verbatim,
    close_rows,
    embedding_of_any_length,
    run_gates,
)
from llm_engineering.application.training.datasets.samples import Sample
from llm_engineering.domain.errors import ConfigurationError
from tests.fakes.embedder import HashEmbedder
from tests.unit.dataset_samples import document, instruct, preference, prose

GERMAN = "Der Garten ist im Winter nicht leer, und wer das nicht glaubt, der soll sich die Beete ansehen: sie sind voll."
ENGLISH = (
    "The garden is not empty in the winter, and whoever does not believe that should look at the beds now."
)


def reason(gate: Gate, sample: Sample) -> str | None:
    return gate([sample]).get(0)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (instruct(), None),
        (preference(), None),
        (instruct(answer="  \n "), "answer is empty"),
        (instruct("Go <|im_start|>system on"), "prompt holds marks of a chat template"),
        (instruct(answer="Yes.\n### Response: no, not at all"), "answer holds marks of a chat template"),
        (instruct(answer="What does the author say on gardens? Much."), "answer repeats the prompt"),
        (
            preference(rejected="You ask: what does the author say on gardens -- much"),
            "rejected repeats the prompt",
        ),
        (preference(rejected="As an AI language model, I have no garden."), "rejected has a model speak"),
        (instruct(answer="I cannot assist with that request.", made_by="model"), "answer has a model speak"),
        (instruct(answer="As an AI language model, I have no garden."), None),  # the author's words
        (instruct(answer="Some call it a toy as an AI goes.", made_by="model"), None),
        (preference(rejected="so it goes and so on " * 20), "rejected repeats itself"),
        (instruct(answer="broken \ufffd letters"), "answer holds control characters"),
    ],
)
def test_format(sample: Sample, expected: str | None) -> None:
    found = reason(Format(), sample)
    assert found == expected or (expected is not None and (found or "").startswith(expected))


def test_length_counts_characters_and_the_template_s_tokens() -> None:
    gate = Length(
        LengthBounds(prompt_characters=(5, 50), answer_characters=(10, 100), max_tokens=12),
        lambda chats: [sum(len(message.content.split()) for message in chat) for chat in chats],
    )
    samples = [
        instruct("Why?", "a short answer"),
        instruct("Why is it so?" * 9, "a short answer"),
        instruct("Why is it so?", "little"),
        preference("Why is it so?", "a short answer", "x" * 101),
        preference("Why is it so?", "a short answer", "one two three four five six seven eight nine"),
        instruct("Why is it so?", "a short answer"),
    ]
    assert gate(samples) == {
        0: "prompt too short",
        1: "prompt too long",
        2: "answer too short",
        3: "rejected too long",
        4: "more tokens than max_tokens",
    }


def test_language_must_be_the_document_s() -> None:
    gate = Language()
    assert reason(gate, instruct(answer=GERMAN, of=document(ENGLISH))) == (
        "answer in another language than the document"
    )
    assert reason(gate, preference(chosen=ENGLISH, rejected=GERMAN)) == (
        "rejected in another language than the document"
    )
    assert reason(gate, instruct(answer=GERMAN, of=document(GERMAN, language="de"))) is None
    assert reason(gate, instruct(answer="Nicht ohne die Beete", of=document(ENGLISH))) is None  # too short
    assert reason(gate, instruct(answer=GERMAN, of=document("x = 1", language="python"))) is None


def test_rules() -> None:
    gate = Rules(RuleBounds(max_links=1, forbidden=("subscribe now",)))
    assert reason(gate, instruct(answer="1234 5678 90 == 12, so")) == "answer has too few letters"
    assert reason(gate, instruct(answer="see https://a.example and http://b.example")) == (
        "answer has too many links"
    )
    assert reason(gate, instruct(answer="Look:\n```python\nprint(1)")) == "answer leaves a code block open"
    assert reason(gate, instruct(answer="Look:\n```python\nprint(1)\n```")) is None
    assert reason(gate, preference(rejected="Dear [insert name], hello")) == "rejected holds a placeholder"
    assert reason(gate, instruct(answer="Please Subscribe NOW, dear")) == "answer matches a forbidden pattern"
    assert reason(gate, instruct()) is None


def test_verbatim_compares_with_the_document_at_the_span() -> None:
    source = document(prose(1))
    gate = Verbatim({source.id: source})
    good = preference(chosen=source.text, of=source)
    assert reason(gate, good) is None
    assert reason(gate, good.model_copy(update={"chosen": source.text + " "})) == (
        "not the document's text at its place"
    )
    moved = document("A new beginning. " + source.text)
    assert reason(Verbatim({moved.id: moved}), good) == "its document has changed since"
    assert reason(Verbatim({}), good) == "its document is not in the store"
    assert reason(gate, instruct(answer="made by a model", of=source, made_by="model")) is None


def test_chosen_and_rejected_differ_in_words() -> None:
    assert reason(Differs(), preference(chosen="The *beds* are full.", rejected="the beds, are FULL")) == (
        "chosen and rejected are the same words"
    )
    assert reason(Differs(), preference()) is None


def test_of_exact_duplicates_the_first_stays() -> None:
    samples = [
        instruct("Why so?", "Because."),
        instruct("why, so", "because"),
        instruct("Why so?", "Because not."),
        preference("Why so?", "Because.", "No."),
        preference("Why so?", "Because.", "Never."),
    ]
    assert sorted(ExactDuplicates()(samples)) == [1]


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    chance = random.Random(5)
    texts = [prose(seed, 160) for seed in range(60)]
    planted = {}
    for i in range(20):
        words = texts[i].split()
        at = chance.randrange(len(words) - 5)
        words[at : at + 3] = ["another", "wording"]
        planted[len(texts)] = i
        texts.append(" ".join(words))
    samples = [instruct(answer=text, of=document(text, f"d{i}")) for i, text in enumerate(texts)]
    assert set(NearDuplicates(0.8)(samples)) == set(planted)


def test_several_instructions_for_one_passage_stay() -> None:
    source = document(prose(1))
    samples = [instruct(f"Question number {i}?", of=source) for i in range(4)]
    assert not NearDuplicates(0.8)(samples)
    assert not SemanticDuplicates(embedding_of_any_length(HashEmbedder()), 0.5)(samples)


def test_semantic_duplicates_are_those_close_to_a_kept_one() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(300, 32))
    rows[250] = rows[10] + 0.01
    rows[17] = rows[10] + 0.02
    rows[299] = rows[298]
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32")
    alone = np.arange(300)
    assert close_rows(vectors, 0.98, alone) == [17, 250, 299]
    assert close_rows(vectors, 0.98, alone, block=7) == [17, 250, 299]
    assert close_rows(vectors[:0], 0.98, alone[:0]) == []
    alone[250] = alone[10]  # of one family with row 10, and row 17 is no longer there to drop it
    assert close_rows(vectors, 0.98, alone, block=7) == [17, 299]


def test_semantic_gate_cuts_texts_to_what_the_embedder_reads() -> None:
    embedder = HashEmbedder()
    long = prose(4, 4_000)
    texts = [long, prose(5), long + " End."]
    samples = [instruct(answer=text, of=document(text, f"d{i}")) for i, text in enumerate(texts)]
    assert list(SemanticDuplicates(embedding_of_any_length(embedder), 0.999)(samples)) == [2]


def test_a_gate_that_needs_an_embedder_says_so() -> None:
    with pytest.raises(ConfigurationError, match="semantic_duplicates needs an embedder"):
        gates_of(QualityConfig(gates=("semantic_duplicates",)), {})


def test_counts_reasons_and_examples_stand_by_gate() -> None:
    samples = [instruct(answer=" "), instruct("Why is it?", "tiny"), instruct(), instruct(), instruct()]
    gated = run_gates(samples, [Format(), Length(LengthBounds()), ExactDuplicates()])
    assert [(c.gate, c.seen, c.kept, c.dropped) for c in gated.counts] == [
        ("format", 5, 4, 1),
        ("length", 4, 3, 1),
        ("exact_duplicates", 3, 1, 2),
    ]
    assert gated.counts[2].reasons == {"the same words as an earlier sample": 2}
    assert len(gated.counts[2].examples) == 2
    assert [item.gate for item in gated.dropped] == [
        "format",
        "length",
        "exact_duplicates",
        "exact_duplicates",
    ]


TEXTS = st.one_of(
    st.text(min_size=1, max_size=80),
    st.sampled_from(
        [prose(1), prose(1) + " And so.", prose(2), GERMAN, ENGLISH, "As an AI, I am not.", "a b " * 40]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=12), st.permutations(gates_of(QualityConfig(), {})))
def test_no_sample_is_lost_and_a_second_run_drops_none(
    texts: list[tuple[str, str]], gates: list[Gate]
) -> None:
    samples = [instruct(prompt, answer, made_by="model") for prompt, answer in texts]
    gated = run_gates(samples, gates)
    together = [*gated.kept, *(item.sample for item in gated.dropped)]
    assert sorted(map(id, together)) == sorted(map(id, samples))
    assert [sample for sample in samples if id(sample) in set(map(id, gated.kept))] == list(gated.kept)
    again = run_gates(gated.kept, gates)
    assert again.kept == gated.kept
    assert not again.dropped
