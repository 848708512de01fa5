"""Secrets are planted in ten places of a project; whatever is written anywhere by its commands is then searched for them."""

import asyncio
import base64
import gzip
import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from tests.fakes.fault_server import FaultServer
from tests.fakes.git_server import GitServer
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.otlp_server import OtlpServer
from tests.pipelines.clocks import BEFORE, COLUMN_MAP, END_TO_END, Run, run, write_source
from tests.services import free_port

__all__ = ["run"]

PLACES = (
    *(
        "github_token",
        "hf_token",
        "llm_key",
        "judge_key",
        "tracing_header",
        "service_key",
        "database_password",
    ),
    *("page_password", "git_password", "index_key"),
)
SECRETS = {place: f"Pl4nted-{place.replace('_', '')}/x+y@z" for place in PLACES}
"""With what addresses and JSON escape; each tells where it comes from."""


def spell(secret: str) -> set[bytes]:
    """All ways in which a secret may stand somewhere."""
    basic = base64.b64encode(f"ada:{secret}".encode())
    forms = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
    return {basic, *(form.encode() for form in forms)}


def find_secrets(content: bytes) -> set[str]:
    return {place for place, secret in SECRETS.items() if any(form in content for form in spell(secret))}


def read_all(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, unpacked where it is packed."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found[str(path)] = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return found


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_no_sink_holds_a_secret(
    project: Path, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the group 'observability'")
    served = tmp_path_factory.mktemp("served")
    config = write_source(project, BEFORE)
    words = " ".join(f"The clock of tower {n} strikes the hour a little late." for n in range(60))
    environment = {
        "GITHUB_TOKEN": SECRETS["github_token"],
        "HF_TOKEN": SECRETS["hf_token"],
        "LLM_API_KEY": SECRETS["llm_key"],
        "LLM_MODEL": "small",
        "JUDGE_API_KEY": SECRETS["judge_key"],
        "TRACING_HEADERS": f"authorization={quote(SECRETS['tracing_header'], safe='')}",
        "TRACING_CONTENT": "true",
        "SERVICE_API_KEY": SECRETS["service_key"],
        "PAGE_USER": "ada",
        "PAGE_PASSWORD": SECRETS["page_password"],
        "GIT_PASSWORD": SECRETS["git_password"],
        "LOCAL_DATA_DIR": str(project / "data"),
        "LOG_LEVEL": "DEBUG",
        "ZENML_LOGGING_VERBOSITY": "DEBUG",
        "LLM_KEEP_WARM": "0",
        "CRAWLER_MAX_RETRIES": "0",
    }
    outputs: dict[str, str] = {}

    async def call(name: str, module: str, *arguments: str, **more: str) -> int:
        ended = await asyncio.to_thread(run, module, *arguments, **{**environment, **more})
        outputs[name] = ended.output
        return ended.code

    with (
        OpenAIServer(api_key=SECRETS["llm_key"]) as model,
        OtlpServer() as traces,
        GitServer(served, password="ada:engine") as git,
    ):
        environment |= {"LLM_BASE_URL": model.base_url, "TRACING_ENDPOINT": traces.endpoint}
        async with FaultServer() as server:
            server.put("/page", f"<html><body><article><h1>Clocks</h1><p>{words}</p></article></body></html>")
            literal = quote(SECRETS["page_password"], safe="")
            addresses = [server.url("/page"), server.url("/gone"), f"{git.url}/x.git"]
            spelled = [url.replace("://", f"://ada:{literal}@") for url in addresses]
            links = [url.replace("://", "://{PAGE_USER}:{PAGE_PASSWORD}@") for url in addresses[:2]]
            links.append(addresses[2].replace("://", "://{PAGE_USER}:{GIT_PASSWORD}@"))
            table = {
                "url": str(project / "clocks.jsonl"),
                "category": "post",
                "options": {"column_map": COLUMN_MAP},
            }
            for chosen, code in ((spelled, 1), (links, 0)):
                collect = {"author": "Ada Byron", "links": [*chosen, table], "max_failed_share": 0.9}
                config.write_text(yaml.safe_dump({"parameters": {"collect": collect, "features": {}}}))
                assert find_secrets(config.read_bytes()) == ({"page_password"} if code else set())
                assert await call(f"collect-{code}", "tools.run", *END_TO_END, str(config)) == code, outputs
            await call("again", "tools.collection", "rejected", "--retry")
            assert any("authorization" in request.headers for request in server.requests)
        assert await call("ask", "tools.ask", "How much does the clock of tower 7 lose?") == 0, outputs["ask"]
        assert model.requests[-1].authorization == f"Bearer {SECRETS['llm_key']}"
        await call("refused", "tools.ask", "Which clock?", LLM_BASE_URL=f"{model.base_url}/nowhere")
        assert traces.headers["authorization"] == SECRETS["tracing_header"]
        sent = repr(traces.spans).encode()
    password = quote(SECRETS["database_password"], safe="")
    gone = f"mongodb://ada:{password}@127.0.0.1:{free_port()}/?authSource=admin"
    await call("lost", "tools.collection", "status", DATABASE_URI=gone, DATABASE_TIMEOUT_SECONDS="0.5")
    away = {
        "VECTOR_INDEX_URL": f"http://127.0.0.1:{free_port()}",
        "VECTOR_INDEX_API_KEY": SECRETS["index_key"],
    }
    await call("away", "tools.ask", "Which clock?", VECTOR_INDEX_KIND="qdrant", **away)
    await call("doctor", "tools.doctor", "--json", "--quick")
    await call("status", "tools.collection", "status")
    await call("rejected", "tools.collection", "rejected", "--all")
    assert await call("export", "tools.warehouse", "export", str(project / "export")) == 0, outputs["export"]
    config.unlink()  # what the user wrote
    (project / "output.txt").unlink()
    sinks = {name: text.encode() for name, text in outputs.items()}
    sinks |= {"traces": sent, **read_all(project), **read_all(Path(os.environ["ZENML_CONFIG_PATH"]))}
    assert any(name.endswith("documents.jsonl") for name in sinks)
    assert any("zenml.db" in name for name in sinks)
    held = {name: found for name, content in sinks.items() if (found := find_secrets(content))}
    assert not held
