"""What the service tells Prometheus, in its log, and in the headers of every response."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from llm_engineering.application.ports import NullTracer
from llm_engineering.application.ports.observability import Recorder, Trace
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.retrieval import Usage
from llm_engineering.infrastructure.api.metrics import MeasuringTracer, ServiceMetrics
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.operated_service import OperatedService, eventually, metric
from tests.fakes.service import ANSWER, QUESTION, serving

ASK = {"query": QUESTION}
NAMES = {
    "twin_requests_total": {"route", "method", "status"},
    "twin_request_seconds": {"route"},
    "twin_requests_in_progress": set(),
    "twin_requests_queued": set(),
    "twin_requests_rejected_total": {"reason"},
    "twin_stage_seconds": {"stage"},
    "twin_time_to_first_token_seconds": set(),
    "twin_tokens_per_second": set(),
    "twin_tokens_total": {"kind", "model"},
    "twin_cost_usd_total": {"model"},
    "twin_answers_total": {"outcome"},
    "twin_degradations_total": {"stage"},
    "twin_feedback_total": {"rating"},
    "twin_dependency_up": {"dependency"},
    "twin_summary_votes": {"rating"},
    "twin_summary_supported_share": {"variant"},
    "twin_review_drift": {"feature"},
    "twin_review_alarm": {"feature"},
    "twin_summaries_paused": set(),
    "twin_ready": set(),
    "twin_cpu_limit": set(),
    "twin_errors_total": {"kind"},
}


@pytest.fixture
def model() -> ScriptedLanguageModel:
    return ScriptedLanguageModel(default=ANSWER)


@pytest.fixture
def client(tmp_path: Path, model: ScriptedLanguageModel) -> Iterator[httpx.Client]:
    with serving(OperatedService(tmp_path, model).app) as url, httpx.Client(base_url=url) as client:
        eventually(lambda: client.get("/health/ready").status_code == 200)
        yield client


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_names_and_labels_are_those_that_dashboards_and_alerts_are_made_for() -> None:
    metrics = ServiceMetrics()
    found = {}
    for one in vars(metrics).values():
        if hasattr(one, "_labelnames"):
            total = "_total" if one._type == "counter" else ""
            found[f"{one._name}{total}"] = set(one._labelnames)
    assert found == NAMES
    text = metrics.render()[0].decode()
    for name in NAMES:
        assert f"# HELP {name} " in text
    assert "_created" not in text
    assert "process_resident_memory_bytes" in text


def test_two_services_in_one_process_count_apart() -> None:
    one, other = ServiceMetrics(), ServiceMetrics()
    one.count_vote("up")
    assert one.registry.get_sample_value("twin_feedback_total", {"rating": "up"}) == 1
    assert other.registry.get_sample_value("twin_feedback_total", {"rating": "up"}) == 0


def test_prometheus_and_openmetrics_are_both_spoken() -> None:
    metrics = ServiceMetrics()
    assert metrics.render("text/plain")[1].startswith("text/plain")
    body, kind = metrics.render("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


# --- what is counted --------------------------------------------------------------------------------------------------


def test_an_answer_is_counted_with_its_stages_tokens_and_outcome(client: httpx.Client) -> None:
    result = client.post("/rag", json=ASK).raise_for_status().json()
    usage = result["answer"]["usage"]
    eventually(lambda: metric(client, "twin_requests_total", route="/rag", method="POST", status="200") == 1)
    assert metric(client, "twin_request_seconds_count", route="/rag") == 1
    outcome = "quoted" if result["answer"]["quoted"] else "answered"
    assert metric(client, "twin_answers_total", outcome=outcome) == 1
    assert metric(client, "twin_tokens_total", kind="prompt", model="scripted") == usage["prompt_tokens"] > 0
    assert (
        metric(client, "twin_tokens_total", kind="completion", model="scripted") == usage["completion_tokens"]
    )
    assert metric(client, "twin_time_to_first_token_seconds_count") == 1
    assert metric(client, "twin_tokens_per_second_count") == 1
    for stage in set(result["timings"]) - {"total", "first_token"}:
        assert metric(client, "twin_stage_seconds_count", stage=stage) == 1, stage


def test_a_vote_is_counted_once_it_is_kept(client: httpx.Client) -> None:
    trace = client.post("/rag", json=ASK).json()["trace_id"]
    assert client.post("/feedback", json={"trace_id": trace, "rating": "down"}).is_success
    assert client.post("/feedback", json={"trace_id": "unknown", "rating": "down"}).status_code == 404
    assert metric(client, "twin_feedback_total", rating="down") == 1
    assert metric(client, "twin_feedback_total", rating="up") == 0


@pytest.mark.parametrize("path", ["/rag", "/rag/stream"])
def test_a_failed_answer_is_counted_with_what_failed(
    client: httpx.Client, model: ScriptedLanguageModel, path: str
) -> None:
    model.queue(Reply(ANSWER, fail_after=0))
    client.post(path, json=ASK)
    assert metric(client, "twin_answers_total", outcome="failed") == 1
    assert metric(client, "twin_errors_total", kind="ModelServiceError") == 1


def test_a_question_that_cannot_be_used_is_no_failure_of_the_service(client: httpx.Client) -> None:
    assert client.post("/rag", json={"query": " "}).status_code == 422
    assert client.post("/rag", json={"query": QUESTION, "filter": {"authors": ["Nobody"]}}).status_code == 422
    eventually(lambda: metric(client, "twin_requests_total", route="/rag", method="POST", status="422") == 2)
    assert metric(client, "twin_answers_total", outcome="failed") == 0
    assert "twin_errors_total{" not in client.get("/metrics").text


def test_paths_methods_and_queries_that_callers_invent_make_no_series(client: httpx.Client) -> None:
    def series() -> int:
        return sum(line.startswith("twin_") for line in client.get("/metrics").text.splitlines())

    client.get("/nothing-0")
    client.request("PURGE", "/rag")
    client.get("/page/nothing-0.js")
    eventually(
        lambda: metric(client, "twin_requests_total", route="/page/{name}", method="GET", status="404") == 1
    )
    before = series()
    for number in range(50):
        client.get(f"/nothing-{number}")
        client.get(f"/page/nothing-{number}.js?x={number}")
        client.request(("PURGE", "PROPFIND", "MKCOL")[number % 3], "/rag")
    eventually(
        lambda: metric(client, "twin_requests_total", route="unknown", method="GET", status="404") == 51
    )
    assert series() == before
    assert metric(client, "twin_requests_total", route="/rag", method="OTHER", status="405") == 51


# --- what traces tell -------------------------------------------------------------------------------------------------


def traced(**attributes: Any) -> Trace:
    recorder = Recorder("rag")
    with recorder.record_span("expand", "llm") as span:
        span.model, span.usage = "big", Usage(prompt_tokens=10, completion_tokens=5, cost_usd=0.25)
    with recorder.record_span("generate", "llm") as span:
        span.model, span.usage = "big", Usage(prompt_tokens=100, completion_tokens=50, cost_usd=0.5)
    trace = recorder.finish()
    trace.attributes |= attributes
    return trace


def value(metrics: ServiceMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_all_calls_of_the_model_are_paid_for_not_only_the_answers() -> None:
    metrics = ServiceMetrics()
    MeasuringTracer(NullTracer(), metrics).record(traced())
    assert value(metrics, "twin_tokens_total", kind="prompt", model="big") == 110
    assert value(metrics, "twin_tokens_total", kind="completion", model="big") == 55
    assert value(metrics, "twin_cost_usd_total", model="big") == 0.75
    assert value(metrics, "twin_stage_seconds_count", stage="expand") == 1


@pytest.mark.parametrize(
    ("attributes", "outcome"),
    [
        ({}, "answered"),
        ({"quoted": True}, "quoted"),
        ({"abstained": True}, "abstained"),
        ({"finish_reason": "length"}, "answered"),
    ],
)
def test_how_an_answer_ended(attributes: dict[str, Any], outcome: str) -> None:
    metrics = ServiceMetrics()
    metrics.count_trace(traced(**attributes))
    assert value(metrics, "twin_answers_total", outcome=outcome) == 1


def test_stages_that_failed_without_failing_the_request_are_degradations() -> None:
    metrics = ServiceMetrics()
    metrics.count_trace(traced(failed_stages=["dense", "rerank"]))
    assert value(metrics, "twin_degradations_total", stage="dense") == 1
    assert value(metrics, "twin_degradations_total", stage="rerank") == 1
    assert value(metrics, "twin_answers_total", outcome="answered") == 1


def test_an_answer_that_nobody_waited_for_is_neither_an_answer_nor_a_failure() -> None:
    metrics = ServiceMetrics()
    recorder = Recorder("rag")
    metrics.count_trace(recorder.finish("cancelled", GeneratorExit()))
    metrics.count_trace(Recorder("search").finish("failed", ModelServiceError("x")))
    assert sum(value(metrics, "twin_answers_total", outcome=o) for o in ("answered", "failed", "quoted")) == 0
    assert value(metrics, "twin_errors_total", kind="ModelServiceError") == 1
    assert value(metrics, "twin_errors_total", kind="GeneratorExit") == 0


def test_models_have_a_label_each_until_there_are_too_many() -> None:
    metrics = ServiceMetrics()
    for number in range(100):
        trace = traced()
        for span in trace.spans:
            span.model = f"model-{number}"
        metrics.count_trace(trace)
    labels = set(re.findall(r'model="([^"]+)"', metrics.render()[0].decode()))
    assert len(labels) == 33
    assert "other" in labels


def test_a_tracer_behind_gets_every_trace() -> None:
    kept: list[Trace] = []

    class Keeping(NullTracer):
        def record(self, trace: Trace) -> None:
            kept.append(trace)

    trace = traced()
    MeasuringTracer(Keeping(), ServiceMetrics()).record(trace)
    assert kept == [trace]


# --- ids, headers, log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["abc-123", "A.b_c-9", "x" * 64])
def test_a_callers_request_id_is_kept(client: httpx.Client, given: str) -> None:
    assert client.get("/info", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "é", "<script>", '"; drop', "-x", "a\tb"])
def test_a_request_id_that_would_spoil_a_log_is_replaced(client: httpx.Client, given: str) -> None:
    made = client.get("/info", headers={b"X-Request-ID": given.encode("latin-1")}).headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)


def test_every_response_has_an_id_of_its_own_and_an_error_repeats_it(client: httpx.Client) -> None:
    responses = [client.get("/info"), client.get("/nothing"), client.post("/rag", content=b"{")]
    assert len({response.headers["X-Request-ID"] for response in responses}) == 3
    for response in responses[1:]:
        assert response.json()["error"]["request_id"] == response.headers["X-Request-ID"]
        assert len(response.headers.get_list("X-Request-ID")) == 1


@pytest.mark.parametrize("path", ["/", "/info", "/nothing", "/health/live", "/metrics"])
def test_every_response_has_safe_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] in ("no-store", "no-cache")
    assert "server" not in headers or "uvicorn" in headers["server"]  # the tests' own server; ours names none


def test_the_log_tells_how_not_what(client: httpx.Client) -> None:
    records: list[dict[str, Any]] = []
    sink = logger.add(lambda message: records.append(dict(message.record)), level="INFO")
    try:
        client.post("/rag?secret=1", json=ASK, headers={"X-Request-ID": "req-1"})
        client.get("/health/live")
        client.get("/nothing?secret=1", headers={"X-Request-ID": "req-2"})
        eventually(lambda: any(record["extra"].get("request_id") == "req-2" for record in records))
    finally:
        logger.remove(sink)
    lines = [record for record in records if "route" in record["extra"]]
    assert [line["message"].partition(" ·")[0] for line in lines] == ["POST /rag 200", "GET unknown 404"]
    extra = lines[0]["extra"]
    assert extra["request_id"] == "req-1"
    assert extra["method"] == "POST"
    assert extra["ms"] > 0
    written = json.dumps([line["extra"] for line in lines]) + "".join(line["message"] for line in lines)
    assert "secret" not in written
    assert "overlap" not in written


def test_what_fails_unexpectedly_is_told_without_its_inside(tmp_path: Path) -> None:
    class Broken(ScriptedLanguageModel):
        def stream(self, *_: Any) -> Any:
            raise ZeroDivisionError("a secret of the inside")

    with serving(OperatedService(tmp_path, Broken()).app) as url, httpx.Client(base_url=url) as client:
        response = client.post("/rag", json=ASK)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal"
        assert "secret" not in response.text
        assert "ZeroDivision" not in response.text
        assert metric(client, "twin_errors_total", kind="ZeroDivisionError") == 1
