"""The API's schemas: one filter behind every route, strict JSON, bounds, and errors that tell no more than they should."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import (
    InvalidInputError,
    StoreUnavailableError,
    TwinError,
    UnknownFilterValueError,
)
from llm_engineering.domain.retrieval import (
    Answer,
    Citation,
    MetadataFilter,
    Passage,
    Query,
    RrfFusion,
    SearchMode,
    WeightedFusion,
)
from llm_engineering.infrastructure.api.app import create_app
from llm_engineering.infrastructure.api.errors import Problem, describe, describe_invalid, error_body
from llm_engineering.infrastructure.api.openai_chat import sources_text, without_sources
from llm_engineering.infrastructure.api.schemas.openai import REFUSED, ChatBody, TwinOptions
from llm_engineering.infrastructure.api.schemas.rag import (
    Filter,
    RagBody,
    Request,
    Rrf,
    SearchBody,
    SearchOptions,
    Weighted,
)
from llm_engineering.infrastructure.api.streaming import error_event, format_event
from tests.durations import allow
from tests.fakes.service import TwinService

DEFAULTS = RetrievalConfig(k=7, mode=SearchMode.DENSE, fusion=WeightedFusion(alpha=0.25))
ROUTES = ("/search", "/rag", "/rag/stream", "/v1/chat/completions")
"""Those that search, and so take how."""
WRITING = ("/write", "/write/stream")
RECORDS = (
    "/exchanges/search",
    "/interactions/search",
    "/movies/search",
    "/questions/search",
    "/reviews/search",
    "/tickets/search",
)
OTHERS = (
    *WRITING,
    *RECORDS,
    "/feedback",
    "/analyses/{task}",
    "/predict",
    "/invocations",
    "/vertex/predict",
)


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return create_app(TwinService().parts).openapi()


def resolved(schema: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    """A schema with its reference followed, and without the null of an optional field."""
    for choice in schema.get("anyOf", ()):
        if choice != {"type": "null"}:
            return resolved(choice, description)
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/components/schemas/")
    found: dict[str, Any] = description["components"]["schemas"][name]
    return resolved(found, description)


def body_of(path: str, description: dict[str, Any]) -> dict[str, Any]:
    content = description["paths"][path]["post"]["requestBody"]["content"]
    assert list(content) == ["application/json"]
    return resolved(content["application/json"]["schema"], description)


def search_options(path: str, description: dict[str, Any]) -> dict[str, Any]:
    """Where a route takes how to search: its body, or the field ``twin`` of OpenAI's."""
    body = body_of(path, description)
    return resolved(body["properties"]["twin"], description) if path.startswith("/v1") else body


class TestParity:
    """What one route understands of a search, all do."""

    @pytest.mark.parametrize("path", ROUTES)
    def test_every_route_takes_the_same_filter_and_options(
        self, path: str, description: dict[str, Any]
    ) -> None:
        first, other = search_options(ROUTES[0], description), search_options(path, description)
        for option in SearchOptions.model_fields:
            assert other["properties"][option] == first["properties"][option], f"{path} differs in '{option}'"

    @pytest.mark.parametrize("path", [*ROUTES, *WRITING])
    def test_the_filter_is_the_domains(self, path: str, description: dict[str, Any]) -> None:
        taken = resolved(search_options(path, description)["properties"]["filter"], description)
        assert set(taken["properties"]) == set(MetadataFilter.model_fields)
        assert taken["additionalProperties"] is False

    def test_no_other_field_of_a_request_is_called_filter(self, description: dict[str, Any]) -> None:
        schemas = description["components"]["schemas"]
        asked = [
            name
            for name in schemas
            if name.endswith("-Input") and "filter" in schemas[name].get("properties", {})
        ]
        references = {json.dumps(schemas[name]["properties"]["filter"]["anyOf"][0]) for name in asked}
        assert references == {'{"$ref": "#/components/schemas/Filter-Input"}'}

    @pytest.mark.parametrize(
        ("ours", "domains"), [(Filter, MetadataFilter), (Rrf, RrfFusion), (Weighted, WeightedFusion)]
    )
    def test_our_bounds_are_on_the_domains_own_fields(
        self, ours: type[BaseModel], domains: type[BaseModel]
    ) -> None:
        assert set(ours.model_fields) == set(domains.model_fields)

    def test_every_route_that_takes_a_body_is_among_the_checked_ones(
        self, description: dict[str, Any]
    ) -> None:
        posts = {path for path, methods in description["paths"].items() if "post" in methods}
        assert posts == {*ROUTES, *OTHERS, "/documents"}, "/documents takes a file"

    def test_all_references_of_the_description_lead_somewhere(self, description: dict[str, Any]) -> None:
        def references(node: object) -> Iterator[str]:
            if isinstance(node, dict):
                if isinstance(node.get("$ref"), str):
                    yield node["$ref"]
                for value in node.values():
                    yield from references(value)
            elif isinstance(node, list):
                for value in node:
                    yield from references(value)

        present = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
        assert set(references(description)) <= present


def bounded(schema: dict[str, Any], description: dict[str, Any], where: str) -> Iterator[str]:
    """The places of a request that anything of any size fits into."""
    if "$ref" in schema:
        schema = resolved(schema, description)
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from bounded(choice, description, where)
    kind = schema.get("type")
    if kind == "string" and not ({"maxLength", "enum", "const", "format", "pattern"} & set(schema)):
        yield where
    if kind in ("integer", "number") and not (
        {"enum", "const"} & set(schema) or {"minimum", "maximum"} <= set(schema)
    ):
        yield where
    if kind == "array":
        if "maxItems" not in schema:
            yield where
        yield from bounded(schema.get("items", {}), description, f"{where}[]")
    if kind == "object":
        if schema.get("additionalProperties") is not False and "maxProperties" not in schema:
            yield where
        for name, inner in schema.get("properties", {}).items():
            yield from bounded(inner, description, f"{where}.{name}")


@pytest.mark.parametrize("path", [*ROUTES, *OTHERS])
def test_everything_in_a_request_has_a_bound(path: str, description: dict[str, Any]) -> None:
    assert list(bounded(body_of(path, description), description, path)) == []


class TestSearchOptions:
    def test_what_is_left_out_is_as_configured(self) -> None:
        query = SearchOptions().to_query("Why?", DEFAULTS)
        assert query == Query(text="Why?", k=7, mode=SearchMode.DENSE, fusion=WeightedFusion(alpha=0.25))

    def test_what_is_given_counts(self) -> None:
        options = SearchOptions(
            k=3, mode=SearchMode.SPARSE, fusion=Rrf(kind="rrf", k=9), filter=Filter(authors=("Ada",))
        )
        assert options.to_query("Why?", DEFAULTS) == Query(
            text="Why?",
            k=3,
            mode=SearchMode.SPARSE,
            fusion=RrfFusion(k=9),
            filter=MetadataFilter(authors=("Ada",)),
        )

    def test_a_date_alone_counts_whole(self) -> None:
        chosen = Filter.model_validate(
            {"published_from": "2026-02-28", "published_to": "2026-02-28"}
        ).to_domain()
        assert chosen.published_from == datetime(2026, 2, 28, tzinfo=UTC)
        assert chosen.published_to == datetime(2026, 2, 28, 23, 59, 59, 999_000, tzinfo=UTC)

    @given(
        st.text(max_size=45)
        | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.+Zz-]{0,20}", fullmatch=True)
    )
    def test_any_text_is_a_moment_or_an_error_of_the_field(self, text: str) -> None:
        with suppress(ValidationError):
            Filter.model_validate({"published_from": text, "published_to": text})

    @pytest.mark.parametrize("value", [" ", "", "\t", "\x1c", "\u2003"])
    def test_a_blank_value_is_refused_rather_than_dropped(self, value: str) -> None:
        with pytest.raises(ValidationError):
            Filter.model_validate({"authors": [value]})


class TestStrictJson:
    @pytest.mark.parametrize(
        "text",
        [
            '{"query": "x", "k": "5"}',
            '{"query": "x", "k": 5.0}',
            '{"query": "x", "k": true}',
            '{"query": 5}',
            '{"query": "x", "temperature": NaN}',
            '{"query": "x", "temperature": 1e400}',
            '{"query": "x", "seed": -1}',
            '{"query": "x", "seed": 4294967296}',
            '{"query": "\\ud83d"}',
            '{"query": "x", "history": [{"role": "system", "content": "x"}]}',
            '{"query": "x", "history": {}}',
            '{"query": "x", "unknown": null}',
        ],
    )
    def test_what_only_looks_right_is_refused(self, text: str) -> None:
        with pytest.raises(ValidationError):
            RagBody.model_validate_json(text, strict=True)

    def test_every_request_forbids_what_it_does_not_know(self) -> None:
        def subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
            for inner in model.__subclasses__():
                yield inner
                yield from subclasses(inner)

        models = list(subclasses(Request))
        assert TwinOptions in models
        assert ChatBody in models
        assert all(model.model_config["extra"] == "forbid" for model in models)

    def test_refused_parameters_are_fields_that_may_be_left_out(self) -> None:
        assert all(not ChatBody.model_fields[name].is_required() for name in REFUSED)

    @given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
    def test_any_bytes_are_a_request_or_an_error_without_what_came(self, content: bytes) -> None:
        for model in (SearchBody, RagBody, ChatBody):
            refused = refusal(model, content)
            assert refused is None or (refused.status == 422 and refused.message.encode())


def refusal(model: type[BaseModel], content: bytes) -> Problem | None:
    """What is told of a body that breaks the schema; None for one that keeps to it."""
    try:
        model.model_validate_json(content, strict=True)
    except ValidationError as error:
        return describe_invalid(error)
    return None


class TestSourcesInText:
    @given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), min_size=1, max_size=5), st.text())
    def test_the_list_of_sources_is_not_taken_for_what_was_said(
        self, named: list[tuple[str, str]], said: str
    ) -> None:
        citations = tuple(
            Citation(number=number, passage=passage(title, link or "x"))
            for number, (title, link) in enumerate(named, start=1)
        )
        answer = Answer(question="?", text=said, citations=citations, cited=(1,))
        assert without_sources(said + sources_text(answer)) == without_sources(said)

    def test_an_earlier_answer_made_of_blanks_costs_little_time(self) -> None:
        began = time.process_time()
        for text in (
            "\n\nSources:\n[1] " + " " * 16_000 + "\nx",
            "\n\nSources:" * 1_000,
            "\n\nSources:\n[1] x" + "\n" * 16_000 + "x",
        ):
            assert without_sources(text) == text
        assert time.process_time() - began < 1

    def test_only_cited_sources_are_listed(self) -> None:
        citations = tuple(
            Citation(number=n, passage=passage(f"Title {n}", f"https://x/{n}")) for n in (1, 2, 3)
        )
        answer = Answer(question="?", text="A. [3] B. [1]", citations=citations, cited=(3, 1))
        assert sources_text(answer) == "\n\nSources:\n[1] Title 1 — https://x/1\n[3] Title 3 — https://x/3"
        assert sources_text(answer.model_copy(update={"cited": ()})) == ""


def passage(title: str, link: str) -> Passage:
    return Passage(
        document_id="d",
        span=Span(start=0, end=1),
        text="x",
        title=title,
        link=link,
        author="Ada",
        platform="x",
        score=1,
    )


class TestErrors:
    def test_fields_are_named_as_the_caller_writes_them(self) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}
        with pytest.raises(ValidationError) as caught:
            ChatBody.model_validate_json(json.dumps(body), strict=True)
        assert describe_invalid(caught.value).param == "messages[0].content[0].text"

    def test_what_came_is_not_repeated(self) -> None:
        with pytest.raises(ValidationError) as caught:
            SearchBody.model_validate_json('{"query": "x", "mode": "my secret"}', strict=True)
        assert "my secret" not in describe_invalid(caught.value).message

    def test_a_long_name_and_many_mistakes_are_cut(self) -> None:
        body = {"query": "x", "k" * 100_000: 1} | {f"unknown_{number}": 1 for number in range(50)}
        with pytest.raises(ValidationError) as caught:
            SearchBody.model_validate_json(json.dumps(body), strict=True)
        message = describe_invalid(caught.value).message
        assert len(message) <= 1_000
        assert message.endswith("and 46 more")

    @pytest.mark.parametrize(
        "mistakes",
        [
            {f"u{number}": 1 for number in range(25_000)},
            {"history": [{}] * 60_000},
            {"filter": {"authors": [1] * 80_000}},
        ],
        ids=["fields", "turns", "values"],
    )
    def test_many_mistakes_cost_little_time(self, mistakes: dict[str, object]) -> None:
        """A body of the size that is allowed, with as many mistakes as fit: the loop must not stand still for it."""
        body = json.dumps({"query": "x"} | mistakes)
        began = time.thread_time()  # what other tests have left running does not count
        assert refusal(RagBody, body.encode())
        assert time.thread_time() - began < allow(0.5)

    @pytest.mark.parametrize(
        "inner",
        [
            "There is no index in /srv/data/indexes/twin yet. Build it with: poe run-feature-engineering-pipeline",
            "The data warehouse at mongodb://db.internal:27017 is silent. Start it with: poe local-infrastructure-up",
        ],
    )
    def test_of_an_inner_failure_only_the_task_that_mends_it_is_told(self, inner: str) -> None:
        told = describe(StoreUnavailableError(inner))
        assert told.status == 503
        assert told.retry_after
        assert f"poe {inner.partition('poe ')[2]}" in told.message
        assert "/srv" not in told.message
        assert "internal" not in told.message

    def test_a_callers_mistake_keeps_its_words_but_no_place(self) -> None:
        told = describe(
            InvalidInputError(
                "Too long for m: see https://10.0.0.1:8000/v1/x?key=1 and /etc/models/a.gguf, 5/6"
            )
        )
        assert told.status == 422
        assert "10.0.0.1" not in told.message
        assert "/etc" not in told.message
        assert "5/6" in told.message
        assert (
            describe(UnknownFilterValueError("There is no author 'A/B'.")).message
            == "There is no author 'A/B'."
        )

    @pytest.mark.parametrize("error", [TwinError("secret"), RuntimeError("secret"), KeyError("secret")])
    def test_everything_else_tells_nothing(self, error: Exception) -> None:
        told = describe(error)
        assert (told.status, told.code) == (500, "internal")
        assert "secret" not in told.message

    def test_shapes_differ_by_side_of_the_api(self) -> None:
        assert error_body("/rag", "c", "m", "r1", 503) == {
            "error": {"code": "c", "message": "m", "request_id": "r1"}
        }
        assert error_body("/v1/models", "c", "m", "r1", 503, "p") == {
            "error": {"message": "m", "type": "server_error", "param": "p", "code": "c"}
        }

    def test_events_of_a_stream_end_with_an_empty_line(self) -> None:
        assert format_event("delta", '{"text":"ä"}') == 'event: delta\ndata: {"text":"ä"}\n\n'.encode()
        assert error_event("/rag/stream", "c", "a\nb", "r1").startswith(b'event: error\ndata: {"error"')
        assert error_event("/rag/stream", "c", "a\nb", "r1").count(b"\n") == 3
        assert error_event("/v1/chat/completions", "c", "m", "r1").startswith(b'data: {"error"')
