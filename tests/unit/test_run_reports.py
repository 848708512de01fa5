"""What a run's reports show on the terminal."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llm_engineering.settings import load_settings
from tools import reports
from tools.reports import write_page
from tools.run import announce_start

LONG = "https://ada.example/a/very/long/address/of/an/article/on/small/models/on/boats.html"


def outcome(status: str, **more: Any) -> dict[str, Any]:
    usual = {"reader": "article", "found_through": None, "documents": 1, "discovered": 0, "seconds": 1.0}
    return {**usual, "status": status, **more}


def test_links_are_shown_whole_with_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    report = {
        "outcomes": {
            LONG: outcome("saved", rejected=2),
            "https://ada.example/gone": outcome("failed", documents=0),
            "https://ada.example/found": outcome("saved", found_through=LONG),
        },
        "failures": {"https://ada.example/gone": "it answered 404 Not Found"},
    }
    reports._show_links("collect_links", report)
    shown = capsys.readouterr().out
    assert LONG in shown
    assert "2 left out" in shown
    assert "404 Not Found" in shown
    assert "/found" not in shown


def test_zenmls_start_is_announced_before_it_takes_its_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "zenml", raising=False)
    with announce_start():
        assert "Starting ZenML" in capsys.readouterr().err
    assert "Preparing the run" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "zenml", ModuleType("zenml"))
    with announce_start():
        pass
    assert capsys.readouterr().err == ""


def test_a_report_is_a_file_of_its_own(tmp_path: Path) -> None:
    file = write_page(
        load_settings(None, local={"data_dir": tmp_path / "data"}), "run-1-report", "<h1>Report</h1>"
    )
    assert file == tmp_path / "data" / "reports" / "run-1-report.html"
    assert file.read_text(encoding="utf-8") == "<h1>Report</h1>"
