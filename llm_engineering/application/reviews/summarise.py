"""Bring the summaries of all products up to date with their reviews.

Only metadata and hashes are held of all reviews; texts are read of what is new, a product at a time. A summary whose reviews
have not changed costs nothing, and a review that is gone leaves every text within one run.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from llm_engineering.application.analysis.heads import TextEmbedder
from llm_engineering.application.failures import check_failures, group_batches
from llm_engineering.application.llm.batch import BatchClient, NoAnswerError, run_in_order
from llm_engineering.application.llm.budget import BudgetExhaustedError
from llm_engineering.application.ports import (
    AnalysisStore,
    CleanStore,
    DeadLetterStore,
    GenerationCache,
    LanguageModel,
    Progress,
    SilentProgress,
    SummaryStore,
)
from llm_engineering.application.reviews.checking import check_claims
from llm_engineering.application.reviews.config import ReviewSummaries
from llm_engineering.application.reviews.key_points import find_key_points
from llm_engineering.application.reviews.opinions import (
    TASK,
    OpinionReader,
    load_opinions,
    split_clauses,
    update_opinions,
)
from llm_engineering.application.reviews.polarity import MOST_RATED, PolarityScorer
from llm_engineering.application.reviews.sampling import (
    ReviewCard,
    count_distribution,
    judge_review,
    read_cards,
    sample_reviews,
)
from llm_engineering.application.reviews.screening import hold_bursts
from llm_engineering.application.reviews.writing import (
    choose_points,
    get_prompt_hash,
    keep_claims,
    quote_points,
    write_claims,
)
from llm_engineering.domain.documents import text_hash
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.reviews import (
    ALL_LANGUAGES,
    GOLDEN,
    Opinion,
    Polarity,
    ProductSummary,
    StoredSummary,
    SummaryStatus,
    derive_summary_id,
    is_on_trial,
)

FORM = 3
"""Raised when other summaries are made of the same reviews by the same settings, so that all are made anew."""
STAGE = "summarise_reviews"
_SILENT = SilentProgress()
_BATCH = 64


@dataclass(frozen=True, slots=True)
class ReviewStores:
    """What summaries are made from, and where they are kept."""

    clean: CleanStore
    analyses: AnalysisStore
    summaries: SummaryStore
    generations: GenerationCache
    dead_letters: DeadLetterStore


@dataclass(slots=True)
class SummaryReport:
    """What a run did, in summaries."""

    products: int = 0
    reviews: int = 0
    read: int = 0
    """Reviews whose opinions were looked for."""
    unchanged: int = 0
    made: Counter[str] = field(default_factory=Counter)
    """By status."""
    failed: int = 0
    """The model gave no usable answer; the summary of before is kept, marked as stale."""
    removed: int = 0
    """Of products without reviews."""
    sentences: int = 0
    """Written by a model."""
    refused: Counter[str] = field(default_factory=Counter)
    """Sentences that did not hold, by why."""
    asked: dict[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, Any]:
        """Return the counts for a run's report."""
        counts = {
            name: getattr(self, name) for name in ("products", "reviews", "read", "unchanged", "failed")
        }
        written = {"sentences": self.sentences, "refused": dict(self.refused)}
        return {**counts, "removed": self.removed, "made": dict(self.made), **written, **self.asked}


@dataclass(frozen=True, slots=True)
class _Task:
    """A summary that may have to be made."""

    product: str
    language: str
    cards: tuple[ReviewCard, ...]
    """All of the product in this language, those that do not count as well."""

    @property
    def counted(self) -> tuple[ReviewCard, ...]:
        return tuple(one for one in self.cards if not one.left_out)


async def summarise_reviews(
    config: ReviewSummaries,
    stores: ReviewStores,
    embedder: TextEmbedder,
    model: LanguageModel | None = None,
    *,
    now: datetime | None = None,
    progress: Progress = _SILENT,
) -> SummaryReport:
    """Make the summaries that are missing or out of date, and take back what rests on reviews that are gone.

    Raises:
        ConfigurationError: the YAML asks a model, and there is none.
        ModelServiceError: the model's service is down; what was done is stored.
        TooManyFailuresError: too many products were given no usable answer; all others are stored.
    """
    if config.asks_model and model is None:
        raise ConfigurationError(
            "The summaries ask a language model, and none is configured. See LLM_* in .env.example, or choose "
            "`opinions: sentences` and `text: quotes`."
        )
    client = None
    if model is not None and config.asks_model:
        client = BatchClient(model, stores.generations, stores.dead_letters, config.requests, stage=STAGE)
    summariser = _Summariser(config, stores, embedder, client, now or datetime.now(UTC))
    report = await summariser.run(progress)
    if client is not None:
        await client.finish()
        report.asked = client.to_metadata()
    check_failures(
        STAGE, report.failed, max(1, sum(report.made.values()) + report.failed), config.max_failed_share
    )
    return report


class _Summariser:
    """One run."""

    def __init__(
        self,
        config: ReviewSummaries,
        stores: ReviewStores,
        embedder: TextEmbedder,
        client: BatchClient | None,
        now: datetime,
    ) -> None:
        self._config = config
        self._stores = stores
        self._embedder = embedder
        self._client = client
        self._writer = client if config.text == "model" else None
        self._now = now
        self._cards: list[ReviewCard] = []
        self._report = SummaryReport()
        self._reader = OpinionReader(
            client if config.opinions == "model" else None,
            lambda: self._scorer,
            embedder.digest,
            config.max_characters,
            config.aspects,
        )

    async def run(self, progress: Progress) -> SummaryReport:
        config, stores = self._config, self._stores
        everything = hold_bursts(list(read_cards(stores.clean)), stores.clean)
        self._cards = [one for one in everything if not config.products or one.product in config.products]
        counted = [one for one in everything if not one.left_out]
        self._report.reviews = len(self._cards)
        self._report.read, _ = await update_opinions(counted, self._reader, stores.clean, stores.analyses)
        self._known = {identifier for identifier, _ in stores.analyses.list_versions(TASK)}
        tasks = list(self._list_tasks())
        self._report.products = len({one.product for one in tasks})
        kept = {one.id: one for one in stores.summaries.stream() if one.newest.variant == config.variant}
        for batch in group_batches(self._list_due(tasks, kept), _BATCH):
            done: list[StoredSummary] = []
            try:
                most = 2 * config.requests.concurrency + 2
                async for made in run_in_order(
                    batch, lambda task: self._update(task, kept.get(self._id(task))), most
                ):
                    progress.advance("Summarise")
                    done.append(made)
            finally:  # what was made before the service went down stays
                if done:
                    stores.summaries.put_many(done)
        self._remove_orphans(kept, tasks)
        self._report.removed += take_back(everything, stores.summaries, GOLDEN)
        return self._report

    @cached_property
    def _scorer(self) -> PolarityScorer:
        """Learned from reviews of this shop that have stars, the same ones in every run."""
        rated = sorted(
            (one for one in self._cards if one.stars is not None and not one.left_out),
            key=lambda one: one.hash,
        )
        stars = {one.id: one.stars for one in rated[: MOST_RATED // 2]}
        known: list[tuple[str, float]] = []
        for document in self._stores.clean.get(list(stars)):
            given = stars[document.id]
            if given is not None:
                known += [(document.text[at.start : at.end], given) for at in split_clauses(document.text)]
        return PolarityScorer(self._embedder, known)

    def _id(self, task: _Task) -> str:
        return derive_summary_id(task.product, task.language, self._config.variant)

    def _list_tasks(self) -> Iterator[_Task]:
        products: dict[str, list[ReviewCard]] = defaultdict(list)
        for card in self._cards:
            products[card.product].append(card)
        for product, cards in sorted(products.items()):
            if not is_on_trial(product, self._config.share, self._config.variant):
                continue
            yield _Task(product, ALL_LANGUAGES, tuple(cards))
            by_language: dict[str, list[ReviewCard]] = defaultdict(list)
            for card in cards:
                by_language[card.language].append(card)
            for language, some in sorted(by_language.items() if self._config.by_language else ()):
                enough = sum(not one.left_out for one in some) >= self._config.min_reviews
                if enough and language != "und":
                    yield _Task(product, language, tuple(some))

    def _list_due(self, tasks: Sequence[_Task], kept: Mapping[str, StoredSummary]) -> Iterator[_Task]:
        for task in tasks:
            stored = kept.get(self._id(task))
            if stored is not None and not self._is_due(task, stored):
                self._report.unchanged += 1
            else:
                yield task

    def _is_due(self, task: _Task, stored: StoredSummary) -> bool:
        newest = stored.newest
        if newest.inputs_hash == self._hash_inputs(task) and not newest.stale:
            return False
        if newest.stale or newest.made_with.get("settings") != self._settings_hash:
            return True
        before = dict(zip(newest.document_ids, newest.input_hashes, strict=True))
        present = {one.id: one.hash for one in task.counted}
        if any(present.get(one) != said for one, said in before.items()):
            return True  # gone, edited or left out by now
        shown = Counter(one.id for one in task.cards).total() != newest.distribution.reviews
        few = newest.status in (SummaryStatus.TOO_FEW, SummaryStatus.WITHHELD) and shown
        age = self._config.refresh.max_age_days
        old = age is not None and self._now - newest.created_at > timedelta(days=age)
        grown = len(present.keys() - before.keys()) >= max(1.0, self._config.refresh.growth * len(before))
        missing = any(self._reader.derive_id(one) not in self._known for one in task.counted)
        return few or old or grown or (bool(newest.inputs_hash == "") and not missing)

    @cached_property
    def _settings_hash(self) -> str:
        parts = {
            **self._config.list_settings(),
            "form": FORM,
            "opinions_by": self._reader.model,
            "opinions_prompt": self._reader.prompt_hash,
            "model": self._writer.model.name if self._writer else "",
            "prompt": get_prompt_hash() if self._writer else "",
            "embedder": self._embedder.digest,
        }
        return text_hash(json.dumps(parts, sort_keys=True, ensure_ascii=False))[:16]

    def _hash_inputs(self, task: _Task) -> str:
        """Over all that decides the summary; the ids of the kept opinions stand for reviews, prompt and model."""
        known = [self._reader.derive_id(one) for one in task.counted]
        parts = [one if one in self._known else f"-{one}" for one in known]
        left_out = [f"{one.id}:{one.left_out}" for one in task.cards if one.left_out]
        return text_hash(json.dumps([self._settings_hash, parts, left_out]))[:32]

    async def _update(self, task: _Task, stored: StoredSummary | None) -> StoredSummary:
        made = await self._make(task, stored)
        self._report.made[made.status] += 1
        fresh = stored or StoredSummary(current=made)
        present = {one.id: one.hash for one in task.counted}
        updated = (
            fresh.supersede(made)
            if stored
            else StoredSummary(
                current=None if made.status is SummaryStatus.HELD else made,
                waiting=made if made.status is SummaryStatus.HELD else None,
            )
        )
        # What rests on a review that is gone may not be kept either, not even as the version before.
        return updated.model_copy(
            update={
                name: None
                for name in ("current", "previous")
                if (version := getattr(updated, name)) is not None and _rests_on_others(version, present)
            }
        )

    async def _make(self, task: _Task, stored: StoredSummary | None) -> ProductSummary:
        config = self._config
        counted = task.counted
        ids = {one.id: self._reader.derive_id(one) for one in counted}
        opinions = load_opinions(ids, self._stores.analyses)
        judged = [
            judge_review(one, [said.polarity for said in opinions.get(one.id, [])]) for one in task.cards
        ]
        eligible = [one for one in judged if not one.left_out]
        base = self._begin(task, judged)
        if len(eligible) < config.min_reviews:
            status = SummaryStatus.TOO_FEW if eligible or not task.cards else SummaryStatus.WITHHELD
            return base.model_copy(update={"status": status})
        sampled = sample_reviews(eligible, task.product, config.sampling)
        said = [one for card in eligible for one in opinions.get(card.id, [])]
        points = self._count(said, eligible, sampled)
        distribution = count_distribution(eligible)
        chosen = choose_points(points, distribution.compute_share(Polarity.NEGATIVE), config.sentences)
        language = "en" if task.language == ALL_LANGUAGES else task.language
        quoted = quote_points(chosen, distribution.reviewers, language)
        update: dict[str, Any] = {
            "status": SummaryStatus.QUOTED if quoted else SummaryStatus.WITHHELD,
            "sentences": tuple(quoted),
            "key_points": tuple(points),
            "sampled": count_distribution(sampled),
            "sampled_ids": tuple(one.id for one in sampled),
        }
        if not quoted:
            update["notes"] = (*base.notes, "No two reviewers say the same.")
        if self._writer is not None and chosen:
            try:
                update |= await self._write(task, base, chosen, sampled, distribution.reviewers, language)
            except (BudgetExhaustedError, NoAnswerError):
                self._report.failed += 1
                present = {one.id: one.hash for one in counted}
                current = stored.current if stored else None
                if current is not None and not _rests_on_others(current, present):
                    return current.model_copy(update={"stale": True})
                told = "The model gave no usable answer; quotes stand in for its text."
                update |= {"degradations": (*base.degradations, told), "inputs_hash": "", "stale": True}
        return base.model_copy(update=update)

    def _begin(self, task: _Task, judged: Sequence[ReviewCard]) -> ProductSummary:
        """What holds whatever comes of the text."""
        counted = sorted((one for one in judged if not one.left_out), key=lambda one: one.id)
        reasons = Counter(reason for one in judged for reason in one.left_out)
        notes = tuple(
            f"{count} reviews are not counted: {reason}." for reason, count in sorted(reasons.items())
        )
        degradations = []
        if len({one.language for one in counted}) > 1 and not self._scorer.multilingual:
            degradations.append(
                "The embedder knows one language: what reviews say in others is counted apart, and less surely read."
            )
        if counted and all(one.reviewer == one.id for one in counted):
            degradations.append("Reviewers are not told apart: each review counts as one reviewer's.")
        categories = Counter(one.product_category for one in judged if one.product_category)
        return ProductSummary(
            product=task.product,
            language=task.language,
            variant=self._config.variant,
            status=SummaryStatus.WITHHELD,
            distribution=count_distribution(judged),
            document_ids=tuple(one.id for one in counted),
            input_hashes=tuple(one.hash for one in counted),
            product_category=categories.most_common(1)[0][0] if categories else "",
            notes=notes,
            degradations=tuple(degradations),
            inputs_hash=self._hash_inputs(task),
            made_with={
                "model": self._writer.model.name if self._writer else "none",
                "prompt": get_prompt_hash() if self._writer else "",
                "opinions": self._reader.model,
                "embedder": self._embedder.digest,
                "min_reviews": str(self._config.min_reviews),
                "growth": str(self._config.refresh.growth),
                "settings": self._settings_hash,
            },
            created_at=self._now,
        )

    def _count(
        self, said: Sequence[Opinion], eligible: Sequence[ReviewCard], sampled: Sequence[ReviewCard]
    ) -> list[Any]:
        reviewers = {one.id: one.reviewer for one in eligible}
        shown = {one.id for one in sampled}
        return find_key_points(said, reviewers, shown, self._scorer, self._config)

    async def _write(
        self,
        task: _Task,
        base: ProductSummary,
        chosen: Sequence[Any],
        sampled: Sequence[ReviewCard],
        reviewers: int,
        language: str,
    ) -> dict[str, Any]:
        assert self._writer is not None
        documents = self._stores.clean.get([one.id for one in sampled])
        claims = await write_claims(
            self._writer, task.product, chosen, documents, reviewers, language, self._config.max_characters
        )
        failures = check_claims(claims, chosen, reviewers, self._scorer)
        sentences = keep_claims(claims, failures, {one.id: one for one in chosen})
        self._report.sentences += len(claims)
        self._report.refused.update(one.partition(" (")[0] for one in failures if one)
        if not claims:
            return {}
        share = len(sentences) / len(claims)
        update: dict[str, Any] = {"supported_share": share}
        removed = len(claims) - len(sentences)
        if removed:
            update["notes"] = (*base.notes, f"{removed} written sentences did not hold and were removed.")
        if sentences:
            update |= {"status": SummaryStatus.READY, "sentences": tuple(sentences)}
        hold = self._config.hold
        if hold.all or (hold.support_below is not None and share < hold.support_below):
            update |= {"status": SummaryStatus.HELD, "approval": "waiting"}
        return update

    def _remove_orphans(self, kept: Mapping[str, StoredSummary], tasks: Sequence[_Task]) -> None:
        """Summaries of products that have no reviews, and of languages that have too few by now."""
        wanted = {self._id(task) for task in tasks}
        chosen = self._config.products
        gone = [
            key for key, one in kept.items() if key not in wanted and (not chosen or one.product in chosen)
        ]
        self._report.removed = self._stores.summaries.delete(gone) if gone else 0


def take_back(cards: Sequence[ReviewCard], summaries: SummaryStore, variant: str) -> int:
    """Forget what rests on reviews that are gone or say something else, and make nothing; return how many were changed."""
    present = {one.id: one.hash for one in cards if not one.left_out}
    changed: list[StoredSummary] = []
    gone: list[str] = []
    for stored in summaries.stream():
        if stored.newest.variant != variant:
            continue
        versions = {name: getattr(stored, name) for name in ("current", "previous", "waiting")}
        bad = {
            name: None for name, one in versions.items() if one is not None and _rests_on_others(one, present)
        }
        left = stored.model_copy(update=bad)
        if bad and left.current is None and left.waiting is None:
            gone.append(stored.id)
        elif bad:
            changed.append(left)
    if changed:
        summaries.put_many(changed)
    return len(changed) + (summaries.delete(gone) if gone else 0)


def _rests_on_others(summary: ProductSummary, present: Mapping[str, str]) -> bool:
    """Whether a summary counts or quotes a review that is gone, or says something else by now."""
    said = zip(summary.document_ids, summary.input_hashes, strict=True)
    return any(present.get(one) != before for one, before in said)
