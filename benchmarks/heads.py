"""Heads and patterns on texts of your own: ``python -m benchmarks.heads LABELLED.csv [--spans FOLD.json …]``.

``LABELLED.csv`` has the columns ``text`` and ``category``. Each fold is a JSON list of ``{text, slots: {name: {span}}}``. A part
that has no data is left out.
"""

import argparse
import csv
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import Check, console, show_checks
from llm_engineering.application.analysis.config import HeadTraining
from llm_engineering.application.analysis.heads import HeadFolder, TextEmbedder
from llm_engineering.application.analysis.patterns import find_entities
from llm_engineering.application.evaluation.heads import HeadVerdict, learn_head
from llm_engineering.application.evaluation.labels import measure_labels, measure_spans
from llm_engineering.application.ports import Vectors
from llm_engineering.application.training.heads.labels import FoundLabels
from llm_engineering.application.training.heads.train import Label
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.training import make_head_learner
from llm_engineering.domain.analyses import AnalysisField, FieldKind, Pattern
from llm_engineering.domain.documents import EmbedderFingerprint, Span

FEW = 10
"""Texts a class to learn from, and as many to test on."""
DRAWS = 3
KINDS = {
    Pattern.DATE: ("date", "date_from", "date_to", "date_period"),
    Pattern.TIME: ("time", "time_from", "time_to", "time_period"),
    Pattern.AMOUNT: ("amount_of_money",),
    Pattern.NUMBER: ("number",),
}
"""Names of the slots that a pattern stands for."""


class _Known:
    """Embeddings made once, as an embedder: the texts are the same in every part."""

    def __init__(self, texts: Sequence[str], vectors: Vectors, fingerprint: EmbedderFingerprint) -> None:
        self._rows = dict(zip(texts, vectors, strict=True))
        self.fingerprint = fingerprint
        self.tokenizer: Any = None

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._rows[text] for text in texts])

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return self.embed_queries(texts)

    def close(self) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=__doc__)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("--foreign", type=Path, help="texts of another world, one a line")
    parser.add_argument("--spans", type=Path, nargs="*", default=())
    parser.add_argument("--out", type=Path, help="folder for the head, as ./poe would keep it")
    options = parser.parse_args()
    with options.labelled.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    foreign = options.foreign.read_text(encoding="utf-8").splitlines() if options.foreign else []
    with open_resources() as resources:
        started = perf_counter()
        texts = [*dict.fromkeys([text for text, _ in rows] + foreign)]
        known = _Known(texts, resources.embedder.embed_queries(texts), resources.embedder.fingerprint)
    console.print(f"{len(texts):,} texts embedded in {perf_counter() - started:.0f} s")
    embedder = TextEmbedder(known)
    folder = HeadFolder(options.out or Path("data/benchmark-heads"))
    checks = [*measure_few(rows, embedder, folder)]
    verdict, more = measure_all(rows, embedder, folder)
    checks += more
    if foreign:
        checks += measure_foreign(verdict, foreign, embedder)
    if options.spans:
        checks += measure_patterns(options.spans)
    show_checks("Heads and patterns", [check.as_dict() for check in checks])


def measure_few(rows: Sequence[tuple[str, str]], embedder: TextEmbedder, folder: HeadFolder) -> list[Check]:
    """Learn from ten texts a class, test on ten others, three draws."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for text, value in rows:
        by_class[value].append(text)
    field = AnalysisField(name="few", kind=FieldKind.CLASS, values=tuple(by_class))
    accuracies = []
    for seed in range(DRAWS):
        chance = random.Random(seed)
        drawn = {value: chance.sample(texts, 2 * FEW) for value, texts in by_class.items()}
        learn = [Label(text, value, text) for value, texts in drawn.items() for text in texts[:FEW]]
        config = HeadTraining(held_out=0.1, seed=seed)
        verdict = learn_head(
            "benchmark",
            field,
            FoundLabels(tuple(learn), {}, None),
            config,
            make_head_learner(),
            embedder,
            folder,
        )
        # The head of the verdict has seen nine of the ten; the penalty is kept, and it is learned again from all ten.
        texts = [label.text for label in learn]
        head = verdict.trained.head
        weights, bias = make_head_learner().fit(
            embedder.embed(texts), [label.value for label in learn], head.labels, verdict.trained.penalty
        )
        whole = replace(head, weights=weights, bias=bias)
        tests = [(text, value) for value, texts in drawn.items() for text in texts[FEW:]]
        said = [one.label for one in whole.decide(embedder.embed([text for text, _ in tests]))]
        report = measure_labels([value for _, value in tests], said, field.values)
        accuracies.append(report.accuracy.mean)
        console.print(
            f"  draw {seed}: {report.accuracy.mean:.3f} [{report.accuracy.low:.3f}, {report.accuracy.high:.3f}]"
        )
    return [
        Check(
            f"accuracy from {FEW} texts a class, mean of {DRAWS} draws",
            float(np.mean(accuracies)),
            0.80,
            "at least",
        )
    ]


def measure_all(
    rows: Sequence[tuple[str, str]], embedder: TextEmbedder, folder: HeadFolder
) -> tuple[HeadVerdict, list[Check]]:
    """Learn from four fifths of all, test on the last."""
    values = tuple(dict.fromkeys(value for _, value in rows))
    field = AnalysisField(name="all", kind=FieldKind.CLASS, values=values)
    labels = FoundLabels(tuple(Label(text, value, text) for text, value in dict(rows).items()), {}, None)
    started = perf_counter()
    verdict = learn_head("benchmark", field, labels, HeadTraining(), make_head_learner(), embedder, folder)
    seconds = perf_counter() - started
    console.print(
        f"  {verdict.summary}; folds {np.mean(verdict.trained.fold_accuracies):.3f} "
        f"± {np.std(verdict.trained.fold_accuracies):.3f}"
    )
    report = verdict.held_out
    worst = sorted(report.classes.items(), key=lambda item: item[1].f1)[:5]
    table = Table("least well told", "F1", "taken for", title_justify="left")
    for name, score in worst:
        others = {said: count for said, count in report.confusion[name].items() if said != name}
        table.add_row(name, f"{score.f1:.2f}", ", ".join(f"{said} {count}" for said, count in others.items()))
    console.print(table)
    console.print(
        f"  calibration error {report.calibration_error:.3f}; coverage "
        + ", ".join(f"{s:.0%}: {a:.3f}" for s, a in report.coverage.items())
    )
    return verdict, [
        Check("accuracy on a held-out fifth", report.accuracy.mean, 0.88, "at least"),
        Check("macro F1 on a held-out fifth", report.macro_f1.mean, 0.88, "at least"),
        Check("accuracy of the surest 70 %", report.coverage[0.7], 0.89, "at least"),
        Check("share decided above the threshold", verdict.decided, 0.70, "at least"),
        Check("accuracy above the threshold", verdict.decided_accuracy or 0.0, 0.89, "at least"),
        Check("seconds to learn, embeddings there", seconds, 300, "at most", " s"),
    ]


def measure_foreign(verdict: HeadVerdict, foreign: Sequence[str], embedder: TextEmbedder) -> list[Check]:
    """How many texts of another world are left to a person, and how many of our own."""
    head = verdict.trained.head
    strange = head.compute_probabilities(embedder.embed(foreign)).max(axis=1)
    console.print(f"  {len(foreign)} foreign texts against the threshold {head.threshold:.2f}")
    return [
        Check("foreign texts handed over", float(np.mean(strange < head.threshold)), 0.90, "at least"),
        Check("held-out texts of our own handed over", 1 - verdict.decided, 0.10, "at most"),
    ]


def measure_patterns(files: Sequence[Path]) -> list[Check]:
    """F1 of exact spans of the patterned kinds over all files together."""
    truth: list[tuple[str, str, Span]] = []
    said: list[tuple[str, str, Span]] = []
    exact = total = 0
    for file in files:
        for number, row in enumerate(json.loads(file.read_text(encoding="utf-8"))):
            record = f"{file.name}:{number}"
            for pattern, names in KINDS.items():
                for name in names:
                    if slot := row.get("slots", {}).get(name):
                        start, end = slot["span"]
                        truth.append((record, pattern, Span(start=start, end=end)))
                field = AnalysisField(name="found", kind=FieldKind.ENTITIES, pattern=pattern)
                for value, span in find_entities(field, row["text"]):
                    said.append((record, pattern, span))
                    total += 1
                    exact += value == row["text"][span.start : span.end]
    scores = measure_spans(truth, said)
    table = Table("kind", "precision", "recall", "F1", "spans", title_justify="left")
    for kind, score in scores.items():
        table.add_row(
            kind, f"{score.precision:.2f}", f"{score.recall:.2f}", f"{score.f1:.2f}", str(score.support)
        )
    console.print(table)
    return [
        Check("values equal to text[span], share", exact / total, 1.0, "at least"),
        Check("F1 of date, time, amount, number together", scores["all"].f1, 0.80, "at least"),
    ]


if __name__ == "__main__":
    main()
