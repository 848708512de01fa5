"""The one reader of what a request is about: known values as whole names, and dates; silent rather than wrong."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.periods import read_period
from llm_engineering.application.inference.scope import find_authors, name_language, read_scope
from llm_engineering.application.inference.search import Facets, spell_filter
from llm_engineering.domain.retrieval import MetadataFilter

NOW = datetime(2026, 11, 22, 15, tzinfo=UTC)
KNOWN = Facets(
    author={"Ada Winter": 9, "Ben Okafor": 5, "Ben Stone": 1, "The project": 3, "May Chen": 1},
    category={"article": 9, "post": 5, "repository": 3, "review": 1, "ticket": 1},
    platform={"medium": 4, "linkedin": 5, "github": 3, "example.org": 5, "web": 1},
    language={"en": 9, "de": 2, "python": 3},
)


def as_days(filter: MetadataFilter) -> dict[str, Any]:
    """The fields that a filter sets, dates as days."""
    fields = filter.model_dump(exclude_defaults=True).items()
    return {name: f"{v:%Y-%m-%d}" if isinstance(v, datetime) else v for name, v in fields}


def read(question: str, **options: Any) -> dict[str, Any]:
    return as_days(read_scope(question, KNOWN, NOW, **options).filter)


class TestAuthors:
    @pytest.mark.parametrize(
        "question",
        [
            "What does Ada Winter say about chunking?",
            "what has ada winter written on overlap",
            "texts on overlap by Ada Winter",
            "According to Winter, how large should a chunk be?",
            "What is Ada Winter's view on overlap?",
            "What would Ada recommend?",
            "What did Ada say about overlap?",
            "what does ada recommend",
            "Laut Ada, wie groß sollte ein Chunk sein?",
            "Was denkt Ada über Chunks?",
            "Was hat Ada Winter über Chunks geschrieben?",
            "Was ist die Meinung von Ada?",
        ],
    )
    def test_are_read_where_their_writing_is_meant(self, question: str) -> None:
        assert read(question) == {"authors": ("Ada Winter",)}

    @pytest.mark.parametrize(
        "question",
        [
            "Who is Ada Winter?",
            "What is said about Ada Winter?",
            "Which article says who Ada Winter is?",
            "What is Ada Winter's e-mail address?",
            "Where does Ada Winter live?",
            "Does Ada support generics?",
            "What do winter articles cover?",
            "What did Ben say?",  # there are two
            "How does the project index chunks?",
            "How does the project write logs?",
            "Will it be done by May 2024?",
            "What may it say?",
            "texts not by Ada Winter",
            "everything except what Ada Winter wrote",
            "Wer ist Ada?",
            "Kannst du mir sagen, wer Ada Winter ist?",
            "Texte, aber nicht von Ada Winter",
        ],
    )
    def test_are_not_read_where_it_is_not(self, question: str) -> None:
        assert "authors" not in read(question)

    def test_that_are_joined_count_both(self) -> None:
        both = ("Ada Winter", "Ben Okafor")
        assert read("What did Ada Winter and Ben Okafor write about evaluation?") == {"authors": both}
        assert read("texts by Ada Winter or Ben Okafor")["authors"] == both

    @pytest.mark.parametrize(
        "question",
        ["What did I write about LoRA?", "What are my views on LoRA?", "Was habe ich über LoRA geschrieben?"],
    )
    def test_i_and_my_mean_the_author_whom_the_caller_names(self, question: str) -> None:
        assert read(question, me="ada winter") == {"authors": ("Ada Winter",)}
        assert read(question) == read(question, me="Nobody Known") == {}

    @pytest.mark.parametrize(
        "question",
        ["How do I publish my article?", "Which model did I use?", "I need a hint", "Should I write a post?"],
    )
    def test_a_question_by_the_author_is_not_one_about_their_writing(self, question: str) -> None:
        assert read(question, me="Ada Winter") == {}


class TestPlatforms:
    @pytest.mark.parametrize(
        ("question", "platform"),
        [
            ("What was written on Medium about embeddings?", "medium"),
            ("what did people post on medium?", "medium"),
            ("What was published on example.org?", "example.org"),
            ("Was wurde auf LinkedIn über Drift geschrieben?", "linkedin"),
            ("What did they say last year on LinkedIn?", "linkedin"),
        ],
    )
    def test_are_read_where_something_was_published_there(self, question: str, platform: str) -> None:
        assert read(question)["platforms"] == (platform,)

    @pytest.mark.parametrize(
        "question",
        [
            "How large is a medium-sized chunk?",
            "What is a medium?",
            "How do I log in on Medium?",
            "Posts from medium to large size",
            "What is written on medium and large models?",
            "What is said on web pages?",
            "How do I deploy from GitHub Actions?",
            "What was written on GitHub Actions?",
            "What is the web?",
            "Medium articles about overlap",  # or some of medium length?
            "articles, but not from LinkedIn",
            "How do I write posts on LinkedIn?",
            "Warum sollte ich auf GitHub veröffentlichen?",
            "How do I clone the GitHub repository?",
        ],
    )
    def test_are_not_read_from_words_that_happen_to_be_alike(self, question: str) -> None:
        assert "platforms" not in read(question)


class TestCategoriesAndLanguages:
    @pytest.mark.parametrize(
        "question",
        [
            "Which articles discuss overlap?",
            "How long should a post be?",
            "What is the review process?",
            "What did Ada post?",
        ],
    )
    def test_a_category_never_narrows_a_question(self, question: str) -> None:
        assert "categories" not in read(question)

    @pytest.mark.parametrize(
        ("request_", "categories"),
        [
            ("list all blog posts", ("article",)),
            ("articles and posts on overlap", ("article", "post")),
            ("Welche Beiträge gibt es?", ("post",)),
            ("In welchen Dateien steht das?", ("repository",)),
            ("repositories about chess", ("repository",)),
            ("how many tickets are there", ("ticket",)),
            ("what was posted yesterday", None),
            ("how many movies are there", None),  # of which there are none
        ],
    )
    def test_a_request_for_documents_names_them_by_nouns(
        self, request_: str, categories: tuple[str, ...] | None
    ) -> None:
        assert read(request_, documents=True).get("categories") == categories

    @pytest.mark.parametrize(
        "question",
        ["articles in German about chunking", "Which German articles discuss chunking?", "Texte auf Deutsch"],
    )
    def test_a_language_of_texts(self, question: str) -> None:
        assert read(question)["languages"] == ("de",)

    @pytest.mark.parametrize(
        "question",
        [
            "What is python used for?",
            "How do I write Python code?",
            "Is the crawler written in Python?",
            "Answer in German: what is chunking?",
            "How do I say chunk in German?",
            "Which articles are about Germany?",
        ],
    )
    def test_a_language_that_is_the_topic_is_no_filter(self, question: str) -> None:
        assert "languages" not in read(question)

    def test_a_request_for_documents_may_name_a_language_of_code(self) -> None:
        assert read("how many Python files are there", documents=True)["languages"] == ("python",)


def test_languages_have_names_and_those_of_code_their_own() -> None:
    assert (name_language("de"), name_language("de", german=True), name_language("python")) == (
        "German",
        "Deutsch",
        "python",
    )


class TestRequestsForDocuments:
    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            ("what is there by ada", {"authors": ("Ada Winter",)}),
            ("Adas Beiträge", {"authors": ("Ada Winter",), "categories": ("post",)}),
            ("everything on LinkedIn", {"platforms": ("linkedin",)}),
            ("linkedin posts", {"platforms": ("linkedin",), "categories": ("post",)}),
            ("LinkedIn-Beiträge", {"platforms": ("linkedin",), "categories": ("post",)}),
            ("what is new since yesterday", {"published_from": "2026-11-21"}),
            ("notes on medium models", {}),
        ],
    )
    def test_mean_what_they_name(self, request_: str, expected: Mapping[str, Any]) -> None:
        assert read(request_, documents=True) == expected

    def test_i_and_my_need_no_word_of_writing(self) -> None:
        assert read("list mine", me="Ada Winter", documents=True) == {"authors": ("Ada Winter",)}

    @pytest.mark.parametrize(
        ("request_", "rest"),
        [
            ("articles about hybrid search by Ada since 2024", "articles about hybrid search"),
            ("posts by Ada or Okafor on LinkedIn that mention LoRA", "posts that mention LoRA"),
            ("list my posts from May 2024 to June", "list my posts"),
        ],
    )
    def test_what_was_read_can_be_removed(self, request_: str, rest: str) -> None:
        scope = read_scope(request_, KNOWN, NOW, me="Ada Winter", documents=True)
        assert scope.remove_from(request_).split() == rest.split()

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("what did ada winter write", ("Ada Winter",)),
            ("Ada's posts", ("Ada Winter",)),
            ("Adas Beiträge", ("Ada Winter",)),
            ("how ada works", ()),
            ("the project is late", ("The project",)),
            ("Compare Ada and Okafor", ("Ada Winter", "Ben Okafor")),
            ("a post like May", ()),
        ],
    )
    def test_authors_are_found_whole_or_by_a_part_with_a_capital(
        self, text: str, found: tuple[str, ...]
    ) -> None:
        assert find_authors(text, KNOWN.author) == found


PHRASES = [
    ("since 2024", "2024-01-01", None),
    ("since May 2024", "2024-05-01", None),
    ("seit März 2024", "2024-03-01", None),
    ("from 2023 onwards", "2023-01-01", None),
    ("after March 2024", "2024-04-01", None),
    ("before 2023", None, "2022-12-31"),
    ("earlier than 2020", None, "2019-12-31"),
    ("vor 2023", None, "2022-12-31"),
    ("vor dem 1. April 2026", None, "2026-03-31"),
    ("until 5 March 2024", None, "2024-03-05"),
    ("in 2024", "2024-01-01", "2024-12-31"),
    ("in February 2024", "2024-02-01", "2024-02-29"),
    ("on March 5th, 2024", "2024-03-05", "2024-03-05"),
    ("am 30.06.2024", "2024-06-30", "2024-06-30"),
    ("between 2022 and 2020", "2020-01-01", "2022-12-31"),
    ("between March and May 2024", "2024-03-01", "2024-05-31"),
    ("between November and February", "2025-11-01", "2026-02-28"),
    ("zwischen dem 1. Juni und dem 31. Juli 2026", "2026-06-01", "2026-07-31"),
    ("between 2026-08-01 and 2026-10-31", "2026-08-01", "2026-10-31"),
    ("from 2020 to 2022", "2020-01-01", "2022-12-31"),
    ("since 2022 but before 2024", "2022-01-01", "2023-12-31"),
    ("in September", "2026-09-01", "2026-09-30"),
    ("in December", "2025-12-01", "2025-12-31"),
    ("before June", None, "2026-05-31"),
    ("aus dem April", "2026-04-01", "2026-04-30"),
    ("since 15 August", "2026-08-15", None),
    ("last year", "2025-01-01", "2025-12-31"),
    ("seit letztem Jahr", "2025-01-01", None),
    ("this month", "2026-11-01", None),
    ("dieses Jahr", "2026-01-01", None),
    ("last week", "2026-11-09", "2026-11-15"),
    ("letzten Monat", "2026-10-01", "2026-10-31"),
    ("last month on LinkedIn", "2026-10-01", "2026-10-31"),
    ("in the last 3 months", "2026-08-22", None),
    ("the last two weeks", "2026-11-08", None),
    ("in den letzten drei Monaten", "2026-08-22", None),
    ("seit zwei Wochen", "2026-11-08", None),
    ("over the past year", "2025-11-22", None),
    ("two months ago", "2026-09-01", "2026-09-30"),
    ("vor drei Tagen", "2026-11-19", "2026-11-19"),
    ("yesterday", "2026-11-21", "2026-11-21"),
    ("seit gestern", "2026-11-21", None),
]


class TestDates:
    @pytest.mark.parametrize(("phrase", "start", "end"), PHRASES)
    def test_are_read_in_the_ways_people_say_them(
        self, phrase: str, start: str | None, end: str | None
    ) -> None:
        found = read_period(f"what was written {phrase}?", NOW)
        assert found is not None
        days = [bound and f"{bound:%Y-%m-%d}" for bound in (found.start, found.end)]
        assert days == [start, end]

    @pytest.mark.parametrize(
        "phrase",
        [
            "since 1850",
            "in 2500",
            "in 2024-sized steps",
            "in 2024.1",
            "on 31 February 2024",
            "in 2020 and in 2022",
            "compared to 2022",
            "in a second",
            "in two steps",
            "from 10 to 20 tokens",
            "in version 3.12",
            "in 3 days",
            "before a cut",
            "vor allem",
            "that may do",
        ],
    )
    def test_are_not_guessed(self, phrase: str) -> None:
        assert read_period(f"what was written {phrase}?", NOW) is None

    def test_the_end_of_a_day_belongs_to_it(self) -> None:
        found = read_period("written in 2024", NOW)
        assert found is not None
        assert found.end == datetime(2024, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)

    @pytest.mark.parametrize(
        "question",
        [
            "What happened in 2008?",
            "How has inflation changed since 2020?",
            "Explain what changed last year",
            "How do I write code in 2023?",
            "Warum sind die Zinsen seit 2022 gestiegen?",
        ],
    )
    def test_of_events_are_no_filter_of_when_it_was_published(self, question: str) -> None:
        assert read(question) == {}

    def test_of_publications_are(self) -> None:
        assert read("What has Ada Winter written since 2024?") == {
            "authors": ("Ada Winter",),
            "published_from": "2024-01-01",
        }

    @given(text=st.text("0123456789 -/.sinceafterbetweenandlastyearsmayvorzwei", max_size=60))
    def test_any_text_is_read_without_an_error(self, text: str) -> None:
        found = read_period(text, NOW)
        assert found is None or found.start or found.end


def test_each_part_of_a_filter_says_what_it_was_read_from() -> None:
    assert read_scope("What did Ada post on LinkedIn last year?", KNOWN, NOW).reasons == (
        "authors = Ada Winter (“Ada”)",
        "platforms = linkedin (“on LinkedIn”)",
        "published 2025-01-01 to 2025-12-31 (“last year”)",
    )


words = st.sampled_from(
    "Ada Winter Ben Okafor by in on since 2024 Medium medium linkedin posts articles which the python files not and or German"
    " last year 's, ? what did write said our my I".split()
)


@given(question=st.lists(words, max_size=14).map(" ".join), documents=st.booleans())
def test_a_filter_is_made_of_existing_values_only(question: str, documents: bool) -> None:
    scope = read_scope(question, KNOWN, NOW, me="Somebody Else", documents=documents)
    assert spell_filter(scope.filter, KNOWN) == scope.filter
    assert all(0 <= start < end <= len(question) for start, end in scope.spans)


@given(question=st.text(max_size=80), documents=st.booleans())
def test_an_empty_index_gives_no_filter_but_dates(question: str, documents: bool) -> None:
    found = read_scope(question, Facets(), NOW, documents=documents).filter
    assert not Facets.fields_used(found)


def test_two_authors_of_a_name_have_no_short_one() -> None:
    known = Facets(author=Counter(["Ada Winter", "Ada Stone", "Winter Lake"]))
    assert read_scope("What does Ada say?", known, NOW).filter == MetadataFilter()
    assert read_scope("What does Stone say?", known, NOW).filter.authors == ("Ada Stone",)


# --- requests that were written before the reader -------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Facets(
    author=Counter(["Ada Winter", "Ben Okafor", "Mark Lindner", "Jo Ann Reyes", "The project"]),
    category=Counter(["article", "post", "repository"]),
    platform=Counter(["medium", "linkedin", "github", "substack", "notes.example", "web"]),
    language=Counter(["en", "de", "fr", "python", "markdown"]),
)


@pytest.mark.parametrize(("split", "least"), [("train", 30), ("test", 28)])
def test_requests_are_narrowed_as_meant_and_never_wrongly(split: str, least: int) -> None:
    lines = (ROOT / "samples" / "scope_questions.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [case for case in map(json.loads, lines) if case["split"] == split]
    right = 0
    for case in cases:
        scope = read_scope(case["question"], SAMPLE, NOW, documents=case["documents"])
        found = {name: list(v) if isinstance(v, tuple) else v for name, v in as_days(scope.filter).items()}
        assert found.items() <= case["expected"].items(), case["question"]
        right += found == case["expected"]
    assert len(cases) == 30
    assert right >= least


def test_of_the_questions_about_the_sample_site_only_those_that_name_an_author_are_narrowed() -> None:
    lines = (ROOT / "samples" / "rag_questions.jsonl").read_text(encoding="utf-8").splitlines()
    for case in map(json.loads, lines):
        found = read_scope(case["question"], SAMPLE, NOW).filter
        assert found == MetadataFilter(**case.get("filter", {})), case["question"]
