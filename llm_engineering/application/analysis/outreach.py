"""What sales people and their CRM are told: levels of interest to write back, and whom to call."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta

from llm_engineering.application.analysis.config import Outreach
from llm_engineering.application.analysis.trend import NO_ENTITY, Trend, find_trend_fields
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.analyses import AnalysisSpec
from llm_engineering.domain.notices import Notice

CALL, WRITE_BACK = "call_client", "write_back"
"""Rules of the two notices: one that people read and of which a CRM makes a task, and one for the CRM alone."""


def make_notices(
    spec: AnalysisSpec, trends: Iterable[Trend], config: Outreach, now: datetime, privacy: PrivacyPolicy
) -> list[Notice]:
    """Return what is to be told of the present trends.

    Of a client and an entity there is one call a day, and one level to write back: the day is that of the newest record, so that
    nothing is told again where nothing new was heard.
    """
    field, _ = find_trend_fields(spec)
    notices = []
    for one in trends:
        if one.entity == NO_ENTITY:
            continue
        level = field.values[round(one.score * (len(field.values) - 1))]
        facts: dict[str, str | int | float] = {
            "task": spec.task,
            "client": one.group,
            "about": one.entity,
            "level": level,
            "score": round(one.score, 4),
            "change": round(one.change, 4),
            "records": one.records,
            "last": one.last.isoformat(),
            "quote": one.quote,
        }
        day = one.last.date()
        notices.append(_write(f"{WRITE_BACK}:{level}", facts, day, now, privacy))
        if one.score >= config.score and now - one.last <= timedelta(days=config.within_days):
            notices.append(_write(CALL, facts, day, now, privacy))
    return notices


def list_calls(notices: Sequence[Notice]) -> list[Notice]:
    """Return those that somebody has to act on."""
    return [one for one in notices if one.rule == CALL]


def _write(
    rule: str, facts: dict[str, str | int | float], day: date, now: datetime, privacy: PrivacyPolicy
) -> Notice:
    told = {
        name: privacy.apply_outside(value) if isinstance(value, str) else value
        for name, value in facts.items()
    }
    client, about = str(told["client"]), str(told["about"])
    calls = rule == CALL
    return Notice(
        subject=f"{told['task']} {client} × {about}",
        rule=rule,
        day=day,
        title=(f"Call {client}: {about}" if calls else f"{client}: {about}, {told['level']}")[:200],
        text=f"Interest {float(told['score']):.0%}. “{told['quote']}”"[:10_000] if calls else "",
        audience="all" if calls else "systems",
        facts=told,
        created_at=now,
    )
