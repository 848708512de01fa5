"""Self-query: filters that a question asks for, of values that exist, or none."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.search import FILTERS, FacetCache, Facets
from llm_engineering.application.inference.self_query import (
    NOT_READ,
    SelfQuery,
    SelfQueryConfig,
    filter_schema,
    merge_filters,
    select_values,
    self_query,
)
from llm_engineering.application.inference.self_query_dates import read_period
from llm_engineering.application.inference.self_query_rules import read_rules
from llm_engineering.domain.errors import StoreUnavailableError
from llm_engineering.domain.inference import StageStatus
from llm_engineering.domain.retrieval import MetadataFilter
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.unit.test_retrieval import filled_index, make_chunk

NOW = datetime(2026, 11, 22, 15, tzinfo=UTC)
KNOWN = Facets(
    author={"Ada Winter": 9, "Ben Okafor": 5, "Ben Stone": 1, "The project": 3, "May Chen": 1},
    category={"article": 9, "post": 5, "repository": 3, "review": 1, "ticket": 1},
    platform={"medium": 4, "linkedin": 5, "github": 3, "example.org": 5, "web": 1},
    language={"en": 9, "de": 2, "python": 3},
)


def read(question: str) -> dict[str, Any]:
    """The filter's fields that the rules read, as days where they are dates."""
    found = read_rules(question, KNOWN, NOW).filter.model_dump(exclude_defaults=True)
    return {name: f"{v:%Y-%m-%d}" if isinstance(v, datetime) else v for name, v in found.items()}


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
        ],
    )
    def test_are_read_where_their_writing_is_meant(self, question: str) -> None:
        assert read(question) == {"authors": ("Ada Winter",)}

    @pytest.mark.parametrize(
        "question",
        [
            "Who is Ada Winter?",
            "What is said about Ada Winter?",
            "What is Ada Winter's e-mail address?",
            "Does Ada support generics?",
            "What did Ben say?",  # there are two
            "How does the project index chunks?",
            "Will it be done by May 2024?",
            "texts not by Ada Winter",
            "everything except what Ada Winter wrote",
        ],
    )
    def test_are_not_read_where_it_is_not(self, question: str) -> None:
        assert "authors" not in read(question)

    def test_that_are_joined_count_both(self) -> None:
        both = ("Ada Winter", "Ben Okafor")
        assert read("What did Ada Winter and Ben Okafor write about evaluation?") == {"authors": both}
        assert read("texts by Ada Winter or Ben Okafor")["authors"] == both


class TestPlatforms:
    @pytest.mark.parametrize(
        ("question", "platform"),
        [
            ("What was written on Medium about embeddings?", "medium"),
            ("what did people post on medium?", "medium"),
            ("What do Medium articles say about overlap?", "medium"),
            ("LinkedIn posts about hiring", "linkedin"),
            ("What was published on example.org?", "example.org"),
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
            "How do I deploy from GitHub Actions?",
            "What is the web?",
            "Medium articles about overlap",  # or some of medium length?
            "articles, but not from LinkedIn",
            "How do I write posts on LinkedIn?",
            "How do I clone the GitHub repository?",
        ],
    )
    def test_are_not_read_from_words_that_happen_to_be_alike(self, question: str) -> None:
        assert "platforms" not in read(question)


class TestCategoriesAndLanguages:
    @pytest.mark.parametrize(
        ("question", "categories"),
        [
            ("Which articles discuss overlap?", ("article",)),
            ("Which blog posts discuss overlap?", ("article",)),
            ("In the repository, how are chunks stored?", ("repository",)),
            ("What do my tickets say about refunds?", ("ticket",)),
            ("reviews that mention batteries", ("review",)),
            ("Which articles and posts discuss overlap?", ("article", "post")),
            ("Show me Ada Winter's posts", ("post",)),
        ],
    )
    def test_a_category_by_its_synonyms_and_plurals(self, question: str, categories: tuple[str, ...]) -> None:
        assert read(question)["categories"] == categories

    @pytest.mark.parametrize(
        "question",
        [
            "How do I write a good article?",
            "How long should a post be?",
            "Which repository pattern is used?",
            "What is the review process?",
            "Is there a ticket system?",
            "How do I write a post about RAG?",
            "What did Ada post?",
            "Let's review the fields",
        ],
    )
    def test_a_category_that_is_the_topic_is_no_filter(self, question: str) -> None:
        assert "categories" not in read(question)

    def test_a_category_that_the_index_lacks_is_no_filter(self) -> None:
        assert read("Which movies are about chess?") == {}

    @pytest.mark.parametrize(
        ("question", "language"),
        [
            ("articles in German about chunking", "de"),
            ("Which German articles discuss chunking?", "de"),
            ("Which python files open the index?", "python"),
            ("modules written in Python that read feeds", "python"),
        ],
    )
    def test_a_language_of_texts_or_code(self, question: str, language: str) -> None:
        assert read(question)["languages"] == (language,)

    @pytest.mark.parametrize(
        "question",
        [
            "What is python used for?",
            "How do I write Python code?",
            "How do I add a retry to my Python code?",
            "Answer in German: what is chunking?",
            "How do I say chunk in German?",
        ],
    )
    def test_a_language_that_is_the_topic_is_no_filter(self, question: str) -> None:
        assert "languages" not in read(question)


class TestDates:
    @pytest.mark.parametrize(
        ("phrase", "start", "end"),
        [
            ("since 2024", "2024-01-01", None),
            ("since May 2024", "2024-05-01", None),
            ("from 2023 onwards", "2023-01-01", None),
            ("after March 2024", "2024-04-01", None),
            ("before 2023", None, "2022-12-31"),
            ("until 5 March 2024", None, "2024-03-05"),
            ("in 2024", "2024-01-01", "2024-12-31"),
            ("in February 2024", "2024-02-01", "2024-02-29"),
            ("on March 5th, 2024", "2024-03-05", "2024-03-05"),
            ("between 2022 and 2020", "2020-01-01", "2022-12-31"),
            ("from 2020 to 2022", "2020-01-01", "2022-12-31"),
            ("since 2022 but before 2024", "2022-01-01", "2023-12-31"),
            ("last year", "2025-01-01", "2025-12-31"),
            ("this month", "2026-11-01", None),
            ("last week", "2026-11-09", "2026-11-15"),
            ("in the last 3 months", "2026-08-22", None),
            ("over the past year", "2025-11-22", None),
            ("yesterday", "2026-11-21", "2026-11-21"),
        ],
    )
    def test_are_read_in_the_ways_people_say_them(
        self, phrase: str, start: str | None, end: str | None
    ) -> None:
        found = read_period(f"what was written {phrase}?", NOW)
        assert found is not None
        assert (found.start and f"{found.start:%Y-%m-%d}", found.end and f"{found.end:%Y-%m-%d}") == (
            start,
            end,
        )

    @pytest.mark.parametrize(
        "phrase",
        [
            "in May",
            "since 1850",
            "in 2500",
            "in 2024-sized steps",
            "in 2024.1",
            "on 31 February 2024",
            "in 2020 and in 2022",
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
            "What changed last year?",
            "How do I write code in 2023?",
        ],
    )
    def test_of_events_are_no_filter_of_when_it_was_published(self, question: str) -> None:
        assert read(question) == {}

    def test_of_publications_are(self) -> None:
        assert read("What has Ada Winter written since 2024?") == {
            "authors": ("Ada Winter",),
            "published_from": "2024-01-01",
        }

    @given(text=st.text("0123456789 -/sinceafterbetweenandlastyears", max_size=60))
    def test_any_text_is_read_without_an_error(self, text: str) -> None:
        found = read_period(text, NOW)
        assert found is None or found.start or found.end


def test_each_part_of_a_filter_says_what_it_was_read_from() -> None:
    reading = read_rules("What did Ada post on LinkedIn last year?", KNOWN, NOW)
    assert reading.reasons == (
        "authors = Ada Winter (“did Ada post”)",
        "platforms = linkedin (“on LinkedIn”)",
        "published 2025-01-01 to 2025-12-31 (“last year”)",
    )


words = st.sampled_from(
    "Ada Winter Ben Okafor by in on since 2024 Medium medium linkedin posts articles which the python files not and or German"
    " last year 's, ? what did write said our".split()
)


@given(question=st.lists(words, max_size=14).map(" ".join))
def test_a_filter_is_made_of_existing_values_only(question: str) -> None:
    assert KNOWN.contains_all(read_rules(question, KNOWN, NOW).filter)


@given(question=st.text(max_size=80))
def test_an_empty_index_gives_no_filter_but_dates(question: str) -> None:
    found = read_rules(question, Facets(), NOW).filter
    assert not Facets.fields_used(found)


# --- the stage -------------------------------------------------------------------------------------------------------


def run(
    question: str,
    given: MetadataFilter = MetadataFilter(),
    *,
    model: ScriptedLanguageModel | None = None,
    **knobs: Any,
) -> SelfQuery:
    config = SelfQueryConfig(kind="model" if model else "rules", **knobs)
    return asyncio.run(self_query(question, given, KNOWN, NOW, config, model))


def reply(**fields: Any) -> str:
    empty: dict[str, Any] = {plural: [] for plural, _ in FILTERS}
    return json.dumps(empty | {"published_from": None, "published_to": None} | fields)


class TestTheCallersFilter:
    def test_stands_and_open_fields_are_added(self) -> None:
        found = run("articles by Ada Winter", MetadataFilter(authors=("Ben Okafor",)))
        assert found.filter == MetadataFilter(authors=("Ben Okafor",), categories=("article",))

    def test_of_dates_is_one_field(self) -> None:
        start = datetime(2020, 1, 1, tzinfo=UTC)
        found = run("articles until 2019", MetadataFilter(published_from=start))
        assert (found.filter.published_from, found.filter.published_to) == (start, None)

    def test_of_documents_leaves_nothing_to_narrow(self) -> None:
        given = MetadataFilter(document_ids=("d1",))
        assert run("articles by Ada Winter", given) == SelfQuery(given, status=StageStatus.OFF)

    @given(
        authors=st.sets(st.sampled_from(sorted(KNOWN.author))),
        read=st.sets(st.sampled_from(sorted(KNOWN.author))),
    )
    def test_is_never_widened(self, authors: set[str], read: set[str]) -> None:
        result = merge_filters(MetadataFilter(authors=tuple(authors)), MetadataFilter(authors=tuple(read)))
        assert set(result.authors) == (authors or read)


class TestWithAModel:
    def test_its_filter_is_taken(self) -> None:
        model = ScriptedLanguageModel(
            [reply(authors=["Ada Winter"], published_from="2024-01-01", published_to="2024-06-30")]
        )
        found = run("Was schrieb Ada Anfang 2024?", model=model)
        assert found.status is StageStatus.OK
        assert found.filter.authors == ("Ada Winter",)
        assert found.filter.published_to == datetime(2024, 6, 30, 23, 59, 59, 999_000, tzinfo=UTC)
        assert found.reasons == (
            "authors = Ada Winter (read by the model)",
            "published 2024-01-01 to 2024-06-30 (read by the model)",
        )
        assert found.usage is not None
        assert found.usage.completion_tokens > 0

    def test_the_schema_offers_the_existing_values_and_nothing_else(self) -> None:
        model = ScriptedLanguageModel([reply()])
        run("anything", model=model)
        schema = model.calls[0].options.json_schema
        assert schema is not None
        assert schema["properties"]["authors"]["items"]["enum"] == sorted(KNOWN.author)
        assert schema["additionalProperties"] is False

    def test_no_match_is_no_filter(self) -> None:
        found = run("What is overlap?", model=ScriptedLanguageModel([reply()]))
        assert found.filter == MetadataFilter()
        assert found.reasons == ()

    def test_all_values_of_a_field_are_no_filter(self) -> None:
        found = run("What is overlap?", model=ScriptedLanguageModel([reply(languages=list(KNOWN.language))]))
        assert found.filter == MetadataFilter()

    @pytest.mark.parametrize(
        "answer",
        [
            "I think the author is Ada.",
            "[]",
            '{"authors": ["Ada Wint',
            reply(authors=["Nobody"]),
            reply(authors="Ada Winter"),
            reply(tenants=["x"]),
            reply(published_from="last year"),
            reply(published_from="2024-02-31"),
            reply(published_from="2025-01-01", published_to="2024-01-01"),
            Reply("", fail_after=0),
            Reply(reply(), seconds_per_piece=5),
        ],
        ids=[
            "prose",
            "a list",
            "cut",
            "invented",
            "no list",
            "unknown field",
            "no date",
            "no day",
            "reversed",
            "down",
            "slow",
        ],
    )
    def test_whatever_goes_wrong_the_rules_read_the_question_and_that_is_said(
        self, answer: Reply | str
    ) -> None:
        found = run("articles by Ada Winter", model=ScriptedLanguageModel([answer]), timeout_seconds=0.05)
        assert found.filter == MetadataFilter(authors=("Ada Winter",), categories=("article",))
        assert found.status is StageStatus.FAILED
        assert found.degradation == NOT_READ

    def test_values_that_the_question_names_are_offered_before_frequent_ones(self) -> None:
        counts = {f"Author {i}": 100 - i for i in range(50)} | {"Rare Person": 1}
        assert "Rare Person" in select_values("what does person rare say", counts, 5)
        assert len(select_values("x", counts, 5)) == 5

    def test_a_field_without_values_cannot_be_named(self) -> None:
        assert set(filter_schema({"authors": [], "categories": ["post"]})["properties"]) == {
            "categories",
            "published_from",
            "published_to",
        }


class TestKnownValues:
    def index(self) -> FakeVectorIndex:
        return filled_index(
            [make_chunk("One."), make_chunk("Two.", document="d2", author="Ben Okafor")], HashEmbedder()
        )

    def test_are_read_once_for_many_requests_and_again_when_they_are_old(self) -> None:
        now = 0.0
        values = FacetCache(self.index(), 5.0, lambda: now)

        async def many() -> list[Facets]:
            return await asyncio.gather(*(values.get() for _ in range(20)))

        first = asyncio.run(many())
        assert len({id(each) for each in first}) == 1
        assert first[0].author == {"Ada Winter": 1, "Ben Okafor": 1}
        now = 4.9
        assert asyncio.run(values.get()) is first[0]
        now = 5.0
        assert asyncio.run(values.get()) is not first[0]

    def test_are_read_afresh_on_demand(self) -> None:
        values = FacetCache(self.index(), 60.0)
        kept = asyncio.run(values.get())
        assert asyncio.run(values.get(fresh=True)) is not kept

    def test_reading_creates_no_index(self) -> None:
        index = FakeVectorIndex()
        with pytest.raises(StoreUnavailableError):
            asyncio.run(FacetCache(index).get())
        assert index.fingerprint is None
        assert index.commits == 0
