"""Settings: every problem at once, secrets hidden, adapters chosen by kind."""

from pathlib import Path

import pytest

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import (
    RENAMED_VARIABLES,
    LlamaCppSettings,
    OpenAIHttpSettings,
    QdrantEdgeSettings,
    QdrantServerSettings,
    list_variables,
    load_settings,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*RENAMED_VARIABLES, *(name for name, _, _ in list_variables())):
        monkeypatch.delenv(name, raising=False)


def test_defaults_need_nothing_but_this_machine() -> None:
    settings = load_settings(None)
    assert isinstance(settings.llm, LlamaCppSettings)
    assert isinstance(settings.vector_index, QdrantEdgeSettings)
    assert "127.0.0.1" in settings.database.uri.get_secret_value()


def test_naming_an_address_chooses_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTOR_INDEX_URL", "https://qdrant.example:6333")
    monkeypatch.setenv("LLM_BASE_URL", "http://localhost:11434/v1")
    settings = load_settings(None)
    assert isinstance(settings.vector_index, QdrantServerSettings)
    assert isinstance(settings.llm, OpenAIHttpSettings)


def test_kind_wins_over_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_KIND", "llama_cpp")
    monkeypatch.setenv("LLM_BASE_URL", "http://localhost:11434/v1")
    assert isinstance(load_settings(None).llm, LlamaCppSettings)


def test_all_problems_are_reported_at_once_by_variable_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URI", "http://me:hunter22@db")
    monkeypatch.setenv("LLM_CONTEXT_TOKENS", "many")
    monkeypatch.setenv("CRAWLER_MAX_RETRIES", "99")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None)
    message = str(caught.value)
    assert "3 problem(s)" in message
    assert "DATABASE_URI" in message
    assert "LLM_CONTEXT_TOKENS" in message
    assert "'many'" in message
    assert "CRAWLER_MAX_RETRIES" in message
    assert "hunter22" not in message


def test_a_misspelt_name_in_the_env_file_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("DATABASE_URL=mongodb://x\nZENML_STORE_URL=https://zenml.example\n")
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL.*Did you mean 'DATABASE_URI'\?"):
        load_settings(env)


@pytest.mark.parametrize(("former", "present"), RENAMED_VARIABLES.items())
class TestFormerVariables:
    def test_in_the_environment_the_present_name_is_told(
        self, former: str, present: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(former, "5")
        with pytest.raises(ConfigurationError, match=f"{former}.*{present}"):
            load_settings(None)

    def test_in_the_env_file_the_present_name_is_told(
        self, former: str, present: str, tmp_path: Path
    ) -> None:
        env = tmp_path / ".env"
        env.write_text(f"{former}=5\n")
        with pytest.raises(ConfigurationError, match=f"{former}.*{present}"):
            load_settings(env)

    def test_it_is_no_setting_and_the_present_one_is(self, former: str, present: str) -> None:
        known = {name for name, _, _ in list_variables()}
        assert present in known
        assert former not in known


def test_a_former_name_is_left_alone_where_the_present_one_is_set_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_HOST", "db.example")
    monkeypatch.setenv("DATABASE_URI", "mongodb://db.example")
    assert load_settings(None).database.uri.get_secret_value() == "mongodb://db.example"


def test_other_programs_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://other")
    monkeypatch.setenv("LOCAL_THING", "1")
    assert load_settings(None).database.name == "twin"


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URI", "mongodb://me:hunter22@db/")
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_verysecret")
    shown = f"{load_settings(None)!r} {load_settings(None).model_dump_json()}"
    assert "hunter22" not in shown
    assert "ghp_verysecret" not in shown


def test_every_setting_is_in_the_example_file() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    missing = [name for name, _, _ in list_variables() if f"{name}=" not in example]
    assert missing == []


def test_the_example_file_is_valid_and_says_the_defaults(tmp_path: Path) -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    env = tmp_path / ".env"
    settings_lines = [
        line.removeprefix("# ")
        for line in lines
        if "=" in line and line.removeprefix("# ").split("=")[0].isupper()
    ]
    common = [line for line in settings_lines if not line.startswith(("LLM_", "VECTOR_INDEX_", "EMBEDDER_"))]
    env.write_text("\n".join(line for line in common if line.split("=", 1)[1]))
    assert load_settings(env) == load_settings(None)


@pytest.mark.parametrize(("former", "present"), [("strict", "extractive"), ("lenient", "annotate")])
def test_a_former_kind_of_grounding_is_told_its_present_name(former: str, present: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, llm={"kind": "llama_cpp", "grounding": former})
    assert present in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "typed", "meant"),
    [("VECTOR_INDEX_KIND", "qdrnt_edge", "qdrant_edge"), ("LLM_KIND", "lama_cpp", "llama_cpp")],
)
def test_a_mistyped_kind_is_told_by_its_variable_with_the_kinds_there_are(
    monkeypatch: pytest.MonkeyPatch, variable: str, typed: str, meant: str
) -> None:
    monkeypatch.setenv(variable, typed)
    with pytest.raises(ConfigurationError) as told:
        load_settings(None)
    assert f"{variable}: expected one of" in str(told.value)
    assert f"Did you mean '{meant}'?" in str(told.value)
