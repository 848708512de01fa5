"""Runs every configuration over the same questions, through the retriever that serves, and puts the results side by side."""

import asyncio
import statistics as numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from llm_engineering.application.evaluation.rag.metrics import MIN_OVERLAP, Source, judge, measure_ranking
from llm_engineering.application.evaluation.rag.questions import Labelled
from llm_engineering.application.evaluation.statistics import (
    Comparison,
    Interval,
    bootstrap_interval,
    compare,
    correct_holm,
)
from llm_engineering.application.inference.answer import estimate_confidence
from llm_engineering.application.inference.retriever import RetrievalConfig, Retrieved, Retriever
from llm_engineering.application.inference.search import as_passages, expand_to_parents
from llm_engineering.application.ports import Progress, SilentProgress, VectorIndex
from llm_engineering.application.ports.observability import Recorder
from llm_engineering.domain.documents import Model
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.retrieval import MAX_HITS, MetadataFilter, Passage

SHOWN_SOURCES = 5
"""Sources of a question that its record keeps."""
HITS_PER_DOCUMENT = 3
"""Hits that are asked for at first for one document; more where they come from too few."""
EXCERPT = 240
"""Characters of a source that its record keeps."""
_SILENT = SilentProgress()


class Configuration(Model):
    """One row of the table."""

    retrieval: RetrievalConfig = RetrievalConfig()
    parents: bool = False
    """Judge the passages around the hits (small-to-big) in place of the hits: what a model with the room gets to read."""


@dataclass(frozen=True, slots=True)
class FoundSource:
    """A source as the record of a question keeps it."""

    document_id: str
    start: int
    end: int
    title: str
    link: str
    score: float
    relevant: bool
    excerpt: str


@dataclass(frozen=True, slots=True)
class QuestionRun:
    """One question under one configuration."""

    question_id: str
    metrics: Mapping[str, float]
    """Empty for a question that nothing answers."""
    confidence: float
    """What the abstention threshold is held against."""
    covered: bool
    """Whether a source covers a relevant place: without, no answer can be right."""
    characters: int
    """Of all sources together: what a wider configuration pays for its recall."""
    seconds: float
    degradations: tuple[str, ...]
    filter_right: bool | None
    """Whether the filter that was used is the one expected; None: none is expected."""
    sources: tuple[FoundSource, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class ConfigurationRun:
    """One configuration over all questions."""

    name: str
    configuration: Configuration
    runs: tuple[QuestionRun, ...]

    def select_answerable(self) -> list[QuestionRun]:
        """Return the runs of questions that have metrics."""
        return [run for run in self.runs if run.metrics]

    def values(self, metric: str) -> list[float]:
        """Return a metric by question, in the order of the questions.

        Raises:
            InvalidInputError: there is no such metric; the message names those that there are.
        """
        found = self.select_answerable()
        if found and metric not in found[0].metrics:
            raise InvalidInputError(
                f"There is no metric '{metric}'. There are: {', '.join(found[0].metrics)}."
            )
        return [run.metrics[metric] for run in found]


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration's line of the table."""

    name: str
    means: Mapping[str, float]
    intervals: Mapping[str, Interval]
    against: Comparison | None
    """The primary metric against the reference; None for the reference itself."""
    median_ms: float
    p95_ms: float
    characters: float
    """Mean characters of the sources of a question."""
    degraded: int
    """Questions that a stage failed on."""
    failed: int
    filters_right: float | None
    """Share of expected filters that were used; None: none is expected."""


ConfidenceOf = Callable[[Retrieved], float]


async def run_configurations(
    questions: Sequence[Labelled],
    configurations: Mapping[str, Configuration],
    make_retriever: Callable[[RetrievalConfig], Retriever],
    index: VectorIndex,
    *,
    ks: Sequence[int],
    confidence_of: ConfidenceOf,
    filter: MetadataFilter = MetadataFilter(),
    by_document: bool = False,
    min_overlap: float = MIN_OVERLAP,
    progress: Progress = _SILENT,
) -> list[ConfigurationRun]:
    """Ask all questions under each configuration, one after the other, so that their times can be compared.

    Args:
        ks: cut-offs; as many hits are asked for as the largest, so that the list is the one that would be served.
        filter: restricts every search to the corpus that the questions are about.
        by_document: hits of one document count once, for labels on whole documents.

    Raises:
        StoreError: the index is not there.
        ModelError: a model that a configuration cannot do without failed.
    """
    runs: list[ConfigurationRun] = []
    total = len(questions) * len(configurations)
    for name, configuration in configurations.items():
        asking = _Asking(
            make_retriever(configuration.retrieval),
            configuration,
            index,
            tuple(ks),
            confidence_of,
            filter,
            by_document,
            min_overlap,
        )
        found: list[QuestionRun] = []
        try:
            for question in questions:
                found.append(await asking.ask(question))
                progress.advance("Ask questions", total=total)
        finally:
            asking.retriever.close()
        runs.append(ConfigurationRun(name, configuration, tuple(found)))
    return runs


@dataclass(frozen=True, slots=True)
class _Asking:
    retriever: Retriever
    configuration: Configuration
    index: VectorIndex
    ks: tuple[int, ...]
    confidence_of: ConfidenceOf
    filter: MetadataFilter
    by_document: bool
    min_overlap: float

    async def ask(self, labelled: Labelled) -> QuestionRun:
        depth = max(self.ks)
        recorder = Recorder("evaluation")
        try:
            found = await self._find(labelled.question.question, depth, recorder)
        except InvalidInputError as error:
            return self._failed(labelled, recorder, error)
        seconds = recorder.elapsed
        if self.configuration.parents:
            passages = await asyncio.to_thread(expand_to_parents, found.hits, self.index)
        else:
            passages = as_passages(found.hits)
        if self.by_document:
            first = {passage.document_id: passage for passage in reversed(passages)}
            passages = [passage for passage in passages if first[passage.document_id] is passage][:depth]
        return self._run(labelled, found, passages, seconds)

    async def _find(self, question: str, depth: int, recorder: Recorder) -> Retrieved:
        """Hits; by document, so many that they come from ``depth`` documents, where the search finds as many."""
        wanted, before = (HITS_PER_DOCUMENT * depth if self.by_document else depth), 0
        while True:
            query = self.configuration.retrieval.query(question, k=min(wanted, MAX_HITS), filter=self.filter)
            found = await self.retriever.retrieve(query, recorder, for_answer=True)
            documents = {hit.chunk.document_id for hit in found.hits}
            is_all = query.k == MAX_HITS or len(found.hits) == before
            if not self.by_document or len(documents) >= depth or is_all:
                return found
            wanted, before = 2 * wanted, len(found.hits)

    def _run(
        self, labelled: Labelled, found: Retrieved, passages: Sequence[Passage], seconds: float
    ) -> QuestionRun:
        sources = [Source(passage.document_id, passage.span) for passage in passages]
        judged = judge(sources, labelled.targets, self.min_overlap) if labelled.targets else None
        gains = judged.gains if judged else ((),) * len(sources)
        expected = labelled.question.filter
        return QuestionRun(
            question_id=labelled.question.id,
            metrics=measure_ranking(judged, self.ks) if judged else {},
            confidence=self.confidence_of(found),
            covered=any(gains),
            characters=sum(len(passage.text) for passage in passages),
            seconds=seconds,
            degradations=found.provenance.degradations,
            filter_right=None if expected is None else _holds(found.provenance.filter, expected),
            sources=tuple(
                _kept(passage, bool(gain))
                for passage, gain in zip(passages[:SHOWN_SOURCES], gains, strict=False)
            ),
        )

    def _failed(self, labelled: Labelled, recorder: Recorder, error: InvalidInputError) -> QuestionRun:
        """A question that is refused has found nothing; the others go on."""
        nothing = measure_ranking(judge((), labelled.targets), self.ks) if labelled.targets else {}
        return QuestionRun(
            labelled.question.id, nothing, 0.0, False, 0, recorder.elapsed, (), None, (), error=str(error)
        )


def _holds(used: MetadataFilter, expected: MetadataFilter) -> bool:
    """Whether a filter says all that is expected; what the run restricts all searches to may stand beside it."""
    wanted = expected.model_dump(exclude_defaults=True)
    return all(getattr(used, field) == value for field, value in wanted.items())


def _kept(passage: Passage, relevant: bool) -> FoundSource:
    excerpt = " ".join(passage.text[: 2 * EXCERPT].split())[:EXCERPT]
    return FoundSource(
        passage.document_id,
        passage.span.start,
        passage.span.end,
        passage.title,
        passage.link,
        passage.score,
        relevant,
        excerpt,
    )


def serving_confidence(found: Retrieved) -> float:
    """Return what serving holds against ``min_similarity`` before it answers."""
    return estimate_confidence(found.question, as_passages(found.hits), found.closeness)


def comparison_table(
    runs: Sequence[ConfigurationRun],
    questions: Sequence[Labelled],
    *,
    primary: str,
    reference: str,
    seed: int,
    resamples: int,
) -> list[Row]:
    """Return the table of all configurations; each but the reference is tested against it, p-values corrected by Holm's
    method.

    Args:
        primary: the metric that is tested, such as ``recall@5``.
        reference: name of the configuration that the others are held against.

    Raises:
        InvalidInputError: there is no such metric or reference, or no question has an answer.
    """
    by_name = {run.name: run for run in runs}
    if reference not in by_name:
        raise InvalidInputError(
            f"The reference '{reference}' is not among the configurations: {', '.join(by_name)}."
        )
    clusters = [labelled.cluster for labelled in questions if labelled.targets]
    if not clusters:
        raise InvalidInputError(
            "No question of the set has an answer in the corpus; nothing can be measured."
        )
    theirs = by_name[reference].values(primary)
    compared = {
        run.name: compare(run.values(primary), theirs, clusters, seed=seed, resamples=resamples)
        for run in runs
        if run.name != reference
    }
    corrected = correct_holm({name: comparison.p_value for name, comparison in compared.items()})
    rows = []
    for run in runs:
        against = compared.get(run.name)
        if against is not None:
            against = replace(against, p_corrected=corrected[run.name])
        rows.append(_row(run, clusters, against, seed, resamples))
    return rows


def _row(
    run: ConfigurationRun, clusters: Sequence[str], against: Comparison | None, seed: int, resamples: int
) -> Row:
    found = run.select_answerable()
    intervals = {
        metric: bootstrap_interval(run.values(metric), clusters, seed=seed, resamples=resamples)
        for metric in found[0].metrics
    }
    times = sorted(1e3 * item.seconds for item in run.runs)
    filters = [item.filter_right for item in run.runs if item.filter_right is not None]
    return Row(
        name=run.name,
        means={metric: value.mean for metric, value in intervals.items()},
        intervals=intervals,
        against=against,
        median_ms=numbers.median(times),
        p95_ms=times[min(len(times) - 1, int(0.95 * len(times)))],
        characters=sum(item.characters for item in run.runs) / len(run.runs),
        degraded=sum(bool(item.degradations) for item in run.runs),
        failed=sum(bool(item.error) for item in run.runs),
        filters_right=sum(filters) / len(filters) if filters else None,
    )


def by_kind(
    run: ConfigurationRun, questions: Sequence[Labelled], metric: str
) -> dict[str, tuple[int, float]]:
    """Return (number of questions, mean of a metric) for each kind of answerable question."""
    values: dict[str, list[float]] = {}
    kinds = [labelled.question.kind for labelled in questions if labelled.targets]
    for kind, value in zip(kinds, run.values(metric), strict=True):
        values.setdefault(kind, []).append(value)
    return {kind: (len(found), sum(found) / len(found)) for kind, found in sorted(values.items())}
