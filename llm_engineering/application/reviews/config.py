"""What the YAML of the summaries of reviews holds."""

from typing import Any, Literal

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.batch import BatchConfig
from llm_engineering.domain.reviews import CHAMPION


class Sampling(StrictConfig):
    """Which reviews a model is shown, and which are quoted first."""

    positive: int = Field(default=5, ge=0, le=50)
    negative: int = Field(default=5, ge=0, le=50)
    recent: int = Field(default=5, ge=0, le=50)
    """Where there are fewer of a kind, the others get its places."""
    half_life_days: float = Field(default=90, gt=0)
    """After so many days, counted from the product's newest review, a review ranks half as high."""
    seed: int = 0


class Refresh(StrictConfig):
    """When a summary is made anew. A review that is gone or was edited always makes it so, at once."""

    growth: float = Field(default=0.2, ge=0)
    """Share of new reviews among those counted before."""
    max_age_days: float | None = Field(default=None, gt=0)
    """None: a summary does not age."""


class Hold(StrictConfig):
    """Which summaries wait for a person before they are served."""

    support_below: float | None = Field(default=None, ge=0, le=1)
    """Those of which a smaller share of the written sentences held."""
    all: bool = False


class ReviewSummaries(StrictConfig):
    """How reviews are summarised."""

    opinions: Literal["sentences", "model"] = "sentences"
    """Who finds opinions: sentences scored by what they say, or a language model, ten reviews a call."""
    text: Literal["quotes", "model"] = "quotes"
    """Who writes: counted quotes, or a language model, whose every sentence is checked."""
    products: tuple[str, ...] = ()
    """None: all."""
    min_reviews: int = Field(default=10, ge=1)
    """Of a product, and of each further language; with fewer, the distribution alone is shown."""
    by_language: bool = True
    """A summary for each language with enough reviews, beside the one over all."""
    min_support: int = Field(default=2, ge=1)
    """Different reviewers who must say a thing before it counts as a point."""
    points: int = Field(default=8, ge=1, le=30)
    """Points that are kept of praise, and of complaints."""
    sentences: int = Field(default=5, ge=2, le=12)
    """Of a text."""
    aspects: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Points that are named beforehand, each with the words by which it is known, in all languages."""
    sampling: Sampling = Sampling()
    refresh: Refresh = Refresh()
    hold: Hold = Hold()
    variant: str = Field(default=CHAMPION, min_length=1)
    """``champion`` is served; ``challenger`` in its place, for the products that it is made for; any other, never."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Of the products, by a stable hash, for which the variant is made; what there is of others is removed."""
    requests: BatchConfig = BatchConfig(concurrency=10)
    """Of the language model, where one is asked."""
    max_characters: int = Field(default=1_200, ge=100)
    """Of a review, that a model is shown."""
    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    """Of all products; more without an answer fail the run, with all others stored."""

    @property
    def asks_model(self) -> bool:
        """Whether a language model is asked for anything."""
        return "model" in (self.opinions, self.text)

    def list_settings(self) -> dict[str, Any]:
        """Return what decides a summary besides reviews, prompt, model and embedder."""
        decisive = {
            "opinions",
            "text",
            "min_reviews",
            "min_support",
            "points",
            "sentences",
            "aspects",
            "sampling",
        }
        return self.model_dump(mode="json", include=decisive)


class ReviewSummaryRun(StrictConfig):
    """Parameters of the pipeline ``review_summaries``."""

    summaries: ReviewSummaries = ReviewSummaries()
