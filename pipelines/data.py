"""The data pipelines: collection, features, and both in one run."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.collect import CollectRun, collect_links
from steps.features import (
    FeatureRun,
    build_voice_profiles,
    clean_documents,
    index_documents,
    mark_near_duplicates,
)


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def digital_data_etl(collect: CollectRun) -> None:
    """Collect links into the data warehouse."""
    collect_links(collect)


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def feature_engineering(features: FeatureRun = FeatureRun()) -> None:
    """Clean, mark near-duplicates, chunk, embed and index what the warehouse holds; describe its authors' voices."""
    _build_features(features)


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def end_to_end_data(collect: CollectRun, features: FeatureRun = FeatureRun()) -> None:
    """Collect links, then build features from all that the warehouse holds."""
    collect_links(collect)
    _build_features(features, after="collect_links")


def _build_features(features: FeatureRun, after: str | None = None) -> None:
    clean_documents(features, after=after)
    mark_near_duplicates(features, after="clean_documents")
    index_documents(features, after="mark_near_duplicates")
    build_voice_profiles(after="index_documents")
