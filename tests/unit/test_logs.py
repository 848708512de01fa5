"""The log: readable by people or machines, and without secrets."""

import json

import pytest
from loguru import logger

from llm_engineering.application.evaluation.models.evaluate import NamedProgress
from llm_engineering.bootstrap.logging import show_progress
from llm_engineering.infrastructure.logs import configure_logging, mask
from llm_engineering.infrastructure.progress import LogProgress, TerminalProgress
from llm_engineering.settings import load_settings


def logged(format: str, level: str = "INFO", secrets: tuple[str, ...] = ()) -> list[str]:
    lines: list[str] = []
    configure_logging(format=format, level=level, secrets=secrets, write=lines.append)
    return lines


def test_credentials_of_a_uri_are_masked_and_its_host_stays() -> None:
    text = "cannot reach mongodb+srv://ada:p%40ss@cluster0.example.net/db and https://user:tok@host/x"
    assert mask(text) == "cannot reach mongodb+srv://***@cluster0.example.net/db and https://***@host/x"


def test_a_uri_without_credentials_is_left_alone() -> None:
    assert (
        mask("see https://example.org/a@b and mail me@example.org")
        == "see https://example.org/a@b and mail me@example.org"
    )


def test_known_secrets_and_bearer_tokens_are_masked_in_every_format() -> None:
    for format in ("human", "json"):
        lines = logged(format, secrets=("hunter2222",))
        logger.info("sent Authorization: Bearer abcdefghijklmnop with hunter2222")
        assert "abcdefghijklmnop" not in lines[0]
        assert "hunter2222" not in lines[0]


def test_json_lines_are_objects_with_bound_fields() -> None:
    lines = logged("json")
    logger.bind(link="https://example.org").warning("skipped {}", 3)
    record = json.loads(lines[0])
    assert record["message"] == "skipped 3"
    assert record["level"] == "WARNING"
    assert record["link"] == "https://example.org"


def test_an_exception_is_named_in_json() -> None:
    lines = logged("json")
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("it failed")
    assert json.loads(lines[0])["error"] == "ValueError: broken"


def test_progress_in_a_log_says_little_and_the_end() -> None:
    lines = logged("human")
    progress = LogProgress(every_seconds=3600)
    for _ in range(100):
        progress.advance("chunks", total=100)
    assert len(lines) == 1
    assert "chunks: 100 of 100" in lines[0]


def test_a_step_masks_and_formats_its_log_though_no_command_line_set_it_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_verysecret")
    logger.remove()
    with show_progress(load_settings(None)):
        logger.info("cloning with ghp_verysecret")
    assert json.loads(capsys.readouterr().err)["message"] == "cloning with ***"


def test_no_line_says_more_than_all() -> None:
    lines = logged("human")
    progress = LogProgress(every_seconds=0)
    progress.advance("Answers", 80, total=100)
    progress.advance("Answers", 80)
    assert "80 of 100" in lines[0]
    assert "160" in lines[1]
    assert " of " not in lines[1]


def test_a_bar_says_what_is_known_and_never_more_than_all() -> None:
    bars = TerminalProgress()
    bars.advance("Embed chunks", 256)
    assert (bars._bars.tasks[0].fields["count"], bars._bars.tasks[0].total) == ("256", None)
    bars.advance("Answers", 90, total=108)
    assert bars._bars.tasks[1].fields["count"] == "90/108"
    bars.advance("Answers", 90)
    assert (bars._bars.tasks[1].fields["count"], bars._bars.tasks[1].total) == ("180", None)


def test_each_system_has_a_bar_of_its_own() -> None:
    lines = logged("human")
    progress = LogProgress(every_seconds=3600)
    for name in ("base", "sft"):
        NamedProgress(progress, name).advance("Answers", 5, total=5)
    assert [line.rpartition("  ")[2].strip() for line in lines] == [
        "base: answers: 5 of 5",
        "sft: answers: 5 of 5",
    ]
