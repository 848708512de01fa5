"""Run an analysis over records or groups: rules first, then heads, then the language model for what is left open.

Ids are derived from all that decides a result, so what has not changed is known before anything is asked, and a result whose
record, spec, prompt or model has changed is found stale and removed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from llm_engineering.application.analysis.explain import find_deciding_sentences
from llm_engineering.application.analysis.grouping import POSTED, Unit, hash_input, read_units
from llm_engineering.application.analysis.heads import (
    Heads,
    LinearHead,
    TextEmbedder,
    check_embedder,
    compose_text,
)
from llm_engineering.application.analysis.patterns import find_entities
from llm_engineering.application.analysis.schema import ReadReply, ShownText, make_schema, read_reply
from llm_engineering.application.failures import group_batches
from llm_engineering.application.llm.batch import (
    BatchClient,
    BatchConfig,
    LlmRequest,
    NoAnswerError,
    run_in_order,
)
from llm_engineering.application.llm.budget import BudgetExhaustedError
from llm_engineering.application.llm.prompts import make_inert, present_source, prompt_hash, render
from llm_engineering.application.ports import (
    AnalysisStore,
    CleanStore,
    DeadLetterStore,
    GenerationCache,
    GenerationOptions,
    LanguageModel,
    Progress,
    SilentProgress,
)
from llm_engineering.domain.analyses import (
    Analysis,
    AnalysisField,
    AnalysisSpec,
    Engine,
    Evidence,
    Finding,
    derive_analysis_id,
)
from llm_engineering.domain.documents import text_hash
from llm_engineering.domain.errors import ConfigurationError, TooManyFailuresError

STAGE = "analyse"
PROMPT = ("analyse", 1)
_BATCH = 64
_SILENT = SilentProgress()
_REQUESTS = BatchConfig()


@dataclass(frozen=True, slots=True)
class AnalysisStores:
    """What an analysis reads and writes."""

    clean: CleanStore
    analyses: AnalysisStore
    generations: GenerationCache
    dead_letters: DeadLetterStore


@dataclass(frozen=True, slots=True)
class Deciders:
    """Who is asked. What a spec's engine does not need may be None."""

    model: LanguageModel | None = None
    heads: Heads | None = None
    embedder: TextEmbedder | None = None


@dataclass(slots=True)
class AnalysisReport:
    """What a run did, in records or groups."""

    task: str
    seen: int = 0
    unchanged: int = 0
    analysed: int = 0
    failed: int = 0
    """Each is a dead letter."""
    not_asked: int = 0
    """The budget left no room."""
    stale: int = 0
    """Results removed because what they were made from has changed or is gone."""
    findings: int = 0
    dropped: int = 0
    """Findings without the evidence that they need."""
    unsure: int = 0
    """Classes that a head left open."""
    values: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often each class was found, by field."""
    asked: dict[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, Any]:
        """Return the counts for a run's report."""
        counts = {
            "seen": self.seen,
            "unchanged": self.unchanged,
            "analysed": self.analysed,
            "failed": self.failed,
            "not_asked": self.not_asked,
            "stale": self.stale,
            "findings": self.findings,
            "dropped": self.dropped,
            "unsure": self.unsure,
        }
        return {"task": self.task, **counts, "values": self.values, **self.asked}


class Analyser:
    """Analyses records by one spec. For one event loop.

    Raises:
        ConfigurationError: the spec needs a model or heads that were not handed in, or a head decides other classes than the
            spec's.
        ModelFileError: a head is missing, or was learned with another embedder.
    """

    def __init__(self, spec: AnalysisSpec, deciders: Deciders, client: BatchClient | None = None) -> None:
        self.spec = spec
        self._deciders = deciders
        self._client = client
        self._heads = {one.name: self._find_head(one) for one in spec.head_fields}
        self._asks_model = spec.engine is Engine.HEAD_THEN_LLM or bool(spec.llm_fields)
        if self._asks_model and client is None:
            raise ConfigurationError(
                f"The analysis {spec.task} asks a language model, and none is configured. See LLM_* in .env.example, or choose "
                "`engine: head`."
            )
        self.prompt_hash = prompt_hash(*PROMPT) if self._asks_model else ""
        names = [f"{name}:{head.digest}" for name, head in sorted(self._heads.items())]
        if self._asks_model and client is not None:
            names.append(client.model.name)
        self.model = "+".join(names) or "rules"

    def derive_id(self, unit: Unit) -> str:
        """Return the id that the unit's result has, or will have."""
        return derive_analysis_id(self.spec, unit.key, unit.input_hashes, self.prompt_hash, self.model)

    def apply_heads(self, units: Sequence[Unit]) -> list[tuple[tuple[Finding, ...], tuple[str, ...]]]:
        """Return what the heads say of each unit, and the fields that they leave open; one batch of embeddings for all."""
        if not self._heads or self._deciders.embedder is None:
            return [((), ()) for _ in units]
        vectors = self._deciders.embedder.embed([compose_text(*unit.documents) for unit in units])
        found: list[list[Finding]] = [[] for _ in units]
        unsure: list[list[str]] = [[] for _ in units]
        for name, head in self._heads.items():
            told = head.decide(vectors)
            for place, decided in enumerate(told):
                if not decided.sure:
                    unsure[place].append(name)
            sure = [place for place, decided in enumerate(told) if decided.sure]
            quotes = self._quote_heads(name, head, [(units[place], told[place].label) for place in sure])
            for place, evidence in zip(sure, quotes, strict=True):
                decided = told[place]
                finding = Finding(
                    field=name,
                    value=decided.label,
                    confidence=decided.probability,
                    evidence=evidence,
                    made_by="head",
                )
                found[place].append(finding)
        return [(tuple(one), tuple(names)) for one, names in zip(found, unsure, strict=True)]

    def _quote_heads(
        self, name: str, head: LinearHead, decided: Sequence[tuple[Unit, str]]
    ) -> list[tuple[Evidence, ...]]:
        """The sentence that decides each, where the field asks for evidence."""
        field = self.spec.find_field(name)
        if field is None or field.evidence != "required" or self._deciders.embedder is None:
            return [() for _ in decided]
        documents = [unit.documents[0] for unit, _ in decided]
        spans = find_deciding_sentences(
            documents, [label for _, label in decided], head, self._deciders.embedder
        )
        return [
            (Evidence(document_id=one.id, span=span, quote=one.text[span.start : span.end]),)
            if span is not None
            else ()
            for one, span in zip(documents, spans, strict=True)
        ]

    async def analyse(self, unit: Unit, headed: tuple[tuple[Finding, ...], tuple[str, ...]]) -> Analysis:
        """Return the result about a unit.

        Raises:
            BudgetExhaustedError: the budget leaves no room to ask.
            NoAnswerError: the model gave no usable reply; there is a dead letter.
            ModelServiceError: the model's service is down.
        """
        by_head, unsure = headed
        findings = [*self._apply_rules(unit), *by_head]
        open_fields = [*self.spec.llm_fields]
        if self.spec.engine is Engine.HEAD_THEN_LLM:
            open_fields += [one for one in self.spec.head_fields if one.name in unsure]
            unsure = ()
        dropped = 0
        if open_fields:
            reply = await self._ask(unit, open_fields)
            findings += reply.findings
            dropped = reply.dropped
        return self._make_result(unit, findings, dropped, unsure)

    def summarise_heads(self, unit: Unit, headed: tuple[tuple[Finding, ...], tuple[str, ...]]) -> Analysis:
        """Return what rules and heads say alone, where the language model cannot be asked; not to be kept."""
        by_head, unsure = headed
        return self._make_result(unit, [*self._apply_rules(unit), *by_head], 0, unsure)

    def _make_result(
        self, unit: Unit, findings: Sequence[Finding], dropped: int, unsure: tuple[str, ...]
    ) -> Analysis:
        order = [one.name for one in self.spec.fields]
        return Analysis(
            id=self.derive_id(unit),
            task=self.spec.task,
            spec=self.spec.digest,
            key=unit.key,
            document_ids=unit.document_ids,
            input_hash=text_hash("\x00".join(unit.input_hashes)),
            findings=tuple(sorted(findings, key=lambda one: order.index(one.field))),
            dropped=dropped,
            unsure=unsure,
            model=self.model,
            prompt_hash=self.prompt_hash,
            created_at=datetime.now(UTC),
        )

    def _apply_rules(self, unit: Unit) -> Iterator[Finding]:
        for one in self.spec.fields:
            if not one.by_rule:
                continue
            found: dict[tuple[str, str], Finding] = {}
            for document in unit.documents:
                for value, span in find_entities(one, document.text):
                    quote = document.text[span.start : span.end]
                    evidence = Evidence(document_id=document.id, span=span, quote=quote)
                    finding = Finding(field=one.name, value=value, evidence=(evidence,), made_by="rule")
                    found.setdefault(
                        (value, document.id) if one.values else (document.id, str(span)), finding
                    )
            most = None if one.most is None else int(one.most)
            yield from list(found.values())[:most]

    async def _ask(self, unit: Unit, fields: Sequence[AnalysisField]) -> ReadReply:
        assert self._client is not None, "checked when the analyser was made"
        shown = [
            ShownText(document.id, document.text[: self.spec.max_characters]) for document in unit.documents
        ]
        messages = render(
            *PROMPT,
            task=make_inert(self.spec.description),
            fields=[_describe_field(one) for one in fields],
            records=[
                present_source(number, document.title, one.text)
                for number, (document, one) in enumerate(zip(unit.documents, shown, strict=True), start=1)
            ],
        )
        options = GenerationOptions(max_tokens=self.spec.max_tokens, json_schema=make_schema(fields))
        request = LlmRequest(
            name=f"{self.spec.task}:{unit.key}",
            messages=tuple(messages),
            options=options,
            prompt_hash=self.prompt_hash,
            read=lambda text: read_reply(text, fields, shown),
        )
        return await self._client.answer(request)

    def _find_head(self, one: AnalysisField) -> LinearHead:
        if self._deciders.heads is None or self._deciders.embedder is None:
            raise ConfigurationError(
                f"The analysis {self.spec.task} decides by heads, and none were handed in."
            )
        head = self._deciders.heads.find(self.spec.task, one.name)
        what = f"{self.spec.task}.{one.name}"
        check_embedder(head, self._deciders.embedder, what)
        if beyond := sorted(set(head.labels) - set(one.values)):
            raise ConfigurationError(
                f"The head of {what} decides classes that the spec does not have: {', '.join(beyond[:5])}. Add them to `values`, "
                "or train the head again."
            )
        return head


async def analyse_records(
    spec: AnalysisSpec,
    stores: AnalysisStores,
    deciders: Deciders,
    requests: BatchConfig = _REQUESTS,
    *,
    max_failed_share: float = 0.5,
    limit: int | None = None,
    progress: Progress = _SILENT,
) -> AnalysisReport:
    """Bring the results of a spec up to date with the records of the warehouse.

    Args:
        requests: how the language model is asked, and with what budget. When that is spent, heads and rules go on, records
            that need the model are left for the next run.
        max_failed_share: of all records; more lost fails the run, with all others stored.
        limit: of records or groups to analyse anew, for a quick try; None: all.

    Raises:
        ConfigurationError: the spec needs a model or a head that is not there.
        ModelServiceError: the model's service is down; what was done is stored.
        TooManyFailuresError: too many records were lost.
    """
    client = None
    if deciders.model is not None:
        client = BatchClient(deciders.model, stores.generations, stores.dead_letters, requests, stage=STAGE)
    analyser = Analyser(spec, deciders, client)
    known = dict(stores.analyses.list_versions(spec.task))
    report = AnalysisReport(spec.task)
    wanted: set[str] = set()
    most = 2 * requests.concurrency + 2
    for batch in group_batches(_list_new(stores, analyser, known, wanted, report, limit), _BATCH):
        units = _fill(batch, stores.clean)
        work = list(zip(units, analyser.apply_heads(units), strict=True))

        async def of_unit(
            item: tuple[Unit, tuple[tuple[Finding, ...], tuple[str, ...]]],
        ) -> Analysis | None:
            try:
                return await analyser.analyse(*item)
            except BudgetExhaustedError:
                report.not_asked += 1
            except NoAnswerError:
                report.failed += 1
            return None

        done: list[Analysis] = []
        try:
            async for result in run_in_order(work, of_unit, most):
                progress.advance("Analyse")
                if result is not None:
                    done.append(result)
        finally:  # what was found before the service went down stays
            if done:
                stores.analyses.upsert(done)
        _count(report, done, spec)
    if limit is None:
        stale = [
            identifier
            for identifier, key in known.items()
            if identifier not in wanted and not key.startswith(POSTED)
        ]
        report.stale = stores.analyses.delete(stale) if stale else 0
    if client is not None:
        await client.finish()
        report.asked = client.to_metadata()
    _check_failures(report, max_failed_share)
    return report


def _list_new(
    stores: AnalysisStores,
    analyser: Analyser,
    known: Mapping[str, str],
    wanted: set[str],
    report: AnalysisReport,
    limit: int | None,
) -> Iterator[Unit]:
    handed_out = 0
    for unit in read_units(stores.clean, analyser.spec):
        report.seen += 1
        identifier = analyser.derive_id(unit)
        wanted.add(identifier)
        if identifier in known:
            report.unchanged += 1
        elif limit is None or handed_out < limit:
            handed_out += 1
            yield unit


def _fill(units: Sequence[Unit], clean: CleanStore) -> list[Unit]:
    """The units with their documents; of a group they are read now. What is gone by now is left out."""
    missing = [identifier for unit in units if not unit.documents for identifier in unit.document_ids]
    read = {document.id: document for document in clean.get(missing)} if missing else {}
    filled = []
    for unit in units:
        documents = unit.documents or tuple(read[one] for one in unit.document_ids if one in read)
        if (
            tuple(map(hash_input, documents)) == unit.input_hashes
        ):  # else it has changed since; the next run does it
            filled.append(replace(unit, documents=documents))
    return filled


def _count(report: AnalysisReport, done: Iterable[Analysis], spec: AnalysisSpec) -> None:
    classes = {one.name for one in spec.fields if one.kind == "class"}
    for analysis in done:
        report.analysed += 1
        report.findings += len(analysis.findings)
        report.dropped += analysis.dropped
        report.unsure += len(analysis.unsure)
        for finding in analysis.findings:
            if finding.field in classes:
                counts = report.values.setdefault(finding.field, {})
                counts[str(finding.value)] = counts.get(str(finding.value), 0) + 1


def _check_failures(report: AnalysisReport, max_failed_share: float) -> None:
    # Over all that has a result: a rerun that finds nothing new but the one bad record is no failure.
    known = report.unchanged + report.analysed + report.failed
    if report.failed > known * max_failed_share:
        raise TooManyFailuresError(
            f"{report.failed} of {known} records came to nothing in the analysis {report.task}, more than the "
            f"{max_failed_share:.0%} that the run bears. Why: {report.asked.get('reasons', {})}; each is kept as rejected by the "
            f"stage '{STAGE}', all others are stored. Try another model, or raise `max_failed_share`."
        )


def _describe_field(one: AnalysisField) -> dict[str, Any]:
    quoted = one.evidence == "required" and one.kind != "entities"
    told = {"name": one.name, "kind": str(one.kind), "values": one.values, "quoted": quoted}
    return {**told, "description": make_inert(one.description)}
