"""Notices reach a sink on loopback: signed, once, without secrets, also where the sender is killed or the sink is down."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_engineering.application.notices import MOST_ATTEMPTS, deliver, notify
from llm_engineering.bootstrap.logging import mask_secrets
from llm_engineering.domain.errors import ConfigurationError, NotificationError, TooManyFailuresError
from llm_engineering.domain.notices import Notice
from llm_engineering.domain.signatures import KEY, SIGNATURE, verify_signature
from llm_engineering.infrastructure.notifiers.apprise_urls import AppriseNotifier
from llm_engineering.infrastructure.notifiers.webhook import WebhookNotifier
from llm_engineering.settings import load_settings
from tests.fakes.serving import LoopbackServer
from tests.fakes.warehouse import FakeWarehouse
from tools import run_notices
from tools.mailbox import SmallMailbox
from tools.run_notices import describe_run, tell_run

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


class Sink(LoopbackServer):
    """A receiver as one should be: a key that it has seen is answered, and done nothing for. ``down``: answers 503."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken: dict[str, Any] = {}
        self.down = False
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                sink.requests.append((dict(self.headers), body))
                if not sink.down:
                    sink.taken.setdefault(self.headers.get(KEY, str(len(sink.taken))), json.loads(body))
                self.send_response(503 if sink.down else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        super().__init__(Handler)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


def notice(subject: str = "client 7 × bonds", **fields: Any) -> Notice:
    given = {"rule": "interest_high", "day": date(2026, 5, 4), "title": "High interest", "created_at": NOW}
    return Notice(**{"subject": subject, **given, **fields})


def test_a_webhook_is_signed_and_says_which_notice_it_is(sink: Sink) -> None:
    hook = WebhookNotifier(f"{sink.url}/crm?token=secret", "s3cret", now=lambda: 1_000.0)
    hook.send(notice(text="Ärger"))
    [(headers, body)] = sink.requests
    assert headers[KEY] == notice().id
    assert json.loads(body)["text"] == "Ärger"
    assert verify_signature(headers[SIGNATURE], body, "s3cret", 1_100.0)
    assert not verify_signature(headers[SIGNATURE], body, "another", 1_100.0)
    assert not verify_signature(headers[SIGNATURE], body + b" ", "s3cret", 1_100.0)
    assert not verify_signature(headers[SIGNATURE], body, "s3cret", 9_000.0)
    assert not verify_signature("nonsense", body, "s3cret", 1_000.0)
    assert "token" not in hook.name


def test_failures_of_a_webhook_name_no_secret(sink: Sink) -> None:
    sink.down = True
    with pytest.raises(NotificationError, match="503"):
        WebhookNotifier(f"{sink.url}/?token=secret", "s3cret").send(notice())
    with pytest.raises(NotificationError) as caught:
        WebhookNotifier("http://user:password@127.0.0.1:9/", "s3cret").send(notice())
    assert "password" not in str(caught.value)


def test_apprise_carries_a_notice_to_a_service(sink: Sink) -> None:
    place = AppriseNotifier(sink.url.replace("http://", "json://") + "/hook")
    place.send(notice(text="Look at it.", link="http://127.0.0.1/run"))
    [(_, body)] = sink.requests
    assert json.loads(body)["title"] == "High interest"
    assert "Look at it." in json.loads(body)["message"]
    sink.down = True
    with pytest.raises(NotificationError):
        place.send(notice())
    with pytest.raises(ConfigurationError) as caught:
        AppriseNotifier("nothing://user:password@host")
    assert "password" not in str(caught.value)


def test_a_mail_takes_a_file_along_and_goes_without_it_where_it_is_gone(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!doctype html><p>Ärger</p>", encoding="utf-8")
    with SmallMailbox() as mailbox:
        place = AppriseNotifier(mailbox.address)
        place.send(notice(text="Look at it.", attachment=str(page)))
        page.unlink()
        place.send(notice(text="Look at it.", attachment=str(page)))
    first, second = mailbox.messages
    [attached] = first.iter_attachments()
    assert (attached.get_filename(), "Ärger" in attached.get_payload(decode=True).decode()) == (
        "report.html",
        True,
    )
    assert not list(second.iter_attachments())
    assert first["To"] == second["To"]


def test_of_a_subject_and_rule_one_a_day_is_sent_however_often_it_is_told(sink: Sink) -> None:
    store, hook = FakeWarehouse().notices, WebhookNotifier(sink.url, "s3cret")
    for _ in range(5):
        notify([notice(), notice("client 8 × bonds")], store, [hook])
    assert len(sink.requests) == 2
    notify([notice(day=date(2026, 5, 5))], store, [hook])
    assert len(sink.requests) == 3


@pytest.mark.parametrize("killed_at", range(12))
def test_killed_anywhere_a_notice_reaches_the_receiver_exactly_once(sink: Sink, killed_at: int) -> None:
    class KilledError(BaseException):
        pass

    warehouse, hook = FakeWarehouse(), WebhookNotifier(sink.url, "s3cret")
    left = killed_at

    def count_down(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            done = real(*arguments)
            if left == 0:  # after the effect, before anybody could note it
                raise KilledError
            left -= 1
            return done

        return call

    store = warehouse.notices
    fragile = SimpleNamespace(
        put=count_down(store.put), read_open=store.read_open, replace=count_down(store.replace)
    )
    sender = SimpleNamespace(name=hook.name, for_people=False, send=count_down(hook.send))
    try:
        notify([notice(), notice("client 8 × bonds")], fragile, [sender])
    except KilledError:
        left = -1
    for _ in range(3):
        notify([notice(), notice("client 8 × bonds")], store, [hook])
    assert sorted(sink.taken) == sorted([notice().id, notice("client 8 × bonds").id])
    assert all(kept.done for kept in store.stream())


def test_a_sink_that_is_down_for_three_runs_gets_it_at_the_fourth(sink: Sink) -> None:
    store, hook = FakeWarehouse().notices, WebhookNotifier(sink.url, "s3cret")
    sink.down = True
    for attempt in range(3):
        assert notify([notice()], store, [hook]).failed == 1
        [kept] = store.stream()
        assert (kept.attempts, kept.done) == (attempt + 1, False)
        assert "503" in kept.problem
    sink.down = False
    assert deliver(store, [hook]).sent == 1
    assert deliver(store, [hook]).sent == 0
    assert len(sink.taken) == 1


def test_one_place_that_is_down_keeps_no_other_from_being_told_and_none_is_told_twice(sink: Sink) -> None:
    store = FakeWarehouse().notices
    with Sink() as other:
        places = [
            WebhookNotifier(sink.url.replace("127.0.0.1", "localhost"), "a"),
            WebhookNotifier(other.url, "b"),
        ]
        sink.down = True
        for _ in range(MOST_ATTEMPTS + 5):
            notify([notice()], store, places)
        assert len(other.requests) == 1
        assert len(sink.requests) == MOST_ATTEMPTS
        [kept] = store.stream()
        assert kept.done


def test_a_failed_run_is_told_with_step_cause_duration_and_cost_and_without_secrets() -> None:
    def step(status: str, **metadata: Any) -> Any:
        return SimpleNamespace(status=SimpleNamespace(value=status), run_metadata=metadata)

    run = SimpleNamespace(
        id="42",
        name="end_to_end_data-2026",
        steps={
            "collect_links": step("completed", cost_usd=0.5),
            "index_documents": step("failed", cost_usd=0.25),
        },
    )
    uri = "mongodb://me:hunter2hunter2@db.example/x"  # not-a-secret
    settings = load_settings(None, database={"uri": uri})
    error = TooManyFailuresError(f"9 of 10 failed at {uri}\n  File x.py, line 3")
    told = describe_run("end_to_end_data", NOW, NOW + timedelta(seconds=125), run, error)
    text = mask_secrets(told.text, settings)
    assert text.splitlines() == [
        "end_to_end_data failed after 2 min 5 s.",
        "Step: index_documents",
        "Cause: TooManyFailuresError: 9 of 10 failed at mongodb://***@db.example/x File x.py, line 3",
        "Cost: $0.75",
        "Run: end_to_end_data-2026",
    ]
    assert told.id == describe_run("end_to_end_data", NOW, NOW + timedelta(hours=1), run, error).id
    assert told.id != describe_run("end_to_end_data", NOW, NOW, run, None).id


def test_a_run_that_succeeds_sends_what_waits_and_is_itself_told_only_where_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = FakeWarehouse()
    place.notices.put([notice()])

    class Taking:
        name = "taking"
        for_people = True

        def __init__(self) -> None:
            self.taken: list[str] = []

        def send(self, notice: Notice) -> None:
            self.taken.append(notice.rule)

    taking = Taking()
    monkeypatch.setattr(
        run_notices,
        "open_resources",
        lambda _: nullcontext(SimpleNamespace(warehouse=place, notifiers=[taking])),
    )
    run = SimpleNamespace(id="42", name="r", steps={})
    webhook = {"webhook_url": "https://h.example/x", "webhook_secret": "s" * 32}
    for on, told in (("failure", [notice().rule]), ("always", [notice().rule, "run_succeeded"])):
        settings = load_settings(None, notify={**webhook, "on": on})
        tell_run(settings, "p", NOW, run, None)
        assert taking.taken == told
