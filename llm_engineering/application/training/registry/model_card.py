"""The model card: what a version is for, where it comes from, how it was judged, and what is not known of it.

Its headings follow the proposal of Mitchell et al. (2019), "Model Cards for Model Reporting". A part that nothing is
known of stays in the card and says so.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from llm_engineering.application.training.registry.promotion_checks import system_of
from llm_engineering.domain.datasets import DatasetManifest, Split
from llm_engineering.domain.models import (
    Difference,
    EvaluationReport,
    ModelVersion,
    PromotionDecision,
    Score,
    SystemReport,
)

_FAIRNESS = re.compile(r"(?i)bias|crows_pairs|\bbbq|winogender|stereo")
_SAFETY = re.compile(r"(?i)toxi|empty|refus|safe|copied|memori")
_MOST_DOCUMENTS = 25
_MARKUP = re.compile(r"([\\|`*_\[\]<>#])")


def model_card(
    version: ModelVersion,
    report: EvaluationReport | None = None,
    dataset: DatasetManifest | None = None,
    decisions: Sequence[PromotionDecision] = (),
) -> str:
    """Return the card as Markdown.

    Args:
        report: an evaluation; of use where this version is one of its systems.
        dataset: what it was trained on.
        decisions: recorded on this version, newest first.
    """
    system = system_of(report, version) if report else None
    scores = system.scores if system else ()
    sections = [
        _head(version),
        _intended_use(),
        _data(version, dataset),
        _training(version),
        _metrics(version, report, scores),
        _comparison(report, system),
        _bias(scores),
        _limits(version, report, scores, dataset),
        _decisions(decisions),
        _serving(version),
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _head(version: ModelVersion) -> Iterator[str]:
    manifest = version.manifest
    kinds = {
        "sft": "supervised fine-tuning",
        "dpo": "direct preference optimisation",
        "recorded": "nothing of ours: it runs elsewhere, and its answers are what is kept",
    }
    revision = f", revision {_text(manifest.base_revision)}" if manifest.base_revision else ""
    yield f"# {_text(version.label)}"
    yield ""
    yield f"A language model made from **{_text(manifest.base)}**{revision} by {kinds[manifest.stage]} ({manifest.method})."
    yield ""
    yield from _table(
        ("", ""),
        [
            ("Stage", version.stage.value),
            ("Made", f"{manifest.created_at:%Y-%m-%d %H:%M} UTC"),
            ("Content hash", _code(manifest.content_hash)),
            ("Base weights", _code(manifest.base_hash) if manifest.base_hash else "not recorded"),
            ("Trained on top of", _code(manifest.parent) if manifest.parent else "the base model"),
            ("Chat template", f"{_text(manifest.template)} ({_code(manifest.template_hash[:12])})"),
        ],
    )


def _intended_use() -> Iterator[str]:
    yield "## Intended use"
    yield ""
    yield (
        "Drafts in the manner of the authors whose writing it was trained on, for these authors, and answers grounded in "
        "their documents through the retrieval service. A person reads what it writes before it is published."
    )
    yield ""
    yield (
        "Not for: statements in an author's name without that author's consent; advice on health, law or money; facts without "
        "a source, which it makes up as readily as it tells them."
    )


def _data(version: ModelVersion, dataset: DatasetManifest | None) -> Iterator[str]:
    manifest = version.manifest
    yield "## Training data"
    yield ""
    yield f"Data set **{_text(manifest.dataset)}** ({_code(manifest.dataset_hash[:12])})."
    yield ""
    if dataset is None:
        yield _missing("The data set's manifest was not at hand: counts and lineage are in its own folder.")
        return
    made = "" if not dataset.prompt_hashes else f", prompts {', '.join(map(_code, dataset.prompt_hashes))}"
    yield f"Kind: {dataset.kind}; seed {dataset.seed}{made}. Documents are split, so that none stands in two parts."
    yield ""
    rows = [
        (split.value, f"{dataset.counts.get(split, 0):,}", f"{dataset.documents.get(split, 0):,}")
        for split in Split
    ]
    yield from _table(("Split", "Samples", "Documents"), rows)
    yield ""
    yield from _lineage(dataset)


def _lineage(dataset: DatasetManifest) -> Iterator[str]:
    documents, titles = dataset.document_hashes, dataset.document_titles
    if not documents:
        yield _missing("Which documents the samples come from is not recorded.")
        return
    yield f"Lineage: {len(documents):,} document(s), by title and content hash."
    yield ""
    rows = sorted(
        (_text(titles[key]) if key in titles else _code(key), _code(documents[key][:12])) for key in documents
    )
    yield from _table(("Document", "Content"), rows[:_MOST_DOCUMENTS])
    if len(rows) > _MOST_DOCUMENTS:
        yield ""
        yield f"… and {len(rows) - _MOST_DOCUMENTS:,} more, in the data set's `manifest.json`."


def _training(version: ModelVersion) -> Iterator[str]:
    yield "## Training"
    yield ""
    rows = [(_code(key), _code(str(value))) for key, value in _flat(version.manifest.config)]
    yield from (
        _table(("Setting", "Value"), rows) if rows else [_missing("The configuration is not recorded.")]
    )
    yield ""
    found = [(_code(key), f"{value:.6g}") for key, value in sorted(version.manifest.metrics.items())]
    yield from (
        _table(("Of the run", "Value"), found)
        if found
        else [_missing("The run's own numbers are not recorded.")]
    )


def _flat(config: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", value


def _metrics(
    version: ModelVersion, report: EvaluationReport | None, scores: Sequence[Score]
) -> Iterator[str]:
    yield "## Metrics"
    yield ""
    if report is None:
        yield _missing("This version was not evaluated: run `./poe run-evaluation-pipeline`.")
        return
    if not scores:
        yield _missing(f"Evaluation {_code(report.id)} has no scores of {_text(version.label)}.")
        return
    yield (
        f"Evaluation {_code(report.id)} of {report.created_at:%Y-%m-%d} on the test split of {_text(report.dataset)}, seed "
        f"{report.seed}. Intervals are the evaluation's confidence intervals."
    )
    yield ""
    overall = [score for score in scores if not score.slice and not _apart(score)]
    yield from _scores(overall)
    slices = [score for score in scores if score.slice]
    if slices:
        yield ""
        yield "By slice of the test split, with the number of items:"
        yield ""
        yield from _by_slice(slices)


def _apart(score: Score) -> bool:
    """Whether it stands in the section on bias and safety."""
    return bool(_FAIRNESS.search(score.metric) or _SAFETY.search(score.metric))


def _scores(scores: Iterable[Score]) -> Iterator[str]:
    rows = [
        (
            _metric(score),
            f"{score.value:.4g}",
            _interval(score.low, score.high),
            f"{score.n:,}",
            f"{score.missing:,}",
        )
        for score in sorted(scores, key=lambda score: score.metric)
    ]
    return _table(("Metric", "Value", "Interval", "Items", "Without a score"), rows)


def _by_slice(scores: Sequence[Score]) -> Iterator[str]:
    """A row for each metric, a column for each slice."""
    names = sorted({score.slice for score in scores})
    cells = {(score.metric, score.slice): f"{score.value:.4g} ({score.n:,})" for score in scores}
    rows = [
        (label, *(cells.get((metric, name), "–") for name in names))
        for metric, label in sorted({score.metric: _metric(score) for score in scores}.items())
    ]
    return _table(("Metric", *(_text(name) for name in names)), rows)


def _metric(of: Score | Difference) -> str:
    return _text(of.metric) + (" ↑" if of.higher_is_better else " ↓")


def _comparison(report: EvaluationReport | None, system: SystemReport | None) -> Iterator[str]:
    yield "## Comparison"
    yield ""
    found = list(_differences(report, system)) if report and system else []
    if not found:
        yield _missing("Paired differences to other systems were not measured.")
        return
    yield "Paired differences on the same test items, this version minus the other, with intervals over documents."
    yield ""
    yield from _compared(one for one in found if not one.slice)
    told = [one for one in found if one.slice and (one.better or one.worse)]
    if told:
        yield ""
        yield "In single slices, where the interval tells the two apart; of many intervals, one in twenty does so by chance:"
        yield ""
        yield from _compared(told)


def _compared(found: Iterable[Difference]) -> Iterator[str]:
    rows = [
        (
            _metric(one),
            _text(one.slice) or "all",
            _text(one.reference),
            f"{one.value:+.4g}",
            f"{one.low:+.4g} to {one.high:+.4g}",
            "better" if one.better else "worse" if one.worse else "not told apart",
            f"{one.n:,} / {one.clusters:,}",
        )
        for one in found
    ]
    return _table(("Metric", "Slice", "Against", "Difference", "Interval", "", "Items / documents"), rows)


def _differences(report: EvaluationReport, system: SystemReport) -> Iterator[Difference]:
    names = {system.system, system.model}
    found = (one for one in report.differences if one.candidate in names)
    yield from sorted(found, key=lambda one: (one.metric, one.slice, one.reference))


def _bias(scores: Sequence[Score]) -> Iterator[str]:
    yield "## Bias and safety"
    yield ""
    apart = [score for score in scores if not score.slice and _apart(score)]
    fairness = [score for score in apart if _FAIRNESS.search(score.metric)]
    safety = [score for score in apart if score not in fairness]
    if fairness:
        yield "Tasks on bias. The arrow shows which way is good."
        yield ""
        yield from _scores(fairness)
    else:
        yield _missing("Whether it treats groups of people alike was not measured: no task on bias was run.")
    yield ""
    if safety:
        yield from _scores(safety)
    else:
        yield _missing("Neither toxic nor empty answers were measured.")


def _limits(
    version: ModelVersion,
    report: EvaluationReport | None,
    scores: Sequence[Score],
    dataset: DatasetManifest | None,
) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield f"- It has the limits and biases of {_text(version.manifest.base)}, and little data of its own beside them."
    yield "- It may repeat passages of its training data word for word."
    if dataset is not None and dataset.documents.get(Split.TRAIN, 0) < 30:
        yield (
            f"- It has seen {dataset.documents.get(Split.TRAIN, 0)} document(s): what it takes for style may be these "
            "documents' subject."
        )
    overall = [score.n for score in scores if not score.slice]
    if overall and min(overall) < 100:
        yield f"- Some figures rest on {min(overall)} test items; see their intervals."
    if report is not None and report.overlap is None:
        yield "- Whether test items stand in its training data was not looked for by this evaluation."
    missing = [score for score in scores if score.missing]
    if missing:
        yield f"- {len(missing)} score(s) leave out items that got none, such as a judge's unusable replies."


def _decisions(decisions: Sequence[PromotionDecision]) -> Iterator[str]:
    yield "## Decisions"
    yield ""
    if not decisions:
        yield _missing("Nothing was decided on this version.")
        return
    rows = [
        (
            f"{one.decided_at:%Y-%m-%d %H:%M} UTC",
            one.act,
            one.promoted_to.value if one.promoted_to else "refused",
            _text(one.production or "nothing"),
            _text("; ".join(one.reasons)),
        )
        for one in decisions
    ]
    yield from _table(("When", "", "Outcome", "In production then", "Reasons"), rows)


def _serving(version: ModelVersion) -> Iterator[str]:
    yield "## How to serve it"
    yield ""
    yield "```sh"
    yield f"./poe run-llm-server --model {version.label}"
    yield "```"
    yield ""
    yield (
        f"The server renders chats with the template {_text(version.manifest.template)} of hash "
        f"{_code(version.manifest.template_hash[:12])} and refuses to start with another."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace(chr(10), ' ') for cell in row)} |"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _text(value: str) -> str:
    """Words that others chose, as words: no markup of theirs takes effect."""
    return _MARKUP.sub(r"\\\1", " ".join(value.split()))


def _code(value: str) -> str:
    # A bar would end a table's cell even inside code.
    return "`" + " ".join(value.split()).replace("`", "'").replace("|", "\\|") + "`" if value.strip() else "–"


def _missing(text: str) -> str:
    return f"*Missing.* {text}"
