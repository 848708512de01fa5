"""Render a data set's report: one self-contained HTML page, and a table for console and dashboard."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_engineering.application.reporting.charts import draw_bars, draw_histogram
from llm_engineering.application.reporting.page import render_page, trust_svg
from llm_engineering.application.training.datasets.curate import Curated
from llm_engineering.application.training.datasets.gates import GateCount
from llm_engineering.application.training.datasets.judging import Judged
from llm_engineering.application.training.datasets.preference_lint import PreferenceLint
from llm_engineering.application.training.datasets.samples import Sample, answers_of, prompt_of
from llm_engineering.application.training.datasets.statistics import Lengths, Statistics
from llm_engineering.domain.datasets import DatasetManifest, Split

TEMPLATE = Path(__file__).with_name("report.html.j2")
COLUMNS = ["gate", "samples", "dropped", "kept", "why"]
_SHOWN_SAMPLES = 5
_QUANTILES = (0.05, 0.5, 0.95)


def table_rows(counts: Sequence[GateCount]) -> Iterator[list[str]]:
    """Yield a line for each gate, in the order of :data:`COLUMNS`."""
    for count in counts:
        why = "; ".join(f"{times} × {reason}" for reason, times in count.reasons.items())
        yield [count.gate, f"{count.seen:,}", f"{count.dropped:,}", f"{count.kept:,}", why]


def html_report(
    manifest: DatasetManifest,
    curated: Curated[Any],
    figures: Statistics,
    judged: Judged | None = None,
) -> str:
    """Return the report as a page without any reference to the outside; follows the reader's light or dark scheme."""
    lengths = [*((item, "characters") for item in figures.characters)]
    if figures.tokens is not None:
        lengths.append((figures.tokens, "tokens"))
    drops = {count.gate: count.dropped for count in curated.counts}
    return render_page(
        TEMPLATE,
        manifest=manifest,
        made=curated.made,
        kept=len(curated.kept),
        dropped=len(curated.dropped),
        splits=[(split, figures.samples[split], figures.documents[split]) for split in Split],
        counts=curated.counts,
        drops=trust_svg(draw_bars("Dropped by gate", drops)),
        lengths=[
            (item, unit, _quantiles(item), trust_svg(draw_histogram(item.name, item.values, unit)))
            for item, unit in lengths
        ],
        groups=[
            (name, trust_svg(draw_bars(name, values)))
            for name, values in (
                ("Categories", figures.categories),
                ("Languages", figures.languages),
                ("Authors", figures.authors),
                ("Made by", figures.made_by),
                ("Models", figures.models),
                ("Documents with most samples", figures.topics),
            )
            if values
        ],
        lints=[
            (name, lint_rows(lint))
            for name, lint in (
                ("as it came through the gates", curated.lint_before),
                ("as it is", curated.lint_after),
            )
            if lint is not None
        ],
        judged=judged,
        shown=[_shown(sample) for sample in curated.kept[:_SHOWN_SAMPLES]],
    )


def lint_rows(lint: PreferenceLint) -> list[tuple[str, str]]:
    """Return (what, value) of the figures over preference pairs."""
    return [
        ("Pairs", f"{lint.pairs:,}"),
        ("Chosen is the longer one (equal counts half)", f"{lint.share_longer:.0%}"),
        ("Mean length of chosen, characters", f"{lint.mean_chosen:,.0f}"),
        ("Mean length of rejected, characters", f"{lint.mean_rejected:,.0f}"),
        ("Cliff’s delta of the lengths", f"{lint.cliffs_delta:+.2f}"),
        ("Cohen’s d of the lengths", f"{lint.cohens_d:+.2f}"),
        ("Identical but for case, punctuation and spacing", f"{lint.identical:,}"),
        ("Prompt repeated in an answer", f"{lint.leaking:,}"),
    ]


def _quantiles(lengths: Lengths) -> list[int]:
    return [lengths.quantile(share) for share in _QUANTILES]


def _shown(sample: Sample) -> dict[str, Any]:
    return {
        "prompt": prompt_of(sample),
        "answers": [(field.name, field.text) for field in answers_of(sample)],
        "title": sample.origin.title,
        "span": sample.origin.span,
        "made_by": sample.provenance.made_by.replace("_", " "),
    }
