"""Looking after the collection on the command line, with real stores: what was left out, trying again, forgetting."""

from pathlib import Path

import pytest

from llm_engineering.application.features.config import CollectRun, EndToEndData
from llm_engineering.bootstrap.locks import hold_collection
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, StoreError
from llm_engineering.settings import load_settings
from tests.fakes.files import make_pdf
from tools import collection
from tools.console import console
from tools.run import run_pipeline

TEXT = "The tower clock of our town has been slow for eleven years, and nobody who lives below it minds. "


@pytest.fixture
def notes(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three texts, two of them by Ada, and a PDF that holds none."""
    monkeypatch.setattr(console, "_width", 200)
    (project / "notes").mkdir()
    (project / "notes" / "clock.md").write_text(f"# Clocks\n\n{TEXT * 3}")
    (project / "notes" / "bells.txt").write_text(f"Bells\n\n{TEXT.replace('clock', 'bell') * 2}")
    (project / "notes" / "scan.pdf").write_bytes(make_pdf([[]]))
    (project / "others.md").write_text(f"# Ben's view\n\n{TEXT.replace('tower', 'station')}")
    return project / "notes"


@pytest.mark.slow  # two runs; tests/unit/test_manage.py proves what they rest on
def test_a_folder_is_collected_mended_and_forgotten(
    notes: Path, resources: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    links = [{"url": str(notes)}, {"url": str(notes.parent / "others.md"), "author": "Ben Okafor"}]
    given = CollectRun.model_validate({"author": "Ada Winter", "links": links})
    run_pipeline("end_to_end_data", EndToEndData(collect=given))
    shown = capsys.readouterr().out
    assert "Left out" in shown
    assert "scan.pdf" in shown
    assert "ocrmypdf" in shown

    assert collection.main(["status"]) == 0
    status = capsys.readouterr().out
    assert str(notes) in status
    assert "Ada Winter" in status
    assert "end_to_end_data" in status
    assert collection.main(["rejected"]) == 0
    assert "scan.pdf" in capsys.readouterr().out

    (notes / "scan.pdf").write_bytes(make_pdf([["Now the scan holds a text about the old sundial."]]))
    assert collection.main(["rejected", "--retry"]) == 0
    assert resources.warehouse.dead_letters.count() == 0
    assert "sundial" in "".join(document.text for document in resources.warehouse.documents.stream())
    assert resources.index.count_values("author")["Ada Winter"] == 3
    assert collection.main(["rejected"]) == 0

    with pytest.raises(ConfigurationError):  # nobody to be asked
        collection.main(["forget", "--link", str(notes)])
    with hold_collection(load_settings(None)), pytest.raises(StoreError):  # a run is on
        collection.main(["forget", "--link", str(notes), "--yes"])
    assert resources.index.count_values("author")["Ada Winter"] == 3

    assert collection.main(["forget", "--link", str(notes), "--yes"]) == 0
    assert set(resources.index.count_values("author")) == {"Ben Okafor"}
    assert collection.main(["forget", "--author", "ben okafor", "--yes"]) == 0
    assert resources.index.count() == 0
    assert not list(resources.warehouse.documents.stream())
    assert (notes / "clock.md").exists()


def test_what_is_not_there_cannot_be_forgotten(project: Path) -> None:
    for what in (["--author", "Nobody"], ["--link", "https://example.org/"], ["--sample"]):
        with pytest.raises(InvalidInputError):
            collection.main(["forget", *what, "--yes"])
