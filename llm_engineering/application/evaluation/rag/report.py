"""The evaluation for people: one self-contained HTML page, and the table for a console or a dashboard."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_engineering.application.evaluation.rag.answers import AnswerMetrics
from llm_engineering.application.evaluation.rag.calibration import Calibration
from llm_engineering.application.evaluation.rag.evaluate import Evaluation
from llm_engineering.application.reporting.charts import Bar, draw_curve, draw_intervals
from llm_engineering.application.reporting.page import render_page, trust_svg

TEMPLATE = Path(__file__).with_name("report.html.j2")
MOST_QUOTES = 3
_YAML_WORDS = frozenset({"on", "off", "yes", "no", "y", "n", "true", "false", "null"})


def table_columns(evaluation: Evaluation) -> list[str]:
    """Return headings of the table."""
    return [
        "Configuration",
        *_shown_metrics(evaluation),
        f"against {evaluation.reference}",
        "p (Holm)",
        "ms",
    ]


def table_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """Yield the table's lines, in the order of :func:`table_columns`; the recommended configuration is marked with a
    star."""
    for row in evaluation.rows:
        name = f"{row.name} *" if row.name == evaluation.recommendation.name else row.name
        against = row.against
        difference = p = "–"
        if against is not None:
            change = against.difference
            difference = f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
            p = f"{against.p_corrected if against.p_corrected is not None else against.p_value:.3f}"
        figures = [f"{row.means[metric]:.3f}" for metric in _shown_metrics(evaluation)]
        yield [name, *figures, difference, p, f"{row.median_ms:.0f}"]


def html_report(evaluation: Evaluation) -> str:
    """Return the report as a page without any reference to the outside; follows the reader's light or dark scheme."""
    questions = evaluation.questions.questions
    answerable = [item for item in questions if item.targets]
    calibration = evaluation.calibration
    return render_page(
        TEMPLATE,
        corpus=evaluation.corpus,
        answerable=len(answerable),
        unanswerable=len(questions) - len(answerable),
        documents=len({item.cluster for item in answerable}),
        seed=evaluation.seed,
        resamples=evaluation.resamples,
        gate=evaluation.gate,
        recommendation=evaluation.recommendation,
        settings=as_yaml({"retrieval": dict(evaluation.recommendation.settings)}),
        metrics=_shown_metrics(evaluation),
        rows=evaluation.rows,
        primary=evaluation.primary,
        reference=evaluation.reference,
        serving=evaluation.serving,
        filters=any(row.filters_right is not None for row in evaluation.rows),
        plot=trust_svg(_plot(evaluation)),
        kinds=evaluation.kinds(),
        calibration=calibration,
        curve=trust_svg(_curve(calibration)) if calibration else "",
        points=_points(calibration) if calibration else (),
        threshold_settings=threshold_settings(calibration) if calibration else "",
        answers=evaluation.answers,
        answer_rows=answer_rows(evaluation.answers) if evaluation.answers else (),
        judged=evaluation.judged,
        worst=evaluation.list_worst(),
        expected={
            item.question.id: [
                place.quote or place.link or place.document_id for place in item.question.relevant
            ][:MOST_QUOTES]
            for item in answerable
        },
        stale=evaluation.questions.stale,
        refused=evaluation.refused,
    )


def threshold_settings(calibration: Calibration) -> str:
    """Return what to write into ``configs/inference.yaml`` for the calibrated threshold."""
    return as_yaml({"answering": {"min_similarity": calibration.best.threshold}})


def answer_rows(metrics: AnswerMetrics) -> list[tuple[str, str]]:
    """Return (what, value) of the rule-based metrics, for a table."""
    return [
        ("Answerable questions answered", _share(metrics.answered_share)),
        ("Unanswerable questions declined", _share(metrics.declined_share)),
        (
            "Citation precision: cited sources that hold the place asked for",
            _share(metrics.citation_precision),
        ),
        ("Answers that cite the place asked for", _share(metrics.answer_cited_share)),
        ("Sentences that the sources support", _share(metrics.supported_share)),
        ("Answers that quote the sources", _share(metrics.quoted_share)),
        ("Answers asked for", f"{metrics.answers}"),
        ("Failed", f"{metrics.failed}"),
    ]


def as_yaml(value: dict[str, Any], depth: int = 0) -> str:
    """Return nested mappings of plain values as YAML; values are written as JSON, which YAML reads."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{'  ' * depth}{key}:", as_yaml(item, depth + 1)]
        else:
            bare = isinstance(item, str) and item.isidentifier() and item not in _YAML_WORDS
            shown = item if bare else json.dumps(item)
            lines.append(f"{'  ' * depth}{key}: {shown}")
    return "\n".join(lines)


def _shown_metrics(evaluation: Evaluation) -> list[str]:
    return [*(f"recall@{k}" for k in evaluation.ks), evaluation.ranking, "mrr"]


def _plot(evaluation: Evaluation) -> str:
    bars = []
    for row in evaluation.rows:
        found = row.intervals[evaluation.primary]
        chosen = row.name == evaluation.recommendation.name
        bars.append(Bar(row.name, found.mean, found.low, found.high, chosen))
    return draw_intervals(f"{evaluation.primary} with 95 % intervals", bars)


def _curve(calibration: Calibration) -> str:
    points = [(point.coverage, point.risk) for point in calibration.curve]
    marks = [
        (f"calibrated {calibration.best.threshold:.2f}", calibration.best.coverage, calibration.best.risk),
        (
            f"configured {calibration.configured.threshold:.2f}",
            calibration.configured.coverage,
            calibration.configured.risk,
        ),
    ]
    return draw_curve("Risk and coverage", points, marks, "coverage: share of questions answered", "risk")


def _points(calibration: Calibration) -> list[tuple[str, Any]]:
    return [
        ("calibrated", calibration.best),
        ("on unseen questions", calibration.held_out),
        ("configured", calibration.configured),
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
