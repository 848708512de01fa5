"""What a process with loaded models is used for, and from when on it is outdated."""

import os
from pathlib import Path

import pytest

from llm_engineering.settings import Settings, load_settings
from tools.warm import WarmTwin, compute_fingerprint, warm_minutes


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("LLM_KEEP_WARM")
    monkeypatch.delenv("CI", raising=False)
    models = tmp_path / "models"
    models.mkdir()
    (models / "small.gguf").write_bytes(b"weights")
    return load_settings(None, models_dir=models, local={"data_dir": tmp_path / "data"})


def test_the_same_settings_have_the_same_fingerprint(settings: Settings) -> None:
    assert compute_fingerprint(settings) == compute_fingerprint(settings.model_copy())


@pytest.mark.parametrize(
    "change",
    [
        {"twin_author": "Ada Winter"},
        {"llm": {"kind": "openai_http", "api_key": "sk-0ne"}},
        {"database": {"uri": "mongodb://elsewhere"}},
        {"service": {"keep_answers": False}},
    ],
)
def test_what_an_answer_depends_on_changes_it(settings: Settings, change: dict[str, object]) -> None:
    assert compute_fingerprint(settings) != compute_fingerprint(_changed(settings, change))


def test_a_changed_secret_changes_it_though_it_is_masked_where_it_is_shown(settings: Settings) -> None:
    one, two = (
        _changed(settings, {"llm": {"kind": "openai_http", "api_key": key}}) for key in ("sk-0ne", "sk-tw0")
    )
    assert one.model_dump_json() == two.model_dump_json()
    assert compute_fingerprint(one) != compute_fingerprint(two)


def test_where_a_service_listens_changes_nothing(settings: Settings) -> None:
    assert compute_fingerprint(settings) == compute_fingerprint(
        _changed(settings, {"service": {"port": 9000}})
    )


def test_another_model_file_changes_it(settings: Settings) -> None:
    before = compute_fingerprint(settings)
    file = settings.models_dir / "small.gguf"
    os.utime(file, (1, 1))
    changed = compute_fingerprint(settings)
    assert changed != before
    (settings.models_dir / "better.gguf").touch()
    assert compute_fingerprint(settings) not in (before, changed)


def test_a_build_server_keeps_nothing_that_it_was_not_told_to(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warm_minutes(settings) > 0
    monkeypatch.setenv("CI", "true")
    assert warm_minutes(settings) == 0
    assert warm_minutes(_changed(settings, {"llm": {"kind": "llama_cpp", "keep_warm": 2}})) == 2


def test_one_holds_the_lock_at_a_time(settings: Settings) -> None:
    lock = WarmTwin(settings).take_lock()
    assert lock is not None
    assert WarmTwin(settings).take_lock() is None
    os.close(lock)
    again = WarmTwin(settings).take_lock()
    assert again is not None
    os.close(again)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pid": 1}', "no JSON"])
def test_a_broken_note_names_nobody(settings: Settings, text: str) -> None:
    twin = WarmTwin(settings)
    settings.local.data_dir.mkdir()
    (settings.local.data_dir / "warm.json").write_text(text)
    assert twin.read_note() is None
    assert twin.stop() is False


def test_a_note_of_another_process_under_the_same_pid_names_nobody(settings: Settings) -> None:
    twin = WarmTwin(settings)
    settings.local.data_dir.mkdir()
    twin.leave_note(os.getpid(), 1, "token", "mark")
    assert twin.is_noted()
    file = settings.local.data_dir / "warm.json"
    file.write_text(file.read_text().replace('"created": ', '"created": 1'))
    assert twin.read_note() is None


def _changed(settings: Settings, change: dict[str, object]) -> Settings:
    kept = {"models_dir": settings.models_dir, "local": settings.local.model_dump()}
    return load_settings(None, **{**kept, **change})
