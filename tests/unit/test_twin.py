"""What ``poe twin`` is asked for, and the plan that it makes of it."""

import os
from pathlib import Path

import pytest

from llm_engineering.application.training.finetune.run import Training
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import Settings, load_settings
from tools import run as collect
from tools import twin
from tools.run_config import read_run_config
from tools.twin import make_name, make_plan, parse_arguments, read_wish, set_steps

LINK = "http://127.0.0.1:9/feed.xml"
URL = "http://127.0.0.1:8088/"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, models_dir=tmp_path)


def titles(wish: twin.Wish, settings: Settings) -> list[str]:
    return [part.title for part in make_plan(wish, settings, URL)]


@pytest.mark.parametrize(
    ("author", "name"),
    [
        ("Ada Winter", "ada-winter"),
        ("Zoë  O'Hara", "zoe-o-hara"),
        ("李白", "twin"),
        ("x" * 100, "x" * 40),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_models_are_named_after_their_author(author: str, name: str) -> None:
    assert make_name(author) == name


def test_the_plan_holds_every_part_in_its_order(settings: Settings) -> None:
    pytest.importorskip("trl")
    wish = read_wish(parse_arguments(["--author", "Ada Winter", "--link", LINK, "--steps", "3"]), settings)
    assert titles(wish, settings) == [
        "Models",
        "Collect",
        "Features",
        "Data set",
        "SFT",
        "DPO",
        "Evaluation",
        "Promotion",
        "Serve",
    ]
    assert wish.training is not None
    assert wish.training.training is not None
    assert wish.training.training.sft.max_steps == 3
    assert wish.training.training.name == "ada-winter"
    assert wish.training.dpo is not None
    assert wish.training.dpo.name == "ada-winter"


@pytest.mark.parametrize("steps", [1, 3, 500])
def test_any_number_of_steps_makes_a_run_that_is_valid(steps: int) -> None:
    training = read_run_config(twin.SFT, Training)[0].training
    dpo = read_run_config(twin.DPO, Training)[0].dpo
    assert training is not None
    assert dpo is not None
    for config, file in ((training.sft, twin.SFT), (dpo.dpo, twin.DPO)):
        made = set_steps(config, steps, file)
        assert made.max_steps == steps
        assert made.optimizer.warmup_steps < steps
        assert made.save_steps is None or made.save_steps <= steps


def test_without_training_and_serving_the_plan_is_short(settings: Settings) -> None:
    wish = read_wish(
        parse_arguments(["--author", "Ada", "--link", LINK, "--no-training", "--no-serve"]), settings
    )
    assert wish.training is None
    assert titles(wish, settings) == ["Models", "Collect", "Features", "Training"]


def test_where_the_group_is_not_installed_the_rest_is_done(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(twin, "find_missing_group", lambda group: f"torch of {group}")
    wish = read_wish(parse_arguments(["--author", "Ada", "--link", LINK]), settings)
    assert wish.training is None
    plan = make_plan(wish, settings, URL)
    assert "torch of training" in next(part.what for part in plan if part.title == "Training")
    twin.show_plan(wish, plan)
    assert "./poe setup --with training" in capsys.readouterr().out


def test_the_plan_says_what_is_to_be_fetched(settings: Settings) -> None:
    wish = read_wish(parse_arguments(["--author", "Ada", "--link", LINK, "--no-training"]), settings)
    part = next(part for part in make_plan(wish, settings, URL) if part.title == "Models")
    assert "GB to fetch" in part.what


def test_the_owner_need_not_be_named_twice(tmp_path: Path) -> None:
    settings = load_settings(None, models_dir=tmp_path, twin_author="Ada Winter")
    assert read_wish(parse_arguments(["--link", LINK, "--no-training"]), settings).author == "Ada Winter"


def test_the_sample_brings_author_and_links(settings: Settings) -> None:
    wish = read_wish(parse_arguments(["--sample", "--no-training"]), settings)
    assert wish.author == "Ada Winter"
    assert wish.data is not None
    assert len(wish.data.collect.links) > 1


def test_the_sample_goes_to_the_demos_collection_and_not_to_anybodys_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class PlannedError(Exception):
        """The plan is made; nothing more is to be done."""

    collections = []

    def plan(_: object, settings: Settings) -> None:
        collections.append((settings.database.name, settings.vector_index.collection))
        raise PlannedError

    monkeypatch.setattr(twin, "read_wish", plan)
    for arguments in (["--sample"], ["--author", "Ada", "--link", LINK]):
        monkeypatch.setattr(os, "environ", dict(os.environ))
        with pytest.raises(PlannedError):
            twin.main(arguments)
        monkeypatch.undo()
        monkeypatch.setattr(twin, "read_wish", plan)
    sample, own = collections
    assert sample == ("twin-demo", "twin-demo")
    assert not set(sample) & set(own)


@pytest.mark.parametrize("name", ["end-to-end-data", "digital-data-etl"])
def test_a_collection_without_links_takes_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as raised:
        collect.main([name])
    assert "--link" in str(raised.value)


def test_without_links_what_was_collected_is_used(settings: Settings) -> None:
    assert read_wish(parse_arguments(["--author", "Ada", "--no-training"]), settings).data is None


@pytest.mark.parametrize(
    "words",
    [
        ("--link", LINK),
        ("--author", " ", "--link", LINK),
        ("--sample", "--link", LINK),
        ("--author", "Ada", "--link", LINK, "--steps", "0"),
        ("--author", "Ada", "--link", LINK, "--evaluation", "configs/training_sft.yaml"),
        ("--author", "Ada", "--link", LINK, "--dpo", "configs/training_sft.yaml"),
        ("--author", "Ada", "--link", LINK, "--training", "configs/nowhere.yaml"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(
    words: tuple[str, ...], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twin, "find_missing_group", lambda group: "")
    with pytest.raises(ConfigurationError):
        read_wish(parse_arguments([*words]), settings)
