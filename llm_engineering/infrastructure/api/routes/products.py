"""Summaries of products' reviews, as they were made and kept. No model and no index is asked, so both may be down."""

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, NamedTuple

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from pydantic import BaseModel

from llm_engineering.application.ports import CleanStore, FeedbackStore, SummaryStore
from llm_engineering.domain.documents import text_hash
from llm_engineering.domain.hints import POE
from llm_engineering.domain.inference import Feedback, Subject
from llm_engineering.domain.reviews import (
    ALL_LANGUAGES,
    CHALLENGER,
    CHAMPION,
    VOTE_TASK,
    choose_served,
    derive_summary_id,
)
from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.routes.page import HEADERS
from llm_engineering.infrastructure.api.routes.rag import WITH_BODY, describe_errors, error_responses
from llm_engineering.infrastructure.api.schemas.products import (
    KeyPointsReply,
    ProductLine,
    ProductsReply,
    SummaryReply,
    SummaryVoteBody,
    SummaryVoteKept,
    describe_product,
    describe_summary,
)

BODIES: Final = (SummaryVoteBody,)
CACHE: Final = "private, max-age=60"
"""A retracted text may stay in a browser for so long; where keys are needed, no proxy may keep it for others."""
_UNCHANGED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "The version named in `If-None-Match` is still the newest."}
}

ProductId = Annotated[str, Path(max_length=500, description="The product, as the reviews name it.")]
Language = Annotated[
    str, Query(pattern="^(all|[a-z]{2})$", description="Of the reviews: ISO 639-1, or `all` of them.")
]


_PAGE: Final = {"text/html": {"schema": {"type": "string"}}}
_TABLE: Final = {"text/csv": {"schema": {"type": "string"}}}
QUOTES: Final = 5
"""Reviews that the page shows behind a point."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is run by spreadsheets."""


def make_router(
    summaries: SummaryStore, reviews: CleanStore | None = None, votes: FeedbackStore | None = None
) -> APIRouter:
    """Return the routes over a store of summaries.

    Args:
        reviews: what the page shows behind a point; None: the quotes alone.
        votes: where it is kept whether a summary helped; None: nobody is asked.
    """
    routes = APIRouter(tags=["products"])

    @routes.get(
        "/products",
        response_model=ProductsReply,
        responses=error_responses(422) | {200: {"model": ProductsReply, "content": _PAGE | _TABLE}},
    )
    def products(
        request: Request,
        category: Annotated[str | None, Query(max_length=500, description="Of the product.")] = None,
    ) -> Response | ProductsReply:
        """List the products with what most reviewers praise and complain of: JSON, CSV, or a page for a browser."""
        found = [
            describe_product(one.served)
            for one in summaries.stream()
            if (one.newest.language, one.newest.variant) == (ALL_LANGUAGES, CHAMPION)
            and category in (None, one.newest.product_category)
        ]
        found.sort(key=lambda one: (one.product.casefold(), one.product))
        accepted = request.headers.get("accept", "")
        if "text/html" in accepted:
            return _render(root="./", summary=None, products=found)
        if "text/csv" in accepted:
            return Response(_write_csv(found), media_type="text/csv; charset=utf-8")
        return ProductsReply(products=tuple(found))

    @routes.get(
        "/products/{product}",
        response_class=HTMLResponse,
        responses=describe_errors(404, 422) | {200: {"description": "The page.", "content": _PAGE}},
    )
    def page(product: ProductId, language: Language = ALL_LANGUAGES) -> HTMLResponse:
        """Return a page for people: the summary, its points with the reviews behind them, and the stars."""
        found = _find(summaries, product, language)
        kept = summaries.list_of_product(product)
        languages = {one.newest.language for one in kept if one.newest.variant == CHAMPION}
        return _render(
            root="../",
            summary=found,
            languages=sorted(languages, key=lambda one: (one != ALL_LANGUAGES, one)),
            quotes=_quote(found, reviews),
            votes=votes is not None,
        )

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

    @routes.post(
        "/products/{product}/summary/feedback",
        status_code=201,
        responses=WITH_BODY | error_responses(404),
        openapi_extra=describe_body(
            SummaryVoteBody, {"version": "0123456789abcdef", "rating": "up", "voter": "a1b2c3"}
        ),
    )
    def vote(
        request: Request,
        product: ProductId,
        body: Annotated[SummaryVoteBody, Depends(json_body(SummaryVoteBody))],
    ) -> SummaryVoteKept:
        """Say whether a summary helped. A second vote of a voter on the same version replaces the first.

        404: this version is of no summary of the product that is served, or was before it.
        """
        if votes is None:
            raise ProblemError(
                Problem(503, "feedback_off", "This service takes no votes: it has no database.")
            )
        for stored in summaries.list_of_product(product):
            shown = [one for one in (stored.current, stored.previous) if one is not None]
            served = stored.newest.variant in (CHAMPION, CHALLENGER)
            if served and body.version in {one.version for one in shown}:
                break
        else:
            raise ProblemError(
                Problem(404, "unknown_version", "This version is not served any more. Load the summary anew.")
            )
        key = getattr(request.state, "key_name", None) or ""
        votes.vote(
            Feedback(
                subject=Subject(kind="summary", id=body.version),
                rating=body.rating,
                task=VOTE_TASK,
                document_ids=(stored.id,),
                voter=text_hash(f"{key}:{body.voter}")[:16],
                created_at=datetime.now(UTC),
            )
        )
        return SummaryVoteKept(version=body.version, rating=body.rating)

    return routes


class _Quote(NamedTuple):
    """A quote within its review."""

    before: str
    marked: str
    after: str
    language: str


def _quote(summary: SummaryReply, reviews: CleanStore | None) -> Mapping[str, list[_Quote]]:
    """The first reviews behind each point. One that has changed since shows its quote alone."""
    shown = {point.id: point.evidence[:QUOTES] for point in summary.key_points}
    ids = sorted({one.document_id for some in shown.values() for one in some})
    texts = {one.id: one for one in reviews.get(ids)} if reviews is not None and ids else {}
    quotes: dict[str, list[_Quote]] = {}
    for point, some in shown.items():
        quotes[point] = []
        for one in some:
            review, start, end = texts.get(one.document_id), one.span.start, one.span.end
            if review is not None and review.text[start:end] == one.quote:
                whole = _Quote(review.text[:start], one.quote, review.text[end:], review.language)
                quotes[point].append(whole)
            else:
                quotes[point].append(_Quote("", one.quote, "", ""))
    return quotes


@cache
def _load_template() -> Template:
    folder = FilePath(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, auto_reload=False
    )
    return environment.get_template("products.html.j2")


def _render(**values: Any) -> HTMLResponse:
    return HTMLResponse(_load_template().render(poe=POE, **values), headers=HEADERS)


def _write_csv(products: Iterable[ProductLine]) -> str:
    target = io.StringIO()
    table = csv.writer(target)
    table.writerow(["product", "category", "status", "stars", "reviews", "strengths", "weaknesses"])
    for one in products:
        points = [
            "; ".join(f"{p.name} {p.support}" for p in some) for some in (one.strengths, one.weaknesses)
        ]
        stars = "" if one.stars is None else f"{one.stars:.2f}"
        cells = [one.product, one.category, one.status.value, stars, str(one.reviews), *points]
        table.writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells])
    return target.getvalue()


def _find(summaries: SummaryStore, product: str, language: str) -> SummaryReply:
    found = choose_served(
        summaries.get([derive_summary_id(product, language, one) for one in (CHAMPION, CHALLENGER)])
    )
    if found is not None:
        return describe_summary(found.served)
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
