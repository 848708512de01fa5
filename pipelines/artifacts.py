"""Artifacts of earlier runs, for other programs."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.artifacts import JsonExport, export_artifacts


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def export_artifact_to_json(export: JsonExport = JsonExport()) -> None:
    """Write artifacts of earlier runs as JSON files."""
    export_artifacts(export)
