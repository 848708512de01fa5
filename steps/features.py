"""Features: documents in, an index out."""

from typing import Annotated, Any

from zenml import log_metadata, step

from llm_engineering.application.features import index as indexing
from llm_engineering.application.features import pipeline as features
from llm_engineering.application.features import voices
from llm_engineering.application.features.config import FeatureRun
from steps.context import open_step_resources

__all__ = ["FeatureRun", "build_voice_profiles", "clean_documents", "index_documents", "mark_near_duplicates"]


@step(enable_cache=False)
def clean_documents(run: FeatureRun) -> Annotated[dict[str, Any], "cleaning_report"]:
    """Clean the documents that are new or have changed; forget those that are gone."""
    with open_step_resources() as (resources, progress):
        report = features.clean_documents(
            resources.warehouse.documents,
            resources.warehouse.clean,
            resources.warehouse.dead_letters,
            batch_size=run.batch_size,
            max_failed_share=run.max_failed_share,
            privacy=resources.privacy,
            progress=progress,
        )
    log_metadata(report.to_metadata())
    return report.to_metadata()


@step(enable_cache=False)
def mark_near_duplicates(run: FeatureRun) -> Annotated[dict[str, Any], "near_duplicate_report"]:
    """Group documents that say nearly the same."""
    with open_step_resources() as (resources, progress):
        report = features.mark_near_duplicates(
            resources.warehouse.clean, batch_size=run.batch_size, progress=progress
        )
    log_metadata(report.to_metadata())
    return report.to_metadata()


@step(enable_cache=False)
def index_documents(run: FeatureRun) -> Annotated[dict[str, Any], "index_report"]:
    """Return chunk, embed and index what changed; remove what is stale."""
    with open_step_resources() as (resources, progress):
        report = indexing.index_documents(
            resources.warehouse.clean,
            resources.index,
            resources.embedder,
            resources.warehouse.embeddings,
            run.chunking,
            dead_letters=resources.warehouse.dead_letters,
            window_chunks=run.window_chunks,
            batch_size=run.batch_size,
            max_failed_share=run.max_failed_share,
            title_vectors=run.title_vectors,
            progress=progress,
            **resources.embedding_calls,
        )
    log_metadata(report.to_metadata())
    return report.to_metadata()


@step(enable_cache=False)
def build_voice_profiles() -> Annotated[dict[str, Any], "voice_report"]:
    """Describe how each author writes, where their texts have changed."""
    with open_step_resources() as (resources, progress):
        report = voices.build_voice_profiles(
            resources.warehouse.clean, resources.warehouse.voices, progress=progress
        )
    log_metadata(report.to_metadata())
    return report.to_metadata()
