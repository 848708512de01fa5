"""The intent router: how often it is right on prompts it was not learned from, and what it reads besides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.intents import (
    INTENTS,
    WEIGHTS,
    classify,
    learn_router,
    route,
)
from llm_engineering.application.ports import Message
from llm_engineering.domain.inference import Intent
from tools.train_intent_router import count_errors, read_prompts

DRAFT = (Message("user", "Draft a post about LoRA"), Message("assistant", "LoRA adapts a model on one card."))


def test_at_least_19_of_20_held_out_prompts_are_routed_right() -> None:
    prompts = read_prompts("test")
    wrong = [text for text, intent in prompts if classify(text) != intent]
    assert len(prompts) == 120
    assert len(wrong) <= 0.05 * len(prompts), wrong


def test_the_stored_weights_are_those_that_the_prompts_teach() -> None:
    prompts = read_prompts("train")
    assert count_errors(learn_router(prompts), prompts).total() == sum(
        classify(text) != intent for text, intent in prompts
    ), "run: poe train-intent-router"
    assert WEIGHTS.stat().st_size < 200_000


def test_no_held_out_prompt_was_learned_from() -> None:
    assert not {text.casefold() for text, _ in read_prompts("train")} & {
        text.casefold() for text, _ in read_prompts("test")
    }


@pytest.mark.parametrize(
    ("message", "intent"),
    [
        ("My name is Ada Winter. Could you draft a LinkedIn post discussing RAG systems?", Intent.WRITE),
        ("Summarise what I wrote on LoRA", Intent.SUMMARISE),
        ("Compare what Ada and Ben say on evaluation", Intent.COMPARE),
        ("How many posts are about evaluation?", Intent.CATALOGUE),
        ("What is the most recent article?", Intent.CATALOGUE),
        ("Who are you?", Intent.CONVERSE),
        ("Danke dir!", Intent.CONVERSE),
        ("Is QLoRA faster than LoRA?", Intent.ANSWER),
        ("What is the difference between BM25's k1 and b?", Intent.ANSWER),
        ("Hi, what does Ada think about judges?", Intent.ANSWER),
    ],
)
def test_what_first_time_users_asked_is_understood(message: str, intent: Intent) -> None:
    assert route(message).intent is intent


def test_greeting_introduction_and_politeness_are_taken_off() -> None:
    routed = route("Hello! My name is Ada Winter. Could you please draft a post about drift?")
    assert (routed.introduced, routed.request) == ("Ada Winter", "draft a post about drift?")


def test_a_short_order_behind_a_text_is_about_that_text() -> None:
    assert route("Write it shorter, please", DRAFT).continues
    assert not route("Write it shorter, please").continues
    assert not route("Write a post about the three ways in which a data pipeline breaks", DRAFT).continues


def test_what_the_caller_decided_stands() -> None:
    assert route("How many posts are there?", intent=Intent.ANSWER).intent is Intent.ANSWER


@given(st.text(max_size=300))
def test_every_message_has_an_intent(message: str) -> None:
    routed = route(message)
    assert routed.intent in INTENTS
    assert routed == route(message)


@pytest.mark.parametrize("message", ["ლორემ იფსუმ", "zzz qqq xxx", "Zebra volcano parliament?", "", "?!"])
def test_a_message_of_unknown_words_is_a_question(message: str) -> None:
    assert classify(message) is Intent.ANSWER
