"""What the doctor makes of what it sees."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import Settings, load_settings
from tools.checks import (
    Finding,
    State,
    check_languages,
    check_machine,
    check_models,
    check_packages,
    check_training,
    guard_check,
)
from tools.doctor import find_next
from tools.speed import Speed


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZENML_CONFIG_PATH", raising=False)  # pipeline tests of the same process set it
    return load_settings(None, models_dir=tmp_path / "models")


def named(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_this_machine_can_run_the_project(tmp_path: Path) -> None:
    found = named(check_machine(tmp_path))
    assert found["Python"].state is State.OK
    assert not any(finding.stops for finding in found.values())


def test_the_packages_are_as_pinned() -> None:
    found = named(check_packages())
    assert found["main packages"].state is State.OK
    assert "evaluation" in found["groups"].detail + found["other groups"].detail


def test_without_model_files_the_default_way_is_stopped(settings: Settings) -> None:
    found = named(check_models(settings))
    assert [name for name, finding in found.items() if finding.stops] == ["embedder", "language model"]
    assert "download-models" in found["embedder"].todo


def test_a_model_file_that_is_cut_short_is_not_taken_for_whole(settings: Settings) -> None:
    file = settings.models_dir / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF")
    assert named(check_models(settings))["language model"].state is State.MISSING


def test_a_model_of_ones_own_is_looked_for_where_it_was_named(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    own = settings.model_copy(update={"llm": settings.llm.model_copy(update={"model_path": file})})
    assert named(check_models(own))["language model"].stops
    file.touch()
    assert named(check_models(own))["language model"].state is State.OK


def test_a_name_that_is_no_model_is_told_with_those_that_are(settings: Settings) -> None:
    wrong = settings.model_copy(update={"llm": settings.llm.model_copy(update={"model": "smollm"})})
    finding = named(check_models(wrong))["language model"]
    assert finding.stops
    assert "SmolLM2-135M-Instruct" in finding.detail


@pytest.mark.usefixtures("settings")
def test_data_sets_and_models_are_found_and_a_broken_one_does_not_hide_the_others() -> None:
    assert {finding.state for finding in check_training()} == {State.OPTIONAL}
    for version, text in (("1", '{"name": "instruct", "counts": {"train": 40, "test": 10}}'), ("2", "[]")):
        folder = Path("data/datasets/instruct") / version
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(text)
    run = Path("data/trained/twin/run-1")
    run.mkdir(parents=True)
    (run / "model.json").write_text("{}")
    found = named(check_training())
    assert "instruct 50 samples" in found["data sets"].detail
    assert "broken" in found["data sets"].detail
    assert str(run) in found["trained models"].detail


def test_a_collection_that_is_mostly_not_english_wants_another_embedder() -> None:
    [finding] = check_languages({"de": 60, "en": 30, "python": 400})
    assert finding.state is State.WARN
    assert "use_multilingual" in finding.todo
    assert not list(check_languages({"de": 30, "en": 60, "python": 10}))
    assert not list(check_languages({}))


def test_a_check_that_breaks_is_a_finding() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("Data", "first", State.OK, "there")
        raise ConfigurationError("the second is wrong")

    first, second = guard_check("Data", check)
    assert first.state is State.OK
    assert (second.section, second.state) == ("Data", State.WARN)
    assert "the second is wrong" in second.detail


def test_what_is_missing_comes_before_what_is_only_odd() -> None:
    odd = Finding("Data", "index", State.WARN, "old", "rebuild it")
    missing = Finding("Models", "embedder", State.MISSING, "gone", "fetch it")
    wish = Finding("Optional", "GPU", State.OPTIONAL, "none", "buy one")
    assert find_next([wish, odd, missing]) == "fetch it"
    assert find_next([wish, odd]) == "rebuild it"
    assert find_next([wish]) == ""


def test_a_sentence_takes_as_long_as_the_prompt_takes_to_read() -> None:
    slow, fast = Speed(reading=50, writing=20), Speed(reading=500, writing=20)
    assert slow.estimate_sentence(3) > fast.estimate_sentence(3)
    assert fast.estimate_sentence(1) < fast.estimate_sentence(3)
