"""What is wrong is told before ZenML starts, and what an evaluation cannot decide before it begins."""

import subprocess
import sys
from pathlib import Path

import pytest

from llm_engineering.application.evaluation.models.config import ModelEvaluationParameters, ModelEvaluationRun
from llm_engineering.application.features.config import CollectRun, LinkSpec
from llm_engineering.application.training.datasets.config import InstructDatasetRun
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.application.training.registry.promotion import PromotionPolicy
from llm_engineering.domain.datasets import DatasetManifest
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import load_settings
from tools.preflight import (
    check_hosts,
    check_inputs,
    check_links,
    choose_author,
    describe_limits,
    shorten_wait,
)


def write_manifest(folder: Path, test: int, documents: int = 9) -> Path:
    folder.mkdir(parents=True)
    manifest = DatasetManifest(
        kind="instruct",
        name="instruct",
        version="v1",
        counts={"train": 50, "test": test},
        documents={"train": 5, "test": documents},
        template="chatml",
        template_hash="h",
        seed=0,
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


@pytest.mark.parametrize("url", ["htp://ada.example/feed", "https://", "http:// ada.example/x", "https:///"])
def test_what_cannot_be_a_web_address_is_refused_by_name(url: str) -> None:
    links = (LinkSpec(url=url), LinkSpec(url="https://ada.example/feed.xml"))
    with pytest.raises(ConfigurationError) as told:
        check_links(CollectRun(author="Ada", links=links))
    assert url in str(told.value)
    assert "ada.example/feed.xml" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    ["https://ada.example/a b.html".replace(" ", "%20"), "notes/*.md", "~/blog", "git@host:ada/notes", "file:///srv/x",
     "ssh://git@host/ada", "HTTPS://Ada.Example/feed"],
)  # fmt: skip
def test_what_may_be_a_link_is_left_to_its_reader(url: str) -> None:
    check_links(CollectRun(author="Ada", links=(LinkSpec(url=url),)))


def test_links_of_this_machine_ask_no_host() -> None:
    check_hosts(["notes/", "https://no-such-host.invalid/feed.xml"])


class TestLimits:
    def test_too_few_test_items_are_told_before_anything_is_generated(self, tmp_path: Path) -> None:
        parameters = ModelEvaluationParameters(promotion=PromotionPolicy(metric="rougeL", min_items=20))
        told = describe_limits(write_manifest(tmp_path / "a", test=12), parameters)
        assert told is not None
        assert "12" in told
        assert "20" in told

    def test_a_sample_that_is_drawn_too_small_is_told_as_such(self, tmp_path: Path) -> None:
        run = ModelEvaluationRun(samples=5)
        parameters = ModelEvaluationParameters(
            model_evaluation=run, promotion=PromotionPolicy(metric="rougeL")
        )
        told = describe_limits(write_manifest(tmp_path / "a", test=200), parameters)
        assert told is not None
        assert "samples" in told

    @pytest.mark.parametrize(
        ("test", "policy"), [(20, PromotionPolicy(metric="rougeL", min_items=20)), (1, None)]
    )
    def test_enough_items_or_nothing_to_decide_need_no_warning(
        self, tmp_path: Path, test: int, policy: PromotionPolicy | None
    ) -> None:
        parameters = ModelEvaluationParameters(promotion=policy)
        assert describe_limits(write_manifest(tmp_path / "a", test=test), parameters) is None

    def test_too_few_documents_are_told_too(self, tmp_path: Path) -> None:
        parameters = ModelEvaluationParameters(promotion=PromotionPolicy(metric="rougeL", min_clusters=5))
        told = describe_limits(write_manifest(tmp_path / "a", test=200, documents=4), parameters)
        assert told is not None
        assert "5 documents" in told

    def test_a_folder_that_is_no_data_set_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError):
            describe_limits(tmp_path, ModelEvaluationParameters())


def test_training_on_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        check_inputs(Training(training=SftRun(dataset=tmp_path)), load_settings(None))


def test_without_owner_or_author_a_data_set_is_of_everybody() -> None:
    run = InstructDatasetRun()
    assert choose_author(run, None, load_settings(None, twin_author=None)) is run


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [
        ("mongodb://127.0.0.1:27027", 1.0),
        ("mongodb://ada:pw@localhost:1/x", 1.0),
        ("mongodb+srv://cluster0.example.net/", 30.0),
        ("mongodb://db.internal:27017", 30.0),
    ],
)
def test_a_database_of_this_machine_is_waited_for_a_second(uri: str, seconds: float) -> None:
    settings = load_settings(None, database={"uri": uri, "timeout_seconds": 30.0})
    assert shorten_wait(settings).database.timeout_seconds == seconds


def test_what_is_checked_before_a_run_does_without_zenml() -> None:
    """Else a typing error would be told after its ten seconds."""
    code = "import sys, tools.run, tools.preflight; sys.exit('zenml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
