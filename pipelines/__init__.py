"""ZenML pipelines: wiring only. What a run does is its YAML in ``configs/``."""

from pipelines.analysis import head_training, record_analysis
from pipelines.artifacts import export_artifact_to_json
from pipelines.course import course_assistant
from pipelines.data import digital_data_etl, end_to_end_data, feature_engineering
from pipelines.datasets import generate_instruct_dataset, generate_preference_dataset
from pipelines.model_evaluation import model_evaluation
from pipelines.rag_evaluation import rag_evaluation
from pipelines.reviews import review_summaries
from pipelines.training import training

__all__ = [
    "course_assistant",
    "digital_data_etl",
    "end_to_end_data",
    "export_artifact_to_json",
    "feature_engineering",
    "generate_instruct_dataset",
    "generate_preference_dataset",
    "head_training",
    "model_evaluation",
    "rag_evaluation",
    "record_analysis",
    "review_summaries",
    "training",
]
