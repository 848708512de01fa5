"""Settings in ZenML's secret store: all of them and nothing else, back as they were, and never shown."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import list_variables, load_settings
from tools.zenml_stack import SECRET, collect_settings, fit_to_stack, main

HIDDEN = "hidden-word-9-of-16"
"""Stands in every secret; must come out nowhere."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, with nothing set in the environment."""
    monkeypatch.chdir(tmp_path)
    for name, _, _ in list_variables():
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def zenml(project: Path) -> Iterator[Any]:
    """ZenML's client, with no settings in its store."""
    from zenml.client import Client

    client = Client()
    _forget(client)
    yield client
    _forget(client)


def _forget(client: Any) -> None:
    for secret in client.list_secrets(name=SECRET).items:
        client.delete_secret(str(secret.id))


def write_env(project: Path, **values: str) -> None:
    (project / ".env").write_text(
        "".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8"
    )


def read_back(client: Any) -> dict[str, str]:
    return dict(client.get_secret(SECRET, allow_partial_name_match=False).secret_values)


def every_setting() -> dict[str, str]:
    """A value for each variable, other than its default where there is a choice; of groups with kinds, each kind's in turn
    would exclude the others', so those that contradict the chosen kinds are left out."""
    chosen = {
        "VECTOR_INDEX_KIND": "qdrant_server",
        "EMBEDDER_KIND": "openai_http",
        "LLM_KIND": "openai_http",
        "RERANKER_KIND": "cross_encoder",
        "TRACING_KIND": "otlp",
        "DATABASE_URI": f"mongodb://user:{HIDDEN}@db.test:27017",
        "LLM_PROMPT_PRICE": "1.5",
        "LLM_COMPLETION_PRICE": "2.5",
        "SAGEMAKER_ENVIRONMENT": '{"HF_HUB_OFFLINE": "1"}',
        "SAGEMAKER_TAGS": '{"team": "words"}',
        "JUDGE_PROMPT_PRICE": "1.5",
        "JUDGE_COMPLETION_PRICE": "2.5",
    }
    values = dict(chosen)
    for name, _, default in list_variables():
        if name in values or name.startswith(("JUDGE2_", "JUDGE3_")):
            continue
        if isinstance(default, SecretStr) or name.endswith(("_KEY", "_TOKEN", "_PASSWORD", "_HEADERS")):
            values[name] = HIDDEN
        elif default is not None:
            values[name] = str(default)
    return {name: value for name, value in values.items() if value}


def test_every_setting_comes_back_as_it_was_and_no_value_is_shown(
    project: Path, zenml: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = every_setting()
    write_env(project, **values)
    expected = load_settings()
    assert main(["export"]) == 0
    told = capsys.readouterr()
    assert HIDDEN not in told.out + told.err
    assert "DATABASE_URI" in told.out
    stored = read_back(zenml)
    assert stored == values
    (project / ".env").unlink()
    for name, value in stored.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == expected


def test_what_is_not_set_is_not_exported_and_nothing_says_none(project: Path, zenml: Any) -> None:
    write_env(project, LOG_FORMAT="json", LLM_API_KEY="", ZENML_STORE_URL="https://z.test")
    assert main(["export"]) == 0
    assert read_back(zenml) == {"LOG_FORMAT": "json"}


def test_a_second_export_replaces_the_first(project: Path, zenml: Any) -> None:
    write_env(project, LOG_FORMAT="json", LLM_MODEL="one")
    main(["export"])
    write_env(project, LLM_MODEL="two")
    main(["export"])
    assert read_back(zenml) == {"LLM_MODEL": "two"}


def test_the_environment_wins_over_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_env(project, LOG_FORMAT="json", LOG_LEVEL="DEBUG")
    monkeypatch.setenv("LOG_FORMAT", "human")
    assert collect_settings() == {"LOG_FORMAT": "human", "LOG_LEVEL": "DEBUG"}


@pytest.mark.parametrize("word", ["None", "null"])
def test_the_word_none_is_refused_by_its_variable(project: Path, word: str) -> None:
    write_env(project, LLM_API_KEY=word, LOG_FORMAT="json")
    with pytest.raises(ConfigurationError, match="LLM_API_KEY"):
        collect_settings()


def test_none_in_small_letters_is_a_value_of_some_settings(project: Path) -> None:
    write_env(project, TRACING_KIND="none", RERANKER_KIND="none")
    assert collect_settings() == {"RERANKER_KIND": "none", "TRACING_KIND": "none"}


def test_with_nothing_set_there_is_nothing_to_export(project: Path, zenml: Any) -> None:
    with pytest.raises(ConfigurationError):
        main(["export"])


def test_deleting_is_done_once_and_then_nothing_is_there(
    project: Path, zenml: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_env(project, LOG_FORMAT="json")
    main(["export"])
    assert main(["delete"]) == 0
    assert zenml.list_secrets(name=SECRET).total == 0
    assert main(["delete"]) == 0
    assert "there are no settings" in capsys.readouterr().out


# --- the stack, as far as it goes without a server --------------------------------------------------------------------

OUTPUTS = {
    "region": "eu-west-1",
    "bucket": "twin-zenml",
    "prefix": "twin",
    "ecr_registry": "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    "execution_role_arn": "arn:aws:iam::123456789012:role/twin-sagemaker-execution",
}


def write_outputs(folder: Path, **changes: str | None) -> str:
    outputs = {name: {"value": value} for name, value in (OUTPUTS | changes).items() if value is not None}
    file = folder / "outputs.json"
    file.write_text(json.dumps(outputs), encoding="utf-8")
    return str(file)


def test_the_aws_stack_needs_a_server_that_aws_reaches(project: Path, zenml: Any) -> None:
    pytest.importorskip("sagemaker", reason="needs the group aws")
    with pytest.raises(ConfigurationError, match="zenml login"):
        main(["set-aws", "--outputs", write_outputs(project)])
    assert zenml.active_stack_model.name == "default"
    untouched = object()
    assert fit_to_stack(untouched) is untouched


def test_outputs_that_lack_something_are_refused_by_name(project: Path) -> None:
    with pytest.raises(ConfigurationError, match="bucket, execution_role_arn"):
        main(["set-aws", "--outputs", write_outputs(project, bucket="", execution_role_arn=None)])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"region": "x"}'])
def test_outputs_that_are_none_are_refused(project: Path, text: str) -> None:
    (project / "outputs.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError):
        main(["set-aws", "--outputs", str(project / "outputs.json")])


def test_runs_of_this_machine_cannot_go_on_alone(project: Path, zenml: Any) -> None:
    with pytest.raises(ConfigurationError, match="set-aws-stack"):
        main(["set-asynchronous"])


def test_who_is_connected_to_nothing_is_told_so(
    project: Path, zenml: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["disconnect"]) == 0
    assert "connected to no server" in capsys.readouterr().out
