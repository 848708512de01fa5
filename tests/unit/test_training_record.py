"""What a training leaves on record, and the page that shows it."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.record import (
    MemoryRecord,
    SampleCounts,
    TracePoint,
    TrainingRecord,
    write_json,
)
from llm_engineering.application.training.finetune.report import HEIGHT, WIDTH, draw_curves, training_page
from llm_engineering.application.training.finetune.sft import run_name

TRACE = (
    TracePoint(step=0, validation_loss=3.0),
    TracePoint(step=1, loss=3.1, tokens_per_second=10),
    TracePoint(step=2, loss=2.5, tokens_per_second=30, validation_loss=2.6),
    TracePoint(step=3, loss=2.4, tokens_per_second=20, validation_loss=2.7),
)


def record(**changes: object) -> TrainingRecord:
    values = {
        "config": {"base_model": "<b>ase", "method": "lora"},
        "plan": {},
        "dataset": "toy@1",
        "template": "chatml",
        "template_hash": "0" * 12,
        "samples": SampleCounts(train=3, validation=1),
        "memory": MemoryRecord(estimate={"total": 150}, measured=100),
        "steps": 3,
        "seconds": 1.5,
        "trainable_parameters": 7,
        "trace": TRACE,
    }
    return TrainingRecord.model_validate({**values, **changes})


def test_its_metrics_tell_first_last_and_best() -> None:
    metrics = record().to_metrics()
    assert (metrics["loss_first"], metrics["loss_last"]) == (3.1, 2.4)
    assert [metrics[f"validation_loss_{which}"] for which in ("first", "last", "best")] == [3.0, 2.7, 2.6]
    assert metrics["tokens_per_second"] == 20
    assert metrics["memory_estimate_error"] == pytest.approx(0.5)


def test_what_was_not_measured_is_left_out() -> None:
    found = record(
        trace=(TracePoint(step=1),), memory=MemoryRecord(estimate={"total": 1}, measured=None)
    ).to_metrics()
    assert set(found) == {"steps", "seconds"}


TRAIN = [(1.0, 3.1), (2.0, 2.5), (3.0, 2.4)]
VALIDATION = [(0.0, 3.0), (2.0, 2.6), (3.0, 2.7)]


def test_the_plot_is_one_drawing_with_both_lines_inside_its_frame() -> None:
    drawing = ElementTree.fromstring(draw_curves("Loss", TRAIN, VALIDATION))
    name = "{http://www.w3.org/2000/svg}polyline"
    lines = {line.get("class"): str(line.get("points")).split() for line in drawing.iter(name)}
    assert {kind: len(points) for kind, points in lines.items()} == {"train": 3, "validation": 3}
    for points in lines.values():
        for point in points:
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0457, 0.6931], ["0", "0.2", "0.4", "0.6", "0.8"]),
        ([3.77, 4.15], ["3.7", "3.8", "3.9", "4", "4.1", "4.2"]),
        ([2.0], ["2", "2.5"]),
        ([-1.2, 1.0], ["-1.5", "-1", "-0.5", "0", "0.5", "1"]),
    ],
)
def test_the_grid_stands_at_round_values_around_the_curve(values: list[float], labels: list[str]) -> None:
    drawing = ElementTree.fromstring(draw_curves("Loss", [(float(i), v) for i, v in enumerate(values)], []))
    texts = [t for t in drawing.iter("{http://www.w3.org/2000/svg}text") if t.get("x") == "48"]
    assert [text.text for text in texts] == labels


def test_one_point_and_none_are_drawn_too() -> None:
    assert "<svg" in draw_curves("Loss", TRAIN[:1], [])
    assert "Nothing was logged" in draw_curves("Loss", [], [])


def test_the_page_of_preferences_shows_the_margins_too() -> None:
    assert training_page(record()).count("<svg") == 1
    trace = (*TRACE, TracePoint(step=3, extra={"rewards/margins": 0.5, "eval_rewards/margins": 0.4}))
    page = training_page(record(kind="dpo", trace=trace))
    assert page.count("<svg") == 2
    assert "Reward margin: chosen over rejected" in page


def test_the_page_escapes_what_users_have_named() -> None:
    page = training_page(record())
    assert "&lt;b&gt;ase" in page
    assert "<b>ase" not in page


def test_the_page_shows_the_verdict_with_its_numbers() -> None:
    assert "overfitting: since step 2 validation loss 2.6000 → 2.7000, training loss 2.5000 → 2.4000" in (
        training_page(record())
    )


def test_a_number_that_is_none_never_gets_into_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_runs_name_follows_from_configuration_and_data() -> None:
    name = run_name(SftConfig(), "a")
    assert run_name(SftConfig(), "a") == name
    assert run_name(SftConfig(seed=1), "a") != name
    assert run_name(SftConfig(), "b") != name
    assert run_name(SftConfig(template="alpaca"), "a") != name
