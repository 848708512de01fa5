"""Which configuration to run with on this corpus: the best by the table, and among equals the cheapest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_engineering.application.evaluation.rag.retrieval import Configuration, Row
from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.domain.retrieval import SearchMode

TIE = 0.005
"""Means closer than this are equal: a difference that no set of questions of ours could show."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The configuration to run with, and why."""

    name: str
    reason: str
    settings: Mapping[str, Any]
    """What to set under ``retrieval`` in ``configs/inference.yaml``: the fields that are not at their default."""


def count_cost(configuration: Configuration) -> tuple[int, int]:
    """Return (calls of models, stages), the cheaper first: counted, so that it does not depend on the load of the
    machine."""
    config = configuration.retrieval
    asks_model = config.expansion.enabled + (config.self_query.kind == "model")
    calls = 10 * asks_model + 5 * config.rerank.enabled
    searches = 2 if config.mode is SearchMode.HYBRID else 1
    return calls, searches + (config.mode is not SearchMode.SPARSE) + (config.self_query.kind != "off")


def recommend(
    rows: Sequence[Row], configurations: Mapping[str, Configuration], *, by: Sequence[str]
) -> Recommendation:
    """Return the best by the first metric of ``by``; ties go to the next metric, then to the lower cost, then to the
    table's order.

    Configurations that hand out passages in place of hits are left out: they read more text for their recall, which is
    not a matter of how to search.
    """
    order = {name: number for number, name in enumerate(configurations)}
    left = [row for row in rows if not configurations[row.name].parents] or list(rows)
    for metric in by:
        best = max(row.means[metric] for row in left)
        left = [row for row in left if row.means[metric] >= best - TIE]
    chosen = min(left, key=lambda row: (count_cost(configurations[row.name]), order[row.name]))
    return Recommendation(
        chosen.name, _reason(chosen, left, by), list_changes(configurations[chosen.name].retrieval)
    )


def _reason(chosen: Row, equals: Sequence[Row], by: Sequence[str]) -> str:
    figures = ", ".join(f"{metric} {chosen.means[metric]:.3f}" for metric in by)
    others = [row.name for row in equals if row.name != chosen.name]
    tied = f" {', '.join(others)}: as good, and no cheaper." if others else ""
    against = chosen.against
    if against is None:
        return f"{figures}. Nothing in the table does better than the reference.{tied}"
    if against.difference.mean == 0:
        return f"{figures}. No better than the reference, and cheaper or as cheap.{tied}"
    p = against.p_corrected if against.p_corrected is not None else against.p_value
    sure = (
        "the set of questions is large enough to tell"
        if p < 0.05
        else "the set of questions is too small to be sure of that"
    )
    return (
        f"{figures}. Against the reference {against.difference.mean:+.3f} "
        f"[{against.difference.low:+.3f}, {against.difference.high:+.3f}], p = {p:.3f}: {sure}.{tied}"
    )


def list_changes(config: RetrievalConfig) -> dict[str, Any]:
    """Return the fields of a retrieval configuration that are not at their default, and those that the table is about
    always."""
    always = {
        "mode": config.mode.value,
        "fusion": config.fusion.model_dump(mode="json"),
        "self_query": {"kind": config.self_query.kind},
        "rerank": {"enabled": config.rerank.enabled},
    }
    others = config.model_dump(mode="json", exclude_defaults=True)
    return always | {key: value for key, value in others.items() if key not in always}
