"""Summaries against people's, beside two baselines: ``python -m benchmarks.reviews TOPICS.json [--model]``.

Each second topic makes the half on which nothing may be tuned. With ``--model`` the configured language model writes too.
The file maps each topic to its ``sentences`` and to summaries by people. It is read from where it lies; nothing of it is kept.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import console
from llm_engineering.application.analysis.heads import TextEmbedder
from llm_engineering.application.ports import LanguageModel
from llm_engineering.application.reviews.config import ReviewSummaries
from llm_engineering.application.reviews.summarise import ReviewStores, summarise_reviews
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.reviews import ProductSummary, SummaryStatus
from tests.fakes.warehouse import FakeWarehouse

RESAMPLES = 10_000
Vectors = Any


def main(arguments: Sequence[str] | None = None) -> int:
    from rouge_score.rouge_scorer import RougeScorer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", type=Path)
    parser.add_argument("--model", action="store_true", help="let the configured language model write, too")
    options = parser.parse_args(arguments)
    topics = json.loads(options.topics.read_text(encoding="utf-8"))
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    with open_resources() as resources:
        embedder = TextEmbedder(resources.embedder)
        made = summarise_topics(topics, embedder)
        systems: dict[str, dict[str, str]] = {
            "text": {name: one.text for name, one in made.items()},
            "quotes alone": {name: _join_quotes(one) for name, one in made.items()},
            **_write_by_model(topics, embedder, resources, wanted=options.model),
            "lead-3": {name: " ".join(topic["sentences"][:3]) for name, topic in topics.items()},
            "LexRank": {name: rank_by_centrality(topic["sentences"]) for name, topic in topics.items()},
        }
    scores = {
        system: np.array([_score(scorer, texts.get(name, ""), topic) for name, topic in topics.items()])
        for system, texts in systems.items()
    }
    halves = {
        "first half": slice(0, None, 2),
        "second half": slice(1, None, 2),
        "all topics": slice(None),
    }
    for title, half in halves.items():
        some = {system: values[half] for system, values in scores.items()}
        console.print(make_table(title, some, systems))
    return 0


def make_table(title: str, scores: dict[str, Vectors], systems: dict[str, dict[str, str]]) -> Table:
    """Return a line for each system: ROUGE, and how far it is ahead of the baselines."""
    table = Table(
        "system",
        "ROUGE-1 F1",
        "ROUGE-L F1",
        "ahead of lead-3 (95 %)",
        "ahead of LexRank (95 %)",
        "words",
        title=title,
    )
    for system, values in scores.items():
        ahead = [_interval(values[:, 0] - scores[other][:, 0]) for other in ("lead-3", "LexRank")]
        words = np.mean([len(text.split()) for text in systems[system].values()])
        table.add_row(system, *(f"{one:.3f}" for one in values.mean(axis=0)), *ahead, f"{words:.0f}")
    return table


def _write_by_model(
    topics: dict[str, Any], embedder: TextEmbedder, resources: Resources, *, wanted: bool
) -> dict[str, dict[str, str]]:
    if not wanted:
        return {}
    made = summarise_topics(topics, embedder, resources.language_model)
    held = sum(one.status is SummaryStatus.READY for one in made.values())
    console.print(
        f"{held} of {len(made)} topics have sentences of the model that held; quotes stand in elsewhere."
    )
    return {
        f"written by {resources.language_model.name}": {
            name: one.text if one.status is SummaryStatus.READY else _join_quotes(one)
            for name, one in made.items()
        }
    }


def summarise_topics(
    topics: dict[str, Any], embedder: TextEmbedder, model: LanguageModel | None = None
) -> dict[str, ProductSummary]:
    """Return the summary of each topic, every sentence taken for a reviewer's."""
    stores = FakeWarehouse()
    stores.clean.upsert(
        [
            CleanDocument(
                id=f"{name}:{number:04}",
                category="review",
                title="",
                text=text,
                link=f"{name}#{number}",
                platform="topics",
                author="",
                author_id="",
                language="en",
                metadata={"product": name},
                source_hash=f"{number:016}",
            )
            for name, topic in topics.items()
            for number, text in enumerate(topic["sentences"])
        ]
    )
    kept = ReviewStores(
        stores.clean, stores.analyses, stores.summaries, stores.generations, stores.dead_letters
    )
    config = ReviewSummaries(
        by_language=False, sentences=2, text="quotes" if model is None else "model", max_failed_share=1.0
    )
    asyncio.run(summarise_reviews(config, kept, embedder, model))
    return {one.product: one.served for one in stores.summaries.stream()}


def rank_by_centrality(sentences: Sequence[str], most: int = 2) -> str:
    """Return the most central sentences (LexRank: PageRank over the cosines of tf-idf vectors above 0.1)."""
    words = [set(text.lower().split()) for text in sentences]
    vocabulary = {word: place for place, word in enumerate(sorted(set().union(*words)))}
    counts = np.zeros((len(sentences), len(vocabulary)))
    for row, text in enumerate(sentences):
        for word in text.lower().split():
            counts[row, vocabulary[word]] += 1
    weighted = counts * np.log(len(sentences) / np.maximum((counts > 0).sum(axis=0), 1))
    weighted /= np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-9)
    links = ((weighted @ weighted.T) > 0.1).astype(float)
    links /= np.maximum(links.sum(axis=1, keepdims=True), 1)
    rank = np.full(len(sentences), 1 / len(sentences))
    for _ in range(100):
        rank = 0.15 / len(sentences) + 0.85 * links.T @ rank
    return " ".join(sentences[int(place)] for place in np.argsort(-rank, kind="stable")[:most])


def _join_quotes(summary: ProductSummary) -> str:
    return " ".join(sentence.evidence[0].quote for sentence in summary.sentences)


def _score(scorer: Any, text: str, topic: dict[str, Any]) -> tuple[float, float]:
    references = next(value for key, value in topic.items() if key != "sentences")
    found = [scorer.score(one, text) for one in references]
    first, longest = (float(np.mean([one[name].fmeasure for one in found])) for name in ("rouge1", "rougeL"))
    return first, longest


def _interval(differences: Vectors) -> str:
    random = np.random.default_rng(0)
    means = random.choice(differences, (RESAMPLES, len(differences))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    raise SystemExit(main())
