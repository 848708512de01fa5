"""Where to be silent: how similar the best source is to questions that the sample site answers, and to others.

Three sets: questions with an answer in one of the articles; questions of the same trade that no article answers; questions
of another world. Each is retrieved the way ``ask`` does; what counts is
:func:`~llm_engineering.application.inference.answer.estimate_confidence`, which is held against ``min_similarity``.

And what verdicts are worth: sentences with a label (``claims.py``) are judged against the passages that their question
finds, by words and similarity and by words alone, with the time and the embedded texts that a verdict costs. The thresholds
of ``EvidenceConfig`` were chosen with these sentences in view, so their shares flatter; other texts will show other ones.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.claims import CLAIMS, altered
from benchmarks.common import Check, console, show_checks
from benchmarks.corpora import documents as read_documents
from benchmarks.pipeline import bundled_embedder, run_steps
from llm_engineering.application.inference.abstention import measure_floors
from llm_engineering.application.inference.answer import estimate_confidence
from llm_engineering.application.inference.embedding import InMemoryEmbeddingCache
from llm_engineering.application.inference.grounding import GroundingVerifier
from llm_engineering.application.inference.search import as_passages, expand_to_parents, retrieve
from llm_engineering.application.ports import Embedder, VectorIndex
from llm_engineering.domain.retrieval import Citation, Query, Verdict
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from tests.fakes.warehouse import FakeWarehouse

K = 3
"""Sources of an answer, as ``ask`` retrieves them."""

ANSWERED = (
    "Why are chunks allowed to overlap?",
    "What happens when a chunk is longer than the embedding model's limit?",
    "How does small-to-big retrieval work?",
    "What must cleaning never do to code?",
    "How should a crawler respond to a 429 with Retry-After?",
    "When is a browser needed to collect a page?",
    "How are near duplicates found?",
    "What is the population stability index?",
    "What does the Kolmogorov–Smirnov test measure?",
    "When should the model be trained again?",
    "Why are embedding vectors scaled to unit length?",
    "What are embeddings bad at?",
    "How do I make embedding faster on a CPU?",
    "How do I know that a difference between two models is real?",
    "Is a language model a fair judge of answers?",
    "Why split the work into feature, training and inference pipelines?",
    "What is training-serving skew?",
    "How should citations be checked?",
    "When should a system refuse to answer?",
    "Why does hybrid search combine BM25 with dense vectors?",
    "How does reciprocal rank fusion work?",
    "What does the alpha weight do?",
    "Why should filters be applied inside the search?",
    "What is an idempotent upsert?",
    "What happens to stale chunks when a document is deleted?",
    "What is the KV cache and why does it make generation faster?",
    "How does speculative decoding speed up generation?",
    "How many requests fit into the memory of a card?",
    "How does LoRA reduce the number of trained parameters?",
    "What does QLoRA add to LoRA?",
    "How does DPO differ from training a reward model?",
    "Where do preference pairs come from?",
    "What is the GGUF format?",
    "How low can quantisation go before quality suffers?",
    "What is a cross-encoder?",
    "How does MaxSim late interaction score a passage?",
    "Was ist ein LLM-Zwilling?",
    "Läuft der Zwilling auf dem eigenen Rechner?",
    "overlap chunks tokens",
    "bm25 k1 b",
)
TRADE = (
    "How do diffusion models generate images?",
    "What is a convolutional neural network?",
    "How do I deploy a service on Kubernetes?",
    "How does the PageRank algorithm work?",
    "What is federated learning?",
    "How do I tune a random forest?",
    "What is the difference between TCP and UDP?",
    "How does Whisper transcribe speech?",
    "How does garbage collection work in Java?",
    "What is a mixture of experts?",
    "How do I write a recursive query in SQL?",
    "Which optimiser converges fastest for a GAN?",
    "How does word2vec learn word vectors?",
    "How do I centre a div with CSS?",
    "How do self-driving cars fuse lidar and camera data?",
)
FOREIGN = (
    "Which team won the football world cup in 1998?",
    "How long do I boil an egg?",
    "What is the capital of Mongolia?",
    "Who painted the Mona Lisa?",
    "How do I treat a sprained ankle?",
    "When did the Roman Empire fall?",
    "What is the best season to plant tomatoes?",
    "How do vaccines work?",
    "How tall is Mount Everest?",
    "Who wrote Pride and Prejudice?",
    "What are the rules of chess?",
    "How do I renew my passport?",
    "Why is the sky blue?",
    "What causes inflation in an economy?",
    "How do bees make honey?",
    "Which vitamins are in spinach?",
    "How far away is the moon?",
    "What should I wear to a wedding?",
    "Wie backe ich ein Sauerteigbrot?",
    "Wer war der erste Bundeskanzler?",
    "How long should a roast chicken rest before carving?",
    "Which river flows through Budapest?",
    "What is the best way to get red wine out of a carpet?",
    "Who composed the opera Carmen?",
    "How often should I water a cactus?",
    "When was the Berlin Wall torn down?",
    "What are the symptoms of an ear infection?",
    "How many players are on a rugby team?",
    "Can dogs eat grapes?",
    "Which planet has the most moons?",
    "How do I change a flat bicycle tyre?",
    "Who was the first woman to win a Nobel Prize?",
    "What documents do I need to rent a flat?",
    "How do I knit a scarf for a beginner?",
    "Why do leaves turn red in autumn?",
    "What is the average salary of a nurse?",
    "How do I get rid of ants in the kitchen?",
    "Which countries border Switzerland?",
    "What does a carburettor do in a car?",
    "Who wrote One Hundred Years of Solitude?",
    "How deep is the Mariana Trench?",
    "What should a newborn baby weigh?",
    "How is champagne made?",
    "When do I have to file my tax return?",
    "What is the plot of Romeo and Juliet?",
    "How do I train for a marathon?",
    "Which mushrooms are poisonous?",
    "What is the currency of Japan?",
    "How do volcanoes erupt?",
    "Is it safe to travel during pregnancy?",
    "How do I tune a guitar?",
    "Who won the last presidential election in France?",
    "What colour goes with dark green curtains?",
    "How do I apply for a mortgage?",
    "Why do cats purr?",
    "Wie entferne ich Kalk aus dem Wasserkocher?",
    "Welche Impfungen brauche ich für eine Reise nach Thailand?",
    "Comment préparer une pâte à crêpes ?",
    "¿Cuál es el río más largo de España?",
    "tell me a joke about a horse",
)


WAYS = ("words and similarity", "words alone")
"""How sentences are judged."""


def main() -> dict[str, Any]:
    """Index the sample site, ask all questions, print the distributions and return the numbers."""
    embedder = bundled_embedder()
    with tempfile.TemporaryDirectory() as folder:
        warehouse = FakeWarehouse()
        warehouse.documents.upsert(read_documents(None, {}))
        index = QdrantEdgeIndex(Path(folder))
        run_steps(warehouse, embedder, index)
        scores = {
            name: [best_cosine(question, index, embedder) for question in questions]
            for name, questions in (("answered", ANSWERED), ("same trade", TRADE), ("another world", FOREIGN))
        }
        configured = measure_floors(index, embedder).similarity
        judged = {name: verdicts(index, embedder, similarity=name == "words and similarity") for name in WAYS}
        index.close()
    made_up = by_rule(embedder)
    embedder.close()
    foreign_apart = separation(scores["answered"], scores["another world"])
    all_apart = separation(scores["answered"], scores["same trade"] + scores["another world"])
    _show(scores, configured, foreign_apart, all_apart)
    for name, found in judged.items():
        _show_verdicts(name, found)
    _show_verdicts("words and similarity, of sentences altered by rule", made_up)
    checks = [
        Check(
            f"questions of another world left unanswered at {configured:.2f}",
            100 * float(np.mean(np.array(scores["another world"]) < configured)),
            95,
            "at least",
            " %",
        ),
        Check(
            f"answerable questions let through at {configured:.2f}",
            100 * float(np.mean(np.array(scores["answered"]) >= configured)),
            95,
            "at least",
            " %",
        ),
        Check(
            "false or invented sentences called supported",
            100 * share(judged[WAYS[0]], Verdict.SUPPORTED, holds=False),
            2,
            "at most",
            " %",
        ),
        Check(
            "near copies called supported",
            100 * share(judged[WAYS[0]], Verdict.SUPPORTED, kinds=("near",)),
            95,
            "at least",
            " %",
        ),
        Check(
            "copies with another number, a negation or another source called supported",
            100 * share(made_up, Verdict.SUPPORTED, kinds=("number", "negated", "foreign")),
            2,
            "at most",
            " %",
        ),
    ]
    shown = [check.as_dict() for check in checks]
    show_checks("Answering", shown)
    return {
        "checks": shown,
        "min_similarity": configured,
        "scores": scores,
        "separates_foreign": foreign_apart,
        "separates_all": all_apart,
        "verdicts": {name: found["counts"] for name, found in judged.items()},
        "verdict_seconds": {name: found["seconds"] for name, found in judged.items()},
        "verdicts_altered": made_up["counts"],
        "texts_embedded_per_verdict": judged[WAYS[0]]["embedded"],
    }


def best_cosine(question: str, index: VectorIndex, embedder: Embedder) -> float:
    """The confidence in the sources of a question: their highest cosine; 0 where there is none."""
    return estimate_confidence(question, as_passages(retrieve(Query.ask(question, k=K), index, embedder)))


def verdicts(index: VectorIndex, embedder: Embedder, *, similarity: bool) -> dict[str, Any]:
    """Judge every labelled sentence against the passages that its question finds.

    Returns:
        ``counts`` (by kind, then verdict), ``seconds`` (of each verdict, passages analysed and nothing embedded
        before), ``embedded`` (texts for a verdict, on average).
    """
    counts: dict[str, Counter[str]] = {}
    seconds: list[float] = []
    embedded = 0
    for claim in CLAIMS:
        passages = expand_to_parents(retrieve(Query.ask(claim.question, k=5), index, embedder), index)
        memory = InMemoryEmbeddingCache(embedder.embed_queries)
        sources = [
            Citation(number=number, passage=passage) for number, passage in enumerate(passages, start=1)
        ]
        evidence = GroundingVerifier(sources, memory if similarity else None)
        started = perf_counter()
        verdict = evidence.judge(claim.text).verdict
        seconds.append(perf_counter() - started)
        embedded += len(memory)
        counts.setdefault(claim.kind, Counter())[verdict] += 1
    return {
        "counts": {kind: dict(found) for kind, found in counts.items()},
        "seconds": {"p50": float(np.percentile(seconds, 50)), "p95": float(np.percentile(seconds, 95))},
        "embedded": embedded / len(CLAIMS),
    }


def by_rule(embedder: Embedder) -> dict[str, Any]:
    """Judge sentences of the sample site that were altered by rule. Returns what :func:`verdicts` does."""
    counts: dict[str, Counter[str]] = {}
    seconds: list[float] = []
    memory = InMemoryEmbeddingCache(embedder.embed_queries)
    for kind, sentence, passage in altered(read_documents(None, {})):
        evidence = GroundingVerifier([Citation(number=1, passage=passage)], memory)
        started = perf_counter()
        counts.setdefault(kind, Counter())[evidence.judge(sentence).verdict] += 1
        seconds.append(perf_counter() - started)
    return {
        "counts": {kind: dict(found) for kind, found in counts.items()},
        "seconds": {"p50": float(np.percentile(seconds, 50)), "p95": float(np.percentile(seconds, 95))},
        "embedded": len(memory) / len(seconds),
    }


def share(
    found: dict[str, Any], verdict: Verdict, *, holds: bool | None = None, kinds: Sequence[str] = ()
) -> float:
    """Share of the sentences of those kinds, or of all that hold or fail, that got the verdict."""
    wanted = set(kinds) or {claim.kind for claim in CLAIMS if claim.holds is holds}
    counts = [counter for kind, counter in found["counts"].items() if kind in wanted]
    return sum(counter.get(verdict, 0) for counter in counts) / sum(sum(c.values()) for c in counts)


def separation(answered: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """The threshold that treats most questions right, both sides weighing the same (balanced accuracy).

    Returns:
        ``threshold`` (the middle of the best range), ``low`` and ``high`` (its ends), ``balanced_accuracy``.
    """
    values = np.unique(np.concatenate([answered, others]))
    middles = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    right = np.array(
        [(np.mean(np.array(answered) >= t) + np.mean(np.array(others) < t)) / 2 for t in middles]
    )
    best = np.flatnonzero(right == right.max())
    return {
        "threshold": float(middles[best].mean()),
        "low": float(values[best[0]]),
        "high": float(values[min(best[-1] + 1, len(values) - 1)]),
        "balanced_accuracy": float(right.max()),
    }


def _show(
    scores: dict[str, list[float]], configured: float, foreign: dict[str, float], everything: dict[str, float]
) -> None:
    table = Table(
        "questions", "n", "min", "p5", "p25", "p50", "p75", "p95", "max", f"≥ {configured:.2f}",
        title="Cosine of the best source",
    )  # fmt: skip
    for name, values in scores.items():
        quantiles = np.percentile(values, (0, 5, 25, 50, 75, 95, 100))
        above = float(np.mean(np.array(values) >= configured))
        table.add_row(name, str(len(values)), *(f"{value:.2f}" for value in quantiles), f"{above:.0%}")
    console.print(table)
    table = Table("threshold (AnsweringConfig.min_similarity)", "answered", "same trade", "another world")
    for threshold in (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55):
        passed = (f"{np.mean(np.array(values) >= threshold):.0%} pass" for values in scores.values())
        table.add_row(f"{threshold:.2f}", *passed)
    console.print(table)
    for name, apart in (("another world", foreign), ("all others", everything)):
        console.print(
            f"Best apart from {name}: {apart['threshold']:.2f} (from {apart['low']:.2f} to {apart['high']:.2f}), "
            f"balanced accuracy {apart['balanced_accuracy']:.0%}."
        )


def _show_verdicts(name: str, found: dict[str, Any]) -> None:
    table = Table("sentences", "n", *Verdict, title=f"Verdicts by {name}")
    for kind, counts in found["counts"].items():
        table.add_row(kind, str(sum(counts.values())), *(str(counts.get(verdict, 0)) for verdict in Verdict))
    console.print(table)
    times = found["seconds"]
    console.print(
        f"A verdict takes {1000 * times['p50']:.1f} ms (p95 {1000 * times['p95']:.1f} ms) and embeds "
        f"{found['embedded']:.1f} texts."
    )
