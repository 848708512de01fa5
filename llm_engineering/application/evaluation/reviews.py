"""Summaries of reviews, measured: what they tell of what is known to be true, against a heuristic and each other.

The unit is a summary of a product in a language; intervals draw whole products. What is true stands in a file, as planted in
the sample reviews, or as people have labelled some: ``products → aspects → positive | negative → ids of reviews``.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.evaluation.statistics import RESAMPLES, DocumentBootstrap
from llm_engineering.application.ports import CleanStore, SummaryStore
from llm_engineering.application.reviews.sampling import ReviewCard, read_cards
from llm_engineering.application.training.registry.promotion import PromotionPolicy
from llm_engineering.domain.documents import Model, text_hash
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import Difference, EvaluationReport, Guard, Score, SystemReport
from llm_engineering.domain.reviews import (
    ALL_LANGUAGES,
    CHAMPION,
    GOLDEN,
    Polarity,
    ProductSummary,
)

BASELINE = "baseline"
"""The heuristic: the most helpful reviews with four stars and more, and with two and less, in turn; one point of each."""
_MATCH = 0.5
"""Share of the reviews behind a point that must say a thing, for the point to be about it."""
_CLOSE = 0.1
"""A count may be off by such a share of itself, and by one."""

CompareTexts = Callable[[Sequence[str], Sequence[str]], Mapping[str, Sequence[float]]]


class ReviewEvaluation(StrictConfig):
    """How summaries are measured, and when one set of them is better than another."""

    truth: Path | None = None
    """JSON; None: texts are compared with golden ones alone."""
    candidate: str = CHAMPION
    reference: str = BASELINE
    least_support: int = Field(default=3, ge=1)
    """Reviews that must say a thing for a summary to have to tell it,"""
    least_share: float = Field(default=0.15, ge=0, le=1)
    """and their share."""
    promotion: PromotionPolicy = PromotionPolicy(metric="coverage")
    fairness_margin: float = Field(default=0.1, ge=0, le=1)
    """No language, category of product or group of stars may lose more of ``promotion.metric`` than this: the whole interval
    shows it."""
    resamples: int = Field(default=RESAMPLES, ge=100)
    seed: int = 0


class AspectTruth(Model):
    """Who says what of a product."""

    aspects: dict[str, dict[Polarity, tuple[str, ...]]]


class ReviewTruth(Model):
    """What is known to be true of reviews."""

    products: dict[str, AspectTruth]


Claim = tuple[str, Polarity]
"""An aspect, and what is said of it."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A product in a language, with what its reviews say."""

    product: str
    language: str
    cards: tuple[ReviewCard, ...]
    claims: Mapping[Claim, frozenset[str]]
    """Reviews that make each."""

    @property
    def slices(self) -> tuple[str, ...]:
        stars = [one.stars for one in self.cards if one.stars is not None]
        mean = sum(stars) / len(stars) if stars else 0.0
        group = "unknown" if not stars else "low" if mean < 3 else "mixed" if mean < 4 else "high"
        categories = {one.product_category for one in self.cards if one.product_category}
        return (
            f"language={self.language}",
            f"stars={group}",
            *(f"category={one}" for one in sorted(categories)),
        )


@dataclass(frozen=True, slots=True)
class _Told:
    """What a summary tells: claims in the order of its sentences, and whether each is counted rightly."""

    claims: tuple[Claim | None, ...]
    right: tuple[bool, ...]


HIGHER_IS_BETTER = {"coverage": True, "accuracy": True, "imbalance": False, "supported": True, "rougeL": True}
MEANINGS = {
    "coverage": "of the things that many reviews say, told",
    "accuracy": "of the sentences, about one thing and counted rightly",
    "imbalance": "share of complaints in the text against that in the reviews, apart",
    "supported": "of what a model wrote, held",
    "rougeL": "of the words of a golden text, in its order",
}


def evaluate_summaries(
    config: ReviewEvaluation,
    clean: CleanStore,
    summaries: SummaryStore,
    now: datetime,
    compare_texts: CompareTexts | None = None,
) -> EvaluationReport:
    """Measure candidate and reference on the summaries that are stored, beside the heuristic.

    Args:
        compare_texts: scores of texts against golden ones, by metric; None: they are not compared.

    Raises:
        InvalidInputError: there are no summaries of the candidate, or nothing to measure them by.
    """
    kept = {
        (one.variant, one.product, one.language): one
        for one in (stored.served for stored in summaries.stream())
    }
    golden = {key[1:]: one for key, one in kept.items() if key[0] == GOLDEN}
    truth = read_truth(config.truth) if config.truth else ReviewTruth(products={})
    if not golden and not truth.products:
        raise InvalidInputError(
            f"There is nothing to measure summaries by: name a file of what is true (`truth`), or edit some texts: "
            f"{POE} review-summaries edit"
        )
    names = list(dict.fromkeys((BASELINE, config.reference, config.candidate)))
    wanted = sorted(key[1:] for key in kept if key[0] == config.candidate)
    if not wanted:
        there = sorted({key[0] for key in kept})
        raise InvalidInputError(
            f"There are no summaries of the variant {config.candidate}; there are: {', '.join(there) or 'none'}. "
            f"Make them with: {POE} run-review-summaries-pipeline"
        )
    items = [
        one
        for one in _list_items(wanted, clean, truth)
        if one.claims or (one.product, one.language) in golden
    ]
    values: dict[str, list[dict[str, float | None]]] = {}
    for name in names:
        values[name] = []
        for item in items:
            key = (item.product, item.language)
            summary = kept.get((name, *key))
            length = len(kept[config.candidate, *key].sentences)
            told = (
                _tell_heuristically(item, length)
                if name == BASELINE
                else None
                if summary is None
                else _match_summary(summary, item)
            )
            least = max(config.least_support, config.least_share * len(item.cards))
            measured = _measure(told, summary, item, least)
            if summary is not None and key in golden and compare_texts is not None:
                measured["rougeL"] = compare_texts([summary.text], [golden[key].text])["rougeL"][0]
            values[name].append(measured)
    return _report(config, items, values, now)


def read_truth(file: Path) -> ReviewTruth:
    """Read what is true of reviews.

    Raises:
        InvalidInputError: the file cannot be read as such.
    """
    try:
        given = json.loads(file.read_text(encoding="utf-8"))["products"]
        return ReviewTruth.model_validate(
            {"products": {name: {"aspects": one["aspects"]} for name, one in given.items()}}
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{file} does not say what is true of reviews (products → aspects → positive or negative → ids): "
            f"{type(error).__name__}"
        ) from None


def _list_items(wanted: Iterable[tuple[str, str]], clean: CleanStore, truth: ReviewTruth) -> Iterator[_Item]:
    by_product: dict[str, list[ReviewCard]] = defaultdict(list)
    for card in read_cards(clean):
        if not card.left_out:
            by_product[card.product].append(card)
    links = {one.id: one.link.rpartition("#")[2] for one in clean.list_cards()}
    for product, language in wanted:
        cards = tuple(one for one in by_product[product] if language in (ALL_LANGUAGES, one.language))
        known = {links[one.id]: one.id for one in cards}
        told = truth.products.get(product, AspectTruth(aspects={})).aspects
        claims = {
            (aspect, polarity): frozenset(known[one] for one in ids if one in known)
            for aspect, sides in told.items()
            for polarity, ids in sides.items()
        }
        yield _Item(product, language, cards, claims)


def _match_summary(summary: ProductSummary, item: _Item) -> _Told:
    points = {one.id: one for one in summary.key_points}
    claims: list[Claim | None] = []
    right: list[bool] = []
    for sentence in summary.sentences:
        for name in sentence.key_points:
            point = points[name]
            said = frozenset(point.document_ids)
            sides = [one for one in item.claims if one[1] is point.polarity]
            best = max(sides, key=lambda one: len(said & item.claims[one]), default=None)
            about = best is not None and len(said & item.claims[best]) >= _MATCH * len(said)
            claims.append(best if about else None)
            true = len(item.claims[best]) if best else 0
            right.append(about and abs(point.support - true) <= max(1, _CLOSE * true))
    return _Told(tuple(claims), tuple(right))


def _tell_heuristically(item: _Item, length: int) -> _Told:
    """Taken kindly: of all that a review says, it is granted the thing that most others say as well."""
    rated = [(one, one.stars) for one in item.cards if one.stars is not None]
    ranked = sorted(rated, key=lambda row: (-row[0].helpful, row[0].id))
    sides = [[one for one, stars in ranked if stars >= 4], [one for one, stars in ranked if stars <= 2]]
    claims: list[Claim | None] = []
    for place in range(length):
        polarity = (Polarity.POSITIVE, Polarity.NEGATIVE)[place % 2]
        some = sides[place % 2][place // 2 : place // 2 + 1]
        made = [one for one, ids in item.claims.items() if one[1] is polarity and some and some[0].id in ids]
        claims.append(max(made, key=lambda one: len(item.claims[one]), default=None))
    return _Told(tuple(claims), ())


def _measure(
    told: _Told | None, summary: ProductSummary | None, item: _Item, least: float
) -> dict[str, float | None]:
    found: dict[str, float | None] = dict.fromkeys(HIGHER_IS_BETTER)
    if summary is not None:
        found["supported"] = summary.supported_share
    if told is None or not item.claims:
        return found
    asked = [claim for claim, ids in item.claims.items() if len(ids) >= least]
    if asked:
        found["coverage"] = sum(one in told.claims for one in asked) / len(asked)
    if told.right:
        found["accuracy"] = sum(told.right) / len(told.right)
    spoken = [one[1] for one in told.claims if one is not None]
    said = {side: sum(len(ids) for one, ids in item.claims.items() if one[1] is side) for side in Polarity}
    if spoken and sum(said.values()):
        share = said[Polarity.NEGATIVE] / sum(said.values())
        found["imbalance"] = abs(spoken.count(Polarity.NEGATIVE) / len(spoken) - share)
    return found


def _report(
    config: ReviewEvaluation,
    items: Sequence[_Item],
    values: Mapping[str, Sequence[Mapping[str, float | None]]],
    now: datetime,
) -> EvaluationReport:
    scores: dict[str, list[Score]] = defaultdict(list)
    differences: list[Difference] = []
    slices = sorted({one for item in items for one in item.slices})
    for metric, higher in HIGHER_IS_BETTER.items():
        for part in ("", *slices):
            places = [place for place, item in enumerate(items) if not part or part in item.slices]
            bootstrap = DocumentBootstrap(
                [items[place].product for place in places], seed=config.seed, resamples=config.resamples
            )
            columns = {name: [rows[place][metric] for place in places] for name, rows in values.items()}
            for name, column in columns.items():
                present = sum(one is not None for one in column)
                if present:
                    interval = bootstrap.estimate_interval(column)
                    scores[name].append(
                        Score(
                            metric=metric,
                            value=interval.mean,
                            low=interval.low,
                            high=interval.high,
                            n=present,
                            higher_is_better=higher,
                            slice=part,
                        )
                    )
            ours, theirs = columns[config.candidate], columns[config.reference]
            both = [a if a is not None and b is not None else None for a, b in zip(ours, theirs, strict=True)]
            count = sum(one is not None for one in both)
            if count and config.candidate != config.reference:
                interval = bootstrap.estimate_difference(ours, theirs)
                differences.append(
                    Difference(
                        # A guard speaks of metrics over all items, so that of a slice has a name of its own.
                        metric=name_guarded(metric, part),
                        candidate=config.candidate,
                        reference=config.reference,
                        value=interval.mean,
                        low=interval.low,
                        high=interval.high,
                        n=count,
                        clusters=bootstrap.count_clusters(both),
                        higher_is_better=higher,
                    )
                )
    systems = tuple(SystemReport(system=name, model=name, scores=tuple(scores[name])) for name in values)
    content = json.dumps([one.model_dump(mode="json") for one in systems], sort_keys=True)
    data = json.dumps([(one.product, one.language, [card.hash for card in one.cards]) for one in items])
    return EvaluationReport(
        id=text_hash(content)[:16],
        dataset="summaries of reviews",
        dataset_hash=text_hash(data),
        template_hash="",
        systems=systems,
        differences=tuple(differences),
        seed=config.seed,
        created_at=now,
    )


def name_guarded(metric: str, part: str) -> str:
    """Return the name of a metric over some of the items, as guards use it: ``coverage (language=de)``."""
    return f"{metric} ({part})" if part else metric


def add_fairness_guards(config: ReviewEvaluation, report: EvaluationReport) -> PromotionPolicy:
    """Return the policy with a guard for each language, category and group of stars that at least two products fall into."""
    policy = config.promotion
    guarded = [
        one.metric
        for one in report.differences
        if one.metric.startswith(f"{policy.metric} (") and one.clusters > 1
    ]
    guards = [Guard(metric=name, max_loss=config.fairness_margin) for name in guarded]
    return policy.model_copy(update={"guards": (*policy.guards, *guards)})
