"""The model card: what stands in it, and that what is not known is said to be missing."""

import pytest

from llm_engineering.application.training.registry.model_card import model_card
from llm_engineering.domain.datasets import DatasetManifest, Split
from llm_engineering.domain.models import ModelVersion, Score, Stage
from tests.conformance.registry_contract import decision, manifest
from tests.unit.test_promotion import NEW, difference, report

DATASET = DatasetManifest(
    kind="instruct",
    name="articles",
    version="1",
    counts={Split.TRAIN: 1200, Split.VALIDATION: 60, Split.TEST: 61},
    documents={Split.TRAIN: 12, Split.VALIDATION: 2, Split.TEST: 3},
    document_hashes={f"doc-{number:03}": f"{number:064x}" for number in range(40)},
    prompt_hashes=("abc123",),
    template="chatml",
    template_hash="t" * 64,
    seed=5,
)


def section(card: str, heading: str) -> str:
    return card.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_the_card_tells_where_the_model_comes_from() -> None:
    card = model_card(NEW, report(), DATASET)
    assert card.startswith("# twin:2\n\nA language model made from **SmolLM2-135M-Instruct** by supervised")
    assert NEW.manifest.content_hash in card
    data = section(card, "Training data")
    assert "| train | 1,200 | 12 |" in data
    assert "Lineage: 40 document(s)" in data
    assert "`doc-000`" in data
    assert "… and 15 more" in data
    training = section(card, "Training")
    assert "| `optimizer.learning_rate` | `0.0002` |" in training
    assert "| `loss_last` | 1.25 |" in training
    assert "poe run-llm-server --model twin:2" in section(card, "How to serve it")


def test_documents_are_named_by_their_titles_where_they_have_one() -> None:
    titled = DATASET.model_copy(update={"document_titles": {"doc-000": "Hybrid | search"}})
    data = section(model_card(NEW, report(), titled), "Training data")
    assert "Hybrid" in data
    assert "`doc-000`" not in data
    assert "`doc-001`" in data


def test_the_card_names_the_weights_of_the_base() -> None:
    assert "| Base weights | not recorded |" in model_card(NEW)
    over = NEW.manifest.model_copy(update={"base_hash": "b" * 64})
    assert f"| Base weights | `{'b' * 64}` |" in model_card(NEW.model_copy(update={"manifest": over}))


def test_scores_stand_by_slice_with_their_intervals() -> None:
    scores = (
        Score(metric="rouge_l", value=0.31, low=0.28, high=0.35, n=60),
        Score(metric="rouge_l", value=0.2, low=0.1, high=0.3, n=9, slice="category=post"),
        Score(metric="judge_style", value=3.1, n=55, missing=5),
        Score(
            metric="harness/bbq/amb_bias_score", value=0.1, low=0.0, high=0.2, n=40, higher_is_better=False
        ),
        Score(metric="harness/toxigen/acc", value=0.0, n=60, higher_is_better=False),
    )
    evaluated = report()
    system = evaluated.systems[2].model_copy(update={"scores": scores})
    evaluated = evaluated.model_copy(update={"systems": (*evaluated.systems[:2], system)})
    card = model_card(NEW, evaluated)
    metrics = section(card, "Metrics")
    assert "| rouge\\_l ↑ | 0.31 | 0.28 to 0.35 | 60 | 0 |" in metrics
    assert "| Metric | category=post |" in metrics
    assert "| rouge\\_l ↑ | 0.2 (9) |" in metrics
    assert "toxigen" not in metrics
    assert "| judge\\_style ↑ | 3.1 | – | 55 | 5 |" in metrics
    findings = section(card, "Bias and safety")
    assert "harness/bbq/amb\\_bias\\_score ↓ | 0.1" in findings
    assert "harness/toxigen/acc" in findings
    assert "Missing" not in findings
    limits = section(card, "Limits")
    assert "40 test items" in limits
    assert "1 score(s) leave out items" in limits


def test_of_the_slices_only_what_is_told_apart_by_several_documents_is_compared() -> None:
    found = (
        difference("bleu", 0.1, 0.2).model_copy(update={"slice": "category=post"}),
        difference("bleu", 0.1, 0.2).model_copy(update={"slice": "language=de", "clusters": 1}),
        difference("bleu", -0.1, 0.2).model_copy(update={"slice": "length=long"}),
    )
    comparison = section(model_card(NEW, report(*found)), "Comparison")
    assert "category=post" in comparison
    assert "language=de" not in comparison
    assert "length=long" not in comparison


def test_the_comparison_names_the_other_and_the_verdict() -> None:
    unclear = difference("bleu", -0.1, 0.2, reference="base")
    worse = difference("chrf", -0.3, -0.2, reference="base")
    comparison = section(model_card(NEW, report(difference(), unclear, worse)), "Comparison")
    assert "| rouge\\_l ↑ | all | production | +0.04 | +0.02 to +0.06 | better | 60 / 12 |" in comparison
    assert "| not told apart |" in comparison
    assert "| worse |" in comparison


def test_decisions_stand_with_their_reasons() -> None:
    card = model_card(NEW, decisions=[decision("twin:2", promoted_to=None, reasons=("a | b", "c"))])
    assert "| refused | nothing | a \\| b; c |" in section(card, "Decisions")


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("Training data", "manifest was not at hand"),
        ("Metrics", "was not evaluated"),
        ("Comparison", "were not measured"),
        ("Bias and safety", "was not measured"),
        ("Decisions", "Nothing was decided"),
    ],
)
def test_what_is_not_known_is_said_to_be_missing(heading: str, said: str) -> None:
    part = section(model_card(NEW), heading)
    assert "*Missing.*" in part
    assert said in part


def test_an_evaluation_of_others_is_no_evaluation_of_this_one() -> None:
    other = ModelVersion(name="twin", number=7, manifest=manifest("z"), location="x", stage=Stage.ARCHIVED)
    card = model_card(other, report())
    assert "`evaluation-1` has no scores of twin:7" in section(card, "Metrics")
    assert "*Missing.*" in section(card, "Comparison")


def test_names_that_others_chose_bring_no_markup() -> None:
    odd = manifest(dataset="<script>|x|\n# head", config={"note": "a|b`c\nd"})
    card = model_card(ModelVersion(name="twin", number=1, manifest=odd, location="x"))
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert "\n# head" not in card
    assert "| `note` | `a\\|b'c d` |" in card
