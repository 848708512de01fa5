"""What ZenML, and with it the dashboard, keeps of a run: typed artifacts by name, metadata, what failed and why."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from zenml.client import Client
from zenml.enums import ExecutionStatus, VisualizationType
from zenml.types import MarkdownString

from llm_engineering.application.features.collect_report import COLUMNS
from llm_engineering.application.features.config import CollectRun, DigitalDataEtl, EndToEndData
from llm_engineering.domain.errors import TooManyFailuresError
from tests.pipelines.clocks import BEFORE, write_source
from tools.run import run_pipeline
from tools.run_config import read_run_config

ARTIFACTS = {
    "collect_links": {"collection_report": "dict", "collection_table": "MarkdownString"},
    "clean_documents": {"cleaning_report": "dict"},
    "mark_near_duplicates": {"near_duplicate_report": "dict"},
    "index_documents": {"index_report": "dict"},
    "build_voice_profiles": {"voice_report": "dict"},
}
COUNTS = {
    "collect_links": {"links": 1, "documents_created": 11, "records_rejected": 0, "failed_share": 0.0},
    "clean_documents": {"documents": 11, "cleaned": 11, "failed": 0},
    "mark_near_duplicates": {"documents": 11, "groups": 3, "duplicates": 3},
    "index_documents": {"documents": 11, "changed": 11, "failed": 0},
    "build_voice_profiles": {"profiles": 1, "made": 1},
}


def kept(run: Any) -> Any:
    """The run as ZenML's store hands it out, not as it was returned."""
    return Client().get_pipeline_run(run.id)


def test_every_step_leaves_named_typed_artifacts_and_metadata(project: Path) -> None:
    parameters, rest = read_run_config(write_source(project, BEFORE), EndToEndData)
    run = kept(run_pipeline("end_to_end_data", parameters, rest))
    assert run.status == ExecutionStatus.COMPLETED
    assert set(run.steps) == set(ARTIFACTS)
    for name, step in run.steps.items():
        types = {key: artifact.data_type.attribute for key, [artifact] in step.outputs.items()}
        assert types == ARTIFACTS[name]
        assert COUNTS[name].items() <= step.run_metadata.items()
        report = next(artifact for key, [artifact] in step.outputs.items() if key.endswith("_report")).load()
        assert report == {key: step.run_metadata[key] for key in report}, (
            "the artifact and the metadata say the same"
        )
        assert step.start_time <= step.end_time
    seconds = run.steps["index_documents"].run_metadata["seconds"]
    assert {"plan", "read", "chunk", "embed", "write", "total"} <= set(seconds)


def test_the_table_of_links_reads_well_as_markdown(project: Path) -> None:
    parameters, rest = read_run_config(write_source(project, BEFORE), EndToEndData)
    run = kept(run_pipeline("end_to_end_data", parameters, rest))
    [artifact] = run.steps["collect_links"].outputs["collection_table"]
    table = artifact.load()
    assert isinstance(table, MarkdownString)
    header, ruler, *rows = table.splitlines()
    assert header == f"| {' | '.join(COLUMNS)} |"
    assert ruler.count("---") == len(COLUMNS)
    [row] = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows]
    assert row[:4] == [str(project / "clocks.jsonl"), "table", "saved", "11"]
    assert [visualization.type for visualization in artifact.visualizations] == [VisualizationType.MARKDOWN]


def test_a_run_keeps_the_parameters_it_was_given(project: Path) -> None:
    config = write_source(project, BEFORE)
    parameters, rest = read_run_config(config, EndToEndData)
    run = kept(run_pipeline("end_to_end_data", parameters, rest))
    given = yaml.safe_load(config.read_text())["parameters"]
    step = run.steps["index_documents"].config.parameters["run"]
    assert step["chunking"]["max_tokens"] == given["features"]["chunking"]["max_tokens"]
    assert run.steps["collect_links"].config.parameters["run"]["author"] == "Ada Byron"
    assert not any(run.steps[name].config.enable_cache for name in ARTIFACTS)


@pytest.mark.filterwarnings(
    "ignore:deprecated:DeprecationWarning"
)  # ZenML's list filter reads fields it deprecated
def test_a_run_that_fails_keeps_its_counts_and_starts_no_later_step(project: Path) -> None:
    links = [str(project / "missing.csv")]
    collect = CollectRun.model_validate({"author": "A", "links": links, "max_failed_share": 0.0})
    with pytest.raises(TooManyFailuresError):
        run_pipeline("end_to_end_data", EndToEndData(collect=collect))
    [run] = Client().list_pipeline_runs(sort_by="desc:created", size=1).items
    run = kept(run)
    assert run.status == ExecutionStatus.FAILED
    assert set(run.steps) == {"collect_links"}
    metadata = run.steps["collect_links"].run_metadata
    assert metadata["links_by_status"]["failed"] == 1
    assert "missing.csv" in next(iter(metadata["failures"]))


def test_the_collection_pipeline_alone_has_its_one_step(project: Path) -> None:
    collect = read_run_config(write_source(project, BEFORE), EndToEndData)[0].collect
    run = kept(run_pipeline("digital_data_etl", DigitalDataEtl(collect=collect)))
    assert run.pipeline.name == "digital_data_etl"
    assert set(run.steps) == {"collect_links"}
