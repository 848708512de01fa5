"""What people read: a summary in three lines, a page, and the same as JSON."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llm_engineering.application.evaluation.course.bias import ProfessorTone
from llm_engineering.application.evaluation.course.compare import AssistantReport, CourseReport
from llm_engineering.application.evaluation.course.config import CourseRun
from llm_engineering.application.evaluation.course.measure import METRICS, Measured
from llm_engineering.application.evaluation.course.rubric import CRITERIA
from llm_engineering.application.evaluation.course.select import Selection, rank_assistants
from llm_engineering.application.reporting.page import render_page

TEMPLATE = Path(__file__).with_name("report.html.j2")
NOTES = {
    "empty": "empty",
    "verbatim": "the source, word by word",
    "language": "in a language that the embedder does not read: neither tone nor relevance is told",
}


def summarise(report: CourseReport, selection: Selection, metric: str) -> list[str]:
    """Return what there is to know in a few lines: who serves, who is unfair to whom, and who was the best by words alone."""
    lines = [
        f"{selection.assistant} {'is chosen' if selection.changed else 'goes on serving'} ({selection.serving})."
        if selection.serving
        else "No assistant serves."
    ]
    for one in report.assistants:
        for verdict in ("worse", "better"):
            names = [line.professor for line in one.biased if line.verdict == verdict]
            if names:
                lines.append(
                    f"{one.name} tells of {' and '.join(names)} {verdict} than the sources do, and is not chosen."
                )
    if not any(one.biased for one in report.assistants):
        lines.append("No assistant was found to treat a professor unlike the others.")
    ranked = rank_assistants(report.assistants, metric)
    if ranked and ranked[0].name != selection.assistant:
        lines.append(f"By {metric} alone, {ranked[0].name} would have been the best.")
    return lines


def as_json(
    report: CourseReport, selection: Selection, run: CourseRun, metric: str, at: datetime
) -> dict[str, Any]:
    """Return all of it in JSON's own types."""
    return {
        "at": at.isoformat(),
        "summary": summarise(report, selection, metric),
        "serving": {
            "version": selection.serving,
            "assistant": selection.assistant,
            "changed": selection.changed,
        },
        "reasons": list(selection.reasons),
        "refused": selection.refused,
        "removed": list(selection.removed),
        "judged": report.judged,
        "evaluation": report.evaluation.id,
        "assistants": {one.name: _as_assistant(one) for one in report.assistants},
        "settings": run.model_dump(mode="json"),
    }


def make_page(report: CourseReport, selection: Selection, run: CourseRun, metric: str, at: datetime) -> str:
    """Return the page, which needs nothing from outside."""
    names = [one.name for one in rank_assistants(report.assistants, metric)]
    names += [one.name for one in report.assistants if one.name not in names]
    by_name = {one.name: one for one in report.assistants}
    ordered = [by_name[name] for name in names]
    professors = [one.professor for one in ordered[0].professors]
    buckets = sorted({bucket for one in ordered for line in one.professors for bucket in line.buckets})
    lines = summarise(report, selection, metric)
    return render_page(
        TEMPLATE,
        headline=lines[0],
        summary=lines,
        at=f"{at:%d %B %Y, %H:%M} UTC",
        questions=len(ordered[0].answers),
        professors=professors,
        assistants=names,
        metric=metric,
        serving=selection.assistant,
        rows=[_as_row(one, selection, metric) for one in ordered],
        names=names,
        matrix=[
            {
                "professor": name,
                "queries": ordered[0].professors[place].queries,
                "cells": [_as_cell(one.professors[place]) for one in ordered],
            }
            for place, name in enumerate(professors)
        ],
        min_gap=f"{run.bias.min_gap:g}",
        significance=f"{run.bias.significance:.0%}",
        judging=describe_judging(report),
        notes=_list_notes(ordered),
        buckets=buckets,
        details=[
            {
                "name": one.name,
                "professor": line.professor,
                "source": _show(line.source_tone, "+.2f"),
                "tone": _show(line.tone, "+.2f"),
                "shifts": [_show(line.buckets.get(bucket), "+.2f") for bucket in buckets],
            }
            for one in ordered
            for line in one.professors
        ],
        records=[
            {"name": one.name, "rows": [_as_record(row) for row in _sort(one.answers)]} for one in ordered
        ],
    )


def describe_judging(report: CourseReport) -> str:
    """Return what a judge said, or that none was asked."""
    if not report.judged:
        return (
            "No language model judged the answers: none is named under course.judge. With one (JUDGE_* settings), each answer "
            "gets 1 to 5 points for help, faithfulness and respect."
        )
    told = []
    for one in report.assistants:
        points = ", ".join(f"{name} {one.scores[name].value:.1f}" for name in CRITERIA if name in one.scores)
        told.append(f"{one.name}: {points or 'no usable verdict'}")
    return f"Points of the judge, 1 to 5. {'; '.join(told)}."


def _as_assistant(one: AssistantReport) -> dict[str, Any]:
    return {
        "scores": {name: score.model_dump(mode="json") for name, score in one.scores.items()},
        "professors": [
            {
                "professor": line.professor,
                "verdict": line.verdict,
                "queries": line.queries,
                "tone": line.tone,
                "source_tone": line.source_tone,
                "gap": None if line.gap is None else [line.gap.mean, line.gap.low, line.gap.high],
                "p_value": line.p_value,
                "buckets": line.buckets,
            }
            for line in one.professors
        ],
        "records": [
            {
                "professor": row.exchange.professor,
                "query": row.exchange.query,
                "response": row.exchange.response,
                "bucket": row.exchange.bucket,
                **{name: row.scores[name] for name in METRICS},
                "tone": row.tone,
                "source_tone": row.source_tone,
                "note": row.note,
                "points": points,
            }
            for row, points in zip(one.answers, one.points, strict=True)
        ],
    }


def _as_row(one: AssistantReport, selection: Selection, metric: str) -> dict[str, Any]:
    score = one.scores.get(metric)
    unfair = [f"{line.verdict} to {line.professor}" for line in one.biased]
    verdict = f"refused: {', '.join(unfair)}" if unfair else selection.refused.get(one.name, "fair")
    if one.name == selection.assistant:
        verdict = f"serves{f', though {verdict}' if unfair else ''}"
    return {
        "name": one.name,
        "unfair": bool(unfair),
        "verdict": verdict,
        "value": "–" if score is None else f"{score.value:.2f}",
        "interval": "–" if score is None or score.low is None else f"{score.low:.2f} – {score.high:.2f}",
        **{
            name: _show(one.scores[name].value if name in one.scores else None, ".2f")
            for name in ("relevance", "coverage")
        },
        **{name: sum(row.note == name for row in one.answers) for name in ("empty", "verbatim")},
    }


def _as_cell(line: ProfessorTone) -> dict[str, str]:
    if line.gap is None:
        words = "too few to say" if line.verdict == "too few" else "nobody to compare with"
        return {"kind": "dim", "text": words}
    span = f"{line.gap.mean:+.2f} [{line.gap.low:+.2f}, {line.gap.high:+.2f}]"
    return {"kind": "bad" if line.is_biased else "", "text": f"{line.verdict} {span}"}


def _as_record(row: Measured) -> dict[str, str]:
    exchange = row.exchange
    return {
        "professor": exchange.professor,
        "query": exchange.query,
        "context": exchange.context,
        "response": exchange.response,
        "shift": _show(row.shift, "+.2f"),
        **{name: _show(row.scores[name], ".2f") for name in ("bleu", "rougeL", "relevance", "coverage")},
        "note": NOTES.get(row.note, ""),
    }


def _sort(rows: Sequence[Measured]) -> list[Measured]:
    return sorted(rows, key=lambda row: -abs(row.shift) if row.shift is not None else 0.0)


def _list_notes(assistants: Sequence[AssistantReport]) -> list[str]:
    notes = []
    for one in assistants:
        counts = Counter(row.note for row in one.answers if row.note)
        notes += [
            f"{one.name}: {count} of {len(one.answers)} {NOTES[name]}" for name, count in counts.items()
        ]
    return notes


def _show(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
