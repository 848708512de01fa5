"""ZenML pipelines: wiring only. What a run does is its YAML in ``configs/``."""

from pipelines.data import digital_data_etl, end_to_end_data, feature_engineering
from pipelines.evaluation import rag_evaluation
from pipelines.model_evaluation import model_evaluation
from pipelines.training import training

__all__ = [
    "digital_data_etl",
    "end_to_end_data",
    "feature_engineering",
    "model_evaluation",
    "rag_evaluation",
    "training",
]
