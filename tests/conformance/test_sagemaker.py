"""SageMaker's runtime API, spoken by boto3 over HTTP to an emulator that checks signatures and frames events as AWS does."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

if find_spec("boto3") is None:
    pytest.skip("needs boto3: the group aws, or dev", allow_module_level=True)

from llm_engineering.application.ports import GenerationOptions, LanguageModel
from llm_engineering.domain.errors import InvalidInputError, MissingDependencyError, ModelServiceError
from llm_engineering.infrastructure.llms.sagemaker import SageMakerModel
from tests.conformance.llm_contract import (
    CONTEXT_WORDS,
    QUESTION,
    SHORT,
    SKY,
    HttpModelContract,
    ModelService,
    read,
    scripted_reply,
    text_of,
    until,
)
from tests.fakes.sagemaker_server import ACCOUNT, KEY_ID, SECRET, Fault, SageMakerServer
from tests.services import free_port


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dummy credentials, and none of this machine's own configuration."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(params=["events", "json lines"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerServer]:
    with SageMakerServer(seconds_per_piece=0.002, json_lines=request.param == "json lines") as server:
        server.default_reply = lambda messages: scripted_reply(messages[-1]["content"])
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


only_events = pytest.mark.parametrize("server", ["events"], indirect=True)


class _SageMakerService:
    """The emulator, as the contract wants it."""

    def __init__(self, server: SageMakerServer) -> None:
        self._server = server

    def fail(
        self, kind: str, *, status: int = 500, headers: Mapping[str, str] | None = None, pieces: int = 0
    ) -> None:
        codes = {429: "ThrottlingException", 503: "ServiceUnavailable"}
        kind = "aws" if kind == "status" else kind
        fault = Fault(
            kind, status, codes.get(status, "InternalFailure"), headers=headers or {}, pieces=pieces
        )  # type: ignore[arg-type]
        self._server.faults.append(fault)

    def run_script(self, reply: str) -> None:
        self._server.replies.append(reply)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request.body for request in self._server.requests]

    @property
    def broken_off(self) -> bool:
        return any(request.broken_off for request in self._server.requests)


class TestSageMakerModel(HttpModelContract):
    @pytest.fixture
    async def model(self, server: SageMakerServer, waits: list[float]) -> AsyncIterator[LanguageModel]:
        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        model = SageMakerModel(
            "twin",
            region="eu-west-1",
            model="tiny",
            context_tokens=CONTEXT_WORDS,
            timeout_seconds=0.5,
            max_retries=2,
            prompt_price=1.0,
            completion_price=2.0,
            sleep=sleep,
        )
        yield model
        await model.close()

    @pytest.fixture
    async def gone(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LanguageModel]:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        model = SageMakerModel("twin", region="eu-west-1", max_retries=0)
        yield model
        await model.close()

    @pytest.fixture
    def service(self, server: SageMakerServer) -> ModelService:
        return _SageMakerService(server)

    @only_events
    @pytest.mark.parametrize(
        "fault",
        [
            Fault("aws", 429, "ModelNotReadyException"),
            Fault("aws", 530, "InternalDependencyException"),
            Fault("model", 503, message='{"error": {"message": "overloaded"}}'),
            Fault("exception", code="InternalStreamFailure"),
            Fault("exception", code="ModelStreamError"),
            Fault("garbled"),
        ],
        ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.code}",
    )
    async def test_what_may_pass_is_tried_again(
        self, model: LanguageModel, server: SageMakerServer, fault: Fault
    ) -> None:
        server.faults.append(fault)
        assert text_of(await read(model, QUESTION, SHORT)) == SKY
        assert len(server.requests) == 2

    @only_events
    @pytest.mark.parametrize("kind", ["exception", "garbled"])
    async def test_a_stream_that_breaks_in_awss_own_ways_says_how_much_came(
        self, model: LanguageModel, server: SageMakerServer, kind: str
    ) -> None:
        server.faults.append(Fault(kind, code="ModelStreamError", pieces=3))  # type: ignore[arg-type]
        with pytest.raises(ModelServiceError, match="after 20 characters of the reply"):
            await read(model, QUESTION, SHORT)
        assert len(server.requests) == 1

    @only_events
    async def test_letters_beyond_ascii_survive_frames_cut_within_them(
        self, model: LanguageModel, server: SageMakerServer
    ) -> None:
        text = "Größe 😀 日本語のテキスト und mehr … " * 5
        server.replies.append(text)
        assert text_of(await read(model, QUESTION, GenerationOptions(max_tokens=100))) == text

    @only_events
    async def test_an_unknown_endpoint_is_not_tried_again_and_no_account_is_shown(
        self, server: SageMakerServer
    ) -> None:
        model = SageMakerModel("nowhere", region="eu-west-1")
        with pytest.raises(
            ModelServiceError, match=r"ValidationError: Endpoint nowhere.*LLM_ENDPOINT"
        ) as caught:
            await read(model, QUESTION, SHORT)
        await model.close()
        assert len(server.requests) == 1
        assert ACCOUNT not in str(caught.value)

    @only_events
    async def test_refused_credentials_are_not_shown(
        self, server: SageMakerServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
        model = SageMakerModel("twin", region="eu-west-1")
        with pytest.raises(ModelServiceError, match="403, InvalidSignatureException") as caught:
            await read(model, QUESTION, SHORT)
        await model.close()
        assert KEY_ID not in str(caught.value)
        assert len(server.requests) == 1

    @only_events
    async def test_a_containers_error_is_told_without_account_or_log_address(
        self, model: LanguageModel, server: SageMakerServer
    ) -> None:
        server.faults.append(Fault("model", 422, message=f"bad parameter in {ACCOUNT}"))
        with pytest.raises(ModelServiceError, match=r"with 422, ModelError: bad parameter in \(account\)"):
            await read(model, QUESTION, SHORT)

    @only_events
    async def test_the_limits_that_tgi_tells_of_are_the_callers_error(
        self, model: LanguageModel, server: SageMakerServer
    ) -> None:
        told = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"
        server.faults.append(Fault("model", 422, message=told))
        with pytest.raises(InvalidInputError, match="must be <= 4096"):
            await read(model, QUESTION, SHORT)

    @only_events
    async def test_a_component_of_an_endpoint_can_be_named(self, server: SageMakerServer) -> None:
        model = SageMakerModel("twin", "twin-component", "eu-west-1")
        assert model.name == "twin"
        assert text_of(await read(model, QUESTION, SHORT)) == SKY
        await model.close()
        assert server.requests[0].headers["x-amzn-sagemaker-inference-component"] == "twin-component"

    @only_events
    async def test_connections_are_used_again(self, model: LanguageModel, server: SageMakerServer) -> None:
        for _ in range(5):
            await read(model, QUESTION, SHORT)
            await asyncio.sleep(0.05)
        assert len(server.connections) == 1

    @only_events
    async def test_leaving_before_the_answer_begins_waits_for_nothing(
        self, model: LanguageModel, server: SageMakerServer
    ) -> None:
        server.faults.append(Fault("hang"))
        task = asyncio.create_task(read(model, QUESTION, SHORT))
        await until(lambda: bool(server.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 0.3)

    @only_events
    def test_one_model_serves_one_event_loop_after_another(self, server: SageMakerServer) -> None:
        model = SageMakerModel("twin", region="eu-west-1")

        async def once() -> None:
            assert text_of(await read(model, QUESTION, SHORT)) == SKY
            await model.close()

        asyncio.run(once())
        asyncio.run(once())


class TestWithoutStreaming:
    """A container that cannot stream: the whole reply in one piece, with the same errors."""

    @pytest.fixture
    async def model(self, server: SageMakerServer) -> AsyncIterator[LanguageModel]:
        async def sleep(seconds: float) -> None: ...

        model = SageMakerModel(
            "twin", region="eu-west-1", stream=False, timeout_seconds=0.5, max_retries=1, sleep=sleep,
            prompt_price=1.0, completion_price=2.0,
        )  # fmt: skip
        yield model
        await model.close()

    @only_events
    async def test_the_reply_comes_whole_with_reason_usage_and_cost(
        self, model: LanguageModel, server: SageMakerServer
    ) -> None:
        deltas = await read(model, QUESTION, SHORT)
        assert [delta.text for delta in deltas] == [SKY, ""]
        assert deltas[-1].finish_reason == "stop"
        assert deltas[-1].usage is not None
        assert deltas[-1].usage.cost_usd == pytest.approx((deltas[-1].usage.prompt_tokens + 2 * 9) / 1e6)
        assert server.requests[0].path == "/endpoints/twin/invocations"
        assert "stream" not in server.requests[0].body

    @only_events
    @pytest.mark.parametrize("fault", [Fault("aws", 503), Fault("cut"), Fault("hang"), Fault("model", 500)])
    async def test_failures_are_tried_again(
        self, model: LanguageModel, server: SageMakerServer, fault: Fault
    ) -> None:
        server.faults.append(fault)
        assert text_of(await read(model, QUESTION, SHORT)) == SKY

    @only_events
    async def test_nonsense_is_an_error(self, model: LanguageModel, server: SageMakerServer) -> None:
        server.faults.append(Fault("malformed"))
        with pytest.raises(ModelServiceError, match="not a chat completion chunk"):
            await read(model, QUESTION, SHORT)


async def test_moto_understands_the_request_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's reading of AWS's API: what the emulator here takes for granted might be a shared error."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        choice = {"message": {"role": "assistant", "content": SKY}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
        queued = {"region": "eu-west-1", "results": [{"Body": body, "ContentType": "application/json"}]}
        async with httpx.AsyncClient() as client:
            await client.post(f"{url}/moto-api/static/sagemaker/endpoint-results", json=queued)
        model = SageMakerModel("twin", region="eu-west-1", stream=False)
        deltas = await read(model, QUESTION, SHORT)
        await model.close()
    finally:
        server.stop()
    assert text_of(deltas) == SKY
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.prompt_tokens == 7


async def test_without_credentials_the_variables_to_set_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    model = SageMakerModel("twin", region="eu-west-1")
    with pytest.raises(ModelServiceError, match="AWS_ACCESS_KEY_ID"):
        await read(model, QUESTION, SHORT)
    await model.close()


async def test_without_a_region_the_variable_to_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(ModelServiceError, match="LLM_REGION"):
        await read(SageMakerModel("twin"), QUESTION, SHORT)


async def test_without_boto3_the_group_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingDependencyError, match="--with aws"):
        await read(SageMakerModel("twin"), QUESTION, SHORT)


@pytest.mark.parametrize("server", ["events"], indirect=True)
def test_a_process_ends_though_a_reply_is_awaited(server: SageMakerServer) -> None:
    server.faults.append(Fault("hang"))
    code = (
        "import asyncio\n"
        "from llm_engineering.application.ports import GenerationOptions, Message\n"
        "from llm_engineering.domain.errors import ModelServiceError\n"
        "from llm_engineering.infrastructure.llms.sagemaker import SageMakerModel\n"
        "model = SageMakerModel('twin', region='eu-west-1', timeout_seconds=60)\n"
        "async def main():\n"
        "    async for _ in model.stream([Message('user', 'hi')], GenerationOptions(timeout_seconds=1)): pass\n"
        "try: asyncio.run(main())\n"
        "except ModelServiceError as error: print(error.reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, b"timeout"), done.stderr
