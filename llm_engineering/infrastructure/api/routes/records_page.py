"""Pages of records for people: fields to filter by with their counts beside the records that were found."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from starlette.datastructures import QueryParams

from llm_engineering.application.inference.records import FoundRecord, RecordSearch
from llm_engineering.application.ports import FacetValues, VectorIndex
from llm_engineering.domain.categories import CATALOGUE, CategorySpec
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.facets import Facet
from llm_engineering.domain.retrieval import MAX_QUESTION_CHARACTERS, Condition, MetadataFilter, Query
from llm_engineering.infrastructure.api.routes.page import HEADERS

SHOWN: Final = 12
MOST_VALUES: Final = 20
"""Values that are listed of a field; one with more has the most frequent ones."""
_HEADERS: Final = {
    **HEADERS,
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace(
        "form-action 'none'", "form-action 'self'"
    ),
}


@dataclass(frozen=True, slots=True)
class Choices:
    """A field as it stands beside the records."""

    facet: Facet
    values: FacetValues
    """Among the records that the other fields' choices leave."""
    chosen: tuple[str, ...]
    least: str
    greatest: str

    def list_values(self) -> list[tuple[str, int]]:
        """Return values with their counts: those that are chosen, and the most frequent."""
        counts = self.values.counts
        frequent = sorted(counts, key=lambda one: (-counts[one], one))[:MOST_VALUES]
        return [
            (one, counts.get(one, 0)) for one in [*(c for c in self.chosen if c not in frequent), *frequent]
        ]


def make_router(index: VectorIndex, records: RecordSearch) -> APIRouter:
    """Return a page for every kind of record."""
    routes = APIRouter(include_in_schema=False)
    for spec in CATALOGUE.values():
        if spec.is_record:
            _add_page(routes, index, records, spec)
    return routes


def _add_page(routes: APIRouter, index: VectorIndex, records: RecordSearch, spec: CategorySpec) -> None:
    @routes.get(f"/{spec.collection}", response_class=HTMLResponse)
    async def page(request: Request) -> HTMLResponse:
        asked = request.query_params
        question = asked.get("q", "").strip()[:MAX_QUESTION_CHARACTERS]
        like, problem = asked.get("like", "")[:100], ""
        found: Sequence[FoundRecord] = ()
        conditions: tuple[Condition, ...] = ()
        try:
            conditions = tuple(_read_conditions(spec, asked))
            if like:
                found = await asyncio.to_thread(records.find_similar, like, spec.name, SHOWN)
            elif question:
                query = Query.ask(question, k=SHOWN, filter=MetadataFilter(facets=conditions))
                found = (await records.search(query, spec.name, summarise=False)).records
        except (InvalidInputError, ValueError) as error:
            problem = str(error) if isinstance(error, InvalidInputError) else _shorten(error)
        choices = await asyncio.to_thread(_read_choices, index, spec, conditions, asked)
        text = _load_template().render(
            spec=spec,
            question=question,
            like=like,
            found=found,
            choices=choices,
            problem=problem,
            asked=bool(question or like),
        )
        return HTMLResponse(text, status_code=422 if problem else 200, headers=_HEADERS)


def _read_conditions(spec: CategorySpec, asked: QueryParams) -> Iterator[Condition]:
    """What the form narrows to. Raises ValueError for what is no value of a field."""
    for facet in spec.facets:
        if not facet.ordered:
            if chosen := tuple(filter(None, asked.getlist(facet.name))):
                yield Condition(field=facet.name, any_of=tuple(map(facet.read_key, chosen)))
            continue
        ends = {
            end: facet.read_end(given)
            for end in ("gte", "lte")
            if (given := asked.get(f"{facet.name}.{end}", "").strip())
        }
        if ends:
            yield Condition.model_validate({"field": facet.name, **ends})


def _read_choices(
    index: VectorIndex, spec: CategorySpec, conditions: Sequence[Condition], asked: QueryParams
) -> list[Choices]:
    choices = []
    for facet in spec.facets:
        # Without its own choice: else what was not chosen would be gone, and could not be added.
        others = tuple(one for one in conditions if one.field != facet.name)
        values = index.read_facet(facet.name, MetadataFilter(categories=(spec.name,), facets=others))
        ends = [asked.get(f"{facet.name}.{end}", "").strip() for end in ("gte", "lte")]
        chosen = () if facet.ordered else tuple(filter(None, asked.getlist(facet.name)))
        if not values.empty or chosen or any(ends):
            choices.append(Choices(facet, values, chosen, *ends))
    return choices


def _shorten(error: ValueError) -> str:
    return str(error).partition("\n")[0][:200]


@cache
def _load_template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
    )
    return environment.get_template("records.html.j2")
