"""What a message means in its conversation."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.inference.events import BriefOptions
from llm_engineering.application.inference.follow_ups import (
    REFERENCES,
    WEIGHTS,
    Reference,
    describe_sources,
    read_follow_up,
)
from llm_engineering.application.inference.intents import load_router
from llm_engineering.application.inference.search import Facets
from llm_engineering.application.ports import Message
from llm_engineering.domain.documents import Span
from llm_engineering.domain.retrieval import Passage
from tools.train_intent_router import count_errors, learn_follow_ups, read_follow_ups, read_prompts

NOW = datetime(2026, 11, 29, tzinfo=UTC)
KNOWN = Facets(
    author={"Ada Winter": 8, "Ben Okafor": 7, "The project": 29},
    category={"article": 15, "post": 24, "repository": 29},
    platform={"linkedin": 3, "example.org": 60},
    language={"en": 60, "de": 2},
)
LIST = "There are 2 articles:\n\n- [Drift and monitoring](https://e.org/d) · Ada\n- [KV cache](https://e.org/k) · Ben"


def converse(*messages: str, reply: str = "A reply. [1]") -> list[Message]:
    """A conversation in which each message but the last was answered."""
    return [turn for text in messages for turn in (Message("user", text), Message("assistant", reply))]


def read(*messages: str, reply: str = "A reply. [1]") -> tuple[Reference, str]:
    *earlier, last = messages
    found = read_follow_up(last, converse(*earlier, reply=reply), KNOWN, NOW)
    return found.reference, found.request


def test_follow_ups_that_were_not_learned_are_read_as_well_as_was_said() -> None:
    held_out = read_follow_ups("test")
    wrong = count_errors(load_router(WEIGHTS), held_out, REFERENCES).total()
    assert len(held_out) >= 200
    assert wrong <= 0.27 * len(held_out)
    known = {text.casefold() for text, _ in read_follow_ups("train")}
    assert not known & {text.casefold() for text, _ in held_out}


def test_requests_that_stand_alone_are_seldom_taken_for_follow_ups() -> None:
    alone = [(text, str(Reference.NEW)) for text, _ in read_prompts("test")]
    assert count_errors(load_router(WEIGHTS), alone, REFERENCES).total() <= 0.1 * len(alone)


def test_the_stored_weights_are_those_that_the_samples_teach() -> None:
    prompts = read_follow_ups("train")
    learned = count_errors(learn_follow_ups(), prompts, REFERENCES)
    assert learned == count_errors(load_router(WEIGHTS), prompts, REFERENCES), "run: poe train-intent-router"
    assert WEIGHTS.stat().st_size < 200_000


@pytest.mark.parametrize(
    ("messages", "request_read"),
    [
        (("List Ada's articles", "and Ben's?"), "List Ben's articles"),
        (("What does Ada say about chunking?", "And Ben?"), "What does Ben say about chunking?"),
        (("List Ada's articles", "And the posts?"), "List Ada's posts"),
        (
            ("What did Ada write in September 2026?", "and in October?"),
            "What did Ada write in October",
        ),
        (
            ("Draft a post about chunking in Ada's voice", "and about LoRA?"),
            "Draft a post about LoRA in Ada's voice",
        ),
        (("List Ada's articles", "and Ben's?", "and in 2025?"), "List Ben's articles in 2025"),
    ],
)
def test_the_last_request_is_repeated_with_what_is_named(
    messages: tuple[str, ...], request_read: str
) -> None:
    assert read(*messages) == (Reference.REPEAT, request_read)


def test_what_was_listed_is_narrowed() -> None:
    reference, request = read("List Ada's articles", "Which of these is the newest?")
    assert reference is Reference.NARROW
    assert "Ada" in request
    assert request.startswith("Which of these is the newest")
    # Of an answer nothing was listed, so it is a question on what was said.
    assert read("What is overlap?", "Which of these is the newest?")[0] is Reference.ASK


@pytest.mark.parametrize("message", ["Who wrote that?", "And who said this?", "Wo steht das?", "Link please"])
def test_the_source_of_the_last_reply_is_asked_for(message: str) -> None:
    assert read("What is overlap?", message) == (Reference.SOURCE, "What is overlap?")
    assert read("What is overlap?", message, "When was it published?") == (
        Reference.SOURCE,
        "What is overlap?",
    )


def test_of_a_list_the_source_is_the_list_itself_and_small_talk_has_none() -> None:
    reference, request = read("List Ada's articles", "Who wrote that?")
    assert reference is Reference.NARROW
    assert "Ada" in request
    assert read("Hello there!", "Who wrote that?")[0] is not Reference.SOURCE


@pytest.mark.parametrize(
    ("message", "options", "lays_out"),
    [
        ("as a thread", BriefOptions(form="thread"), True),
        ("shorter", BriefOptions(words=65), True),
        ("make it longer", BriefOptions(words=260), True),
        ("in 50 words please", BriefOptions(words=50), True),
        ("in German please", BriefOptions(), False),
        ("more formal", BriefOptions(), False),
    ],
)
def test_the_last_text_is_asked_for_in_another_form(
    message: str, options: BriefOptions, lays_out: bool
) -> None:
    request = "Draft a post about chunking"
    found = read_follow_up(message, converse(request), KNOWN, NOW)
    assert (found.reference, found.request) == (Reference.RESTYLE, request)
    assert (found.options, found.lays_out) == (options, lays_out)


def test_forms_asked_for_one_after_the_other_add_up() -> None:
    found = read_follow_up("shorter", converse("Draft a post about chunking", "as a thread"), KNOWN, NOW)
    assert found.options == BriefOptions(form="thread", words=75)
    assert found.history == ()


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        ("summarise the second one", "KV cache"),
        ("Summarise it", "Drift and monitoring"),
        ("Fass den zweiten zusammen", "KV cache"),
        ("Draft a LinkedIn post about it", "Drift and monitoring"),
        ("summarise the last one", "KV cache"),
    ],
)
def test_it_and_the_second_one_are_called_by_their_names(message: str, meant: str) -> None:
    reference, request = read("List the latest articles", message, reply=LIST)
    assert reference is Reference.NEW
    assert meant in request
    assert read("What is LoRA?", "Draft a post about it")[1].endswith("LoRA")


def test_a_subject_that_is_named_stays() -> None:
    message = "Summarise what Ada wrote on LoRA"
    assert read("List the latest articles", message, reply=LIST) == (Reference.NEW, message)


def test_a_message_without_a_conversation_says_all_that_it_means() -> None:
    for message in ("shorter", "Who wrote that?", "and Ben's?"):
        assert read(message) == (Reference.NEW, message)


@settings(max_examples=60, deadline=None)
@given(messages=st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_any_conversation_can_be_read(messages: list[str]) -> None:
    reference, request = read(*messages)
    assert reference in REFERENCES
    assert isinstance(request, str)


def passage(number: int, **fields: object) -> Passage:
    values: dict[str, object] = {
        "document_id": f"d{number}",
        "span": Span(start=0, end=4),
        "text": "Text",
        "title": f"Title {number}",
        "link": f"https://e.org/{number}",
        "author": "Ada Winter",
        "platform": "e.org",
        "published_at": NOW,
        "score": 0.5,
    }
    return Passage.model_validate(values | fields)


def test_sources_are_those_that_the_reply_cites_each_text_once() -> None:
    passages = [passage(1), passage(2, published_at=None), passage(3, document_id="d2", title="Title 2")]
    told = describe_sources("Who wrote that?", "One thing. [2] Another. [3]", passages)
    assert "Title 2" in told
    assert "Title 1" not in told
    assert told.count("https://") == 1
    assert "Title 1" in describe_sources("Who wrote that?", "Nothing is cited.", passages)
    assert "http" not in describe_sources("Wer hat das geschrieben?", "[1]", [])
