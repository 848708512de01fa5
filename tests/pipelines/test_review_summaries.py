"""Summaries of reviews on ZenML, with real stores and the real embedder: what a run leaves, and that it can be repeated."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.features.config import EndToEndData
from llm_engineering.application.reviews.config import ReviewSummaryRun
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.reviews import ProductSummary, SummaryStatus, derive_summary_id
from tools.run import run_pipeline
from tools.summaries import main as show_summaries

SAID = (
    (5, "The battery lasts a whole week, wonderful."),
    (5, "Great battery, I charge it on Sundays only."),
    (1, "Delivery was a nightmare, the parcel arrived crushed."),
)
RUN = ReviewSummaryRun.model_validate(
    {
        "summaries": {
            "by_language": False,
            "aspects": {"battery": ["battery"], "delivery": ["delivery", "parcel"]},
        }
    }
)


def collect(folder: Path, count: int = 12) -> EndToEndData:
    """The reviews of one product, each by its own reviewer."""
    rows = [
        {"id": f"R{number}", "product": "Lamp", "rating": stars, "reviewer": f"r{number}", "review": text}
        for number in range(count)
        for stars, text in [SAID[number % len(SAID)]]
    ]
    path = folder / "reviews.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    link = {"url": str(path), "category": "review"}
    return EndToEndData.model_validate({"collect": {"links": [link]}})


def summarise() -> dict[str, Any]:
    [artifact] = (
        run_pipeline("review_summaries", RUN).steps["summarise_reviews"].outputs["review_summary_report"]
    )
    report = artifact.load()
    assert isinstance(report, dict)
    return report


@pytest.mark.nightly
def test_reviews_become_a_summary_that_a_second_run_leaves_alone(
    project: Path, resources: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pipeline("end_to_end_data", collect(project))
    first = summarise()
    assert (first["products"], first["reviews"], first["made"]) == (1, 12, {"quoted": 1})
    [stored] = resources.warehouse.summaries.get([derive_summary_id("Lamp")])
    assert stored.served.status is SummaryStatus.QUOTED
    assert {one.section for one in stored.served.sentences} == {"pros", "cons"}
    texts = {one.id: one.text for one in resources.warehouse.clean.stream()}
    for sentence in stored.served.sentences:
        for at in sentence.evidence:
            assert texts[at.document_id][at.span.start : at.span.end] == at.quote

    again = summarise()
    assert (again["unchanged"], again["read"], again["made"]) == (1, 0, {})

    capsys.readouterr()
    assert show_summaries(["show", "--json", "--language", "all", "Lamp"]) == 0
    assert ProductSummary.model_validate_json(capsys.readouterr().out).version == stored.served.version
