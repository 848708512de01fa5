"""``poe run-llm-server --adapters FILE``: the twin's LLM_MODEL picks the adapter, or learns which there are."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import yaml

from llm_engineering.application.ports import GenerationOptions, Message
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel
from tests.conformance.adapter_runs import make_adapters, make_base
from tests.e2e.test_llm_server import Running, command, environment, serving

pytest.importorskip("trl", reason="the group 'training' is not installed")
pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

CONTEXT = 256


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    folders = make_adapters(make_base(root / "base"), root)
    file = root / "adapters.yaml"
    file.write_text(yaml.safe_dump({"adapters": {name: str(folder) for name, folder in folders.items()}}))
    return file


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Running]:
    options = ("--adapters", str(file), "--context-tokens", str(2 * CONTEXT), "--parallel", "2")
    with serving((*options, "--threads", "1"), MODELS_DIR=str(file.parent / "models")) as server:
        yield server


def twins_reply(url: str, name: str) -> str:
    """As the service asks with LLM_BASE_URL and LLM_MODEL."""

    async def ask() -> str:
        model = OpenAIHttpModel(url, None, name, CONTEXT)
        try:
            options = GenerationOptions(max_tokens=12, temperature=0)
            return "".join(
                [d.text async for d in model.stream([Message("user", "What about number 3?")], options)]
            )
        finally:
            await model.close()

    return asyncio.run(ask())


@pytest.mark.slow
def test_the_setting_llm_model_picks_the_adapter(server: Running) -> None:
    assert "LLM_MODEL=articles" in server.introduction
    assert "posts" in server.introduction
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        base, *adapters = [model.id for model in client.models.list()]
        reply = client.chat.completions.create(
            model="posts",
            messages=[{"role": "user", "content": "What about number 3?"}],
            max_tokens=12,
            temperature=0,
        )
        with pytest.raises(openai.NotFoundError, match="There are"):
            client.chat.completions.create(model="poems", messages=[{"role": "user", "content": "Why?"}])
    assert adapters == ["articles", "posts"]
    texts = {name: twins_reply(server.url, name) for name in (base, *adapters)}
    assert len(set(texts.values())) == 3
    assert reply.model == "posts"
    assert reply.choices[0].message.content == texts["posts"]


@pytest.mark.slow
def test_a_wrong_llm_model_names_those_that_there_are(server: Running) -> None:
    with pytest.raises(
        ModelServiceError, match=r"404: There is no model 'poems'.*articles, posts.*LLM_MODEL"
    ):
        twins_reply(server.url, "poems")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "more", "told"),
    [
        ("adapters: {posts: nowhere}", (), "nowhere"),
        ("adapter: {posts: x}", (), "Did you mean 'adapters'?"),
        ("adapters: {posts: x}", ("--model", "x"), "--model and --adapters each say what to serve"),
    ],
)
def test_what_cannot_be_served_ends_before_it_starts(
    tmp_path: Path, content: str, more: tuple[str, ...], told: str
) -> None:
    file = tmp_path / "adapters.yaml"
    file.write_text(content)
    done = subprocess.run(
        command("--port", "0", "--adapters", str(file), *more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(ZENML_CONFIG_PATH=str(tmp_path / "zenml")),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert told in " ".join((done.stdout + done.stderr).split())
