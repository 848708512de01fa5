"""Several adapters over one base in llama.cpp: each says what its merged model says, and concurrent requests do not mix."""

import asyncio
import json
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from llm_engineering.application.training.finetune.model_folder import (
    ADAPTER_GGUF,
    GGUF,
    AdapterServing,
    verify_folder,
)
from llm_engineering.bootstrap.llm_service import build_llm_service
from llm_engineering.domain.errors import ConfigurationError, ModelFileError
from llm_engineering.infrastructure.llm_service.app import LlmService
from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel
from llm_engineering.infrastructure.training.gguf.adapter import write_adapter
from llm_engineering.settings import Settings, load_settings
from tests.conformance.adapter_runs import make_adapters, make_base

pytest.importorskip("trl", reason="the group 'training' is not installed")
pytest.importorskip("gguf", reason="the group 'training' is not installed")
pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

QUESTIONS = ("What about number 3?", "What about number 7?", "Why?")
CLOSE = 0.02
"""Nats: the merged model's weights are rounded to 16 bits, the base's and the adapter's each for themselves."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_adapters(base, tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, models_dir=tmp_path / "models", llm={"threads": 1})


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


def serving(settings: Settings, adapters: dict[str, Path], **values: Any) -> tuple[LlamaCppModel, LlmService]:
    wanted = AdapterServing.model_validate(
        {"adapters": {name: str(folder) for name, folder in adapters.items()}, **values}
    )
    return build_llm_service(settings, "127.0.0.1", adapters=wanted, context_tokens=1024, parallel=4)


@asynccontextmanager
async def asking(model: LlamaCppModel, service: LlmService) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=service)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/v1") as client:
            yield client
    finally:
        await model.close()


def body(name: str | None, question: str, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": question}], "max_tokens": 12, "temperature": 0}
    return {**asked, **({"model": name} if name else {}), "logprobs": True, **more}


Said = tuple[str, list[float]]


def said(reply: dict[str, Any]) -> Said:
    [choice] = reply["choices"]
    return choice["message"]["content"], [token["logprob"] for token in choice["logprobs"]["content"]]


async def alone(gguf: Path) -> dict[str, Said]:
    """What a model says when it is the only one of its server, by question."""
    model = LlamaCppModel(gguf, context_tokens=512, threads=1)
    async with asking(model, LlmService(model, None)) as client:
        return {
            q: said((await client.post("/chat/completions", json=body(None, q))).json()) for q in QUESTIONS
        }


async def expected(model: LlamaCppModel, adapters: dict[str, Path]) -> dict[str, dict[str, Said]]:
    files = {model.name: model._file, **{name: folder / GGUF for name, folder in adapters.items()}}
    return {name: await alone(file) for name, file in files.items()}


class TestReplies:
    async def test_each_name_says_what_its_merged_model_says(
        self, settings: Settings, adapters: dict[str, Path], base: Path
    ) -> None:
        model, service = serving(settings, adapters)
        references = await expected(model, adapters)
        async with asking(model, service) as client:
            listed = (await client.get("/models")).json()["data"]
            assert [card["id"] for card in listed] == [model.name, "articles", "posts"]
            for question in QUESTIONS:
                texts = set()
                for name in model.names:
                    reply = (await client.post("/chat/completions", json=body(name, question))).json()
                    text, log_probabilities = said(reply)
                    wanted, wanted_log_probabilities = references[name][question]
                    assert reply["model"] == name
                    assert text == wanted
                    assert log_probabilities == pytest.approx(wanted_log_probabilities, abs=CLOSE)
                    texts.add(text)
                assert len(texts) == 3  # the adapters say something of their own

    async def test_requests_at_the_same_time_do_not_mix(
        self, settings: Settings, adapters: dict[str, Path]
    ) -> None:
        """Base and adapters in turn and at random over four slots, streamed and not, each with its own name in the reply."""
        model, service = serving(settings, adapters)
        references = await expected(model, adapters)
        asked = [(name, q, stream) for name in model.names for q in QUESTIONS for stream in (True, False)]
        random.Random(0).shuffle(asked)
        async with asking(model, service) as client:

            async def one(name: str, question: str, stream: bool) -> str:
                answer = await client.post("/chat/completions", json=body(name, question, stream=stream))
                assert answer.status_code == 200, answer.text
                (text, log_probabilities), names = read(answer.text) if stream else whole(answer.json())
                wanted, wanted_log_probabilities = references[name][question]
                assert names == {name}
                # Streamed, bytes at the end that are no whole character are left out.
                same = text.rstrip("\ufffd") == wanted.rstrip("\ufffd")
                near = log_probabilities == pytest.approx(wanted_log_probabilities, abs=CLOSE)
                return "right" if same and near else f"{name}: {text} {log_probabilities}"

            told = Counter[str]()
            for _ in range(3):
                told.update(await asyncio.gather(*(one(*request) for request in asked)))
        assert told == {"right": 3 * len(asked)}

    async def test_a_request_cannot_mix_adapters_by_itself(
        self, settings: Settings, adapters: dict[str, Path]
    ) -> None:
        model, service = serving(settings, adapters)
        async with asking(model, service) as client:
            plain = await client.post("/chat/completions", json=body(model.name, QUESTIONS[0]))
            more = {"lora": [{"id": 0, "scale": 1.0}]}
            sly = await client.post("/chat/completions", json=body(model.name, QUESTIONS[0], **more))
        assert said(sly.json())[0] == said(plain.json())[0]

    async def test_a_name_that_is_not_there_is_refused_as_openai_does(
        self, settings: Settings, adapters: dict[str, Path]
    ) -> None:
        model, service = serving(settings, adapters)
        async with asking(model, service) as client:
            unknown = await client.post("/chat/completions", json=body("poems", "Why?"))
            unnamed = await client.post("/chat/completions", json=body(None, "Why?"))
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert unknown.json()["error"]["type"] == "invalid_request_error"
        assert "'poems'. There are: " in unknown.json()["error"]["message"]
        assert (unnamed.status_code, unnamed.json()["error"]["code"]) == (400, "model_missing")
        assert "articles, posts" in unnamed.json()["error"]["message"]


def whole(reply: dict[str, Any]) -> tuple[Said, set[str]]:
    return said(reply), {reply["model"]}


def read(stream: str) -> tuple[Said, set[str]]:
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {")]
    pieces = [json.loads(event) for event in events]
    choices = [choice for piece in pieces for choice in piece["choices"]]
    texts = [choice["delta"].get("content") or "" for choice in choices]
    tokens = [token for choice in choices for token in (choice.get("logprobs") or {}).get("content", [])]
    return ("".join(texts), [token["logprob"] for token in tokens]), {piece["model"] for piece in pieces}


class TestExport:
    def test_the_adapter_stands_in_the_manifest_and_a_changed_one_is_refused(
        self, settings: Settings, adapters: dict[str, Path], tmp_path: Path
    ) -> None:
        folder = shutil.copytree(adapters["posts"], tmp_path / "posts")
        assert ADAPTER_GGUF in verify_folder(folder).files
        file = folder / ADAPTER_GGUF
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        with pytest.raises(ModelFileError, match=rf"{ADAPTER_GGUF} was changed"):
            serving(settings, {**adapters, "posts": folder})

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("use_dora", True),
            ("use_rslora", True),
            ("rank_pattern", {"q_proj": 2}),
            ("modules_to_save", ["lm_head"]),
            ("bias", "all"),
        ],
    )
    def test_an_adapter_that_does_more_than_llama_cpp_can_is_refused_and_leaves_no_file(
        self, adapters: dict[str, Path], tmp_path: Path, key: str, value: Any
    ) -> None:
        folder = shutil.copytree(adapters["posts"] / "adapter", tmp_path / "adapter")
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
        with pytest.raises(ConfigurationError, match=key):
            write_adapter(
                folder, adapters["posts"] / "merged" / "config.json", tmp_path / "x" / "x.gguf", "x"
            )
        assert not list(tmp_path.glob("x/*"))


class TestBase:
    async def test_a_quantised_file_of_the_base_is_taken_and_said(
        self, settings: Settings, adapters: dict[str, Path], tmp_path: Path, logged: list[str]
    ) -> None:
        full, _ = serving(settings, adapters)
        small = quantised(full._file, tmp_path / "base.Q8_0.gguf")
        model, service = serving(settings, adapters, base=str(small))
        assert any("the base's weights are quantised" in line for line in logged)
        assert model.names == ("base.Q8_0", "articles", "posts")
        references = await expected(model, adapters)
        async with asking(model, service) as client:
            for name in ("articles", "posts"):
                reply = await client.post("/chat/completions", json=body(name, QUESTIONS[0]))
                first = references[name][QUESTIONS[0]][1][0]
                assert said(reply.json())[1][0] == pytest.approx(first, abs=0.3)

    def test_another_base_of_the_same_shape_is_refused(
        self, settings: Settings, adapters: dict[str, Path], tmp_path: Path
    ) -> None:
        other = make_base(tmp_path / "other", seed=1)
        with pytest.raises(ModelFileError, match=r"not the base that articles .*its weights are others"):
            serving(settings, adapters, base=str(other))

    def test_a_base_with_other_tokens_or_shape_is_refused_by_what_differs(
        self, settings: Settings, adapters: dict[str, Path], tmp_path: Path
    ) -> None:
        full, _ = serving(settings, adapters)
        changed = copied(
            full._file,
            tmp_path / "other.gguf",
            {
                "llama.rope.freq_base": 5.0,
                "tokenizer.ggml.eos_token_id": 1,
                "tokenizer.ggml.eot_token_id": 1,
                "tokenizer.ggml.add_bos_token": True,
            },
        )
        with pytest.raises(ModelFileError) as told:
            serving(settings, adapters, base=str(changed))
        for problem in (
            "llama.rope.freq_base is 5.0, not 10000.0",
            "does not end replies",
            "BOS token in front",
        ):
            assert problem in str(told.value)

    @pytest.mark.parametrize("name", ["nowhere", "OWNER/NAME", "none.gguf"])
    def test_a_base_that_is_not_here_is_told(
        self, settings: Settings, adapters: dict[str, Path], name: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=rf"no file of the base '{name}'.*GGUF file"):
            serving(settings, adapters, base=name)

    def test_a_file_that_is_no_model_is_told(
        self, settings: Settings, adapters: dict[str, Path], tmp_path: Path
    ) -> None:
        whole = adapters["posts"] / GGUF
        for number, data in enumerate((b"", b"GGUF", b"PK\x03\x04" * 10, whole.read_bytes()[:2000])):
            file = tmp_path / f"{number}.gguf"
            file.write_bytes(data)
            with pytest.raises(ModelFileError, match="no whole GGUF file"):
                serving(settings, adapters, base=str(file))

    def test_an_adapter_may_not_be_called_as_the_base_is(
        self, settings: Settings, adapters: dict[str, Path]
    ) -> None:
        full, _ = serving(settings, adapters)
        with pytest.raises(ConfigurationError, match="Rename the adapter"):
            serving(settings, {full.name: adapters["posts"]}, base=str(full._file))


def copied(source: Path, target: Path, changes: dict[str, Any], kind: Any = None) -> Path:
    """The same model with other metadata, or its matrices in another type."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, quants

    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(key, changes.get(key, field.contents()), field.types[0], inner)
    for tensor in reader.tensors:
        if kind is None or len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, tensor.data)
        else:
            writer.add_tensor(tensor.name, quants.quantize(tensor.data.astype("f4"), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def quantised(source: Path, target: Path) -> Path:
    from gguf import GGMLQuantizationType, LlamaFileType

    changes = {"general.file_type": LlamaFileType.MOSTLY_Q8_0.value}
    return copied(source, target, changes, GGMLQuantizationType.Q8_0)
