"""Whether reviews and summaries are still what they were: drift against a reference, and a pause where too little holds."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
from pydantic import Field

from llm_engineering.application.analysis.drift import compute_psi
from llm_engineering.application.config import StrictConfig
from llm_engineering.application.failures import group_batches
from llm_engineering.application.ports import CleanStore, SummaryStore
from llm_engineering.application.reviews.sampling import ReviewCard, read_cards
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.notices import Notice
from llm_engineering.domain.reviews import (
    ALL_LANGUAGES,
    CHAMPION,
    GOLDEN,
    Drift,
    ProductSummary,
    ReviewCheck,
    StoredSummary,
    SummaryStatus,
    SupportShare,
)

OUTPUTS = ("statuses", "texts")
_LENGTHS = (50, 100, 200, 400, 800)
"""Characters at which texts are counted apart."""
_KEPT = 400
"""Looks that are searched for the reference of summaries."""
_NOTHING: Mapping[str, int] = {}
_BATCH = 256


class ReviewMonitoring(StrictConfig):
    """What counts as drift, and what pauses."""

    window_days: float = Field(default=7, gt=0)
    """Reviews of so many days before the newest are "now"."""
    reference_days: float = Field(default=90, gt=0)
    """Before these, so many days are the reference; of summaries, the oldest look within them."""
    least_reviews: int = Field(default=200, ge=1)
    """With fewer on either side nothing is concluded: small samples differ by chance."""
    least_summaries: int = Field(default=30, ge=2)
    psi: float = Field(default=0.25, gt=0)
    """A population stability index above this is drift,"""
    change: float = Field(default=0.2, gt=0, le=1)
    """and so is a share that changed by so much; either, only where chance alone would not bring it (1 in 100)."""
    support: float = Field(default=0.95, ge=0, le=1)
    """Publishing pauses where the share of written sentences that hold is shown to be below this: its interval's upper end."""
    resamples: int = Field(default=500, ge=100)
    seed: int = 0


def check_reviews(
    config: ReviewMonitoring, clean: CleanStore, summaries: SummaryStore, now: datetime
) -> ReviewCheck:
    """Compare reviews and summaries with what they were, and keep what was found."""
    kept = list(summaries.stream())
    earlier = summaries.list_checks(_KEPT)
    previous = earlier[0] if earlier else None
    dated = [one for one in read_cards(clean) if one.published_at is not None]
    newest = max((one.published_at for one in dated if one.published_at), default=now)
    since = newest - timedelta(days=config.window_days)
    begin = since - timedelta(days=config.reference_days)
    windows = [
        [one for one in dated if one.published_at and one.published_at > since],
        [one for one in dated if one.published_at and begin < one.published_at <= since],
    ]
    present, before = (count_reviews(window, clean, kept) for window in windows)
    drifts = [
        compare_counts(name, before[name], present[name], config, config.least_reviews) for name in present
    ]
    outputs = count_outputs(kept)
    oldest = [one for one in earlier if one.at > now - timedelta(days=config.reference_days)]
    if oldest:
        drifts += [
            compare_counts(
                name, oldest[-1].outputs.get(name, _NOTHING), outputs[name], config, config.least_summaries
            )
            for name in OUTPUTS
        ]
    resumed = previous.resumed_at if previous else None
    support = measure_support(kept, resumed, config)
    paused = dict(previous.paused) if previous else {}
    for variant, one in support.items():
        if one.high < config.support:
            paused.setdefault(
                variant,
                f"{one.mean:.1%} of the written sentences held ({one.low:.1%} to {one.high:.1%}, {one.summaries} summaries), "
                f"where {config.support:.0%} are asked for",
            )
    check = ReviewCheck(
        at=now,
        since=since,
        drifts=tuple(drifts),
        outputs={name: dict(counts) for name, counts in outputs.items()},
        support=support,
        paused=paused,
        resumed_at=resumed,
    )
    summaries.put_check(check)
    # A variant on trial is not merely paused: its products get back what all others have.
    on_trial = paused.keys() - {CHAMPION}
    summaries.delete([one.id for one in kept if one.newest.variant in on_trial])
    return check


def count_reviews(
    cards: Sequence[ReviewCard], clean: CleanStore, summaries: Iterable[StoredSummary]
) -> dict[str, Counter[str]]:
    """Count reviews by stars, language, category of product, length, and the aspects that summaries found in them."""
    found: dict[str, Counter[str]] = {
        "stars": Counter(f"{one.stars:.0f}" for one in cards if one.stars is not None),
        "languages": Counter(one.language for one in cards),
        "categories": Counter(one.product_category for one in cards if one.product_category),
        "lengths": Counter(),
    }
    for batch in group_batches([one.id for one in cards], _BATCH):
        found["lengths"].update(_name_length(len(one.text)) for one in clean.get(batch))
    aspects: dict[str, set[str]] = defaultdict(set)
    for stored in summaries:
        one = stored.newest
        if (one.language, one.variant) == (ALL_LANGUAGES, CHAMPION):
            for point in one.key_points:
                for identifier in point.document_ids if point.is_aspect else ():
                    aspects[identifier].add(f"{point.name} {point.polarity}")
    found["aspects"] = Counter(name for one in cards for name in aspects.get(one.id, ()))
    return found


def count_outputs(summaries: Iterable[StoredSummary]) -> dict[str, Counter[str]]:
    """Count summaries by status, and those with a text by its length."""
    served = [one.served for one in summaries if one.newest.variant == CHAMPION]
    return {
        "statuses": Counter(str(one.status) for one in served if one.status is not SummaryStatus.TOO_FEW),
        "texts": Counter(_name_length(len(one.text)) for one in served if one.text),
    }


def _name_length(characters: int) -> str:
    least = max((one for one in _LENGTHS if one <= characters), default=0)
    return f"{least}+"


def compare_counts(
    feature: str,
    reference: Mapping[str, int],
    present: Mapping[str, int],
    config: ReviewMonitoring,
    least: int,
) -> Drift:
    """Return how counts moved away from the reference, and whether that is an alarm."""
    names = sorted(reference.keys() | present.keys())
    before = np.array([reference.get(name, 0) for name in names], dtype=float)
    after = np.array([present.get(name, 0) for name in names], dtype=float)
    drift = Drift(feature=feature, items=int(after.sum()), reference_items=int(before.sum()))
    if min(drift.items, drift.reference_items) < least:
        return drift
    random = np.random.default_rng(config.seed)
    shares = before / before.sum()
    psi = float(compute_psi(before, after))
    # Both sides are samples, so both are drawn.
    drawn = [
        random.multinomial(size, shares, config.resamples) for size in (drift.reference_items, drift.items)
    ]
    by_chance = float(np.quantile(compute_psi(drawn[0], drawn[1]), 0.99))
    changes = after / after.sum() - shares
    most = int(np.argmax(np.abs(changes)))
    large = psi > config.psi or abs(changes[most]) >= config.change
    return drift.model_copy(
        update={
            "psi": psi,
            "by_chance": by_chance,
            "value": names[most],
            "change": float(changes[most]),
            "alarm": bool(large and psi > by_chance),
        }
    )


def measure_support(
    summaries: Iterable[StoredSummary], since: datetime | None, config: ReviewMonitoring
) -> dict[str, SupportShare]:
    """Return by variant how much of what a model wrote held, in summaries made after ``since``."""
    shares: dict[str, list[float]] = defaultdict(list)
    for one in _list_written(summaries):
        if one.supported_share is not None and (since is None or one.created_at > since):
            shares[one.variant].append(one.supported_share)
    random = np.random.default_rng(config.seed)
    found = {}
    for variant, values in sorted(shares.items()):
        if len(values) < config.least_summaries:
            continue
        means = random.choice(values, (2_000, len(values))).mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        found[variant] = SupportShare(
            mean=float(np.mean(values)), low=float(low), high=float(high), summaries=len(values)
        )
    return found


def _list_written(summaries: Iterable[StoredSummary]) -> Iterator[ProductSummary]:
    yield from (one.newest for one in summaries if one.newest.variant != GOLDEN)


def find_pause(summaries: SummaryStore, variant: str) -> str | None:
    """Return why no new summaries of a variant are published; None: they are."""
    newest = summaries.list_checks(1)
    return newest[0].paused.get(variant) if newest else None


def resume_publishing(summaries: SummaryStore, now: datetime) -> ReviewCheck:
    """Let new summaries be published again. Those made before now pause no more.

    Raises:
        InvalidInputError: nothing is paused.
    """
    newest = summaries.list_checks(1)
    if not newest or not newest[0].paused:
        raise InvalidInputError("Nothing is paused, so there is nothing to resume.")
    check = newest[0].model_copy(update={"paused": {}, "resumed_at": now})
    summaries.put_check(check)
    return check


def make_notices(check: ReviewCheck, previous: ReviewCheck | None) -> list[Notice]:
    """Return what is new since the look before: what drifts, what paused, what goes on."""
    drifted = [
        one for one in check.drifts if one.alarm and one.feature not in (previous.alarms if previous else ())
    ]
    before = previous.paused if previous else {}
    told = [
        (
            f"drift of {one.feature}",
            "warning",
            f"Reviews drift: {one.feature}",
            f"{one.value} changed its share by {one.change:+.0%}; stability index {one.psi:.2f} over {one.items} "
            f"(by chance up to {one.by_chance:.2f}).",
        )
        for one in drifted
    ]
    told += [
        (
            f"paused {variant}",
            "failure",
            "No new summaries of reviews are published",
            f"{why}. {describe_resuming()}",
        )
        for variant, why in check.paused.items()
        if variant not in before
    ]
    told += [
        (f"resumed {variant}", "info", "Summaries of reviews are published again", "")
        for variant in before
        if variant not in check.paused
    ]
    return [
        Notice.model_validate(
            {
                "subject": "review summaries",
                "rule": rule,
                "day": check.at.date(),
                "title": title,
                "text": text,
                "severity": severity,
                "created_at": check.at,
            }
        )
        for rule, severity, title, text in told
    ]


def describe_resuming() -> str:
    """Return how publishing is resumed."""
    return f"What is served stays. See what was written ({POE} review-summaries list), mend it, then: {POE} resume-summaries"
