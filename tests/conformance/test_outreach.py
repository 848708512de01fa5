"""Whom to call: once for each client, asset and day, without personal data, whatever happens on the way to the CRM."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from llm_engineering.application.analysis.config import AnalysisQuestion, Outreach
from llm_engineering.application.analysis.outreach import CALL, list_calls, make_notices
from llm_engineering.application.analysis.trend import Trend
from llm_engineering.application.notices import notify
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.notices import Notice
from llm_engineering.domain.signatures import sign
from llm_engineering.infrastructure.notifiers.webhook import WebhookNotifier
from llm_engineering.infrastructure.personal_data import RulesFinder
from tests.fakes.warehouse import FakeWarehouse
from tools.crm import SmallCrm

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
FIELDS = {
    "interest": {"kind": "class", "values": ["low", "medium", "high"], "ordered": True},
    "assets": {"kind": "entities", "values": ["Bond", "Trust"]},
}
SPEC = AnalysisQuestion.model_validate({"spec": {"task": "interest", "fields": FIELDS}}).spec
PRIVACY = PrivacyPolicy(RulesFinder(["Ada Winter"]), "keep")


def trend(client: str, score: float, days: float = 1, about: str = "Bond") -> Trend:
    quote = "Ada Winter, ada@example.com, wants it."
    return Trend(client, about, score, 0.0, 3, NOW - timedelta(days=days), quote, "d1")


TRENDS = [
    trend("A", 0.95),
    trend("A", 0.81, about="Trust"),
    trend("B", 0.79),
    trend("C", 1.0, days=15),
    trend("D", 1.0, about="–"),
]


def make(now: datetime = NOW, trends: list[Trend] = TRENDS) -> list[Notice]:
    return make_notices(SPEC, trends, Outreach(), now, PRIVACY)


def test_calls_are_for_high_and_recent_interest_and_levels_for_all() -> None:
    calls = list_calls(make())
    assert [(one.facts["client"], one.facts["about"]) for one in calls] == [("A", "Bond"), ("A", "Trust")]
    levels = [(one.facts["client"], one.facts["level"]) for one in make() if one.rule != CALL]
    assert levels == [("A", "high"), ("A", "high"), ("B", "high"), ("C", "high")]
    assert {one.audience for one in calls} == {"all"}


def test_no_personal_data_leaves_even_where_it_is_kept() -> None:
    told = "".join(one.model_dump_json() for one in make())
    assert "Winter" not in told
    assert "ada@" not in told


def test_five_runs_with_a_crm_that_is_down_for_three_make_one_task_each() -> None:
    store = FakeWarehouse().notices
    with SmallCrm("s3cret") as crm:
        hook = WebhookNotifier(crm.url, crm.secret)
        for number in range(5):
            crm.down = number < 3
            notify(make(NOW + timedelta(hours=number)), store, [hook])
        assert sorted((one["client"], one["about"]) for one in crm.tasks.values()) == [
            ("A", "Bond"),
            ("A", "Trust"),
        ]
        assert crm.answered.count(204) == len(make())
        later = [trend("A", 0.95, days=-1)]
        notify(make(NOW + timedelta(days=1, hours=1), later), store, [hook])
        assert len(crm.tasks) == 3


def test_people_are_not_told_of_levels() -> None:
    class Person:
        name, for_people = "person", True

        def __init__(self) -> None:
            self.told: list[str] = []

        def send(self, notice: Notice) -> None:
            self.told.append(notice.rule)

    store, person = FakeWarehouse().notices, Person()
    notify(make(), store, [person])
    assert person.told == [CALL, CALL]
    assert all(kept.done for kept in store.stream())


@pytest.mark.parametrize("age", [0, 299])
def test_the_crm_takes_a_request_once_and_a_repeated_key_makes_no_second_task(age: int) -> None:
    with SmallCrm("s3cret") as crm:
        [call, *_] = list_calls(make())
        body = json.dumps(call.model_dump(mode="json")).encode()
        sent = int(time.time()) - age
        signature = sign(body, "s3cret", sent)
        assert crm.take(signature, call.id, body) == 204
        assert crm.take(signature, call.id, body) == 409
        assert crm.take(sign(body, "s3cret", sent + 1), call.id, body) == 204
        assert len(crm.tasks) == 1
        assert crm.take(sign(body, "other", sent), call.id, body) == 401
        assert crm.take(sign(body, "s3cret", sent - 400), call.id, body) == 401
        assert crm.take("", call.id, body) == 401
