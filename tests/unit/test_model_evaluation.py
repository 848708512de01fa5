"""The evaluation of models as a whole: held-out questions, systems side by side, a judge that may fail, the report."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.evaluation.models.config import (
    JudgeConfig,
    ModelEvaluationParameters,
    ModelEvaluationRun,
)
from llm_engineering.application.evaluation.models.evaluate import (
    ModelEvaluation,
    Tools,
    evaluate_models,
    slice_samples,
)
from llm_engineering.application.evaluation.models.heldout import HeldOut, draw_samples, hold_out
from llm_engineering.application.evaluation.models.report import (
    as_dict,
    html_report,
    run_metadata,
    table_rows,
)
from llm_engineering.application.evaluation.models.systems import (
    System,
    base_system,
    newest_folder,
    open_trained,
)
from llm_engineering.application.llm.budget import Budget
from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.llm.judges import JudgeBatchConfig, Jury
from llm_engineering.application.ports import Message, SilentProgress
from llm_engineering.application.training.datasets.config import DecontaminationConfig
from llm_engineering.domain.datasets import InstructSample, Origin, Provenance, Split
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TemplateMismatchError
from llm_engineering.domain.models import ModelManifest
from llm_engineering.infrastructure.evaluation.lm_harness import LmHarness, scores_of
from tests.fakes.embedder import HashEmbedder
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.systems import SharedWords, TellingModels, ToldHarness
from tests.fakes.warehouse import FakeWarehouse

QUIET = SilentProgress()
ONE_AT_A_TIME = JudgeBatchConfig(concurrency=1, attempts=1)
TRAINED = "We measure it, then we change one thing, and then we measure it again until the figure is better. "
TESTED = (
    "Logs are for the night when nobody remembers what the service was asked to do {n}, so keep them short. "
)
GOOD = json.dumps({"reason": "fine", "accuracy": 3, "style": 4})


def sample(
    text: str, document: str, split: Split = Split.TEST, category: str = "article", author: str = "Ada"
) -> InstructSample:
    return InstructSample(
        instruction=f"Say something about {document}.",
        answer=text,
        origin=Origin(
            document_id=document,
            content_hash="0" * 64,
            span=Span(start=0, end=10),
            author=author,
            category=category,
            language="en",
        ),
        provenance=Provenance(made_by="back_translation"),
        split=split,
    )


def held_samples(count: int) -> list[InstructSample]:
    words = "alpha beta gamma delta epsilon zeta eta theta".split()
    return [
        sample(
            f"{words[n % 8]} " * 3 + TESTED.format(n=n) * (1 + n % 3),
            f"test-{n // 2}",
            category="post" if n % 2 else "article",
        )
        for n in range(count)
    ]


def write(folder: Path, splits: dict[Split, Sequence[InstructSample]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in Split:
        lines = "".join(item.model_dump_json() + "\n" for item in splits.get(split, ()))
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    counts = {str(split): len(splits.get(split, ())) for split in Split}
    manifest = {
        "kind": "instruct",
        "name": "toy",
        "version": "1",
        "counts": counts,
        "documents": counts,
        "template": "chatml",
        "template_hash": load_template("chatml").hash,
        "seed": 0,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def manifest(stage: str = "sft", **changes: Any) -> ModelManifest:
    given = {
        "name": "twin",
        "base": "toy",
        "method": "lora",
        "stage": stage,
        "template": "chatml",
        "template_hash": load_template("chatml").hash,
        "dataset": "toy@1",
        "dataset_hash": "x",
        "config": {"system": "Be Ada."},
        "metrics": {},
        "files": {"adapter/a": stage},
        "created_at": "2026-01-01T00:00:00Z",
    }
    return ModelManifest.model_validate(given | changes)


def system(name: str, **changes: Any) -> System:
    return System(**{"name": name, "label": f"{name}-label", "base": "toy", "template": "chatml", **changes})


def held_out(tmp_path: Path, systems: Sequence[System] = (), **changes: Any) -> HeldOut:
    train = [sample(f"{TRAINED * 20} Number {n}.", f"train-{n}", Split.TRAIN) for n in range(4)]
    folder = write(
        tmp_path / "set", {Split.TRAIN: train, Split.TEST: held_samples(12)} | changes.pop("splits", {})
    )
    given: dict[str, Any] = {"datasets": tmp_path / "none", "samples": None, "seed": 0}
    return hold_out(folder, "chatml", systems, config=DecontaminationConfig(), **(given | changes))


# --- held out ------------------------------------------------------------------------------------------------------------


def test_a_test_document_that_was_trained_on_is_refused(tmp_path: Path) -> None:
    leaked = [sample("Quite another sentence about nothing in particular, only once.", "train-1")]
    with pytest.raises(InvalidInputError, match=r"1 of 1 test samples are not held out.*document train-1"):
        held_out(tmp_path, splits={Split.TEST: leaked})


def test_test_text_that_stands_in_training_text_is_refused(tmp_path: Path) -> None:
    leaked = [*held_samples(4), sample(TRAINED, "elsewhere")]
    with pytest.raises(InvalidInputError, match=r"1 of 5 test samples.*word sequences"):
        held_out(tmp_path, splits={Split.TEST: leaked})


def test_the_set_that_a_system_was_trained_on_is_looked_up_and_looked_through(tmp_path: Path) -> None:
    write(tmp_path / "sets" / "other" / "2", {Split.TRAIN: [held_samples(12)[0]]})
    other = system("dpo", manifest=manifest(dataset="other@2"))
    with pytest.raises(InvalidInputError, match="not held out from dpo"):
        held_out(tmp_path, [other], datasets=tmp_path / "sets")


def test_overlap_is_noted_for_systems_whose_training_text_is_known(tmp_path: Path) -> None:
    systems = [
        system("base"),
        system("sft", manifest=manifest()),
        system("dpo", manifest=manifest(dataset="gone@9")),
    ]
    assert held_out(tmp_path, systems).overlap == {"sft": 0}


def test_no_test_split_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no test split"):
        held_out(tmp_path, splits={Split.TEST: []})


def test_another_template_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", {Split.TRAIN: held_samples(1), Split.TEST: held_samples(1)})
    with pytest.raises(TemplateMismatchError):
        hold_out(
            folder, "llama3", [], datasets=tmp_path, samples=None, seed=0, config=DecontaminationConfig()
        )


def test_samples_are_drawn_by_document_and_seed() -> None:
    samples = held_samples(12)
    chosen = draw_samples(samples, 6, 1)
    assert chosen == draw_samples(samples, 6, 1)
    assert len(chosen) == 6
    assert len({s.origin.document_id for s in chosen}) == 3
    assert {draw_samples(samples, 6, seed)[0].id for seed in range(10)} != {chosen[0].id}
    assert len(draw_samples(samples, 1, 0)) == 1
    assert draw_samples(samples, None, 0) == samples


def test_slices_hold_every_sample_once_and_leave_out_what_has_one_value() -> None:
    found = slice_samples(held_samples(12), ["category", "language", "length"])
    assert found[""] == list(range(12))
    assert sorted(found["category=article"] + found["category=post"]) == list(range(12))
    assert not any(name.startswith("language") for name in found)
    lengths = [place for name, places in found.items() if name.startswith("length") for place in places]
    assert sorted(lengths) == list(range(12))


# --- systems -------------------------------------------------------------------------------------------------------------


def test_the_newest_model_of_a_stage_is_found_and_the_base_asked_as_it_is(tmp_path: Path) -> None:
    for run, stage, day in (("a", "sft", 1), ("b", "sft", 2), ("c", "dpo", 3)):
        folder = tmp_path / "twin" / run
        (folder / "adapter").mkdir(parents=True)
        found = manifest(stage, created_at=f"2026-01-0{day}T00:00:00Z")
        (folder / "model.json").write_text(found.model_dump_json(), encoding="utf-8")
    newest = newest_folder(tmp_path, "twin", "sft")
    assert newest is not None
    assert newest[0].name == "b"
    assert newest_folder(tmp_path, "twin", "other") is None
    trained = open_trained("sft", *newest)
    assert trained.label == newest[1].content_hash
    assert trained.adapter == newest[0] / "adapter"
    base = base_system(trained, None, "chatml")
    assert (base.name, base.base, base.system_message, base.adapter) == ("base", "toy", "Be Ada.", None)


def test_a_folder_without_weights_and_a_base_that_nobody_named_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither adapter/ nor merged/"):
        open_trained("sft", tmp_path, manifest())
    with pytest.raises(ConfigurationError, match="Which base model"):
        base_system(None, None, "chatml")


# --- the evaluation --------------------------------------------------------------------------------------------------------


def _echo(question: str) -> str:
    return (
        "Logs are for the night when nobody remembers what the service was asked to do, so keep them short. "
        * 4
    )


def _poor(question: str) -> str:
    return "" if "test-1" in question else "<script>alert(1)</script> nothing to say here"


async def evaluated(
    tmp_path: Path,
    judges: Sequence[ScriptedLanguageModel] = (),
    limit: int = 1000,
    asking: JudgeBatchConfig = ONE_AT_A_TIME,
    **changes: Any,
) -> tuple[ModelEvaluation, TellingModels]:
    models = TellingModels({"base": _poor, "sft": _echo}, {"base": 3.0, "sft": 2.0}, limit)
    run = ModelEvaluationRun(
        resamples=200, judge=JudgeConfig(requests=asking) if judges else None, max_tokens=200, **changes
    )
    systems = [system("base"), system("sft", manifest=manifest(), system_message="Be Ada.")]
    jury = Jury(judges, FakeWarehouse(), asking, stage="judge", seed=run.seed) if judges else None
    tools = Tools(models, SharedWords(), HashEmbedder(), jury)
    return await evaluate_models(run, held_out(tmp_path, systems), systems, tools, QUIET), models


async def test_systems_answer_the_same_questions_and_are_compared_by_document(tmp_path: Path) -> None:
    evaluation, models = await evaluated(tmp_path)
    report = evaluation.report
    assert models.opened == [
        "base",
        "base",
        "sft",
    ]  # first for the style of its answers to training questions
    questions = [item.instruction for item in evaluation.held.samples]
    for name in ("base", "sft"):
        assert [turns[-1].content for turns in models.model(name).asked[-12:]] == questions
    assert models.model("sft").asked[0][0] == Message("system", "Be Ada.")
    found = {(d.metric, d.slice): d for d in report.differences}
    nll = found["nll", ""]
    assert (nll.candidate, nll.reference, nll.n, nll.clusters) == ("sft", "base", 12, 6)
    assert nll.value == pytest.approx(-1)
    assert nll.better
    assert found["perplexity", ""].value == pytest.approx(2.718281828**2 - 2.718281828**3)
    assert found["rouge1", ""].better
    empty = found["empty", ""]
    assert empty.value == pytest.approx(-1 / 6)
    assert not empty.better  # one document of six: no certain difference
    assert ("rouge1", "category=post") in found
    assert report.overlap == {"sft": 0}
    assert report.systems[1].model == "sft-label"


async def test_empty_and_short_answers_are_missing_for_style_and_similarity_not_zero(tmp_path: Path) -> None:
    evaluation, _ = await evaluated(tmp_path)
    base, sft = evaluation.results
    assert all(value is None for value in base.columns["style"])
    assert all(value is not None for value in sft.columns["style"])
    similar = [
        s for s in evaluation.report.systems[0].scores if s.metric == "author_similarity" and not s.slice
    ]
    assert (similar[0].n, similar[0].missing) == (10, 2)
    [calibration] = evaluation.calibrations
    assert calibration.auc is None  # one author only: said, and no score against others pretended


async def test_style_is_told_from_what_the_base_writes_on_training_questions(tmp_path: Path) -> None:
    bland = "It is important to note that there are many different factors to consider in the context of this topic. "
    models = TellingModels({"base": lambda _: bland * 12, "sft": lambda _: TRAINED * 5}, {})
    systems, tools = [system("base"), system("sft")], Tools(models, SharedWords())
    held = held_out(tmp_path)
    found = await evaluate_models(ModelEvaluationRun(resamples=100), held, systems, tools, QUIET)
    [difference] = [d for d in found.report.differences if d.metric == "style_contrast" and not d.slice]
    assert difference.better
    [contrast] = found.contrasts.values()
    assert contrast.auc == 1.0
    assert found.authors["style_contrast"] <= 1
    asked = {turns[-1].content for turns in models.model("base").asked[:4]}
    assert not asked & {sample.instruction for sample in held.samples}
    without = await evaluate_models(
        ModelEvaluationRun(resamples=100, base_answers=0), held, systems, tools, QUIET
    )
    assert not without.contrasts


async def test_answers_too_long_for_the_model_have_no_likelihood(tmp_path: Path) -> None:
    evaluation, _ = await evaluated(tmp_path, limit=30)
    scores = {s.metric: s for s in evaluation.report.systems[0].scores if not s.slice}
    assert scores["nll"].missing > 0
    assert scores["nll"].n + scores["nll"].missing == 12
    assert scores["nll"].value == pytest.approx(3.0)


async def test_the_same_evaluation_has_the_same_id_and_figures(tmp_path: Path) -> None:
    first, _ = await evaluated(tmp_path)
    second, _ = await evaluated(tmp_path)
    assert first.report.model_copy(update={"created_at": second.report.created_at}) == second.report


async def test_the_page_is_self_contained_and_runs_nothing_that_a_model_wrote(tmp_path: Path) -> None:
    evaluation, _ = await evaluated(tmp_path)
    page = html_report(evaluation)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "http" not in page
    assert "fewer than ten documents" in page
    json.dumps(as_dict(evaluation), allow_nan=False)
    shown = {row[0]: row[1:] for row in table_rows(evaluation.report)}
    assert shown["nll ↓"][0].startswith("3.000 [")
    assert shown["style"][0] == "–"
    assert run_metadata(evaluation.report)["sft_perplexity"] == pytest.approx(7.389056, abs=1e-5)


async def test_one_document_has_values_and_no_intervals(tmp_path: Path) -> None:
    one = [item for item in held_samples(12) if item.origin.document_id == "test-3"]
    models = TellingModels({"base": _poor, "sft": _echo}, {"base": 3.0, "sft": 2.0})
    held = held_out(tmp_path, splits={Split.TEST: one})
    run = ModelEvaluationRun(resamples=100)
    found = await evaluate_models(
        run, held, [system("base"), system("sft")], Tools(models, SharedWords()), QUIET
    )
    whole = [score for score in found.report.systems[1].scores if not score.slice]
    assert {(score.low, score.high) for score in whole} == {(None, None)}
    page = html_report(found)
    assert "one document" in page
    assert 'class="text better"' not in page


async def test_perplexities_over_different_tokens_are_not_compared(tmp_path: Path) -> None:
    models = TellingModels({"base": _poor, "sft": _echo}, {"base": 3.0, "sft": 2.0})
    models.model("sft").tokens_per_word = 2
    tools, systems = Tools(models, SharedWords()), [system("base"), system("sft")]
    run = ModelEvaluationRun(resamples=100)
    found = await evaluate_models(run, held_out(tmp_path), systems, tools, QUIET)
    compared = {item.metric for item in found.report.differences}
    assert "rouge1" in compared
    assert not compared & {"nll", "perplexity"}


async def test_nothing_to_evaluate_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no system"):
        await evaluate_models(
            ModelEvaluationRun(), held_out(tmp_path), [], Tools(TellingModels({}, {}), SharedWords()), QUIET
        )


# --- the judges ------------------------------------------------------------------------------------------------------------


async def test_nonsense_from_one_judge_costs_its_verdicts_and_nothing_else(tmp_path: Path) -> None:
    def wild(messages: Sequence[Message]) -> str:
        data = json.loads(messages[1].content)
        return "no JSON at all" if "B" in data or "test-1" in data["instruction"] else GOOD

    def sound(messages: Sequence[Message]) -> str:
        data = json.loads(messages[1].content)
        return '{"better": "A"}' if "B" in data else '{"reason": "", "accuracy": 1, "style": 2}'

    judges = [
        ScriptedLanguageModel(default=wild, name="wild"),
        ScriptedLanguageModel(default=sound, name="sound"),
    ]
    evaluation, _ = await evaluated(tmp_path, judges)
    assert evaluation.judging is not None
    one, other = evaluation.judging.probes
    assert (one.swapped, other.missing_rate) == (0, 0)
    assert 0 < one.missing_rate < 1
    assert evaluation.judging.unjudged == 0
    scores = {s.metric: s for s in evaluation.report.systems[1].scores if not s.slice}
    assert 1 < scores["judge_accuracy"].value < 2
    assert scores["judge_accuracy"].missing == 0
    page = html_report(evaluation)
    assert "Krippendorff" in page
    assert "<td>wild</td>" in page
    assert [one["judge"] for one in as_dict(evaluation)["judge"]["probes"]] == ["wild", "sound"]


async def test_what_a_budget_cuts_off_is_missing_for_all_systems_alike(tmp_path: Path) -> None:
    asking = JudgeBatchConfig(concurrency=1, attempts=1, budget=Budget(tokens=4_000))
    evaluation, _ = await evaluated(tmp_path, [ScriptedLanguageModel(default=GOOD)], asking=asking)
    assert evaluation.judging is not None
    assert 0 < evaluation.judging.unjudged < len(evaluation.judging.verdicts)
    missing = [
        score.missing
        for system in evaluation.report.systems
        for score in system.scores
        if score.metric == "judge_accuracy" and not score.slice
    ]
    assert sum(missing) == evaluation.judging.unjudged
    assert abs(missing[0] - missing[1]) <= 1
    assert "budget of 4,000 tokens is spent" in html_report(evaluation)


# --- configuration and harness ---------------------------------------------------------------------------------------------


def test_a_system_that_is_named_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="each once"):
        ModelEvaluationParameters.model_validate({"model_evaluation": {"systems": ["base", "base"]}})


def test_scores_of_the_harness_carry_their_errors_as_intervals() -> None:
    arc = {
        "name": "arc",
        "alias": "arc",
        "sample_len": 20,
        "acc,none": 0.25,
        "acc_stderr,none": 0.1,
        "em,strict": 1,
        "em_stderr,strict": "N/A",
        "word_perplexity,none": 9.5,
        "word_perplexity_stderr,none": "N/A",
    }
    found = {
        score.metric: score
        for score in scores_of({"arc": arc}, {"arc": {"acc": True, "word_perplexity": False}})
    }
    assert set(found) == {"harness/arc/acc", "harness/arc/em,strict", "harness/arc/word_perplexity"}
    acc = found["harness/arc/acc"]
    assert (acc.value, acc.low, acc.high, acc.n) == (0.25, pytest.approx(0.054), pytest.approx(0.446), 20)
    assert (found["harness/arc/em,strict"].value, found["harness/arc/em,strict"].low) == (1.0, None)
    assert not found["harness/arc/word_perplexity"].higher_is_better


async def test_tasks_of_the_harness_stand_in_the_table_with_their_intervals(tmp_path: Path) -> None:
    models, systems = TellingModels({"base": _poor, "sft": _echo}, {}), [system("base"), system("sft")]
    tools = Tools(models, SharedWords(), harness=ToldHarness())
    run = ModelEvaluationRun(resamples=100)
    found = await evaluate_models(run, held_out(tmp_path), systems, tools, QUIET)
    (row,) = [row for row in table_rows(found.report) if row[0] == "harness/arc/acc"]
    assert row[1:] == ["0.500 [0.400, 0.600]"] * 2


async def test_a_task_that_cannot_be_had_is_told_before_a_model_is_opened(tmp_path: Path) -> None:
    models = TellingModels({"base": _poor}, {})
    tools = Tools(models, SharedWords(), harness=ToldHarness(error=ConfigurationError("no task")))
    with pytest.raises(ConfigurationError, match="no task"):
        await evaluate_models(ModelEvaluationRun(), held_out(tmp_path), [system("base")], tools, QUIET)
    assert not models.opened


def test_a_missing_harness_is_told_with_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "lm_eval",
        "lm_eval.tasks",
    ):  # where another test imported it, the package alone would not do
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match="--with harness"):
        LmHarness(["arc"]).prepare()
