"""What customers say of a product, in short: sentences that cite the reviews they rest on, and count them.

A summary is made in batches, kept, and served from the store. A newer one takes its place, and the one before is kept beside it.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from llm_engineering.domain.analyses import Evidence
from llm_engineering.domain.documents import Model, Span, UtcDatetime, derive_id, text_hash

LABEL = "AI-generated summary based on customer reviews"
"""Shown with every summary."""
ALL_LANGUAGES = "all"
"""Language of the summary over all reviews of a product, whatever they are written in."""
CHAMPION = "champion"
"""The variant that is served unless another is on trial for the product."""
CHALLENGER = "challenger"
"""The variant on trial: served in the champion's place for the products that it was made for. Any other is never served."""
GOLDEN = "golden"
"""The variant under which texts are kept that a person has put right: never served, read by the evaluation."""
VOTE_TASK = "review_summary"
"""Marks votes on summaries among what people said."""
MOST_DOWN_VOTES = 2
"""More than these, and more than up votes, put a summary before a person."""


class Polarity(StrEnum):
    """Whether an opinion praises or complains."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    NEUTRAL = "neutral"


class SummaryStatus(StrEnum):
    """What a summary can be shown as."""

    READY = "ready"
    """Written sentences, each checked against the reviews."""
    QUOTED = "quoted"
    """Counted points with quotes of customers: no model was asked, or nothing that it wrote held."""
    TOO_FEW = "too_few"
    """Too few reviews to speak of; the distribution alone."""
    HELD = "held"
    """A person is to look at it first."""
    WITHHELD = "withheld"
    """Nothing may be shown: no review is left that can be used, or a person refused it."""


class Opinion(Model):
    """One thing that a review says, in its own words: ``quote == text[span.start:span.end]`` of the clean review."""

    document_id: str
    span: Span
    quote: str
    aspect: str = ""
    """What it is about, where a model named it: ``battery``, ``delivery``."""
    polarity: Polarity

    @property
    def evidence(self) -> Evidence:
        """Return the place of the quote."""
        return Evidence(document_id=self.document_id, span=self.span, quote=self.quote)


class KeyPoint(Model):
    """What several reviewers say alike."""

    id: str
    """``p1``, ``n2``: within a summary."""
    name: str
    is_aspect: bool = True
    """Whether the settings or a model named it; if not, ``name`` is a word that its quotes share, which often is no aspect."""
    polarity: Polarity
    support: int = Field(ge=1)
    """Different reviewers who say so."""
    document_ids: tuple[str, ...]
    """All reviews that say so, ordered by id."""
    evidence: tuple[Evidence, ...]
    """One quote of each of these reviews, the most typical first."""
    sampled: int = Field(default=0, ge=0)
    """Different reviewers among the sampled reviews."""


class Distribution(Model):
    """How reviews are spread. Shares add up to all of them; a review may lack stars."""

    reviews: int = 0
    reviewers: int = 0
    stars: dict[str, int] = Field(default_factory=dict)
    """Reviews by whole stars, ``"1"`` to ``"5"``."""
    languages: dict[str, int] = Field(default_factory=dict)
    polarity: dict[str, int] = Field(default_factory=dict)
    """Reviews by what they say on the whole."""

    def compute_share(self, polarity: Polarity) -> float:
        """Return the share of reviews that are on the whole so, 0 to 1, of those that praise or complain."""
        spoken = sum(self.polarity.get(one, 0) for one in (Polarity.POSITIVE, Polarity.NEGATIVE))
        return self.polarity.get(polarity, 0) / spoken if spoken else 0.0


class SummarySentence(Model):
    """A sentence of a summary with what it rests on."""

    text: str = Field(min_length=1)
    section: Literal["pros", "cons", "recent"]
    key_points: tuple[str, ...] = ()
    """Ids of the points that it tells."""
    evidence: tuple[Evidence, ...] = Field(min_length=1)
    """Where in the reviews this is said."""


class ProductSummary(Model):
    """A product's reviews, summarised for one language and variant."""

    product: str = Field(min_length=1)
    language: str = ALL_LANGUAGES
    """Of the reviews that it is about: ISO 639-1, or ``all``."""
    variant: str = CHAMPION
    status: SummaryStatus
    sentences: tuple[SummarySentence, ...] = ()
    key_points: tuple[KeyPoint, ...] = ()
    """Praise first, then complaints, those with most support first."""
    distribution: Distribution = Distribution()
    """Of all reviews of the product in this language, those that were left out as well."""
    sampled: Distribution = Distribution()
    """Of the reviews that the text was made from."""
    document_ids: tuple[str, ...] = ()
    """Reviews that count: all but those held back or screened, ordered by id."""
    input_hashes: tuple[str, ...] = ()
    """What these reviews said when they were counted, in the same order."""
    sampled_ids: tuple[str, ...] = ()
    product_category: str = ""
    notes: tuple[str, ...] = ()
    """What a reader should know: a burst of reviews held back, a sentence removed, instructions found in a review."""
    degradations: tuple[str, ...] = ()
    """What could not be done as well as it might: no model, an embedder that knows English alone."""
    supported_share: float | None = Field(default=None, ge=0, le=1)
    """Of the sentences that were written, those that held; None: none was written by a model."""
    inputs_hash: str = ""
    """Over all that decides it: reviews, prompt, model, sampler, embedder."""
    made_with: dict[str, str] = Field(default_factory=dict)
    """Model, prompt, embedder, least number of reviews, when it is made anew."""
    created_at: UtcDatetime
    stale: bool = False
    """The reviews have changed, and a newer summary could not be made."""
    approval: Literal["none", "waiting", "approved", "edited", "rejected"] = "none"
    """What a person made of it; ``none``: nobody had to look."""

    @property
    def id(self) -> str:
        """One for each product, language and variant."""
        return derive_summary_id(self.product, self.language, self.variant)

    @property
    def version(self) -> str:
        """Over all that a reader sees, so that votes and caches know which summary they are about. Not kept: a copy with other
        words is another version."""
        seen = self.model_dump(mode="json", exclude={"created_at", "inputs_hash", "input_hashes", "approval"})
        return text_hash(json.dumps(seen, sort_keys=True, ensure_ascii=False))[:16]

    @property
    def text(self) -> str:
        """The sentences, one behind the other."""
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def label(self) -> str:
        """What has to be shown with it."""
        return LABEL

    def cites(self, document_ids: Collection[str]) -> bool:
        """Return whether any of these reviews is quoted, counted or sampled."""
        return any(one in document_ids for one in self._list_cited())

    def _list_cited(self) -> Iterator[str]:
        yield from self.document_ids
        yield from self.sampled_ids
        for point in self.key_points:
            yield from point.document_ids
        for sentence in self.sentences:
            yield from (one.document_id for one in sentence.evidence)


class Votes(Model):
    """How many readers of a summary's version found that it helped, and how many that it did not."""

    up: int = 0
    down: int = 0

    @property
    def speak_against(self) -> bool:
        """Whether a person should look at the summary."""
        return self.down > max(self.up, MOST_DOWN_VOTES)


class StoredSummary(Model):
    """A product's summary as kept: the one that is served, the one before it, and the one that waits for a person."""

    current: ProductSummary | None = None
    previous: ProductSummary | None = None
    waiting: ProductSummary | None = None
    """``held``; served without its text where there is no other."""

    @property
    def newest(self) -> ProductSummary:
        """The one that was made last."""
        found = self.waiting or self.current
        assert found is not None, "there is at least one"
        return found

    @property
    def id(self) -> str:
        return self.newest.id

    @property
    def product(self) -> str:
        return self.newest.product

    @property
    def served(self) -> ProductSummary:
        """What a shop may show now: never a text that is withheld or waits for a person, nor what was noted of it."""
        if self.current is not None:
            withheld = self.current.status in (SummaryStatus.WITHHELD, SummaryStatus.HELD)
            return _hide(self.current, self.current.status) if withheld else self.current
        refused = self.newest.approval == "rejected"
        return _hide(self.newest, SummaryStatus.WITHHELD if refused else SummaryStatus.HELD)

    def rests_on(self, document_ids: Collection[str]) -> bool:
        """Return whether any version quotes or counts one of these reviews."""
        versions = (self.current, self.previous, self.waiting)
        return any(one is not None and one.cites(document_ids) for one in versions)

    def supersede(self, newer: ProductSummary) -> "StoredSummary":
        """Return what is kept once a newer one is there: a held one waits, any other is served and the one before kept."""
        if newer.status is SummaryStatus.HELD:
            return StoredSummary(current=self.current, previous=self.previous, waiting=newer)
        same = self.current is not None and self.current.version == newer.version
        return StoredSummary(current=newer, previous=self.previous if same else self.current)

    def approve(self, at: datetime, texts: tuple[str, ...] | None = None) -> "StoredSummary":
        """Return what is kept once a person agreed to the one that waits.

        Args:
            texts: what the sentences say instead, in their order; an empty one is left out. None: as they are.

        Raises:
            ValueError: none waits, or there are more texts, or fewer, than sentences.
        """
        waiting = self._require_waiting()
        sentences = waiting.sentences
        if texts is not None:
            if len(texts) != len(sentences):
                raise ValueError(f"expected {len(sentences)} texts, one for each sentence, got {len(texts)}")
            edited = zip(sentences, texts, strict=True)
            sentences = tuple(
                one.model_copy(update={"text": text.strip()}) for one, text in edited if text.strip()
            )
        written = any(one.text for one in sentences) and waiting.supported_share is not None
        agreed = waiting.model_copy(
            update={
                "status": SummaryStatus.READY if written or texts is not None else SummaryStatus.QUOTED,
                "sentences": sentences,
                "approval": "approved" if texts is None else "edited",
                "created_at": at,
            }
        )
        return self.supersede(ProductSummary.model_validate(agreed.model_dump()))

    def reject(self) -> "StoredSummary":
        """Return what is kept once a person refused the one that waits: it stays unseen, and is not made again while the
        reviews are the same.

        Raises:
            ValueError: none waits.
        """
        waiting = self._require_waiting()
        refused = waiting.model_copy(update={"approval": "rejected"})
        served = self.current is not None and self.current.sentences == waiting.sentences
        return self.model_copy(update={"waiting": refused, "current": None if served else self.current})

    def question(self) -> "StoredSummary":
        """Return what is kept once somebody is to look at the one that is served: it waits for a person, and is served
        meanwhile. What waits already stays."""
        if self.waiting is not None or self.current is None:
            return self
        copy = ProductSummary.model_validate(
            {**self.current.model_dump(), "status": SummaryStatus.HELD, "approval": "waiting"}
        )
        return self.model_copy(update={"waiting": copy})

    def is_questioned(self, votes: Votes) -> bool:
        """Return whether the served version has votes against it that no person has answered by agreeing to it."""
        current = self.current
        agreed = current is not None and current.approval in ("approved", "edited")
        return current is not None and self.waiting is None and not agreed and votes.speak_against

    def make_golden(self) -> "StoredSummary":
        """Return the served text, as a person has put it right, for the evaluation to compare others with.

        Raises:
            ValueError: nobody has edited it.
        """
        if self.current is None or self.current.approval != "edited":
            raise ValueError(f"nobody has edited the summary of {self.product}")
        return StoredSummary(
            current=ProductSummary.model_validate({**self.current.model_dump(), "variant": GOLDEN})
        )

    def _require_waiting(self) -> ProductSummary:
        if self.waiting is None or self.waiting.approval == "rejected":
            raise ValueError(f"no summary of {self.product} waits for a person")
        return self.waiting


class Drift(Model):
    """How reviews or summaries are spread now, against the reference."""

    feature: str
    """``stars``, ``languages``, ``lengths``, ``aspects``, ``categories`` of reviews; ``statuses``, ``texts`` of summaries."""
    items: int
    reference_items: int
    psi: float = 0.0
    """Population stability index; 0: the same."""
    by_chance: float = 0.0
    """What 99 of 100 samples of the reference stay below."""
    value: str = ""
    """What changed its share most."""
    change: float = 0.0
    """Of that share, -1 to 1."""
    alarm: bool = False


class SupportShare(Model):
    """Share of the sentences written by a model that held, over summaries, with its 95 % interval."""

    mean: float
    low: float
    high: float
    summaries: int


class ReviewCheck(Model):
    """What a look at reviews and summaries found."""

    at: UtcDatetime
    since: UtcDatetime
    """Reviews from here to the newest one are "now"; those before it are the reference."""
    drifts: tuple[Drift, ...] = ()
    outputs: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Summaries by status and by length, for later looks to be compared with."""
    support: dict[str, SupportShare] = Field(default_factory=dict)
    """By variant."""
    paused: dict[str, str] = Field(default_factory=dict)
    """Variants of which no new summary is published, with the reason."""
    resumed_at: UtcDatetime | None = None
    """Summaries made before this do not pause again."""

    @property
    def id(self) -> str:
        return derive_id("review check", self.at.isoformat())

    @property
    def alarms(self) -> tuple[str, ...]:
        """What drifted."""
        return tuple(one.feature for one in self.drifts if one.alarm)


def is_on_trial(product: str, share: float, variant: str = CHALLENGER) -> bool:
    """Return whether a product is among the share for which a variant is made: by a stable hash, so without any state."""
    return int(text_hash(f"{variant}\n{product}")[:12], 16) < share * 16**12


def choose_served(kept: Sequence[StoredSummary]) -> StoredSummary | None:
    """Return of a product's summaries in one language the one that readers get: the challenger's, if it has a text to show."""
    by_variant = {one.newest.variant: one for one in kept}
    champion, challenger = by_variant.get(CHAMPION), by_variant.get(CHALLENGER)
    shown = (SummaryStatus.READY, SummaryStatus.QUOTED)
    if champion is not None and challenger is not None and challenger.served.status in shown:
        return challenger
    return champion


def _hide(summary: ProductSummary, status: SummaryStatus) -> ProductSummary:
    """What may be shown of a summary that may not be shown: that it is there, and the stars."""
    emptied = dict.fromkeys(
        (
            "sentences",
            "key_points",
            "document_ids",
            "input_hashes",
            "sampled_ids",
            "notes",
        ),
        (),
    )
    return summary.model_copy(
        update={**emptied, "sampled": Distribution(), "supported_share": None, "status": status}
    )


def derive_summary_id(product: str, language: str = ALL_LANGUAGES, variant: str = CHAMPION) -> str:
    """Derive the id under which a product's summary is kept."""
    return derive_id("summary", product, language, variant)
