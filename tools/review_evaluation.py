"""Whether summaries of reviews tell what is true, and whether a variant may take another's place: ``./poe evaluate-summaries``.

Ends with 3 where the evaluation speaks against the candidate. ``--out FILE`` keeps the figures and the decision as JSON.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.evaluation.reviews import (
    MEANINGS,
    ReviewEvaluation,
    add_fairness_guards,
    evaluate_summaries,
)
from llm_engineering.application.files import atomic_write
from llm_engineering.application.training.registry.promotion import decide_systems
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.models import EvaluationReport, PromotionDecision, Score
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, user_path
from tools.registry import REFUSED
from tools.run_config import read_service_config

CONFIG = Path("configs/review_evaluation.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    from llm_engineering.bootstrap.training import compare_with_references

    parser = make_parser("evaluate-summaries", __doc__)
    parser.add_argument("--config", type=user_path, default=CONFIG, help="what is measured (%(default)s)")
    parser.add_argument("--candidate", help="a variant, in place of the configuration's")
    parser.add_argument("--reference", help="a variant, or baseline")
    parser.add_argument("--out", type=user_path, help="a JSON file for figures and decision")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    given = {name: getattr(options, name) for name in ("candidate", "reference") if getattr(options, name)}
    config = read_service_config(options.config, ReviewEvaluation).model_copy(update=given)
    now = datetime.now(UTC)
    with open_resources(settings) as resources:
        stores = resources.warehouse
        report = evaluate_summaries(config, stores.clean, stores.summaries, now, compare_with_references)
    decision = decide_systems(
        report, config.candidate, config.reference, add_fairness_guards(config, report), at=now
    )
    show_evaluation(report, decision)
    if options.out:
        kept = f'{{"report": {report.model_dump_json()}, "decision": {decision.model_dump_json()}}}\n'
        atomic_write(options.out, kept)
    return 0 if decision.promoted_to else REFUSED


def show_evaluation(report: EvaluationReport, decision: PromotionDecision) -> None:
    """Print what each system reached, and what is decided on the candidate."""
    by_system = {one.system: {(s.metric, s.slice): s for s in one.scores} for one in report.systems}
    table = Table("", *map(escape, by_system), "n", "")
    keys = list(dict.fromkeys(key for found in by_system.values() for key in found))
    for metric, part in sorted(keys, key=lambda key: (key[1] != "", list(MEANINGS).index(key[0]))):
        if part and metric != decision.metric:
            continue
        some = [found.get((metric, part)) for found in by_system.values()]
        counts = max(one.n for one in some if one is not None)
        name = f"  {escape(part)}" if part else metric
        table.add_row(name, *map(_describe, some), str(counts), "" if part else f"[dim]{MEANINGS[metric]}[/]")
    console.print(table)
    sign, verdict = (
        ("[green]✓[/]", "may take the place of")
        if decision.promoted_to
        else ("[red]✗[/]", "does not take the place of")
    )
    console.print(f"{sign} {escape(decision.candidate)} {verdict} {escape(decision.production or '')}:")
    for reason in decision.reasons:
        console.print(f"  - {escape(reason)}", soft_wrap=True)


def _describe(score: Score | None) -> str:
    if score is None:
        return "–"
    return (
        f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"
        if score.low is not None
        else f"{score.value:.2f}"
    )


if __name__ == "__main__":
    run(main)
