"""A run's YAML: every problem named by its path, before anything starts. Every file in configs/ is valid."""

import re
from pathlib import Path

import pytest
import yaml

from llm_engineering.application.analysis.config import RecordAnalysis
from llm_engineering.application.config import StrictConfig
from llm_engineering.application.deployment.config import Deployment
from llm_engineering.application.deployment.serving_check import ServingCheckConfig
from llm_engineering.application.evaluation.course.config import CourseAssistant
from llm_engineering.application.evaluation.models.config import ModelEvaluationParameters
from llm_engineering.application.evaluation.rag.config import RagEvaluation
from llm_engineering.application.evaluation.reviews import ReviewEvaluation
from llm_engineering.application.features.config import (
    CollectRun,
    DigitalDataEtl,
    EndToEndData,
    FeatureEngineering,
)
from llm_engineering.application.features.links import hide_credentials
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.application.reporting.json_export import ExportArtifacts
from llm_engineering.application.reviews.config import ReviewSummaryRun
from llm_engineering.application.reviews.monitoring import ReviewMonitoring
from llm_engineering.application.training.datasets.config import (
    GenerateInstructDataset,
    GeneratePreferenceDataset,
)
from llm_engineering.application.training.finetune.model_folder import AdapterServing
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.application.training.finetune.search import HyperparameterSearch
from llm_engineering.domain.errors import ConfigurationError
from tools.run_config import read_run_config, read_service_config
from tools.schedule import Schedules

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BY_PARAMETERS: dict[frozenset[str], type[StrictConfig]] = {
    frozenset({"collect"}): DigitalDataEtl,
    frozenset({"features"}): FeatureEngineering,
    frozenset({"collect", "features"}): EndToEndData,
    frozenset({"rag_evaluation"}): RagEvaluation,
    frozenset({"instruct"}): GenerateInstructDataset,
    frozenset({"preference"}): GeneratePreferenceDataset,
    frozenset({"model_evaluation", "promotion"}): ModelEvaluationParameters,
    frozenset({"analysis"}): RecordAnalysis,
    frozenset({"search"}): HyperparameterSearch,
    frozenset({"summaries"}): ReviewSummaryRun,
    frozenset({"training"}): Training,
    frozenset({"dpo"}): Training,
    frozenset({"export"}): ExportArtifacts,
    frozenset({"collect", "instruct", "course", "promotion"}): CourseAssistant,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_config_is_valid_and_says_how_it_is_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    if "retrieval" in content:
        read_service_config(path, InferenceConfig)
    elif "distributed_type" in content:
        assert path.name == "accelerate.yaml", "read by accelerate"
    elif "endpoint" in content:
        read_service_config(path, Deployment)
    elif "questions" in content:
        read_service_config(path, ServingCheckConfig)
    elif "adapters" in content:
        read_service_config(path, AdapterServing)
    elif "truth" in content:
        read_service_config(path, ReviewEvaluation)
    elif "least_reviews" in content:
        read_service_config(path, ReviewMonitoring)
    elif "schedules" in content:
        read_service_config(path, Schedules)
    else:
        read_run_config(path, BY_PARAMETERS[frozenset(content["parameters"])])
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert re.search(r"\./poe (run|check|deploy|search|evaluate|monitor)-", comments)


def test_a_missing_file_names_those_that_fit_the_closest_first() -> None:
    with pytest.raises(ConfigurationError) as told:
        read_run_config(Path("configs/trainig_sft.yaml"), Training)
    message = str(told.value)
    assert message.index("configs/training_sft.yaml") < message.index("configs/training_dpo.yaml")
    assert "accelerate" not in message
    assert "inference" not in message
    assert str(Path.cwd()) not in message


def test_a_missing_file_of_no_known_name_lists_those_that_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as told:
        read_run_config(tmp_path / "nowhere" / "xyzzy.yaml", FeatureEngineering)
    assert "configs/feature_engineering.yaml" in str(told.value)


def test_the_services_config_gives_the_defaults_so_that_its_reasons_are_theirs() -> None:
    read = read_service_config(CONFIGS / "inference.yaml", InferenceConfig)
    assert read.retrieval == InferenceConfig().retrieval


def test_every_knob_of_retrieval_stands_in_the_services_config_with_a_reason() -> None:
    text = (CONFIGS / "inference.yaml").read_text(encoding="utf-8")
    section = yaml.safe_load(text)["retrieval"]
    missing = [name for name in RetrievalConfig.model_fields if name not in section]
    assert missing == []
    knobs = [line for line in text.splitlines() if ":" in line and not line.startswith("#") and line.strip()]
    assert [line for line in knobs if "#" not in line and not line.rstrip().endswith(":")] == []


def test_an_unknown_key_of_the_service_is_named_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text("retrieval: {self_query: {knd: rules}}", encoding="utf-8")
    with pytest.raises(
        ConfigurationError, match=r"retrieval\.self_query\.knd: unknown key\. Did you mean 'kind'"
    ):
        read_service_config(path, InferenceConfig)


def problems(tmp_path: Path, content: str, model: type[StrictConfig] = EndToEndData) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        read_run_config(path, model)
    return str(caught.value)


def test_an_unknown_key_is_named_with_its_path_and_the_closest_known(tmp_path: Path) -> None:
    message = problems(tmp_path, "parameters: {collect: {author: A, linkz: [http://x]}}")
    assert "parameters.collect.linkz: unknown key. Did you mean 'links'?" in message
    assert "parameters.collect.links: missing" in message


def test_the_former_key_of_rag_evaluation_is_told_the_new_one(tmp_path: Path) -> None:
    message = problems(tmp_path, "parameters: {evaluation: {seed: 1}}", RagEvaluation)
    assert "'evaluation'" in message
    assert "'rag_evaluation'" in message


def test_a_key_deep_inside_a_list_is_found(tmp_path: Path) -> None:
    message = problems(tmp_path, "parameters: {collect: {author: A, links: [{url: http://x, rendr: true}]}}")
    assert "parameters.collect.links.0.rendr: unknown key. Did you mean 'render'?" in message


def test_a_wrong_type_says_what_was_expected_and_what_came(tmp_path: Path) -> None:
    message = problems(
        tmp_path, "parameters: {collect: {author: A, links: [http://x], max_concurrency: lots}}"
    )
    assert "parameters.collect.max_concurrency: Input should be a valid integer" in message
    assert "'lots'" in message


def test_no_links_is_an_error(tmp_path: Path) -> None:
    assert "parameters.collect.links" in problems(tmp_path, "parameters: {collect: {author: A, links: []}}")


def test_a_link_without_an_author_is_an_error(tmp_path: Path) -> None:
    assert "has no author" in problems(tmp_path, "parameters: {collect: {links: [http://x]}}")


def test_an_unknown_section_beside_the_parameters_is_refused(tmp_path: Path) -> None:
    message = problems(tmp_path, "parametres: {collect: {}}")
    assert "parametres: unknown key. Did you mean 'parameters'?" in message


def test_zenmls_own_keys_pass_through(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run_name: mine\nparameters: {features: {}}\n", encoding="utf-8")
    parameters, rest = read_run_config(path, FeatureEngineering)
    assert rest == {"run_name": "mine"}
    assert parameters.features.max_failed_share == 0.1


def test_a_file_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"other\.yaml"):
        read_run_config(tmp_path / "missing.yaml", EndToEndData)


def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    assert "not valid YAML" in problems(tmp_path, "parameters: [unclosed")


@pytest.mark.parametrize(
    "collect", ["{links: [URL]}", "{author: A, links: URL}", "{author: A, links: [{url: [URL]}]}"]
)
def test_a_problem_with_a_link_does_not_show_its_password(tmp_path: Path, collect: str) -> None:
    link = "https://ada:s3cret@git.example.org/notes.git"
    message = problems(tmp_path, f"parameters: {{collect: {collect.replace('URL', link)}}}")
    assert "https://git.example.org/notes.git" in message
    assert "s3cret" not in message


def test_a_wrong_item_of_a_list_is_one_problem(tmp_path: Path) -> None:
    message = problems(
        tmp_path, "parameters: {collect: {author: A, links: [{url: http://x, render: often}]}}"
    )
    assert "has 1 problem(s)" in message
    assert "parameters.collect.links.0.render" in message


@pytest.mark.parametrize(
    "link",
    [
        "https://ada:s3cret@git.example.org/x.git",
        "https://ghp_token@github.com/a/b",
        "postgresql://h/d?user=a&password=s3cret",
        "postgresql+psycopg://h/d?passw%6Frd=s3cret#x",
    ],
)
def test_credentials_in_a_link_are_refused_because_parameters_are_stored(tmp_path: Path, link: str) -> None:
    message = problems(tmp_path, f"parameters: {{collect: {{author: A, links: ['{link}']}}}}")
    assert "must not hold a user name or password" in message
    assert "s3cret" not in message
    assert "ghp_token" not in message


def test_variables_in_a_link_are_filled_in_when_it_is_collected() -> None:
    link = "https://{GIT_USER}:{GIT_PASSWORD}@git.example.org/x.git"
    run = CollectRun.model_validate({"author": "A", "links": [link, "git@github.com:a/b.git"]})
    assert "{GIT_PASSWORD}" in run.links[0].url
    [first, second] = run.as_links({"GIT_USER": "ada", "GIT_PASSWORD": "s3/cret"})
    assert first.url == "https://ada:s3%2Fcret@git.example.org/x.git"
    assert second.url == "git@github.com:a/b.git"
    database = {"url": "postgresql://h/d?user=a&password={DB_PASSWORD}&sslmode=require", "category": "movie"}
    [third] = CollectRun.model_validate({"links": [database]}).as_links({"DB_PASSWORD": "s3&c"})
    assert third.url == "postgresql://h/d?user=a&password=s3%26c&sslmode=require"
    assert hide_credentials(third.url) == "postgresql://h/d?user=a&password=***&sslmode=require"
    with pytest.raises(ConfigurationError, match="not set: GIT_PASSWORD"):
        run.as_links({"GIT_USER": "ada"})


@pytest.mark.parametrize(
    ("content", "model"),
    [
        ("{instruct: {asking: {attempts: 1}}}", GenerateInstructDataset),
        ("{preference: {quality: {judge: {asking: {attempts: 1}}}}}", GeneratePreferenceDataset),
        ("{model_evaluation: {judge: {asking: {attempts: 1}}}}", ModelEvaluationParameters),
    ],
)
def test_the_former_key_of_requests_is_told_the_new_one(
    tmp_path: Path, content: str, model: type[StrictConfig]
) -> None:
    message = problems(tmp_path, f"parameters: {content}", model)
    assert "'asking'" in message
    assert "'requests'" in message
