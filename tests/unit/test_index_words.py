"""What counts as a word in search by words, and what a chunk's record may hold."""

import pytest
from pydantic import ValidationError

from llm_engineering.domain.errors import StoreError
from llm_engineering.infrastructure.index import Bm25Encoder
from llm_engineering.infrastructure.shared.index_payload import to_chunk, to_payload
from tests.conformance.index_contract import chunk

ENCODER = Bm25Encoder()


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("running", "He runs."),
        ("Cafe", "ein café am See"),
        ("query points", "client.query_points(limit=3)"),
        ("encoder", "class Bm25Encoder:"),
        ("Bm25Encoder", "class Bm25Encoder:"),
        ("检索", "检索增强生成是什么"),
        ("LoRA", "用 LoRA 微调模型"),
        ("поиск", "Поиск по словам"),
        ("node", "node.js and k8s"),
    ],
)
def test_a_question_finds_the_text(question: str, text: str) -> None:
    assert set(ENCODER.query(question).indices) & set(ENCODER.encode_document(text).indices)


@pytest.mark.parametrize("text", ["", "   ", "?!…", "the of and", "🙂"])
def test_a_text_without_words_has_an_empty_vector(text: str) -> None:
    assert ENCODER.encode_document(text).indices == []


def test_half_a_surrogate_pair_in_a_question_does_no_harm() -> None:
    assert ENCODER.query("word\ud800").indices == ENCODER.query("word?").indices


def test_a_repeated_word_weighs_more_but_ever_less_so() -> None:
    once, twice, often = (ENCODER.encode_document("fusion " * count).values[0] for count in (1, 2, 50))
    assert once < twice < often < 2.5


def test_a_chunk_survives_its_record() -> None:
    stored = chunk("d", 3, metadata={"year": 1999, "rating": 4.0, "open": False, "big": 2**70})
    assert to_chunk(to_payload(stored)) == stored
    assert to_payload(stored)["parent_id"] == stored.parent_id


@pytest.mark.parametrize("payload", [None, {}, {"chunk": "nonsense"}, {"chunk": "{}"}])
def test_a_record_of_something_else_is_said_to_be_one(payload: dict[str, str] | None) -> None:
    with pytest.raises(StoreError, match="not a chunk"):
        to_chunk(payload)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_could_not_be_read_back_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="'rating'"):
        chunk("d", metadata={"rating": value})
