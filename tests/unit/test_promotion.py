"""Promotion: every reason to refuse, what a decision depends on, and the acts of a person."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_engineering.application.training.registry.promotion import (
    PromotionPolicy,
    check_files,
    consider,
    decide,
    promote,
    rollback,
)
from llm_engineering.domain.errors import InvalidInputError, PromotionRefusedError
from llm_engineering.domain.models import (
    Difference,
    EvaluationReport,
    Guard,
    ModelVersion,
    PromotionDecision,
    Score,
    Stage,
    SystemReport,
)
from tests.conformance.registry_contract import NOW, manifest
from tests.fakes.registry import FakeRegistry

POLICY = PromotionPolicy(
    metric="rouge_l", margin=0.01, guards=(Guard(metric="perplexity"), Guard(metric="empty", max_loss=0.02))
)


def version(number: int = 2, weights: str = "b", **fields: Any) -> ModelVersion:
    return ModelVersion(name="twin", number=number, manifest=manifest(weights, **fields), location="data/x")


OLD, NEW = version(1, "a"), version(2, "b")


def difference(metric: str = "rouge_l", low: float = 0.02, high: float = 0.06, **fields: Any) -> Difference:
    given = {
        "value": (low + high) / 2,
        "candidate": "sft",
        "reference": "production",
        "n": 60,
        "clusters": 12,
    }
    return Difference(metric=metric, low=low, high=high, **{**given, **fields})


GOOD = (
    difference(),
    difference("perplexity", -1.0, 0.5, higher_is_better=False),
    difference("empty", -0.01, 0.01, higher_is_better=False),
)


def report(*differences: Difference, missing: int = 0, **fields: Any) -> EvaluationReport:
    scores = (Score(metric="rouge_l", value=0.3, n=60 - missing, missing=missing),)
    systems = (
        SystemReport(system="base", model="SmolLM2", scores=scores),
        SystemReport(system="production", model="twin:1", scores=scores),
        SystemReport(system="sft", model=NEW.manifest.content_hash, scores=scores),
    )
    given: dict[str, Any] = {
        "id": "evaluation-1",
        "dataset": "articles/1",
        "dataset_hash": "d" * 64,
        "template_hash": "t" * 64,
        "systems": systems,
        "differences": differences or GOOD,
        "seed": 0,
        "created_at": NOW,
    }
    return EvaluationReport(**{**given, **fields})


def swapped(metric: str, **fields: Any) -> tuple[Difference, ...]:
    return tuple(one.model_copy(update=fields) if one.metric == metric else one for one in GOOD)


def test_a_candidate_that_beats_production_goes_to_staging_with_the_numbers() -> None:
    drawn = decide(NEW, OLD, report(), POLICY, at=NOW)
    assert drawn.promoted_to is Stage.STAGING
    assert (drawn.candidate, drawn.production, drawn.evaluation) == ("twin:2", "twin:1", "evaluation-1")
    assert "rouge_l: twin:2 is better than twin:1 by more than 0.01" in drawn.reasons[0]
    assert "+0.02 to +0.06" in drawn.reasons[0]
    assert len(drawn.reasons) == 3


LOST = [
    (swapped("rouge_l", low=0.005), "is not shown to be better than twin:1 by more than 0.01"),
    (swapped("rouge_l", low=0.01), "is not shown to be better"),
    (swapped("rouge_l", low=float("nan")), "no interval"),
    (swapped("rouge_l", low=0.5), "no interval"),
    (swapped("rouge_l", n=19), "19 scored test item"),
    (swapped("rouge_l", clusters=4), "4 document"),
    (swapped("rouge_l", slice="category=post"), "no difference of rouge_l between sft and production"),
    (swapped("rouge_l", reference="base"), "no difference of rouge_l"),
    (swapped("perplexity", low=0.1, value=0.2), "guard perplexity: it got worse"),
    (swapped("perplexity", high=float("inf")), "no interval"),
    (swapped("empty", low=0.021, value=0.03, high=0.04), "guard empty: it got worse by more than 0.02"),
    (GOOD[:2], "no difference of empty"),
]


@pytest.mark.parametrize(("differences", "reason"), LOST, ids=[reason[:40] for _, reason in LOST])
def test_each_shortcoming_refuses_and_is_the_only_reason(
    differences: tuple[Difference, ...], reason: str
) -> None:
    drawn = decide(NEW, OLD, report(*differences), POLICY)
    assert drawn.promoted_to is None
    assert len(drawn.reasons) == 1
    assert reason in drawn.reasons[0]


def test_all_reasons_are_told_at_once() -> None:
    bad = (*swapped("rouge_l", low=-1.0, n=3, clusters=2)[:1], *GOOD[1:2])
    drawn = decide(NEW, OLD, report(*bad, template_hash="other"), POLICY)
    assert len(drawn.reasons) == 6


def test_a_loss_within_what_a_guard_allows_does_not_refuse() -> None:
    within = swapped("empty", low=0.005, value=0.01, high=0.019)
    assert decide(NEW, OLD, report(*within), POLICY).promoted_to is Stage.STAGING


def test_a_strict_guard_wants_the_loss_ruled_out() -> None:
    strict = POLICY.model_copy(update={"guards": (Guard(metric="perplexity", max_loss=0.4, strict=True),)})
    drawn = decide(NEW, OLD, report(), strict)
    assert drawn.reasons[0].startswith("guard perplexity: a loss cannot be ruled out by more than 0.4")
    ruled_out = report(*swapped("perplexity", high=0.3))
    assert decide(NEW, OLD, ruled_out, strict).promoted_to is Stage.STAGING


def test_where_lower_is_better_the_upper_bound_must_lie_below_the_margin() -> None:
    policy = PromotionPolicy(metric="perplexity", margin=0.5)
    better = difference("perplexity", -2.0, -0.6, higher_is_better=False)
    unsure = difference("perplexity", -2.0, -0.4, higher_is_better=False)
    assert decide(NEW, OLD, report(better), policy).promoted_to is Stage.STAGING
    assert decide(NEW, OLD, report(unsure), policy).promoted_to is None


def test_a_difference_given_the_other_way_round_is_turned() -> None:
    turned = difference(low=-0.06, high=-0.02, candidate="production", reference="sft")
    drawn = decide(NEW, OLD, report(turned, *GOOD[1:]), POLICY, at=NOW)
    assert drawn == decide(NEW, OLD, report(), POLICY, at=NOW)


def test_the_first_version_is_compared_with_the_base_model() -> None:
    assert "no difference" in decide(NEW, None, report(), POLICY).reasons[0]
    against_base = report(*(one.model_copy(update={"reference": "base"}) for one in GOOD))
    drawn = decide(NEW, None, against_base, POLICY)
    assert (drawn.promoted_to, drawn.production) == (Stage.STAGING, None)
    assert "better than the base model" in drawn.reasons[0]


def test_an_evaluation_of_other_systems_says_nothing() -> None:
    other = version(3, "c")
    drawn = decide(other, OLD, report(), POLICY)
    assert drawn.reasons == (
        f"twin:3 was not evaluated; the evaluation has base (SmolLM2), production (twin:1), "
        f"sft ({NEW.manifest.content_hash[:40]})",
    )
    assert "twin:9 was not evaluated" in decide(NEW, version(9, "z"), report(), POLICY).reasons[0]


def test_an_evaluation_with_another_template_is_refused() -> None:
    [reason] = decide(NEW, OLD, report(template_hash="u" * 64), PromotionPolicy(metric="rouge_l")).reasons[:1]
    assert "twin:2 was trained with the chat template chatml (tttttttttttt)" in reason
    old = version(1, "a", template_hash="v" * 64, template="alpaca")
    [reason] = decide(NEW, old, report(), POLICY).reasons
    assert "twin:1 was trained with the chat template alpaca" in reason


def test_test_items_that_were_trained_on_refuse() -> None:
    assert decide(NEW, OLD, report(overlap={"sft": 0}), POLICY).promoted_to is Stage.STAGING
    [reason] = decide(NEW, OLD, report(overlap={"sft": 2}), POLICY).reasons
    assert reason.startswith("2 test item(s) stand in what sft was trained on")
    assert decide(NEW, OLD, report(overlap={"production": 1}), POLICY).promoted_to is None
    assert decide(NEW, OLD, report(overlap={"dpo": 1}), POLICY).promoted_to is Stage.STAGING


def test_another_data_set_is_refused_unless_somebody_looked_for_overlap() -> None:
    trained_elsewhere = version(2, "b", dataset="pairs/3", dataset_hash="e" * 64, stage="dpo")
    [reason] = decide(trained_elsewhere, OLD, report(), POLICY).reasons
    assert "trained on pairs/3, the test set is of articles/1" in reason
    assert decide(trained_elsewhere, OLD, report(overlap={}), POLICY).promoted_to is Stage.STAGING


def test_too_many_missing_scores_refuse() -> None:
    assert decide(NEW, OLD, report(missing=6), POLICY).promoted_to is Stage.STAGING
    drawn = decide(NEW, OLD, report(missing=7), POLICY)
    assert [reason.split(" have")[0] for reason in drawn.reasons] == [
        "12% of the items of sft",
        "12% of the items of production",
    ]


def test_a_policy_whose_guard_has_no_effect_is_refused() -> None:
    with pytest.raises(ValidationError, match="decides already"):
        PromotionPolicy(metric="a", guards=(Guard(metric="a"),))
    with pytest.raises(ValidationError, match="twice"):
        PromotionPolicy(metric="a", guards=(Guard(metric="b"), Guard(metric="b", max_loss=1)))


numbers = st.floats(-1, 1)
differences = st.builds(
    lambda ends, better, n: difference(
        low=min(ends), high=max(ends), value=sum(ends) / 2, higher_is_better=better, n=n
    ),
    st.tuples(numbers, numbers),
    st.booleans(),
    st.integers(15, 30),
)


@given(differences, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_margin_never_lets_more_through(found: Difference, one: float, two: float) -> None:
    low, high = sorted((one, two))
    lenient, hard = (
        decide(NEW, OLD, report(found), PromotionPolicy(metric="rouge_l", margin=margin))
        for margin in (low, high)
    )
    assert lenient.promoted_to is Stage.STAGING or hard.promoted_to is None


@given(differences, st.floats(0, 1))
def test_equal_inputs_give_the_equal_decision_at_any_time(found: Difference, margin: float) -> None:
    policy = PromotionPolicy(metric="rouge_l", margin=margin)
    first = decide(NEW, OLD, report(found), policy, at=NOW)
    again = decide(NEW, OLD, report(found), policy, at=NOW + timedelta(days=1))
    assert again.id == first.id
    assert again.model_copy(update={"decided_at": first.decided_at}) == first


# --- acts ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> FakeRegistry:
    """``twin:1`` in production, by force; ``twin:2`` and ``twin:3`` registered."""
    registry = FakeRegistry()
    for weights in "abc":
        registry.register(manifest(weights), "data/x")
    promote(registry, "twin", 1, force="the first one", at=NOW)
    return registry


def stages(registry: FakeRegistry) -> list[str]:
    return [found.stage.value for found in reversed(registry.list_versions("twin"))]


def considered(registry: FakeRegistry, minutes: int = 1, **fields: Any) -> PromotionDecision:
    at = NOW + timedelta(minutes=minutes)
    return consider(registry, registry.get("twin", 2), report(**fields), POLICY, at=at)


def test_a_decision_is_carried_out_and_recorded_once(registry: FakeRegistry) -> None:
    first = considered(registry)
    assert stages(registry) == ["production", "staging", "none"]
    assert considered(registry, minutes=9) == first, "with the time of the first"
    assert registry.list_decisions("twin", 2) == [first]


def test_a_refusal_is_recorded_once_and_moves_nothing(registry: FakeRegistry) -> None:
    first = considered(registry, missing=30)
    assert first.promoted_to is None
    assert considered(registry, minutes=9, missing=30) == first
    assert stages(registry) == ["production", "none", "none"]
    assert registry.list_decisions("twin", 2) == [first]


def test_a_decision_whose_record_was_lost_is_drawn_again(registry: FakeRegistry) -> None:
    registry.set_stage("twin", 2, Stage.STAGING)  # killed between the stage and the record
    considered(registry)
    assert len(registry.list_decisions("twin", 2)) == 1


def test_no_evaluation_no_promotion(registry: FakeRegistry) -> None:
    with pytest.raises(PromotionRefusedError, match="run-evaluation-pipeline"):
        consider(registry, registry.get("twin", 2), None, POLICY)
    assert registry.list_decisions("twin", 2) == []


def test_what_is_in_production_is_not_decided_on(registry: FakeRegistry) -> None:
    with pytest.raises(PromotionRefusedError, match="nothing to decide"):
        consider(registry, registry.get("twin", 1), report(), POLICY)


def test_to_production_goes_what_is_in_staging(registry: FakeRegistry) -> None:
    considered(registry)
    moved, act = promote(registry, "twin", at=NOW + timedelta(minutes=2))
    assert (moved.label, moved.stage) == ("twin:2", Stage.PRODUCTION)
    assert stages(registry) == ["archived", "production", "none"]
    assert (act.production, act.evaluation, act.metric) == ("twin:1", "evaluation-1", "rouge_l")
    assert considered(registry, minutes=3).act == "decision", (
        "the evaluation again: still the decision it gave"
    )
    with pytest.raises(PromotionRefusedError, match="in production already"):
        promote(registry, "twin", 2)


def test_nothing_else_goes_to_production(registry: FakeRegistry) -> None:
    with pytest.raises(PromotionRefusedError, match="No version of twin is in staging"):
        promote(registry, "twin")
    with pytest.raises(PromotionRefusedError, match=r"twin:3 is not in staging \(it is in 'none'\)"):
        promote(registry, "twin", 3)
    registry.set_stage("twin", 3, Stage.STAGING)
    with pytest.raises(PromotionRefusedError, match="no decision brought it there"):
        promote(registry, "twin", 3)
    assert stages(registry) == ["production", "none", "staging"]


def test_a_decision_against_another_production_no_longer_holds(registry: FakeRegistry) -> None:
    considered(registry)
    promote(registry, "twin", 3, force="urgent")
    with pytest.raises(PromotionRefusedError, match=r"while twin:1 was in production; now it is twin:3"):
        promote(registry, "twin", 2)


def test_force_wants_a_reason_and_records_it(registry: FakeRegistry) -> None:
    with pytest.raises(InvalidInputError, match="reason in words"):
        promote(registry, "twin", 3, force="  ")
    moved, act = promote(registry, "twin", 3, force="hotfix of the tokenizer")
    assert moved.stage is Stage.PRODUCTION
    assert act.reasons == ("forced: hotfix of the tokenizer",)
    assert registry.list_decisions("twin", 3) == [act]


def test_staging_by_hand_needs_force_too(registry: FakeRegistry) -> None:
    with pytest.raises(PromotionRefusedError, match="by an evaluation"):
        promote(registry, "twin", 3, to=Stage.STAGING)
    promote(registry, "twin", 3, to=Stage.STAGING, force="to try it")
    assert promote(registry, "twin")[0].label == "twin:3"
    with pytest.raises(InvalidInputError, match="archived"):
        promote(registry, "twin", 3, to=Stage.ARCHIVED)


def test_rollback_goes_back_one_promotion_at_a_time(registry: FakeRegistry) -> None:
    promote(registry, "twin", 2, force="two", at=NOW + timedelta(minutes=1))
    promote(registry, "twin", 3, force="three", at=NOW + timedelta(minutes=2))
    moved, act = rollback(registry, "twin", reason="nonsense answers", at=NOW + timedelta(minutes=3))
    assert (moved.label, moved.stage) == ("twin:2", Stage.PRODUCTION)
    assert act.reasons == ("rolled back from twin:3: nonsense answers",)
    assert registry.list_decisions("twin")[0] == act
    assert rollback(registry, "twin", at=NOW + timedelta(minutes=4))[0].label == "twin:1"
    assert stages(registry) == ["production", "archived", "archived"]
    with pytest.raises(PromotionRefusedError, match="first in production"):
        rollback(registry, "twin")


def test_rollback_without_anything_to_roll_back(registry: FakeRegistry) -> None:
    with pytest.raises(InvalidInputError, match="no model 'twn'"):
        rollback(registry, "twn")
    registry.set_stage("twin", 1, Stage.ARCHIVED)
    with pytest.raises(PromotionRefusedError, match="No version of twin is in production"):
        rollback(registry, "twin")
    registry.set_stage("twin", 3, Stage.PRODUCTION)
    with pytest.raises(PromotionRefusedError, match="is not recorded"):
        rollback(registry, "twin")


def test_a_version_whose_files_are_gone_is_not_put_into_production(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    with pytest.raises(PromotionRefusedError, match="not at data/x"):
        promote(registry, "twin", 2, force="x", check=check_files)
    promote(registry, "twin", 2, force="x")
    with pytest.raises(PromotionRefusedError, match="twin:1 are not at"):
        rollback(registry, "twin", check=check_files)
    assert stages(registry) == ["archived", "production", "none"], "nothing has moved"
    check_files(version().model_copy(update={"location": str(tmp_path)}))
    check_files(version().model_copy(update={"location": "s3://bucket/model"}))
