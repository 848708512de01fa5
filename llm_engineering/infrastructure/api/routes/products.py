"""Summaries of products' reviews, as they were made and kept. No model and no index is asked, so both may be down."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from llm_engineering.application.ports import SummaryStore
from llm_engineering.domain.reviews import ALL_LANGUAGES, derive_summary_id
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.routes.rag import error_responses
from llm_engineering.infrastructure.api.schemas.products import KeyPointsReply, SummaryReply, describe_summary

CACHE: Final = "private, max-age=60"
"""A retracted text may stay in a browser for so long; where keys are needed, no proxy may keep it for others."""
_UNCHANGED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "The version named in `If-None-Match` is still the newest."}
}

ProductId = Annotated[str, Path(max_length=500, description="The product, as the reviews name it.")]
Language = Annotated[
    str, Query(pattern="^(all|[a-z]{2})$", description="Of the reviews: ISO 639-1, or `all` of them.")
]


def make_router(summaries: SummaryStore) -> APIRouter:
    """Return the routes over a store of summaries."""
    routes = APIRouter(tags=["products"])

    @routes.get(
        "/products/{product}/summary",
        response_model=SummaryReply,
        responses=error_responses(404, 422) | _UNCHANGED,
    )
    def summary(request: Request, product: ProductId, language: Language = ALL_LANGUAGES) -> Response:
        """Return what customers say of a product, with the places in the reviews and how many say so.

        404: nothing is known of the product. A product with too few reviews is known: `status` is `too_few`.
        """
        found = _find(summaries, product, language)
        return _answer(request, found.version, found)

    @routes.get(
        "/products/{product}/key-points",
        response_model=KeyPointsReply,
        responses=error_responses(404, 422) | _UNCHANGED,
    )
    def key_points(request: Request, product: ProductId, language: Language = ALL_LANGUAGES) -> Response:
        """Return the points alone, praise before complaints, each with the number of reviewers who make it."""
        found = _find(summaries, product, language)
        reply = KeyPointsReply(
            product=found.product,
            language=found.language,
            status=found.status,
            version=found.version,
            reviewers=found.distribution.reviewers,
            key_points=found.key_points,
        )
        return _answer(request, found.version, reply)

    return routes


def _find(summaries: SummaryStore, product: str, language: str) -> SummaryReply:
    found = summaries.get([derive_summary_id(product, language)])
    if found:
        return describe_summary(found[0].served)
    raise ProblemError(
        Problem(404, "unknown_product", "No reviews of this product were summarised in this language.")
    )


def _answer(request: Request, version: str, reply: BaseModel) -> Response:
    # Weak: the moment of making is in the reply and not in the version.
    headers = {"ETag": f'W/"{version}"', "Cache-Control": CACHE}
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if known & {"*", f'"{version}"'}:
        return Response(status_code=304, headers=headers)
    return Response(reply.model_dump_json(), media_type="application/json", headers=headers)
