"""Self-query: a caller's filter, narrowed by what the question says, read by rules or by a model."""

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
        found = run("What did Ada Winter post on LinkedIn?", MetadataFilter(authors=("Ben Okafor",)))
        assert found.filter == MetadataFilter(authors=("Ben Okafor",), platforms=("linkedin",))

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
        assert found.filter == MetadataFilter(authors=("Ada Winter",))
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
