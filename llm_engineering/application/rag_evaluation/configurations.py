"""The standard rows of the table: each stage of retrieval by itself and together with those before it."""

from typing import Any

from llm_engineering.application.rag_evaluation.retrieval_runs import Configuration
from llm_engineering.application.retriever import RetrievalConfig

HYBRID: dict[str, Any] = {"mode": "hybrid", "fusion": {"kind": "rrf"}}


def standard() -> dict[str, Configuration]:
    """The configurations of the standard table by name, in its order."""
    rows: dict[str, dict[str, Any]] = {
        "dense": {"mode": "dense"},
        "sparse": {"mode": "sparse"},
        "hybrid": HYBRID,
        **{f"weighted {alpha}": _weighted(alpha) for alpha in (0.3, 0.5, 0.7)},
    }
    table = {
        name: Configuration(retrieval=RetrievalConfig.model_validate(fields)) for name, fields in rows.items()
    }
    return table | {"hybrid + parents": Configuration(retrieval=table["hybrid"].retrieval, parents=True)}


def _weighted(alpha: float) -> dict[str, Any]:
    return {"mode": "hybrid", "fusion": {"kind": "weighted", "alpha": alpha}}
