"""Generate all samples of a data set: passages, instructions, answers, readers' votes and edits."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from loguru import logger

from llm_engineering.application.llm.batch import BatchClient, run_in_order
from llm_engineering.application.ports import (
    CleanStore,
    DeadLetterStore,
    DraftStore,
    FeedbackStore,
    GenerationCache,
    LanguageModel,
    Progress,
    SilentProgress,
)
from llm_engineering.application.training.datasets.config import (
    DatasetRun,
    InstructDatasetRun,
    PreferenceDatasetRun,
)
from llm_engineering.application.training.datasets.edits import samples_of_edits
from llm_engineering.application.training.datasets.feedback import FromFeedback, samples_of_votes
from llm_engineering.application.training.datasets.instructions import (
    Instruction,
    draw_number,
    language_for,
    rule_questions,
    write_instructions,
)
from llm_engineering.application.training.datasets.model_pairs import evolve_sample, pairs_of
from llm_engineering.application.training.datasets.passages import Passage, split_passages
from llm_engineering.application.training.datasets.preferences import preference_of
from llm_engineering.application.training.datasets.records import samples_of_records
from llm_engineering.application.training.datasets.samples import Sample, author_sample
from llm_engineering.domain.datasets import InstructSample, PreferenceSample, Provenance
from llm_engineering.domain.errors import InvalidInputError, TooManyFailuresError
from llm_engineering.domain.hints import POE

Result = TypeVar("Result")
INSTRUCT_STAGE, PREFERENCE_STAGE = "generate-instruct", "generate-preference"
"""Stages of the dead letters."""
_SILENT = SilentProgress()


class Stores(Protocol):
    """What is read and written; the warehouse has all of it."""

    @property
    def clean(self) -> CleanStore: ...

    @property
    def dead_letters(self) -> DeadLetterStore: ...

    @property
    def generations(self) -> GenerationCache: ...

    @property
    def feedback(self) -> FeedbackStore: ...

    @property
    def drafts(self) -> DraftStore: ...


@dataclass(slots=True)
class Material:
    """Passages to make samples of, with the instructions that the rules give."""

    documents: list[str] = field(default_factory=list)
    """Ids of all documents that were read."""
    found: list[tuple[Passage, list[Instruction]]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Generated:
    """Samples, not yet checked and split, and how they came about."""

    samples: list[Sample]
    documents: int
    """That were read."""
    counts: Counter[str]
    asked: dict[str, Any]
    """What was asked of the language model; empty: nothing was."""

    def to_metadata(self) -> dict[str, Any]:
        """Return counts and costs for the run's report."""
        made_by = Counter(sample.provenance.made_by for sample in self.samples)
        return {
            "samples": len(self.samples),
            "documents": self.documents,
            **{f"made_by_{name}": count for name, count in sorted(made_by.items())},
            "what_happened": dict(sorted(self.counts.items())),
            **self.asked,
        }


async def generate_instruct(
    stores: Stores,
    run: InstructDatasetRun,
    model: LanguageModel | None = None,
    *,
    progress: Progress = _SILENT,
) -> Generated:
    """Return instruction samples of all that the warehouse holds.

    Raises:
        InvalidInputError: there are no documents, or no sample came of them.
        ModelServiceError: the model's service is down.
        TooManyFailuresError: too much of what was asked of the model came to nothing.
    """
    material = (
        gather(stores.clean, run, with_rules=run.template_instructions is not None, progress=progress)
        if run.needs_passages
        else Material()
    )
    asker = _asker(stores, run, model, INSTRUCT_STAGE) if run.needs_model else None

    async def of_passage(item: tuple[Passage, list[Instruction]]) -> list[InstructSample]:
        passage, ruled = item
        samples = [
            author_sample(passage, one.text, Provenance(made_by="back_translation", seed=run.seed))
            for one in ruled
        ]
        if asker is None:
            return samples
        if run.model_pairs is not None:
            samples += await pairs_of(passage, run.model_pairs, asker)
        if run.evolution is None:
            return samples
        steps = [
            await evolve_sample(sample, passage, run.evolution, asker, material.counts) for sample in samples
        ]
        return [sample for step in steps for sample in step]

    samples: list[InstructSample] = []
    if run.records is not None:
        samples += samples_of_records(stores.clean, stores.feedback, run.records, material.counts, run.seed)
        material.documents += [one.origin.document_id for one in samples]
    if run.feedback is not None:
        samples += _from_votes(stores, run, material.counts).instruct
    async for made in _of_all(material.found, of_passage, run, progress):
        samples += made
    return await _generated(samples, material, run, asker)


async def generate_preference(
    stores: Stores,
    run: PreferenceDatasetRun,
    model: LanguageModel | None = None,
    *,
    progress: Progress = _SILENT,
) -> Generated:
    """Return preference triples of all that the warehouse holds.

    Raises:
        InvalidInputError: there are no documents, or no triple came of them.
        ModelServiceError: the model's service is down.
        TooManyFailuresError: too much of what was asked of the model came to nothing.
    """
    material = gather(stores.clean, run, with_rules=run.rejected is not None, progress=progress)
    asker = _asker(stores, run, model, PREFERENCE_STAGE) if run.needs_model else None

    async def of_passage(item: tuple[Passage, list[Instruction]]) -> list[PreferenceSample]:
        passage, ruled = item
        if asker is None or run.rejected is None:
            return []
        by_rule = Provenance(made_by="back_translation", seed=run.seed)
        prompts = [(one.text, by_rule) for one in ruled]
        if run.model_pairs is not None:
            made = await pairs_of(passage, run.model_pairs, asker)
            prompts += [(sample.instruction, sample.provenance) for sample in made]
        found = [await preference_of(passage, text, run.rejected, asker, used) for text, used in prompts]
        return [sample for sample in found if sample is not None]

    samples: list[PreferenceSample] = []
    if run.feedback is not None:
        samples += _from_votes(stores, run, material.counts).preference
        samples += _from_edits(stores, run, material.counts).preference
    async for triples in _of_all(material.found, of_passage, run, progress):
        samples += triples
    return await _generated(samples, material, run, asker)


def gather(
    clean: CleanStore,
    run: InstructDatasetRun | PreferenceDatasetRun,
    *,
    with_rules: bool,
    progress: Progress = _SILENT,
) -> Material:
    """Return passages of the store, drawn by seed where there are more than wanted, in the order of the store.

    Raises:
        InvalidInputError: the store holds no document, or none that makes a passage.
    """
    material = Material()
    total = 0
    for document in clean.stream(author=run.author):
        total += 1
        if not run.passages.reads(document):
            material.counts["documents not read (source code, copies, other categories)"] += 1
            continue
        material.documents.append(document.id)
        rules = rule_questions(document) if with_rules and run.template_instructions else ()
        for passage in split_passages(document, run.passages):
            ruled = []
            if with_rules and run.template_instructions is not None:
                ruled = write_instructions(passage, run.template_instructions, seed=run.seed, rules=rules)
                if not ruled:
                    known = language_for(passage) is not None
                    material.counts[
                        f"passages without an instruction by rule ({'none fits' if known else 'language'})"
                    ] += 1
            material.found.append((passage, ruled))
        progress.advance("Read documents")
    material.counts["passages"] = len(material.found)
    if not material.found:
        raise InvalidInputError(_nothing(total, len(material.documents), run))
    if run.max_passages is not None and len(material.found) > run.max_passages:
        key = f"{run.seed}/passage"
        drawn = sorted(material.found, key=lambda item: draw_number(f"{key}/{item[0].name}"))[
            : run.max_passages
        ]
        chosen = {passage.name for passage, _ in drawn}
        material.found = [item for item in material.found if item[0].name in chosen]
        material.counts["passages drawn"] = len(material.found)
    return material


def _nothing(total: int, read: int, run: DatasetRun) -> str:
    if not total:
        whose = f" by {run.author}" if run.author else ""
        return (
            f"The warehouse holds no clean documents{whose}, so there is nothing to make a data set of. Collect some with: "
            f"{POE} run-end-to-end-data-pipeline"
        )
    if not read:
        return (
            f"None of the {total} clean documents is prose of the categories asked for. Name others in `passages.categories`, or "
            "collect articles or posts."
        )
    return (
        f"No passage came of {read} documents: all are shorter than {run.passages.shortest} characters. Lower "
        "`passages.shortest`, or collect longer texts."
    )


def _from_votes(
    stores: Stores, run: InstructDatasetRun | PreferenceDatasetRun, counts: Counter[str]
) -> FromFeedback:
    assert run.feedback is not None
    made = samples_of_votes(stores.feedback.read_votes(), stores.clean, run.passages, run.feedback)
    counts.update({f"feedback: {reason}": number for reason, number in made.counts.items()})
    return made


def _from_edits(stores: Stores, run: PreferenceDatasetRun, counts: Counter[str]) -> FromFeedback:
    made = samples_of_edits(stores.drafts.read_edited(), stores.clean, run.author)
    counts.update({f"feedback: {reason}": number for reason, number in made.counts.items()})
    return made


def _asker(stores: Stores, run: DatasetRun, model: LanguageModel | None, stage: str) -> BatchClient:
    if model is None:
        raise ValueError("this run asks a language model, and none was handed in")
    return BatchClient(
        model, stores.generations, stores.dead_letters, run.requests, stage=stage, seed=run.seed
    )


async def _of_all(
    found: Sequence[tuple[Passage, list[Instruction]]],
    work: Callable[[tuple[Passage, list[Instruction]]], Coroutine[Any, Any, Result]],
    run: DatasetRun,
    progress: Progress,
) -> AsyncIterator[Result]:
    # More passages than requests are under way, since a passage may wait for one reply to ask for the next.
    async for made in run_in_order(found, work, 2 * run.requests.concurrency + 2):
        progress.advance("Make samples", total=len(found))
        yield made


async def _generated(
    samples: Sequence[Sample], material: Material, run: DatasetRun, asker: BatchClient | None
) -> Generated:
    if asker is not None:
        await asker.finish()
        _check_failures(asker, run)
    unique = list(_unique(samples, material.counts))
    if not unique:
        stopped = f" {asker.costs.stopped}" if asker is not None and asker.costs.stopped else ""
        raise InvalidInputError(
            f"No sample came of {len(material.found)} passages; what happened: {dict(sorted(material.counts.items()))}.{stopped} "
            "Allow more ways to ask in the run's configuration, or look at what was rejected."
        )
    logger.info("Made {} samples of {} passages.", len(unique), len(material.found))
    asked = asker.to_metadata() if asker is not None else {}
    return Generated(unique, len(material.documents), material.counts, asked)


def _unique(samples: Iterable[Sample], counts: Counter[str]) -> Iterator[Sample]:
    """Each instruction once: two answers to one instruction would teach neither."""
    seen: set[str] = set()
    for sample in samples:
        asked = sample.instruction if isinstance(sample, InstructSample) else sample.prompt
        if isinstance(sample, InstructSample):  # "yes" may end many conversations
            asked = "\n".join([*(turn.content for turn in sample.history), asked])
        key = " ".join(asked.casefold().split())
        if key in seen:
            counts["left out: instruction used before"] += 1
            continue
        seen.add(key)
        yield sample


def _check_failures(asker: BatchClient, run: DatasetRun) -> None:
    lost, asked = asker.report.lost, asker.report.asked - asker.report.not_asked
    if lost > asked * run.max_failed_share:
        raise TooManyFailuresError(
            f"{lost} of {asked} things asked of {asker.model.name} came to nothing, more than the {run.max_failed_share:.0%} "
            f"that the run bears. Why: {dict(sorted(asker.report.reasons.items()))}; each is kept. So are replies: "
            "a run with another prompt, model or `max_failed_share` pays only for what is new."
        )
