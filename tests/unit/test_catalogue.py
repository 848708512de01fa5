"""Questions about the collection itself: read into a plan, carried out exactly, told in words."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.catalogue import (
    Plan,
    describe_found,
    matches_topic,
    plan_catalogue,
    run_plan,
)
from llm_engineering.application.inference.converse import reply_to
from llm_engineering.application.inference.intents import route
from llm_engineering.application.ports import DocumentCard
from llm_engineering.domain.inference import Intent

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def card(
    number: int,
    title: str,
    author: str = "Ada Winter",
    category: str = "article",
    date: str | None = "2026-01-01",
    language: str = "en",
) -> DocumentCard:
    published = datetime.fromisoformat(date).replace(tzinfo=UTC) if date else None
    link = f"https://notes.example/{number}"
    return DocumentCard(f"d{number}", category, title, link, "notes.example", author, language, published)


CARDS = [
    card(1, "Chunking", date="2026-03-10"),
    card(2, "Drift and monitoring", date="2026-09-15"),
    card(3, "Was ist ein Zwilling?", date="2026-10-20", language="de"),
    card(4, "LoRA and QLoRA", "Ben Okafor", date="2026-06-09"),
    card(5, "", "Ben Okafor", "post", "2026-10-13"),
    card(6, "", "Ada Winter", "post", "2026-09-22"),
    card(7, "README.md", "The project", "repository", None, "markdown"),
]


def plan(request: str, me: str | None = None) -> Plan:
    return plan_catalogue(request, CARDS, NOW, me=me)


def ids(request: str, about: tuple[str, ...] = (), me: str | None = None) -> list[str]:
    return [found.id for found in run_plan(plan(request, me), CARDS, lambda *_: set(about)).documents]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("list all articles", ["d3", "d2", "d4", "d1"]),
        ("list all posts", ["d5", "d6"]),
        ("how many texts are there?", ["d3", "d5", "d6", "d2", "d4", "d1", "d7"]),
        ("what is the most recent article?", ["d3"]),
        ("what is the latest post", ["d5"]),
        ("the oldest article", ["d1"]),
        ("the last two articles", ["d3", "d2"]),
        ("since when does Ben publish?", ["d4"]),
        ("what did Ada Winter write in September 2026?", ["d6", "d2"]),
        ("posts by Ben from last month", ["d5"]),
        ("articles since October 2026", ["d3"]),
        ("Was hat Ada im September 2026 geschrieben?", ["d6", "d2"]),
        ("Liste alle Artikel auf, die Ada geschrieben hat", ["d3", "d2", "d1"]),
        ("Seit wann schreibt Ben?", ["d4"]),
        ("Was ist der neueste Artikel?", ["d3"]),
        ("What did Ben write before 2026?", []),
    ],
)
def test_plans_are_carried_out_exactly(request_: str, expected: list[str]) -> None:
    assert ids(request_) == expected


@pytest.mark.parametrize(
    ("request_", "topic"),
    [
        ("How many posts are about evaluation?", "evaluation"),
        ("Which articles mention vector databases?", "vector databases"),
        ("Do I have any posts on sailing?", "sailing"),
        ("Wie viele Beiträge gibt es zu Evaluation?", "Evaluation"),
        ("articles about hybrid search by Ada since 2024", "hybrid search"),
        ("When was the article on drift published?", "drift"),
        ("list all articles", ""),
    ],
)
def test_the_subject_is_read_without_what_stands_around_it(request_: str, topic: str) -> None:
    assert plan(request_).topic == topic


def test_a_subject_narrows_to_the_documents_about_it() -> None:
    assert ids("Which articles are about LoRA?", about=("d4", "d5")) == ["d4"]


def test_the_article_on_something_is_the_one_whose_title_says_so() -> None:
    assert ids("When was the article on drift published?", about=("d1", "d2")) == ["d2"]
    assert ids("Which articles are about drift?", about=("d1", "d2")) == ["d2", "d1"]


def test_i_and_my_mean_the_owner() -> None:
    assert ids("list my articles", me="Ben Okafor") == ["d4"]
    assert ids("give me all articles", me="Ben Okafor") == ["d3", "d2", "d4", "d1"]


@pytest.mark.parametrize(
    ("request_", "counts"),
    [
        ("who are the authors?", (("Ada Winter", 4), ("Ben Okafor", 2), ("The project", 1))),
        ("who wrote most?", (("Ada Winter", 4), ("Ben Okafor", 2), ("The project", 1))),
        ("which languages are the articles in?", (("en", 3), ("de", 1))),
        ("how many texts per author?", (("Ada Winter", 4), ("Ben Okafor", 2), ("The project", 1))),
        ("Welche Autoren gibt es?", (("Ada Winter", 4), ("Ben Okafor", 2), ("The project", 1))),
    ],
)
def test_values_are_counted_in_documents(request_: str, counts: tuple[tuple[str, int], ...]) -> None:
    assert run_plan(plan(request_), CARDS, lambda *_: set()).counts == counts


def test_documents_without_a_date_are_left_out_of_questions_on_dates_and_counted() -> None:
    found = run_plan(plan("what is the newest text?"), CARDS, lambda *_: set())
    assert ([document.id for document in found.documents], found.undated) == (["d3"], 1)
    assert "1 text without a date" in describe_found(found, "newest", len(CARDS))


def test_a_reply_names_number_link_and_date_and_the_opening_of_what_has_no_title() -> None:
    found = run_plan(plan("list all posts"), CARDS, lambda *_: set())
    reply = describe_found(found, "list all posts", len(CARDS), {"d5": "Kill your own pipeline."})
    assert reply.startswith("There are 2 posts")
    assert "[Kill your own pipeline.](https://notes.example/5) · Ben Okafor · 2026-10-13" in reply
    assert "[https://notes.example/6]" in reply


def test_an_empty_result_says_what_was_looked_for_and_how_much_there_is() -> None:
    found = run_plan(plan("any posts on gardening?"), CARDS, lambda *_: set())
    reply = describe_found(found, "any posts on gardening?", len(CARDS))
    assert "gardening" in reply
    assert "7 texts" in reply


def test_a_german_question_gets_a_german_reply() -> None:
    found = run_plan(plan("Liste alle Artikel von Ben auf"), CARDS, lambda *_: set())
    assert describe_found(found, "Liste alle Artikel von Ben auf, bitte", 7).startswith(
        "1 Artikel von Ben Okafor"
    )


def test_of_a_long_list_the_rest_is_counted() -> None:
    many = [card(number, f"Text {number}") for number in range(50)]
    found = run_plan(Plan(), many, lambda *_: set())
    assert "and 30 more" in describe_found(found, "list everything", 50)


@given(st.text(max_size=120))
def test_any_request_has_a_plan_that_can_be_carried_out_and_told(request: str) -> None:
    found = run_plan(plan(request), CARDS, lambda *_: {"d1"})
    assert describe_found(found, request, len(CARDS))
    assert all(plan(request).filter.accepts(document) for document in found.documents)


@pytest.mark.parametrize(
    ("message", "holds"),
    [
        ("Thanks, that was helpful!", "welcome"),
        ("Goodbye", "Goodbye"),
        ("Who are you?", "Ada Winter and Ben Okafor"),
        ("What can you do?", "Summarise"),
        ("Hallo, wer bist du?", "Zwilling"),
        ("Danke dir!", "Gern"),
    ],
)
def test_small_talk_is_answered_from_facts(message: str, holds: str) -> None:
    assert holds in reply_to(message, CARDS)


def test_the_owner_is_named_and_an_empty_collection_is_no_error() -> None:
    reply: Any = reply_to("Who are you?", CARDS, owner="Ben Okafor")
    assert "twin of Ben Okafor." in reply
    assert reply_to("Who are you?", [])


# --- questions that others wrote about the sample site ------------------------------------------------------------------

SITE = Path(__file__).resolve().parents[2] / "samples" / "site"
META = re.compile(r'<meta (?:name|property)="([^"]+)" content="([^"]*)"')


def site_cards() -> list[DocumentCard]:
    """What the catalogue knows of the sample site's articles and posts."""
    found = []
    for path in sorted((SITE / "articles").glob("*.html")):
        html = path.read_text(encoding="utf-8")
        meta = dict(META.findall(html))
        title, language = re.search(r"<title>(.*?) · ", html), re.search(r'<html lang="(\w+)"', html)
        assert title is not None
        assert language is not None
        date = datetime.fromisoformat(meta["article:published_time"])
        link = f"/articles/{path.name}"
        found.append(DocumentCard(link, "article", title[1], link, "site", meta["author"], language[1], date))
    for post in json.loads((SITE / "posts.json").read_text(encoding="utf-8"))["posts"]:
        link, date = f"/posts.html#{post['id']}", datetime.fromisoformat(post["published"])
        found.append(DocumentCard(link, "post", "", link, "site", post["author"], "en", date))
    return found


def is_exact(question: str, expected: Mapping[str, Any], cards: Sequence[DocumentCard]) -> bool:
    """Whether the reply to a question holds what it must, and no other document."""

    def about(topic: str, mentions: bool) -> set[str]:
        del mentions  # in these questions, titles decide
        return {card.id for card in cards if matches_topic(topic, card.title)}

    request = route(question).request
    reply = describe_found(run_plan(plan_catalogue(request, cards, NOW), cards, about), request, len(cards))
    links = re.findall(r"\]\(([^)]+)\)", reply)
    if "links" in expected:
        return sorted(links) == sorted(expected["links"])
    if "count" in expected:
        return re.search(rf"\b{expected['count']}\b", reply.split("\n")[0]) is not None
    if "values" in expected:
        names = {"en": "English|en", "de": "German|de"}
        pairs = expected["values"].items()
        return all(re.search(rf"(?:{names.get(name, name)}).*\b{number}\b", reply) for name, number in pairs)
    return not links


@pytest.mark.parametrize(("split", "least"), [("train", 30), ("test", 28)])
def test_questions_of_others_about_the_sample_site_are_answered_exactly(split: str, least: int) -> None:
    lines = (SITE.parent / "catalogue_questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [line for line in map(json.loads, lines) if line["split"] == split]
    cards = site_cards()
    wrong = [q["question"] for q in questions if not is_exact(q["question"], q["expected"], cards)]
    assert len(questions) == 30
    assert len(questions) - len(wrong) >= least, wrong


def test_questions_of_others_about_the_sample_site_go_to_the_catalogue() -> None:
    lines = (SITE.parent / "catalogue_questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert {route(json.loads(line)["question"]).intent for line in lines} == {Intent.CATALOGUE}
