"""Typed fields of records: what a value is, what a condition accepts, and what a question asks of them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from llm_engineering.application.inference.facet_reading import read_conditions
from llm_engineering.application.inference.scope import read_scope
from llm_engineering.application.inference.search import Facets, sort_hits, spell_filter
from llm_engineering.application.ports import FacetValues
from llm_engineering.domain.categories import CategorySpec, collect_facets
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, UnknownFilterValueError
from llm_engineering.domain.facets import Facet, FacetKind
from llm_engineering.domain.retrieval import Condition, Hit, MetadataFilter, Sort
from tests.conformance.index_contract import chunk
from tools.search_options import read_condition, read_sort

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KNOWN = {
    "genre": FacetValues(FacetKind.KEYWORD, {"crime": 9, "drama": 7, "science fiction": 3}),
    "director": FacetValues(FacetKind.KEYWORD, {"Mira Lund": 2, "War": 1}),
    "year": FacetValues(FacetKind.INTEGER, {"1994": 2}, least=1931, greatest=2024),
    "rating": FacetValues(FacetKind.FLOAT, least=1, greatest=9.5),
}
MOVIES = {"movie": 20, "article": 3}


@pytest.mark.parametrize(
    ("facet", "cell", "value"),
    [
        (Facet(name="a"), " New  York ", "New York"),
        (Facet(name="a"), 7.0, "7"),
        (Facet(name="a", many=True), "crime| Film noir |crime", ("crime", "Film noir")),
        (Facet(name="a", many=True), ["x", "y, z"], ("x", "y, z")),
        (Facet(name="a", kind=FacetKind.INTEGER), "1994", 1994),
        (Facet(name="a", kind=FacetKind.INTEGER), 1994.0, 1994),
        (Facet(name="a", kind=FacetKind.FLOAT), "7.5", 7.5),
        (Facet(name="a", kind=FacetKind.BOOL), "Yes", True),
        (Facet(name="a", kind=FacetKind.BOOL), 0, False),
        (Facet(name="a", kind=FacetKind.DATETIME), "2026-01-31", "2026-01-31T00:00:00+00:00"),
        (Facet(name="a", kind=FacetKind.DATETIME), "2026-01-31T01:00:00+02:00", "2026-01-30T23:00:00+00:00"),
    ],
)
def test_cells_become_values_of_the_facets_kind(facet: Facet, cell: Any, value: Any) -> None:
    assert facet.read(cell) == value
    assert facet.read(facet.read(cell)) == value  # what is stored reads as itself


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        (FacetKind.INTEGER, "long ago"),
        (FacetKind.INTEGER, "7.5"),
        (FacetKind.INTEGER, 2**60),
        (FacetKind.FLOAT, "nan"),
        (FacetKind.FLOAT, True),
        (FacetKind.BOOL, "perhaps"),
        (FacetKind.DATETIME, "yesterday"),
        (FacetKind.KEYWORD, {"a": 1}),
    ],
)
def test_what_is_of_another_kind_is_refused_with_the_value(kind: FacetKind, cell: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        Facet(name="a", kind=kind).read(cell)
    assert Facet(name="a", kind=kind).list_keys(cell) == ()


def test_a_name_means_one_thing_in_all_categories() -> None:
    one = CategorySpec(name="one", description="", facets=(Facet(name="size"),))
    two = CategorySpec(name="two", description="", facets=(Facet(name="size", kind=FacetKind.FLOAT),))
    with pytest.raises(ConfigurationError, match="size"):
        collect_facets([one, two])


@pytest.mark.parametrize(
    "given",
    [
        {"field": "colour", "any_of": ["red"]},
        {"field": "genre"},
        {"field": "genre", "gte": 3},
        {"field": "year", "any_of": ["soon"]},
        {"field": "year", "gte": 2000, "lte": 1990},
        {"field": "rating", "any_of": [7]},
        {"field": "updated_at", "gte": "soon"},
    ],
)
def test_conditions_that_cannot_be_met_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Condition.model_validate(given)


def test_an_unknown_facet_lists_those_that_exist() -> None:
    with pytest.raises(ValidationError, match="director, genre, helpful"):
        Condition(field="colour", any_of=("red",))


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("crime movies of the 90s rated above 7", "genre = crime; year from 1990 to 1999; rating from 7"),
        ("Which crime and drama films are there?", "genre = crime or drama"),
        ("science fiction films by Mira Lund", "genre = science fiction; director = Mira Lund"),
        ("movies from 1994", "year from 1994 to 1994"),
        ("movies before 1950 with a rating of at most 5,5", "year to 1949; rating to 5.5"),
        ("Filme aus den 80ern", "year from 1980 to 1989"),
        ("movies, but no crime movies", ""),
        ("a movie about crime", ""),
        ("a movie about a war", ""),
        ("What does the author say about crime?", ""),
        ("articles of the 90s", ""),
    ],
)
def test_a_question_is_read_where_it_names_a_kind_of_record(question: str, expected: str) -> None:
    read = read_conditions(question, MOVIES, KNOWN, NOW)
    order = {name: place for place, name in enumerate(KNOWN)}
    order = {"genre": 0, "year": 1, "rating": 2, "director": 3} | {}
    found = sorted(read.conditions, key=lambda condition: order[condition.field])
    assert "; ".join(map(str, found)) == expected
    assert len(read.reasons) == len(read.conditions) == len(read.spans)


def test_the_years_of_films_are_no_dates_of_publication() -> None:
    scope = read_scope("list movies from 1994", Facets(category=MOVIES, records=KNOWN), NOW, documents=True)
    assert scope.filter.published_from is None
    assert scope.filter.facets == (Condition(field="year", gte=1994, lte=1994),)
    assert scope.filter.categories == ("movie",)


def test_values_are_spelled_as_they_are_stored() -> None:
    known = Facets(records=KNOWN)
    wanted = MetadataFilter(facets=(Condition(field="genre", any_of=("CRIME",)),))
    assert spell_filter(wanted, known).facets[0].any_of == ("crime",)
    with pytest.raises(UnknownFilterValueError, match="crime"):
        spell_filter(MetadataFilter(facets=(Condition(field="genre", any_of=("crimes",)),)), known)
    with pytest.raises(UnknownFilterValueError, match="genre"):
        spell_filter(MetadataFilter(facets=(Condition(field="course", any_of=("a",)),)), known)


def test_hits_are_sorted_by_a_facet_and_those_without_it_come_last() -> None:
    years: list[Any] = [1994, None, 1950, "long ago", 2001]
    hits = [
        Hit(chunk=chunk(f"d{n}", metadata={} if year is None else {"year": year}), score=1.0 - n / 10)
        for n, year in enumerate(years)
    ]
    names = [hit.chunk.document_id for hit in sort_hits(hits, Sort(field="year", descending=True))]
    assert names == ["d4", "d0", "d2", "d1", "d3"]
    assert sort_hits(hits, None) == hits
    with pytest.raises(ValidationError):
        Sort(field="genre")


def test_conditions_of_the_command_line() -> None:
    assert read_condition("genre=crime, drama") == Condition(field="genre", any_of=("crime", "drama"))
    assert read_condition("year=1990..1999") == Condition(field="year", gte=1990, lte=1999)
    assert read_condition("rating>=7") == Condition(field="rating", gte=7)
    assert read_sort("-rating") == Sort(field="rating", descending=True)
    for wrong in ("genre", "colour=red", "year=soon", "genre>=3"):
        with pytest.raises(InvalidInputError):
            read_condition(wrong)
