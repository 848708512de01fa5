"""What the routes over products' reviews give."""

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, Field

from llm_engineering.domain.reviews import (
    Distribution,
    KeyPoint,
    Polarity,
    ProductSummary,
    SummarySentence,
    SummaryStatus,
)
from llm_engineering.infrastructure.api.schemas.rag import TRACE_ID, Request

_VERSION: Final = "^[0-9a-f]{16}$"


class SummaryVoteBody(Request):
    """Whether a summary helped a reader."""

    version: str = Field(pattern=_VERSION, description="The `version` of the summary that was shown.")
    rating: Literal["up", "down"]
    voter: str = Field(
        default="",
        max_length=64,
        pattern=f"^$|{TRACE_ID}",
        description="Tells the caller's readers apart: a random id that their browser keeps. A hash of it is kept. Empty: "
        "all with this key are one voter.",
    )


class SummaryVoteKept(BaseModel):
    """The vote as it was kept."""

    version: str
    rating: Literal["up", "down"]


class SummaryReply(BaseModel):
    """What customers say of a product. Every sentence cites the reviews that it rests on."""

    product: str
    language: str = Field(description="Of the reviews that it is about: ISO 639-1, or `all`.")
    status: SummaryStatus = Field(
        description="`ready` and `quoted` have sentences; `too_few`, `held` and `withheld` have none."
    )
    version: str = Field(description="Changes with anything that a reader sees; also the ETag.")
    label: str = Field(description="To be shown with the text.")
    sentences: tuple[SummarySentence, ...]
    key_points: tuple[KeyPoint, ...]
    distribution: Distribution = Field(description="Of all reviews of the product in this language.")
    stale: bool = Field(description="The reviews have changed since, and a newer summary could not be made.")
    notes: tuple[str, ...]
    degradations: tuple[str, ...]
    made_with: dict[str, str]
    made_at: datetime


class KeyPointsReply(BaseModel):
    """The points that several reviewers make alike, with how many they are."""

    product: str
    language: str
    status: SummaryStatus
    version: str
    reviewers: int = Field(
        description="Of the product in this language; `support` of a point counts among them."
    )
    key_points: tuple[KeyPoint, ...]


class PointCount(BaseModel):
    """A point, and how many make it."""

    name: str
    support: int = Field(description="Different reviewers.")


class ProductLine(BaseModel):
    """A product at a glance."""

    product: str
    category: str
    status: SummaryStatus
    stars: float | None = Field(description="Mean of the reviews that have stars, 1 to 5.")
    reviews: int
    strengths: tuple[PointCount, ...] = Field(description="What most reviewers praise, at most three.")
    weaknesses: tuple[PointCount, ...]


class ProductsReply(BaseModel):
    """All products with summaries."""

    products: tuple[ProductLine, ...]


_SHOWN = (SummaryStatus.READY, SummaryStatus.QUOTED)


def describe_summary(summary: ProductSummary) -> SummaryReply:
    """Return what a reader may see of a summary: no text unless its status says that it may be shown."""
    shown = summary.status in _SHOWN
    return SummaryReply(
        product=summary.product,
        language=summary.language,
        status=summary.status,
        version=summary.version,
        label=summary.label,
        sentences=summary.sentences if shown else (),
        key_points=summary.key_points if shown else (),
        distribution=summary.distribution,
        stale=summary.stale,
        notes=summary.notes,
        degradations=summary.degradations,
        made_with=summary.made_with,
        made_at=summary.created_at,
    )


_AT_A_GLANCE = 3


def describe_product(summary: ProductSummary) -> ProductLine:
    """Return a product's line of the table; points of a summary that may not be shown are left out."""
    shown = describe_summary(summary)
    spread = summary.distribution
    rated = sum(spread.stars.values())

    def name_points(polarity: Polarity) -> tuple[PointCount, ...]:
        found = [one for one in shown.key_points if one.polarity is polarity and one.is_aspect]
        return tuple(PointCount(name=one.name, support=one.support) for one in found[:_AT_A_GLANCE])

    return ProductLine(
        product=summary.product,
        category=summary.product_category,
        status=summary.status,
        stars=sum(int(name) * count for name, count in spread.stars.items()) / rated if rated else None,
        reviews=spread.reviews,
        strengths=name_points(Polarity.POSITIVE),
        weaknesses=name_points(Polarity.NEGATIVE),
    )
