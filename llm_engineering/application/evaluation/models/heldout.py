"""Load the held-out test split, and refuse models that were trained on it."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from pydantic import ValidationError

from llm_engineering.application.evaluation.models.systems import System
from llm_engineering.application.training.datasets.config import DecontaminationConfig
from llm_engineering.application.training.datasets.decontamination import Decontamination, Protected
from llm_engineering.application.training.finetune.data import DatasetFolder, open_dataset, read_instruct
from llm_engineering.domain.datasets import DatasetManifest, InstructSample, PreferenceSample, Split
from llm_engineering.domain.errors import InvalidInputError

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """A text that some system learned to say."""

    document_id: str
    author: str
    language: str
    answer: str


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the systems are asked, and what they may have seen."""

    dataset: DatasetFolder
    samples: tuple[InstructSample, ...]
    training: tuple[TrainingSample, ...]
    """Of the same data set and of all others that a system was trained on."""
    overlap: Mapping[str, int]
    """Test samples found in a system's training text: 0 each, or the evaluation would have been refused. Systems whose
    training set is not at hand, and base models, do not stand here."""

    @property
    def documents(self) -> list[str]:
        """The document of each sample."""
        return [sample.origin.document_id for sample in self.samples]


def hold_out(
    folder: Path,
    template: str,
    systems: Sequence[System],
    *,
    datasets: Path,
    samples: int | None,
    seed: int,
    config: DecontaminationConfig,
) -> HeldOut:
    """Read the test split, and make sure that it is one.

    Raises:
        InvalidInputError: there is no test split, or a system's training text holds some of it.
        TemplateMismatchError: the data set was made with another chat template.
    """
    dataset = open_dataset(folder, "instruct", template)
    test = read_instruct(dataset, Split.TEST)
    if not test:
        raise InvalidInputError(
            f"The data set {dataset.label} has no test split to evaluate on. Give it one (splits in the generation's YAML), or "
            "collect more documents: splits are by document."
        )
    own = training_samples(folder)
    learned: dict[str, list[TrainingSample]] = {dataset.label: own}
    overlap: dict[str, int] = {}
    for system in systems:
        seen = _seen_by(system, dataset, learned, datasets)
        if seen is not None:
            overlap[system.name] = _checked(system.name, test, seen, config)
    _checked("the data set's train split", test, own, config)
    every = {(s.document_id, s.answer): s for group in learned.values() for s in group}
    drawn = tuple(draw_samples(test, samples, seed))
    logger.info(
        "{} of {} test questions are asked, from {} of {} documents{}.",
        len(drawn),
        len(test),
        len({sample.origin.document_id for sample in drawn}),
        len({sample.origin.document_id for sample in test}),
        "" if len(drawn) == len(test) else f", drawn by seed (samples: {samples})",
    )
    return HeldOut(dataset, drawn, tuple(every.values()), overlap)


def _seen_by(
    system: System, dataset: DatasetFolder, learned: dict[str, list[TrainingSample]], datasets: Path
) -> list[TrainingSample] | None:
    if system.manifest is None:
        return None
    label = system.manifest.dataset
    if label not in learned:
        name, _, version = label.partition("@")
        folder = datasets / name / version
        if not (folder / "manifest.json").is_file():
            logger.warning(
                "{} was trained on {}, which is not in {}: whether it has seen the test split is not known.",
                system.name,
                label,
                datasets,
            )
            return None
        learned[label] = training_samples(folder)
    elif label == dataset.label and system.manifest.dataset_hash != dataset.hash:
        logger.warning("{} was trained on {} as it was before it changed.", system.name, label)
    return learned[label]


def find_overlaps(
    test: Sequence[InstructSample], training: Iterable[TrainingSample], config: DecontaminationConfig
) -> dict[str, list[str]]:
    """Return why test samples are not held out, by their id: their document was trained on, or runs of their words
    were."""
    seen = list(training)
    documents = {sample.document_id for sample in seen}
    gate = Decontamination([Protected("training text", s.answer) for s in seen], config, "overlap")
    found: dict[str, list[str]] = {}
    for sample in test:
        if sample.origin.document_id in documents:
            found.setdefault(sample.id, []).append(f"document {sample.origin.document_id}")
        if gate.source_of(sample.answer) is not None:
            found.setdefault(sample.id, []).append("word sequences")
    return found


def training_samples(folder: Path) -> list[TrainingSample]:
    """Return the train split of a data set of either kind: answers, or chosen answers.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        manifest = DatasetManifest.model_validate_json((folder / "manifest.json").read_bytes())
        lines = (folder / f"{Split.TRAIN}.jsonl").read_text(encoding="utf-8").split("\n")
        if manifest.kind == "preference":
            chosen = [PreferenceSample.model_validate_json(line) for line in lines if line.strip()]
            return [
                TrainingSample(s.origin.document_id, s.origin.author, s.origin.language, s.chosen)
                for s in chosen
            ]
        samples = [InstructSample.model_validate_json(line) for line in lines if line.strip()]
    except (OSError, ValidationError) as error:
        raise InvalidInputError(f"The training text in {folder} cannot be read: {error}") from None
    return [
        TrainingSample(s.origin.document_id, s.origin.author, s.origin.language, s.answer) for s in samples
    ]


def draw_samples(samples: Sequence[InstructSample], count: int | None, seed: int) -> list[InstructSample]:
    """At most ``count`` samples: whole documents in random order until no more fit, in their old order.

    A first document with more samples than that is cut.
    """
    if count is None or len(samples) <= count:
        return list(samples)
    by_document: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        by_document.setdefault(sample.origin.document_id, []).append(place)
    names = sorted(by_document)
    random.Random(seed).shuffle(names)
    chosen: list[int] = []
    for name in names:
        if len(chosen) + len(by_document[name]) <= count:
            chosen += by_document[name]
    return [samples[place] for place in sorted(chosen or by_document[names[0]][:count])]


def _checked(
    name: str, test: Sequence[InstructSample], seen: Sequence[TrainingSample], config: DecontaminationConfig
) -> int:
    found = find_overlaps(test, seen, config)
    if found:
        reasons = sorted({reason for reasons in found.values() for reason in reasons})
        more = "" if len(reasons) <= _SHOWN else f" and {len(reasons) - _SHOWN} more"
        raise InvalidInputError(
            f"{len(found)} of {len(test)} test samples are not held out from {name}: {', '.join(reasons[:_SHOWN])}{more}. "
            "Figures on text that was learned say nothing; make the data set again with splits by document and "
            "decontamination, and train on that."
        )
    return 0
