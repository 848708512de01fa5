"""The standard rows of the table: each stage of retrieval by itself and together with those before it."""

from collections.abc import Mapping
from typing import Any

from llm_engineering.application.evaluation.rag.retrieval import Configuration
from llm_engineering.application.inference.retriever import RetrievalConfig

SERVED = "hybrid + self-query + rerank"
"""The row that runs as ``configs/inference.yaml`` does."""
PATIENCE = 120.0
"""Seconds that a stage may take in an evaluation: a busy machine must not decide how good a configuration is."""

_BARE: dict[str, Any] = {"self_query": {"kind": "off"}, "expansion": {}, "rerank": {"enabled": False}}
_RERANK: dict[str, Any] = {"rerank": {"enabled": True}}
_SELF_QUERY: dict[str, Any] = {"self_query": {"kind": "rules"}}


def standard() -> dict[str, Configuration]:
    """The configurations of the standard table by name, in its order. None of them asks a language model."""
    rows: dict[str, dict[str, Any]] = {
        "dense": {"mode": "dense"},
        "sparse": {"mode": "sparse"},
        "hybrid": {"mode": "hybrid"},
        **{f"weighted {alpha}": _weighted(alpha) for alpha in (0.3, 0.5, 0.7)},
        "hybrid + self-query": {"mode": "hybrid"} | _SELF_QUERY,
        "dense + rerank": {"mode": "dense"} | _RERANK,
        "hybrid + rerank": {"mode": "hybrid"} | _RERANK,
        **{f"weighted {alpha} + rerank": _weighted(alpha) | _RERANK for alpha in (0.3, 0.5)},
        SERVED: {"mode": "hybrid"} | _SELF_QUERY | _RERANK,
    }
    table = {name: Configuration(retrieval=_config(fields)) for name, fields in rows.items()}
    widened = ("hybrid", SERVED)
    parents = {
        f"{name} + parents": Configuration(retrieval=table[name].retrieval, parents=True) for name in widened
    }
    return table | parents


def with_expansion() -> dict[str, Configuration]:
    """Rows that ask the language model for other wordings of each question, and for an invented answer."""
    rows: dict[str, dict[str, Any]] = {
        "hybrid + expansion": {"expansion": {"rewrites": 3}},
        "hybrid + hyde": {"expansion": {"hyde": True}},
        "hybrid + expansion + rerank": {"expansion": {"rewrites": 3}} | _RERANK,
    }
    return {
        name: Configuration(retrieval=_config({"mode": "hybrid"} | fields)) for name, fields in rows.items()
    }


def without_rerank(configurations: Mapping[str, Configuration]) -> dict[str, Configuration]:
    """The rows that can be measured where no reranker is configured."""
    return {name: item for name, item in configurations.items() if not item.retrieval.rerank.enabled}


def patient(config: RetrievalConfig) -> RetrievalConfig:
    """The configuration with time-outs that a busy machine does not reach."""
    sections = {name: getattr(config, name) for name in ("self_query", "expansion", "embedding", "rerank")}
    return config.model_copy(
        update={
            name: section.model_copy(update={"timeout_seconds": PATIENCE})
            for name, section in sections.items()
        }
    )


def _config(fields: Mapping[str, Any]) -> RetrievalConfig:
    return RetrievalConfig.model_validate({**_BARE, **fields})


def _weighted(alpha: float) -> dict[str, Any]:
    return {"mode": "hybrid", "fusion": {"kind": "weighted", "alpha": alpha}}
