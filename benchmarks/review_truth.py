"""Points of the sample's reviews against what is true of them: ``python -m benchmarks.review_truth``.

Weights and words were chosen with sentences of all products in view, and both halves are of one maker: a shop's own reviews will
give other figures.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import console
from benchmarks.review_sample import SAMPLES
from llm_engineering.application.analysis.heads import TextEmbedder
from llm_engineering.application.features.collect import collect
from llm_engineering.application.features.config import EndToEndData
from llm_engineering.application.features.pipeline import clean_documents
from llm_engineering.application.ports import Link
from llm_engineering.application.reviews.config import ReviewSummaryRun
from llm_engineering.application.reviews.summarise import ReviewStores, summarise_reviews
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.reviews import ALL_LANGUAGES, ProductSummary
from llm_engineering.infrastructure.personal_data import RulesFinder
from llm_engineering.infrastructure.sources.tabular import TableReader
from tests.fakes.warehouse import FakeWarehouse
from tools.run_config import read_run_config

FEWEST = 3
"""Reviews that say a thing, for it to be looked for."""


@dataclass(frozen=True, slots=True)
class Match:
    """The point that comes nearest to something that is true."""

    product: str
    aspect: str
    polarity: str
    said: frozenset[str]
    found: frozenset[str]

    @property
    def precision(self) -> float:
        """Share of the reviews behind the point that say so."""
        return len(self.said & self.found) / len(self.found) if self.found else 0.0

    @property
    def recall(self) -> float:
        """Share of the reviews that say so that are behind the point."""
        return len(self.said & self.found) / len(self.said)

    @property
    def counted(self) -> bool:
        """Whether the point's number is right to a tenth, or to one."""
        return abs(len(self.found) - len(self.said)) <= max(1.0, 0.1 * len(self.said))


def main() -> int:
    truth = json.loads((SAMPLES / "reviews_truth.json").read_text(encoding="utf-8"))
    with open_resources() as resources:
        summaries, names = summarise_sample(TextEmbedder(resources.embedder))
    matches = list(match_points(summaries, names, truth))
    products = sorted({one.product for one in matches})
    table = Table("of", "points", "precision", "recall", "count right")
    for title, half in (("half in view", products[::2]), ("other half", products[1::2])):
        some = [one for one in matches if one.product in half]
        values = [[one.precision, one.recall, one.counted] for one in some]
        table.add_row(title, str(len(some)), *(f"{mean:.2f}" for mean in np.mean(values, axis=0)))
    for language in ("en", "de", "fr", "es", "it", "nl"):
        of = {name for name, told in truth["reviews"].items() if told["language"] == language}
        said = sum(len(one.said & of) for one in matches)
        hits = sum(len(one.said & one.found & of) for one in matches)
        found = sum(len(one.found & of) for one in matches)
        table.add_row(language, str(said), f"{hits / found:.2f}", f"{hits / said:.2f}", "")
    console.print(table)
    return 0


def summarise_sample(embedder: TextEmbedder) -> tuple[list[ProductSummary], Mapping[str, str]]:
    """Return the summaries of the sample over all languages, and the sample's names of its reviews by their ids."""
    stores = FakeWarehouse()
    data, *_ = read_run_config(Path("configs/reviews_sample.yaml"), EndToEndData)
    run, *_ = read_run_config(Path("configs/review_summaries.yaml"), ReviewSummaryRun)
    policy = PrivacyPolicy(RulesFinder([]), key=b"sample-reviewers-are-invented")
    [given] = data.collect.links
    link = Link(str(SAMPLES / "reviews.jsonl"), "", category="review", options=given.options)
    reader = TableReader(name_writer=policy.name_writer)
    asyncio.run(collect([link], {"table": reader}, stores.documents, stores.users, stores.dead_letters))
    clean_documents(stores.documents, stores.clean, stores.dead_letters, privacy=policy)
    names = {one.id: one.link.rpartition("#")[2] for one in stores.clean.stream()}
    kept = ReviewStores(
        stores.clean, stores.analyses, stores.summaries, stores.generations, stores.dead_letters
    )
    asyncio.run(summarise_reviews(run.summaries, kept, embedder))
    served = [one.served for one in stores.summaries.stream()]
    return [one for one in served if one.language == ALL_LANGUAGES and one.key_points], names


def match_points(
    summaries: list[ProductSummary], names: Mapping[str, str], truth: Mapping[str, Any]
) -> Iterator[Match]:
    """Yield for everything that some reviews say of a product the point that fits it best."""
    for summary in summaries:
        for aspect, sides in truth["products"][summary.product]["aspects"].items():
            for polarity, ids in sides.items():
                if len(ids) < FEWEST:
                    continue
                said = frozenset(ids)
                found = [
                    frozenset(names[one] for one in point.document_ids)
                    for point in summary.key_points
                    if point.polarity == polarity
                ]
                best = max(found, key=lambda one: len(one & said) / len(one | said), default=frozenset())
                yield Match(summary.product, aspect, polarity, said, best & frozenset(names.values()))


if __name__ == "__main__":
    raise SystemExit(main())
