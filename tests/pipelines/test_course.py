"""Course assistants on ZenML, with real stores and the real embedder, over the sample: what is planted there is found."""

import json
import shutil
from pathlib import Path

import pytest

from llm_engineering.application.evaluation.course.config import CourseAssistant
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.errors import TooManyFailuresError
from llm_engineering.domain.models import Stage
from llm_engineering.settings import load_settings
from tools.mailbox import SmallMailbox
from tools.run import run_course
from tools.run_config import read_run_config

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("sacrebleu")


@pytest.mark.nightly
def test_the_sample_s_truth_is_found_and_mailed_and_an_unchanged_run_does_nothing(
    project: Path, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = json.loads((ROOT / "samples" / "course_truth.json").read_text(encoding="utf-8"))
    shutil.copytree(ROOT / "samples" / "course", project / "samples" / "course")
    parameters, _ = read_run_config(ROOT / "configs" / "course.yaml", CourseAssistant)
    with SmallMailbox() as mailbox:
        monkeypatch.setenv("NOTIFY_URLS", mailbox.address)
        settings = load_settings(None)
        report = run_course(parameters, {}, settings)
        assert run_course(parameters, {}, settings) == {}
        with (project / "samples" / "course" / "brief.jsonl").open("a", encoding="utf-8") as table:
            table.write("\n")
        again = run_course(parameters, {}, settings)
    page = Path(report["page"])
    found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))

    verdicts = {
        name: {one["professor"]: one["verdict"] for one in about["professors"]}
        for name, about in found["assistants"].items()
    }
    biased, chosen = truth["biased"], truth["to_be_chosen"]
    assert verdicts[biased["assistant"]].pop(biased["professor"]) == "worse"
    assert set(verdicts[biased["assistant"]].values()) == {"fair", "too few"}
    assert verdicts[chosen][truth["told_badly_for_good_reason"]] == "fair"
    assert verdicts[chosen][truth["too_few"]] == "too few"
    scores = {name: about["scores"]["rougeL"]["value"] for name, about in found["assistants"].items()}
    assert max(scores, key=lambda name: scores[name]) == truth["best_wording"]
    assert report["serving"] == {"version": "course-assistant:1", "assistant": chosen, "changed": True}
    records = [row for about in found["assistants"].values() for row in about["records"]]
    assert len(records) == 3 * truth["questions"]
    notes = [row["note"] for row in found["assistants"][chosen]["records"]]
    assert (notes.count("empty"), notes.count("language")) == (1, truth["other_languages"])
    assert [row["note"] for row in found["assistants"]["brief"]["records"]].count("verbatim") == 1
    assert resources.registry.get("course-assistant", Stage.PRODUCTION).manifest.base == chosen

    [mail] = mailbox.messages
    [attached] = mail.iter_attachments()
    assert b"<!doctype html>" in attached.get_payload(decode=True)[:40]
    assert chosen in str(mail["Subject"])
    assert (again["serving"]["changed"], again["serving"]["assistant"]) == (False, chosen)


@pytest.mark.nightly
def test_a_table_without_responses_is_refused_with_its_columns(project: Path) -> None:
    folder = project / "samples" / "course"
    folder.mkdir(parents=True)
    row = {"query": "How?", "context": "So.", "professor": "Ada", "bucket": "help", "answer": "So."}
    (folder / "staff.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    parameters, _ = read_run_config(ROOT / "configs" / "course.yaml", CourseAssistant)
    with pytest.raises(TooManyFailuresError, match="response"):
        run_course(parameters, {}, load_settings(None))
