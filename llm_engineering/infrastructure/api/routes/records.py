"""Search among records of each kind: ``POST /movies/search``, ``GET /movies/{id}/similar``."""

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from llm_engineering.application.inference.records import RecordSearch
from llm_engineering.application.inference.response_cache import ResponseCache
from llm_engineering.domain.categories import CATALOGUE, CategorySpec
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.parts import ServiceParts
from llm_engineering.infrastructure.api.routes.rag import (
    WITH_BODY,
    error_responses,
    list_facets,
    mark_degraded,
)
from llm_engineering.infrastructure.api.schemas.records import (
    MAX_RECORDS,
    RecordOut,
    RecordSearchBody,
    RecordsFoundOut,
    describe_found,
)
from llm_engineering.infrastructure.api.streaming import unless_client_leaves

BODIES = (RecordSearchBody,)
CACHE: Final = "X-Twin-Cache"


def make_router(parts: ServiceParts, records: RecordSearch) -> APIRouter:
    """Return the routes of every kind of record."""
    routes = APIRouter(tags=["records"])
    cache = ResponseCache[RecordsFoundOut](parts.cached_responses)
    for spec in CATALOGUE.values():
        if spec.is_record:
            _add_search(routes, parts, records, cache, spec)
            _add_similar(routes, records, spec)
    return routes


def _add_search(
    routes: APIRouter,
    parts: ServiceParts,
    records: RecordSearch,
    cache: ResponseCache[RecordsFoundOut],
    spec: CategorySpec,
) -> None:
    @routes.post(
        f"/{spec.collection}/search",
        operation_id=f"search_{spec.collection}",
        summary=f"Find {spec.collection}",
        responses=WITH_BODY,
        openapi_extra=describe_body(RecordSearchBody, {"query": "a good story", "top_k": 3}),
    )
    async def search(
        request: Request,
        response: Response,
        body: Annotated[RecordSearchBody, Depends(json_body(RecordSearchBody))],
    ) -> RecordsFoundOut:
        """Find whole records, with a summary whose every sentence is held against them. The same request again, on an index that
        has not changed, is answered from memory (`X-Twin-Cache: hit`)."""
        request_text = f"{spec.collection} {body.model_dump_json()}"
        state = await asyncio.to_thread(parts.index.read_state)
        if (kept := cache.find(request_text, state)) is not None:
            response.headers[CACHE] = "hit"
            return kept
        query = body.to_query()
        work = records.search(query, spec.name, min_score=body.min_score, summarise=body.summary)
        found = await unless_client_leaves(request, work)
        facets = None
        if body.facets:
            # As the search spelled the values; what was read from the question besides narrows no counts.
            facets = await asyncio.to_thread(list_facets, parts.index, found.filter)
        response.headers.update({CACHE: "miss", **mark_degraded(found.provenance)})
        made = RecordsFoundOut.model_validate(describe_found(found, spec.collection, facets))
        if not found.provenance.degraded:
            cache.keep(request_text, state, made)
        return made


def _add_similar(routes: APIRouter, records: RecordSearch, spec: CategorySpec) -> None:
    @routes.get(
        f"/{spec.collection}/{{record_id}}/similar",
        operation_id=f"similar_{spec.collection}",
        summary=f"Find {spec.collection} that are like one",
        responses=error_responses(404, 422),
    )
    async def similar(
        record_id: Annotated[str, Path(max_length=100, pattern=r"^[\w-]+$")],
        k: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = 5,
    ) -> list[RecordOut]:
        """Find records that are like one, by its vectors. No language model is asked; only what the cache lacks is embedded."""
        try:
            found: Any = await asyncio.to_thread(records.find_similar, record_id, spec.name, k)
        except InvalidInputError as error:
            raise ProblemError(Problem(404, "unknown_record", str(error))) from None
        return [RecordOut.from_found(one) for one in found]
