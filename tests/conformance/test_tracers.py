"""Tracers: the fake, JSON Lines in a real file, Opik's own SDK against a server that speaks its REST API, and OTLP."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from loguru import logger

from llm_engineering.application.llm.prompts import Template, list_prompts
from llm_engineering.application.ports import Tracer
from llm_engineering.domain.errors import (
    ConfigurationError,
    MissingDependencyError,
    StoreError,
    StoreUnavailableError,
)
from llm_engineering.infrastructure.tracing.jsonl import JsonLinesTracer
from llm_engineering.infrastructure.tracing.opik import OpikPromptLibrary, OpikTracer, time_ordered_id
from llm_engineering.infrastructure.tracing.otlp import OtlpTracer
from tests.conformance.tracer_contract import Kept, TracerContract, request
from tests.durations import allow
from tests.fakes.opik_server import OpikServer
from tests.fakes.otlp_server import OtlpServer
from tests.fakes.tracer import RecordingTracer
from tests.services import fill, free_port, small_disk

__all__ = ["small_disk"]
needs_opik = pytest.mark.skipif(find_spec("opik") is None, reason="needs the group observability")

needs_otlp = pytest.mark.skipif(
    find_spec("opentelemetry.exporter") is None, reason="needs the group observability"
)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is logged from WARNING on."""
    seen: list[str] = []
    sink = logger.add(lambda message: seen.append(str(message)), level="WARNING", format="{message}")
    yield seen
    logger.remove(sink)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


class TestRecordingTracer(TracerContract):
    @pytest.fixture
    def tracer(self) -> RecordingTracer:
        return RecordingTracer()

    @pytest.fixture
    def kept(self, tracer: RecordingTracer) -> Kept:
        return lambda: [trace.id for trace in tracer.traces]


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = path.read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.split("\n") if line]


class TestJsonLinesTracer(TracerContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "deep" / "traces.jsonl"

    @pytest.fixture
    def tracer(self, path: Path) -> JsonLinesTracer:
        return JsonLinesTracer(path)

    @pytest.fixture
    def kept(self, path: Path) -> Kept:
        return lambda: [line["id"] for line in lines(path)]

    def test_a_line_holds_all_there_is_to_know_as_json(self, tracer: Tracer, path: Path) -> None:
        tracer.record(request())
        tracer.close()
        (line,) = lines(path)
        assert (line["name"], line["status"], line["seconds"]) == ("rag", "ok", 1.61)
        assert line["started_at"] == "2026-05-04T03:02:01.987654+00:00"
        assert line["attributes"]["sources"] == ["d1", "d2"]
        search, guard, generate = line["spans"]
        assert search["attributes"] == {"hits": 3, "best": None}
        assert guard["error"] == "ValueError: bad ?"
        assert generate["usage"] == {"prompt_tokens": 100, "completion_tokens": 20, "cost_usd": 0.0012}
        assert generate["inputs"] == {"question": "Why is the sky blue? ? \x00"}

    def test_only_its_owner_may_read_the_file(self, tracer: Tracer, path: Path) -> None:
        tracer.record(request())
        tracer.close()
        assert path.stat().st_mode & 0o077 == 0

    def test_two_processes_may_share_a_file(self, path: Path) -> None:
        tracers = [JsonLinesTracer(path), JsonLinesTracer(path)]
        for number in range(100):
            tracers[number % 2].record(request(f"t{number}"))
        for tracer in tracers:
            tracer.close()
        assert len({line["id"] for line in lines(path)}) == 100

    def test_of_all_requests_the_chosen_share_is_kept_and_every_failed_one(self, path: Path) -> None:
        tracer = JsonLinesTracer(path, sample=0.25)
        for number in range(1_000):
            tracer.record(request(f"t{number}", spans=[]))
        for number in range(20):
            tracer.record(request(f"f{number}", status="failed", spans=[]))
        tracer.close()
        kept = [line["id"] for line in lines(path)]
        assert 180 <= sum(name.startswith("t") for name in kept) <= 320
        assert sum(name.startswith("f") for name in kept) == 20

    def test_a_file_that_cannot_be_written_costs_one_warning(
        self, tmp_path: Path, warnings: list[str]
    ) -> None:
        (tmp_path / "taken").write_text("a file, where a folder is wanted")
        tracer = JsonLinesTracer(tmp_path / "taken" / "traces.jsonl")
        for number in range(10):
            tracer.record(request(f"t{number}"))
            until(lambda number=number: tracer.dropped == number + 1)  # type: ignore[misc]
        tracer.close()
        assert len(warnings) == 1
        assert "Requests go on" in warnings[0]

    def test_a_full_disk_spoils_no_line_that_is_written_later(
        self, small_disk: Path, warnings: list[str]
    ) -> None:
        path = small_disk / "traces.jsonl"
        tracer = JsonLinesTracer(path)
        tracer.record(request("before"))
        until(lambda: path.exists() and path.stat().st_size)
        filler = fill(small_disk)
        huge = {"question": "x" * 3_000_000}
        tracer.record(request("lost", inputs=huge))
        until(lambda: tracer.dropped == 1)
        filler.unlink()
        tracer.record(request("after"))
        tracer.close()
        whole = [line for line in path.read_text(encoding="utf-8").split("\n") if line.endswith("}")]
        assert [json.loads(line)["id"] for line in whole] == ["before", "after"]
        assert len(warnings) == 1


@pytest.fixture
def server() -> Iterator[OpikServer]:
    with OpikServer() as server:
        yield server


@pytest.fixture
def opik(server: OpikServer) -> OpikTracer:
    tracer = OpikTracer(server.base_url, "opik-secret-key", "team", "my-twin")
    tracer.open()
    return tracer


@needs_opik
class TestOpikTracer(TracerContract):
    @pytest.fixture
    def tracer(self, opik: OpikTracer) -> OpikTracer:
        return opik

    @pytest.fixture
    def kept(self, server: OpikServer) -> Kept:
        return lambda: [trace["metadata"]["trace_id"] for trace in server.traces.values()]

    def test_a_request_is_a_trace_and_each_of_its_stages_a_span(
        self, tracer: OpikTracer, server: OpikServer
    ) -> None:
        tracer.record(request("abc", inputs={"question": "q"}, outputs={"answer": "a"}))
        tracer.close()
        (trace,) = server.traces.values()
        assert (trace["name"], trace["project_name"], trace["tags"]) == ("rag", "my-twin", ["ok"])
        assert (trace["input"], trace["output"]) == ({"question": "q"}, {"answer": "a"})
        assert trace["metadata"] == {
            "trace_id": "abc",
            "status": "ok",
            "abstained": False,
            "sources": ["d1", "d2"],
            "at": "2026-05-04T00:00:00+00:00",
        }
        assert server.headers["authorization"] == "opik-secret-key"
        assert server.headers["comet-workspace"] == "team"
        spans = {span["name"]: span for span in server.spans.values()}
        assert {name: span["type"] for name, span in spans.items()} == {
            "search": "tool",
            "input_guard": "guardrail",
            "generate": "llm",
        }
        assert {span["trace_id"] for span in spans.values()} == {trace["id"]}
        guard, generate = spans["input_guard"], spans["generate"]
        assert guard["error_info"]["exception_type"] == "ValueError"
        assert guard["error_info"]["message"] == "bad ?"
        assert generate["model"] == "tiny"
        assert generate["usage"] == {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        assert generate["total_estimated_cost"] == 0.0012
        assert generate["metadata"] == {"prompt_hash": "abc123"}
        seconds = [datetime.fromisoformat(generate[name]).timestamp() for name in ("start_time", "end_time")]
        assert seconds[1] - seconds[0] == pytest.approx(1.5, abs=0.001)

    def test_without_content_none_is_sent(self, tracer: OpikTracer, server: OpikServer) -> None:
        trace = request("abc", status="failed", error="ModelServiceError")
        for span in trace.spans:
            span.inputs.clear()
            span.outputs.clear()
        tracer.record(trace)
        tracer.close()
        sent = json.dumps([*server.traces.values(), *server.spans.values()])
        assert "sky" not in sent
        assert "Scattering" not in sent
        (kept,) = server.traces.values()
        assert kept["error_info"] == {
            "exception_type": "ModelServiceError",
            "message": None,
            "traceback": "",
        } or kept["error_info"] == {"exception_type": "ModelServiceError", "traceback": ""}

    def test_large_batches_are_sent_in_portions(self, tracer: OpikTracer, server: OpikServer) -> None:
        for number in range(100):
            trace = request(f"t{number}")
            trace.spans[2].outputs["text"] = "x" * 100_000
            tracer.record(trace)
        tracer.close()
        assert len(server.spans) == 300
        assert sum(path.endswith("spans/batch") for path in server.calls) >= 5

    @pytest.mark.parametrize("status", [401, 429, 500])
    def test_a_server_that_fails_costs_one_warning_that_says_why_and_no_secret(
        self, server: OpikServer, opik: OpikTracer, warnings: list[str], status: int
    ) -> None:
        server.status = status
        for number in range(5):
            opik.record(request(f"t{number}"))
            until(lambda number=number: opik.dropped == number + 1)  # type: ignore[misc]
        server.status = None
        opik.record(request("after"))
        opik.close()
        assert [trace["metadata"]["trace_id"] for trace in server.traces.values()] == ["after"]
        assert len(warnings) == 1
        assert f"answered {status}" in warnings[0]
        assert "opik-secret-key" not in warnings[0]

    def test_a_server_that_hangs_holds_nothing_up(self, server: OpikServer, warnings: list[str]) -> None:
        opik = OpikTracer(server.base_url, None, "default", "p", close_seconds=0.5)
        opik.open()
        server.hang = True
        started = time.monotonic()
        for number in range(3_000):
            opik.record(request(f"t{number}", spans=[]))
        assert time.monotonic() - started < allow(2)
        opik.close()
        assert time.monotonic() - started < allow(4)
        assert opik.dropped > 2_500
        assert any("too slow" in warning for warning in warnings)

    def test_a_server_that_is_not_there_holds_nothing_up(self, warnings: list[str]) -> None:
        opik = OpikTracer(f"http://user:pass-word@127.0.0.1:{free_port()}/api", None, "default", "p")
        opik.open()
        opik.record(request())
        opik.close()
        assert opik.dropped == 1
        assert "cannot be reached" in warnings[0]
        assert "pass-word" not in "".join(warnings)

    @pytest.mark.slow
    def test_the_sdk_tells_nobody_else_and_prints_nothing(self, server: OpikServer, tmp_path: Path) -> None:
        """Every connection of the process is counted, below Python's own resolver."""
        code = (
            "import os, socket, sys\n"
            "asked = []\n"
            "real = socket.getaddrinfo\n"
            "def asking(host, *rest, **more):\n"
            "    asked.append(host)\n"
            "    return real(host, *rest, **more)\n"
            "socket.getaddrinfo = asking\n"
            "from loguru import logger\n"
            "logger.remove()\n"
            "from llm_engineering.infrastructure.tracing.opik import OpikPromptLibrary, OpikTracer\n"
            "from llm_engineering.application.llm.prompts import Template\n"
            "from llm_engineering.application.ports.observability import Trace\n"
            "tracer = OpikTracer(sys.argv[1], None, 'default', 'p')\n"
            "tracer.open()\n"
            "tracer.record(Trace('rag'))\n"
            "tracer.close()\n"
            "library = OpikPromptLibrary(sys.argv[1], None, 'default', 'p')\n"
            "library.push([Template('answer', 1, 'Hi {{ name }}', ('name',))])\n"
            "library.close()\n"
            "import threading, time\n"
            "time.sleep(1)\n"
            "assert set(asked) == {'127.0.0.1'}, asked\n"
            "import sentry_sdk\n"
            "assert not sentry_sdk.get_client().is_active()\n"
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPIK_")}
        done = subprocess.run(
            [sys.executable, "-c", code, server.base_url],
            capture_output=True,
            timeout=120,
            check=False,
            env={**environment, "HOME": str(tmp_path)},
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert len(server.traces) == 1
        assert len(server.prompts["answer"]) == 1


@pytest.fixture
def receiver() -> Iterator[OtlpServer]:
    with OtlpServer() as server:
        yield server


@pytest.fixture
def otlp(receiver: OtlpServer) -> OtlpTracer:
    tracer = OtlpTracer(receiver.endpoint, "Authorization=Bearer%20otlp-secret-key", "my-twin")
    tracer.open()
    return tracer


@needs_otlp
class TestOtlpTracer(TracerContract):
    @pytest.fixture
    def tracer(self, otlp: OtlpTracer) -> OtlpTracer:
        return otlp

    @pytest.fixture
    def kept(self, receiver: OtlpServer) -> Kept:
        return lambda: [span["attributes"]["llm_twin.trace_id"] for span in receiver.roots]

    def test_a_request_is_a_span_and_its_stages_are_its_children(
        self, tracer: OtlpTracer, receiver: OtlpServer
    ) -> None:
        tracer.record(request("abc", inputs={"question": "q"}, outputs={"answer": "a"}))
        tracer.close()
        (root,) = receiver.roots
        assert root["name"] == "rag"
        assert root["attributes"] == {
            "llm_twin.trace_id": "abc",
            "llm_twin.status": "ok",
            "llm_twin.abstained": False,
            "llm_twin.sources": '["d1", "d2"]',
            "llm_twin.at": "2026-05-04T00:00:00+00:00",
            "input.value": '{"question": "q"}',
            "output.value": '{"answer": "a"}',
        }
        assert root["end"] - root["start"] == pytest.approx(1.61e9, abs=1e6)
        assert receiver.headers["authorization"] == "Bearer otlp-secret-key"
        assert receiver.services == {"my-twin"}
        stages = {span["name"]: span for span in receiver.spans.values() if span is not root}
        assert set(stages) == {"search", "input_guard", "generate"}
        assert {(span["trace"], span["parent"]) for span in stages.values()} == {(root["trace"], root["id"])}
        assert stages["input_guard"]["status"] == (2, "ValueError: bad ?")
        assert stages["input_guard"]["attributes"]["error.type"] == "ValueError"
        generate = stages["generate"]
        assert generate["end"] - generate["start"] == pytest.approx(1.5e9, abs=1e6)
        assert (
            generate["attributes"]
            | {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "tiny",
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.output_tokens": 20,
                "llm_twin.cost_usd": 0.0012,
                "llm_twin.prompt_hash": "abc123",
            }
            == generate["attributes"]
        )

    def test_without_content_none_is_sent(self, tracer: OtlpTracer, receiver: OtlpServer) -> None:
        trace = request("abc", status="failed", error="ModelServiceError")
        for span in trace.spans:
            span.inputs.clear()
            span.outputs.clear()
        tracer.record(trace)
        tracer.close()
        assert "sky" not in str(receiver.spans)
        assert "Scattering" not in str(receiver.spans)
        assert receiver.roots[0]["status"] == (2, "ModelServiceError")

    def test_what_is_sent_twice_is_one(self, tracer: OtlpTracer, receiver: OtlpServer) -> None:
        for _ in range(2):
            tracer.record(request("abc"))
        tracer.close()
        assert len(receiver.spans) == 4

    def test_large_batches_are_sent_in_portions(self, tracer: OtlpTracer, receiver: OtlpServer) -> None:
        for number in range(100):
            tracer.record(request(f"t{number}"))
        tracer.close()
        assert sum(receiver.calls) == 400
        assert max(receiver.calls) <= 250

    @pytest.mark.slow
    @pytest.mark.parametrize("status", [401, 500])
    def test_a_receiver_that_fails_costs_one_warning_that_says_why_and_no_secret(
        self, receiver: OtlpServer, otlp: OtlpTracer, warnings: list[str], status: int
    ) -> None:
        receiver.status = status
        for number in range(3):
            otlp.record(request(f"t{number}"))
            until(lambda number=number: otlp.dropped == number + 1)  # type: ignore[misc]
        receiver.status = None
        otlp.record(request("after"))
        otlp.close()
        assert [span["attributes"]["llm_twin.trace_id"] for span in receiver.roots] == ["after"]
        assert len(warnings) == 1
        assert f"answered {status}" in warnings[0]
        assert "otlp-secret-key" not in warnings[0]

    def test_a_receiver_that_hangs_holds_nothing_up(self, receiver: OtlpServer, warnings: list[str]) -> None:
        otlp = OtlpTracer(receiver.endpoint, close_seconds=0.5)
        otlp.open()
        receiver.hang = True
        started = time.monotonic()
        for number in range(3_000):
            otlp.record(request(f"t{number}", spans=[]))
        otlp.close()
        assert time.monotonic() - started < allow(4)
        receiver.hang = False
        assert otlp.dropped > 2_500
        assert any("too slow" in warning for warning in warnings)

    def test_a_receiver_that_is_not_there_costs_a_warning(self, warnings: list[str]) -> None:
        otlp = OtlpTracer(f"http://user:pass-word@127.0.0.1:{free_port()}/v1/traces", close_seconds=20)
        otlp.record(request())
        otlp.close()
        assert otlp.dropped == 1
        assert "cannot be reached" in warnings[0]
        assert "pass-word" not in "".join(warnings)

    def test_headers_that_cannot_be_read_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="NAME=VALUE"):
            OtlpTracer("http://127.0.0.1:4318/v1/traces", "Bearer abc")


def prompt(name: str, version: int, text: str = "Hi {{ name }}") -> Template:
    return Template(name, version, text, ("name",))


@needs_opik
class TestOpikPromptLibrary:
    @pytest.fixture
    def library(self, server: OpikServer) -> Iterator[OpikPromptLibrary]:
        with closing(OpikPromptLibrary(server.base_url, None, "default", "my-twin")) as library:
            yield library

    def test_a_version_is_pushed_once_however_often_it_is_tried(
        self, server: OpikServer, library: OpikPromptLibrary
    ) -> None:
        first = [prompt("answer", 2, "Hello {{ name }}"), prompt("answer", 1), prompt("expand", 1)]
        assert library.push(first) == [first[1], first[0], first[2]]
        assert library.push(first) == []
        newer = prompt("answer", 3, "Good day {{ name }}")
        assert library.push([*first, newer]) == [newer]
        assert [version["metadata"]["version"] for version in server.prompts["answer"]] == [1, 2, 3]
        assert {version["type"] for version in server.prompts["answer"]} == {"jinja2"}
        assert server.prompts["answer"][2]["template"] == newer.text
        assert server.prompts["answer"][2]["metadata"]["hash"] == newer.hash

    def test_what_somebody_wrote_in_opik_itself_stands(
        self, server: OpikServer, library: OpikPromptLibrary
    ) -> None:
        library.push([prompt("answer", 1)])
        server.prompts["answer"].append({**server.prompts["answer"][0], "metadata": None, "template": "Mine"})
        assert library.push([prompt("answer", 1)]) == []
        assert [version["template"] for version in server.prompts["answer"]] == ["Hi {{ name }}", "Mine"]

    @pytest.mark.slow
    def test_more_versions_than_a_page_holds_are_all_known(
        self, server: OpikServer, library: OpikPromptLibrary
    ) -> None:
        many = [prompt("answer", number, f"{number}") for number in range(1, 206)]
        assert len(library.push(many)) == 205
        assert library.push(many) == []

    def test_all_the_prompts_of_the_project_can_be_pushed(
        self, server: OpikServer, library: OpikPromptLibrary
    ) -> None:
        assert library.push(list_prompts()) == list_prompts() != []

    def test_a_failing_server_is_one_clear_error(
        self, server: OpikServer, library: OpikPromptLibrary
    ) -> None:
        server.status = 401
        with pytest.raises(StoreError, match=r"answered 401.*TRACING_API_KEY"):
            library.push([prompt("answer", 1)])
        address = f"http://127.0.0.1:{free_port()}/api"
        with (
            closing(OpikPromptLibrary(address, None, "default", "my-twin")) as gone,
            pytest.raises(StoreUnavailableError, match="TRACING_URL"),
        ):
            gone.push([prompt("answer", 1)])


def test_without_the_sdk_the_group_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="--with observability"):
        OpikTracer(None, None, "default", "p")
    with pytest.raises(MissingDependencyError, match="--with observability"):
        OtlpTracer("http://127.0.0.1:4318/v1/traces")


def test_ids_are_version_7_sort_by_time_and_are_the_same_each_time() -> None:
    early, late = (datetime(2026, 5, day, tzinfo=UTC) for day in (4, 5))
    assert time_ordered_id(early, "a") == time_ordered_id(early, "a") != time_ordered_id(early, "b")
    assert time_ordered_id(early, "z") < time_ordered_id(late, "a")
    identifier = UUID(time_ordered_id(early, "a"))
    assert (identifier.version, identifier.variant) == (7, "specified in RFC 4122")
    assert identifier.int >> 80 == int(early.timestamp() * 1000)
