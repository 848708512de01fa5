"""Artifacts of earlier runs as JSON: what is there, in which form, and what is said where there is none."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from zenml import save_artifact

from llm_engineering.application.reporting.json_export import ExportArtifacts, JsonExport, make_plain
from llm_engineering.domain.errors import ConfigurationError
from tools.run import run_pipeline

SAMPLES = [{"instruction": "Say when the tide turned.", "answer": "At seven. – “Early”, she said."}]


def export(folder: Path, *names: str) -> None:
    run_pipeline(
        "export_artifact_to_json", ExportArtifacts(export=JsonExport(artifacts=names, folder=folder))
    )


def test_the_newest_version_is_written_or_the_one_that_is_named(project: Path) -> None:
    save_artifact([{"old": 1}], "export_test_samples", version="first")
    save_artifact(SAMPLES, "export_test_samples", version="second")
    export(project / "out", "export_test_samples")
    file = project / "out" / "export_test_samples.json"
    assert json.loads(file.read_text(encoding="utf-8")) == SAMPLES
    assert "“Early”" in file.read_text(encoding="utf-8"), "as people read it, not as escapes"
    export(project / "out", "export_test_samples:first")
    assert json.loads(file.read_text(encoding="utf-8")) == [{"old": 1}]


def test_an_artifact_that_is_not_there_is_told_with_those_that_are(project: Path) -> None:
    save_artifact(SAMPLES, "export_test_there")
    with pytest.raises(ConfigurationError, match="export_test_there"):
        export(project / "out", "export_test_missing")
    assert not list((project / "out").glob("*.json"))


def test_values_take_the_form_that_json_has() -> None:
    value = {
        "when": datetime(2026, 5, 1, tzinfo=UTC),
        "where": Path("a/b"),
        1: (1, 2.5, None, True),
        "set": {"b", "a"},
    }
    assert make_plain(value) == {
        "when": "2026-05-01T00:00:00+00:00",
        "where": "a/b",
        "1": [1, 2.5, None, True],
        "set": ["a", "b"],
    }
    assert make_plain(JsonExport(artifacts=("x",))) == {"artifacts": ["x"], "folder": "data/artifacts"}
    with pytest.raises(TypeError, match="complex"):
        make_plain({"a": [1j]})
