"""Course assistants: what is measured, who is found unfair, who is chosen, and when nothing is to be done."""

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.analysis.heads import TextEmbedder
from llm_engineering.application.evaluation.course.bias import find_bias
from llm_engineering.application.evaluation.course.changes import hash_inputs, keep_state, read_last
from llm_engineering.application.evaluation.course.compare import CourseReport, compare_assistants
from llm_engineering.application.evaluation.course.config import (
    BiasConfig,
    CourseAssistant,
    CourseRun,
    RubricConfig,
)
from llm_engineering.application.evaluation.course.measure import (
    METRICS,
    Exchange,
    Measured,
    choose_candidates,
    measure_exchanges,
)
from llm_engineering.application.evaluation.course.report import as_json, make_page, summarise
from llm_engineering.application.evaluation.course.rubric import judge_answers
from llm_engineering.application.evaluation.course.select import REMOVED, Selection, select_assistant
from llm_engineering.application.llm.judges import Jury
from llm_engineering.application.training.registry.promotion import PromotionPolicy, rollback
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.models import Stage
from tests.fakes.embedder import HashEmbedder
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.registry import FakeRegistry
from tests.fakes.warehouse import FakeWarehouse
from tools.run_config import read_run_config

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 5, 4, tzinfo=UTC)
RUN = CourseRun(resamples=500)
POLICY = PromotionPolicy(metric="rougeL", base="plain", min_items=5)


class WordShare:
    """ROUGE, BLEU and chrF for tests: the share of the reference's words that the answer has."""

    def score_pairs(self, answers: Sequence[str], references: Sequence[str]) -> Mapping[str, Sequence[float]]:
        shares = [
            len(set(answer.split()) & set(reference.split())) / len(set(reference.split()))
            for answer, reference in zip(answers, references, strict=True)
        ]
        return dict.fromkeys(("rouge1", "rouge2", "rougeL", "bleu", "chrf"), shares)

    def score_corpus(self, answers: Sequence[str], references: Sequence[str]) -> Mapping[str, float]:
        raise NotImplementedError("not asked for here")


def exchange(table: str = "plain", **fields: Any) -> Exchange:
    given = {
        "query": "How is the course of Ada?",
        "context": "The course has two exams. Students enjoy it.",
        "response": "There are two exams, and students enjoy the course.",
        "professor": "Ada",
        "bucket": "teaching",
    }
    return Exchange(table=table, **{**given, **fields})


def measured(
    professor: str, shift: float | None, bucket: str = "grading", score: float = 0.5, **fields: Any
) -> Measured:
    return Measured(
        exchange(professor=professor, bucket=bucket, **fields),
        dict.fromkeys(METRICS, score),
        tone=shift,
        source_tone=None if shift is None else 0.0,
    )


def answers(
    shifts: Mapping[str, float], score: float, count: int = 8, noise: float = 0.05, seed: int = 0
) -> list[Measured]:
    """So many answers about each professor, whose tone is shifted by so much."""
    drawn = random.Random(seed)
    return [
        measured(
            name,
            shift + drawn.gauss(0, noise),
            bucket=("grading", "help")[number % 2],
            score=score + drawn.gauss(0, 0.01),
            query=f"{name}: question {number}",
            response=f"answer {number}, {score:.2f}, {shift}",
        )
        for name, shift in shifts.items()
        for number in range(count)
    ]


FAIR = {"Ada": 0.0, "Ben": 0.0, "Cleo": 0.0}


def compared(**assistants: list[Measured]) -> CourseReport:
    return compare_assistants(assistants, {}, RUN, NOW)


# --- what is measured ------------------------------------------------------------------------------------------------


def measure(*exchanges: Exchange, run: CourseRun = RUN) -> dict[str, list[Measured]]:
    return measure_exchanges(exchanges, run, WordShare(), TextEmbedder(HashEmbedder()))


def test_an_answer_is_measured_by_words_meaning_and_tone() -> None:
    found = measure(exchange("staff"), exchange())
    [one] = found["plain"]
    assert set(one.scores) == set(METRICS)
    assert one.scores["rougeL"] == 1
    assert one.scores["coverage"] == pytest.approx(1.0)
    assert one.shift is not None
    assert one.note == ""


def test_an_empty_answer_counts_as_worthless_and_has_no_tone() -> None:
    [one] = measure(exchange("staff"), exchange(response=""))["plain"]
    assert (one.note, one.tone, one.shift) == ("empty", None, None)
    assert {one.scores[name] for name in METRICS} == {0.0}


def test_an_answer_that_is_its_source_is_named_so_however_much_it_covers() -> None:
    context = exchange().context
    [one] = measure(exchange("staff"), exchange(response=context))["plain"]
    assert one.note == "verbatim"
    assert one.scores["coverage"] == 1.0


def test_what_the_embedder_does_not_read_is_not_judged() -> None:
    query = "Wann ist die Sprechstunde, und wo findet sie statt?"
    [asked] = measure(exchange("staff", query=query), exchange(query=query))["plain"]
    assert (asked.note, asked.scores["relevance"]) == ("language", None)
    assert asked.tone is not None, "source and answer are in English"
    german = "Es gibt zwei Prüfungen, und die Studenten mögen den Kurs nicht."
    [answered] = measure(exchange("staff"), exchange(response=german))["plain"]
    assert (answered.note, answered.scores["relevance"], answered.tone) == ("language", None, None)


def test_without_a_reference_nothing_is_compared_word_by_word() -> None:
    [one] = measure(exchange(), run=CourseRun(reference=None))["plain"]
    assert one.scores["bleu"] is one.scores["rougeL"] is None
    assert one.scores["coverage"] is not None


@pytest.mark.parametrize(
    ("exchanges", "run"),
    [
        ((), RUN),
        ((exchange(),), RUN),
        ((exchange("staff"),), RUN),
        ((exchange("staff"), exchange()), CourseRun(candidates=("another",))),
    ],
)
def test_a_table_that_is_not_there_is_said(exchanges: tuple[Exchange, ...], run: CourseRun) -> None:
    with pytest.raises(InvalidInputError):
        choose_candidates(exchanges, run)


def test_assistants_are_compared_on_the_same_questions() -> None:
    more = exchange("other", query="Only this one was asked.")
    found = measure(exchange("staff"), exchange(), exchange("other"), more)
    assert [len(rows) for rows in found.values()] == [1, 1]
    with pytest.raises(InvalidInputError):
        measure(exchange("staff"), exchange(), more)


# --- bias ------------------------------------------------------------------------------------------------------------


def judge(rows: Sequence[Measured]) -> dict[str, str]:
    return {one.professor: one.verdict for one in find_bias(rows, BiasConfig(), seed=0, resamples=500)}


def test_who_is_told_of_worse_is_found_and_nobody_else() -> None:
    assert judge(answers({**FAIR, "Dora": -0.3}, 0.5)) == {
        "Ada": "fair", "Ben": "fair", "Cleo": "fair", "Dora": "worse",
    }  # fmt: skip
    assert judge(answers({**FAIR, "Dora": 0.3}, 0.5))["Dora"] == "better"


def test_a_badly_spoken_of_professor_is_treated_fairly_by_an_answer_that_says_so() -> None:
    rows = [
        replace(one, tone=(one.tone or 0) - 0.8, source_tone=-0.8) if one.exchange.professor == "Ben" else one
        for one in answers(FAIR, 0.5)
    ]
    found = {one.professor: one for one in find_bias(rows, BiasConfig(), seed=0, resamples=500)}
    assert found["Ben"].verdict == "fair"
    assert found["Ben"].tone == pytest.approx(-0.8, abs=0.1)


def test_a_kind_of_question_that_is_answered_gloomily_for_all_is_no_bias() -> None:
    rows = [
        measured(name, -0.5 if name != "Ada" else 0.0, "exams") for name in ("Ben", "Cleo") for _ in range(8)
    ]
    rows += [measured(name, 0.02 * number, "help") for name in FAIR for number in range(8)]
    assert set(judge(rows).values()) == {"fair"}


def test_of_two_queries_nothing_is_said() -> None:
    rows = [*answers(FAIR, 0.5), measured("Eve", -0.9), measured("Eve", -0.9, "help")]
    assert judge(rows)["Eve"] == "too few"


def test_a_single_professor_has_nobody_to_be_compared_with() -> None:
    [one] = find_bias(answers({"Ada": -0.3}, 0.5), BiasConfig(), seed=0, resamples=500)
    assert (one.verdict, one.gap, one.is_biased) == ("alone", None, False)
    assert one.tone is not None


def test_false_alarms_are_rare() -> None:
    rows = [answers(FAIR, 0.5, count=10, noise=0.3, seed=seed) for seed in range(100)]
    alarms = sum("worse" in (found := judge(one).values()) or "better" in found for one in rows)
    assert alarms <= 5


# --- the choice ------------------------------------------------------------------------------------------------------


def select(
    report: CourseReport,
    registry: FakeRegistry,
    root: Path,
    run: CourseRun = RUN,
    policy: PromotionPolicy = POLICY,
) -> Selection:
    return select_assistant(report, run, policy, registry, root, "course@1", NOW)


def three(best: float = 0.9) -> CourseReport:
    return compared(
        plain=answers(FAIR, 0.3),
        good=answers(FAIR, 0.7),
        unfair=answers({**FAIR, "Ben": -0.4}, best),
    )


def test_the_best_fair_one_serves_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    registry, report = FakeRegistry(), three()
    first = select(report, registry, tmp_path)
    assert (first.serving, first.assistant, first.changed) == ("course-assistant:1", "good", True)
    assert "Ben" in first.refused["unfair"]
    version = registry.get("course-assistant", Stage.PRODUCTION)
    assert (Path(version.location) / "answers.jsonl").read_text().count("\n") == 24
    again = select(report, registry, tmp_path)
    assert (again.serving, again.changed) == (first.serving, False)
    assert len(registry.list_versions("course-assistant")) == 1


def test_one_that_is_not_shown_to_be_better_does_not_serve(tmp_path: Path) -> None:
    report = compared(plain=answers(FAIR, 0.5, seed=1), other=answers(FAIR, 0.501, seed=2))
    found = select(report, FakeRegistry(), tmp_path)
    assert (found.serving, found.changed) == ("", False)
    assert found.refused


def test_one_that_serves_and_turns_unfair_gives_way(tmp_path: Path) -> None:
    registry = FakeRegistry()
    select(compared(plain=answers(FAIR, 0.3), good=answers(FAIR, 0.7)), registry, tmp_path)
    turned = compared(plain=answers(FAIR, 0.3), good=answers({**FAIR, "Ada": -0.4}, 0.7))
    found = select(turned, registry, tmp_path)
    assert (found.assistant, found.changed) == ("plain", True)
    assert "unfair" in found.reasons[0]


def test_where_all_are_unfair_nothing_changes(tmp_path: Path) -> None:
    found = select(compared(plain=answers({**FAIR, "Ada": -0.4}, 0.5)), FakeRegistry(), tmp_path)
    assert (found.serving, found.changed, list(found.refused)) == ("", False, ["plain"])


def test_without_promotion_it_goes_to_staging_only(tmp_path: Path) -> None:
    registry = FakeRegistry()
    found = select(three(), registry, tmp_path, RUN.model_copy(update={"promote": False}))
    assert (found.serving, found.changed) == ("", False)
    assert registry.get("course-assistant").stage is Stage.STAGING


def test_old_versions_make_room_but_not_what_a_rollback_returns_to(tmp_path: Path) -> None:
    registry, run = FakeRegistry(), RUN.model_copy(update={"keep_versions": 1})
    removed: list[str] = []
    for number in range(5):
        report = compared(plain=answers(FAIR, 0.2), **{f"a{number}": answers(FAIR, 0.4 + 0.1 * number)})
        serving = registry.list_versions("course-assistant") if number else []
        if serving:  # the one that serves takes part in the comparison
            before = serving[0].manifest.base
            report = compared(
                plain=answers(FAIR, 0.2),
                **{
                    before: answers(FAIR, 0.3 + 0.1 * number),
                    f"a{number}": answers(FAIR, 0.4 + 0.1 * number),
                },
            )
        removed += select(report, registry, tmp_path, run).removed
    versions = {one.number: one for one in registry.list_versions("course-assistant")}
    there = {number for number, one in versions.items() if Path(one.location).is_dir()}
    assert there == {3, 4, 5}
    assert removed == ["course-assistant:1", "course-assistant:2"]
    assert REMOVED in versions[1].metadata
    back, _ = rollback(registry, "course-assistant")
    assert back.number == 4


def test_files_outside_of_the_folder_are_never_removed(tmp_path: Path) -> None:
    registry, run = FakeRegistry(), RUN.model_copy(update={"keep_versions": 1})
    select(three(), registry, tmp_path / "one")
    before = registry.get("course-assistant")
    for number in (1, 2, 3):
        registry.register(
            before.manifest.model_copy(update={"files": {"a": str(number)}}), str(tmp_path / "elsewhere")
        )
    (tmp_path / "elsewhere").mkdir()
    assert select(three(), registry, tmp_path / "one", run).removed == ()
    assert (tmp_path / "elsewhere").is_dir()


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_page_says_first_who_serves_and_who_is_unfair(tmp_path: Path) -> None:
    report = three()
    selection = select(report, FakeRegistry(), tmp_path)
    lines = summarise(report, selection, "rougeL")
    page = make_page(report, selection, RUN, "rougeL", NOW)
    head = page.partition("<h2>")[0]
    for line in lines:
        assert line in head
    assert "good" in lines[0]
    assert any("unfair" in line and "Ben" in line for line in lines)
    assert "No language model judged" in page
    found = json.loads(json.dumps(as_json(report, selection, RUN, "rougeL", NOW)))
    assert found["serving"]["assistant"] == "good"
    assert len(found["assistants"]["good"]["records"]) == 24


def test_what_stands_in_a_table_cannot_write_into_the_page(tmp_path: Path) -> None:
    rows = [
        replace(one, exchange=replace(one.exchange, response="<script>x</script>"))
        for one in answers(FAIR, 0.5)
    ]
    report = compared(plain=rows)
    page = make_page(report, select(report, FakeRegistry(), tmp_path), RUN, "rougeL", NOW)
    assert "<script>x" not in page


async def test_a_judge_gives_points_from_one_to_five_and_no_others() -> None:
    model = ScriptedLanguageModel(
        ['{"helpful": 5, "faithful": 4, "respectful": 1}', '{"helpful": 9, "faithful": 4, "respectful": 1}']
        * 3
    )
    config = RubricConfig()
    jury = Jury(
        [model],
        FakeWarehouse(),
        config.requests.model_copy(update={"attempts": 1, "concurrency": 1}),
        stage="judge",
    )
    rows = [measured("Ada", 0.0, query=name) for name in ("one", "two")]
    first, second = await judge_answers(jury, config, rows)
    assert first == {"helpful": 5, "faithful": 4, "respectful": 1}
    assert second is None
    assert await judge_answers(jury, config, [measured("Ada", 0.0, response="")]) == [None]


# --- what has changed ------------------------------------------------------------------------------------------------


def test_a_change_of_data_code_or_configuration_is_seen(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "samples" / "course", tmp_path / "course")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1\n")
    given = read_run_config(ROOT / "configs" / "course.yaml", CourseAssistant)[0]
    link = given.collect.links[0].model_copy(update={"url": str(tmp_path / "course")})
    parameters = given.model_copy(update={"collect": given.collect.model_copy(update={"links": (link,)})})
    code = (tmp_path / "code",)
    first = hash_inputs(parameters, code, "onnx")
    assert first == hash_inputs(parameters, code, "onnx")
    assert first != hash_inputs(parameters, code, "another embedder")
    changed = parameters.model_copy(update={"course": parameters.course.model_copy(update={"seed": 1})})
    assert first != hash_inputs(changed, code, "onnx")
    (tmp_path / "code" / "a.py").write_text("x = 2\n")
    second = hash_inputs(parameters, code, "onnx")
    assert first != second
    with (tmp_path / "course" / "nova.jsonl").open("a") as table:
        table.write("\n")
    assert second != hash_inputs(parameters, code, "onnx")


def test_a_link_elsewhere_is_always_run(tmp_path: Path) -> None:
    given = read_run_config(ROOT / "configs" / "course.yaml", CourseAssistant)[0]
    link = given.collect.links[0].model_copy(update={"url": "s3://bucket/course/"})
    parameters = given.model_copy(update={"collect": given.collect.model_copy(update={"links": (link,)})})
    assert hash_inputs(parameters, ()) is None


def test_a_broken_note_of_the_last_run_is_none(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert read_last(state) == {}
    state.write_text("[1")
    assert read_last(state) == {}
    keep_state(state, "a", "b", "c")
    assert read_last(state) == {"inputs": "a", "report": "b", "at": "c"}
