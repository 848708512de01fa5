"""The gate of heads: a new one is measured on labels that it was not learned from, against the one in use, which may have been
learned from some of them: the gate is then the stricter."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from llm_engineering.application.analysis.config import HeadTraining
from llm_engineering.application.analysis.heads import HeadFolder, LinearHead, TextEmbedder
from llm_engineering.application.evaluation.labels import LabelReport, compare_accuracy, measure_labels
from llm_engineering.application.evaluation.statistics import Interval
from llm_engineering.application.ports import HeadLearner, Vectors
from llm_engineering.application.training.heads.labels import FoundLabels
from llm_engineering.application.training.heads.train import TrainedHead, train_head
from llm_engineering.domain.analyses import AnalysisField
from llm_engineering.domain.documents import text_hash


@dataclass(frozen=True, slots=True)
class HeadVerdict:
    """A new head, and whether it went into use."""

    trained: TrainedHead
    held_out: LabelReport
    decided: float
    """Share of the held-out texts above the threshold, 0 to 1."""
    decided_accuracy: float | None
    """Of these; None: there are none."""
    difference: Interval | None
    """Accuracy against the head in use; None: there was none, or it reads other vectors."""
    promoted: bool
    labels: dict[str, int]
    agreement: float | None

    @property
    def summary(self) -> str:
        """One line for people."""
        accuracy, f1 = self.held_out.accuracy, self.held_out.macro_f1
        right = "none" if self.decided_accuracy is None else f"{self.decided_accuracy:.3f} of them right"
        against = (
            ""
            if self.difference is None
            else f"; {self.difference.mean:+.3f} [{self.difference.low:+.3f}, {self.difference.high:+.3f}] against the one in use"
        )
        return (
            f"accuracy {accuracy.mean:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}], macro F1 {f1.mean:.3f} "
            f"[{f1.low:.3f}, {f1.high:.3f}] on {self.held_out.items} held-out labels; decides {self.decided:.0%}, {right}"
            f"{against}; "
            f"{'now in use' if self.promoted else 'not in use: worse than the present one'}"
        )

    def to_metadata(self) -> dict[str, Any]:
        """Return the figures for a run's report."""
        folds = self.trained.fold_accuracies
        return {
            "verdict": self.summary,
            "promoted": self.promoted,
            "labels": self.labels,
            "agreement": self.agreement,
            "learned_from": self.trained.learned_from,
            "classes_left_out": self.trained.left_out,
            "penalty": self.trained.penalty,
            "temperature": self.trained.head.temperature,
            "threshold": self.trained.head.threshold,
            "fold_accuracy": float(np.mean(folds)),
            "fold_deviation": float(np.std(folds)),
            "decided": self.decided,
            "decided_accuracy": self.decided_accuracy,
            "held_out": self.held_out.to_metadata(),
        }


def learn_head(
    task: str,
    field: AnalysisField,
    found: FoundLabels,
    config: HeadTraining,
    learner: HeadLearner,
    embedder: TextEmbedder,
    folder: HeadFolder,
) -> HeadVerdict:
    """Learn a head, measure it, keep it, and put it into use unless it is worse than the present one.

    Raises:
        InvalidInputError: the labels are too few.
        MissingDependencyError: what learns is not installed.
    """
    vectors = embedder.embed([label.text for label in found.labels])
    trained = train_head(found.labels, vectors, field.values, embedder.digest, learner, config)
    truth = [found.labels[place].value for place in trained.held_out]
    groups = [found.labels[place].group for place in trained.held_out]
    seen = vectors[list(trained.held_out)]
    decided = trained.head.decide(seen)
    said = [one.label for one in decided]
    sure = [one.label == right for one, right in zip(decided, truth, strict=True) if one.sure]
    present = folder.find_if_there(task, field.name)
    difference = None
    if present is not None and present.embedder == embedder.digest:
        theirs = [one.label for one in present.decide(seen)]
        difference = compare_accuracy(truth, said, theirs, groups, seed=config.seed)
    promoted = difference is None or difference.low >= -config.max_drop
    report = measure_labels(
        truth,
        said,
        field.values,
        confidence=[one.probability for one in decided],
        groups=groups,
        ordered=field.ordered,
        seed=config.seed,
    )
    verdict = HeadVerdict(
        trained,
        report,
        len(sure) / len(truth),
        sum(sure) / len(sure) if sure else None,
        difference,
        promoted,
        found.counts,
        found.agreement,
    )
    learned = [hash_learned(found.labels[place].text) for place in trained.rest]
    _keep(task, field.name, verdict, folder, learned)
    return verdict


def hash_learned(text: str) -> str:
    """Return by what a head remembers which texts it was learned from."""
    return text_hash(text)[:8]


def _keep(task: str, field: str, verdict: HeadVerdict, folder: HeadFolder, learned: Sequence[str]) -> None:
    head = verdict.trained.head
    folder.save(
        task,
        field,
        head,
        verdict=verdict.summary,
        learned=learned,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if verdict.promoted:
        folder.promote(task, field, head.digest)


def find_least_sure(head: LinearHead, vectors: Vectors) -> list[int]:
    """Return the places of the texts, those first that the head is least sure of: what a person should label next."""
    return [
        int(place) for place in np.argsort(head.compute_probabilities(vectors).max(axis=1), kind="stable")
    ]
