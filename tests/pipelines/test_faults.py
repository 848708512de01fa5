"""What a user meets when something is wrong: with the configuration, the links, the index, the disk or the question."""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.settings import load_settings
from tests.fakes.fault_server import FaultServer, Reply
from tests.fakes.git_server import GitServer
from tests.fakes.openai_server import OpenAIServer
from tests.pipelines.clocks import (
    AFTER,
    BEFORE,
    COLUMN_MAP,
    END_TO_END,
    Run,
    run,
    similarities,
    text,
    write_source,
)
from tests.services import fill, free_port, small_disk
from tools.sample_site import SampleSite
from tools.services import LocalMongo

__all__ = ["run", "small_disk"]


@pytest.fixture
def indexed(project: Path, run: Run) -> Path:
    """The project after a run; returns the run's configuration."""
    config = write_source(project, BEFORE)
    ended = run("tools.run", *END_TO_END, str(config))
    assert ended.code == 0, ended.output
    return config


@pytest.fixture
def private_repository(tmp_path: Path) -> Iterator[str]:
    """The address of a repository on a server that asks for a password."""
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "served" / "secret.git")], check=True)
    with GitServer(tmp_path / "served", password="ada:engine") as server:
        yield f"{server.url}/secret.git"


def write_config(folder: Path, parameters: object) -> str:
    path = folder / "wrong.yaml"
    path.write_text(yaml.safe_dump({"parameters": parameters}), encoding="utf-8")
    return str(path)


def table(path: Path, text: str) -> dict[str, object]:
    path.write_text(text, encoding="utf-8")
    return {"url": str(path), "category": "post", "options": {"column_map": COLUMN_MAP}}


@pytest.mark.parametrize(
    ("collect", "said"),
    [
        ({"author": "A", "linkz": ["x.csv"]}, "parameters.collect.linkz: unknown key. Did you mean 'links'?"),
        ({"author": "A", "links": [{"url": "x.csv", "rendr": True}]}, "collect.links.0.rendr: unknown key"),
        ({"author": "A", "links": ["x.csv"], "batch_size": "many"}, "valid integer"),
        ({"author": "A", "links": []}, "parameters.collect.links"),
        ({"links": ["x.csv"]}, "has no author"),
    ],
    ids=["unknown key", "unknown key deep inside", "wrong type", "no links", "no author"],
)
def test_a_wrong_configuration_is_explained_before_anything_starts(
    project: Path, run: Run, resources: Resources, collect: dict[str, object], said: str
) -> None:
    ended = run("tools.run", *END_TO_END, write_config(project, {"collect": collect}))
    assert ended.code == 1
    assert said in ended.output
    assert "wrong.yaml" in ended.output
    assert "Traceback" not in ended.output
    assert resources.warehouse.dead_letters.count() == 0


def test_bad_links_among_good_ones_are_shown_with_their_reasons_and_cost_nothing_else(
    project: Path, run: Run, resources: Resources, private_repository: str
) -> None:
    subprocess.run(["git", "init", "-q", str(project / "empty")], check=True)
    empty_feed = project / "site" / "feed.xml"
    empty_feed.parent.mkdir()
    empty_feed.write_text('<rss version="2.0"><channel><title>Nothing</title></channel></rss>')
    (project / "site" / "page.html").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    with SampleSite(project / "site") as site, SampleSite() as good_site:
        good: list[object] = [
            f"{good_site.base_url}/articles/{path.name}"
            for path in sorted((good_site.root / "articles").glob("*.html"))[:2]
        ]
        good.append(
            table(project / "good.jsonl", '{"key": "1", "headline": "One", "body": "A clock runs."}\n{broken')
        )
        bad = [
            f"http://127.0.0.1:{free_port()}/nobody-listens",
            f"{site.base_url}/missing.html",
            f"{site.base_url}/feed.xml",
            f"{site.base_url}/page.html",
            private_repository,
            str(project / "empty"),
            table(project / "columns.csv", "key,headline\n1,One\n"),
        ]
        collect = {"author": "Ada Byron", "links": good + bad, "max_failed_share": 0.8}
        config = write_config(project, {"collect": collect})
        ended = run("tools.run", *END_TO_END, config, CRAWLER_MAX_RETRIES="0")
    assert ended.code == 0, ended.output
    assert len(list(resources.warehouse.documents.stream())) == 3
    assert len(resources.index.count_values("platform")) == 2
    reasons = {letter.source: letter.reason for letter in resources.warehouse.dead_letters.stream("collect")}
    refused = {str(link["url"] if isinstance(link, dict) else link) for link in bad}
    assert set(reasons) == {*refused, f"{project / 'good.jsonl'}:2"}
    assert "GITHUB_TOKEN" in reasons[private_repository]
    assert "body" in reasons[str(project / "columns.csv")]
    shown = "".join(ended.output.split())  # the table wraps what is long
    for source in refused:
        reason = reasons[source]
        assert "".join(source.split()) in shown
        assert "".join(reason.split())[:40] in shown


@pytest.mark.slow
async def test_every_kind_of_misbehaving_page_costs_its_own_link_and_no_other(
    project: Path, run: Run, resources: Resources
) -> None:
    prose = (
        "<p>"
        + " ".join(f"The clock of tower {n} strikes the hour a little late." for n in range(60))
        + "</p>"
    )
    page = f"<html><head><title>Clocks</title></head><body><article>{prose}</article></body></html>"
    async with FaultServer() as server:
        server.put("/robots.txt", Reply(status=404))
        server.put("/good", page)
        server.put(
            "/latin", Reply(page.replace("hour", "übliche").encode("latin-1"), content_type="text/html")
        )
        server.put("/recovers", Reply(status=500), page)
        server.redirect("/loop", server.url("/loop"))
        server.hanging("/hanging")
        server.trickling("/slow")
        server.endless("/huge")
        server.cut("/cut")
        server.put("/429", Reply("later", status=429, headers={"Retry-After": "3600"}))
        server.put("/500", Reply(status=500))
        server.put("/binary", Reply(bytes(range(256)) * 40, content_type="application/octet-stream"))
        server.put("/empty", "")
        good = ["/good", "/latin", "/recovers"]
        bad = ["/loop", "/hanging", "/slow", "/huge", "/cut", "/429", "/500", "/binary", "/empty", "/404"]
        links = [server.url(path) for path in good + bad]
        collect = {"author": "Ada Byron", "links": links, "max_failed_share": 0.9, "max_concurrency": 8}
        impatient = {
            "CRAWLER_TIMEOUT_SECONDS": "1",
            "CRAWLER_TOTAL_TIMEOUT_SECONDS": "2",
            "CRAWLER_MAX_BYTES": "100000",
            "CRAWLER_MAX_RETRIES": "1",
            "CRAWLER_MAX_RETRY_AFTER_SECONDS": "1",
            "CRAWLER_PER_HOST_CONCURRENCY": "8",
            "RENDERING_BINARY": str(project / "no-browser"),
        }
        config = write_config(project, {"collect": collect})
        ended = await asyncio.to_thread(run, "tools.run", *END_TO_END, config, **impatient)
    assert ended.code == 0, ended.output
    assert {document.link for document in resources.warehouse.documents.stream()} == {
        server.url(p) for p in good
    }
    assert any("übliche" in document.text for document in resources.warehouse.documents.stream())
    reasons = {letter.source: letter.reason for letter in resources.warehouse.dead_letters.stream("collect")}
    assert set(reasons) == {server.url(path) for path in bad}
    assert not [reason for reason in reasons.values() if len(reason) < 16 or "the reader '" in reason]
    for path, said in {
        "/429": "429",
        "/500": "500",
        "/404": "404",
        "/huge": "100,000",
        "/loop": "redirect",
    }.items():
        assert said in reasons[server.url(path)]


@pytest.mark.slow
def test_no_secret_is_shown_or_put_among_the_dead_letters_by_a_run_that_fails(
    project: Path, run: Run, resources: Resources, private_repository: str
) -> None:
    address = private_repository.replace("http://", "http://{GIT_USER}:{GIT_PASSWORD}@")
    config = write_config(project, {"collect": {"author": "A", "links": [address], "max_failed_share": 0}})
    loud = {
        "LOG_LEVEL": "DEBUG",
        "GITHUB_TOKEN": "ghp_Tok3nOfAda",
        "LLM_API_KEY": "sk-K3yOfAda",
        "GIT_USER": "ada",
        "GIT_PASSWORD": "wrong-Pa55word",
    }
    ended = run("tools.run", *END_TO_END, config, **loud)
    assert ended.code == 1
    assert "1 of 1 links could not be collected" in ended.output
    [letter] = resources.warehouse.dead_letters.stream()
    features = write_config(project, {"features": {}})
    host = f"mongodb://ada:s3cret-Pa55word@127.0.0.1:{free_port()}/?authSource=admin"
    silent = run(
        "tools.run",
        "feature-engineering",
        "--config",
        features,
        DATABASE_URI=host,
        DATABASE_TIMEOUT_SECONDS="0.5",
        **loud,
    )
    assert silent.code == 1
    assert "poe local-infrastructure-up" in silent.output
    for said in (ended.output, silent.output, letter.source, letter.reason):
        for secret in ("wrong-Pa55word", "s3cret-Pa55word", "Tok3nOfAda", "K3yOfAda"):
            assert secret not in said
    home = Path(os.environ["ZENML_CONFIG_PATH"])
    stored = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"GIT_PASSWORD" in stored, "the run's parameters are not where this test looks for them"
    assert b"wrong-Pa55word" not in stored


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_index_and_is_told(
    project: Path, small_disk: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_INDEX_PATH", str(small_disk / "index"))
    config = str(write_source(project, BEFORE))
    assert run("tools.run", *END_TO_END, config).code == 0
    with open_resources(load_settings(None)) as resources:
        old = sorted(resources.index.list_versions()), similarities(resources)
    filler = fill(small_disk)
    write_source(project, AFTER)
    ended = run("tools.run", *END_TO_END, config)
    assert ended.code == 1
    assert re.search(r"✗ The disk of .*index/twin is almost full: .* MB are needed", ended.output)
    assert "the index as it was is untouched" in ended.output
    assert "Traceback" not in ended.output
    with open_resources(load_settings(None)) as resources:
        assert (sorted(resources.index.list_versions()), similarities(resources)) == old
    filler.unlink()
    again = run("tools.run", *END_TO_END, config)
    assert again.code == 0, again.output
    with open_resources(load_settings(None)) as resources:
        assert {document for document, _ in resources.index.list_versions()} != {
            document for document, _ in old[0]
        }


@pytest.mark.nightly
def test_a_database_whose_disk_is_full_says_so_and_loses_nothing(
    project: Path, small_disk: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(bodies: dict[int, str]) -> str:
        parameters = yaml.safe_load(write_source(project, bodies).read_text())["parameters"]
        return write_config(project, {"collect": parameters["collect"]})

    server = LocalMongo(small_disk / "data", free_port())
    server.start()
    monkeypatch.setenv("DATABASE_URI", server.uri)
    try:
        assert run("tools.run", "digital-data-etl", "--config", collect(BEFORE)).code == 0
        with open_resources(load_settings(None)) as resources:
            old = {document.id: document.text for document in resources.warehouse.documents.stream()}
        filler = fill(small_disk)
        more = collect({**BEFORE, **{number: text(number) * 400 for number in range(20, 120)}})
        ended = run("tools.run", "digital-data-etl", "--config", more)
        assert ended.code == 1, ended.output
        assert "Traceback" not in ended.output
        assert "data warehouse" in ended.output
        filler.unlink()
        broken = run("tools.run", "digital-data-etl", "--config", more)
        if broken.code:  # such a server may stay broken until it is started anew, and that is what is said
            assert "local-infrastructure-down" in broken.output or "local-infrastructure-up" in broken.output
            server.stop()
            server.start()
        again = run("tools.run", "digital-data-etl", "--config", more)
        assert again.code == 0, again.output
        with open_resources(load_settings(None)) as resources:
            new = {document.id: document.text for document in resources.warehouse.documents.stream()}
        assert len(new) == len(BEFORE) + 100
        assert old.items() <= new.items()
    finally:
        server.stop()


@pytest.mark.slow
def test_an_index_of_another_embedder_is_refused_until_it_is_rebuilt(
    run: Run, resources: Resources, indexed: Path
) -> None:
    chunks = resources.index.count()
    with OpenAIServer(dimension=64) as service:
        other = {
            "EMBEDDER_BASE_URL": service.base_url,
            "EMBEDDER_MODEL": "hashes",
            "EMBEDDER_DIMENSION": "64",
        }
        other["EMBEDDER_MAX_TOKENS"] = "256"
        for module, question in (
            ("tools.retrieve", ("--query", "clock")),
            ("tools.ask", ("How does a clock keep time?",)),
        ):
            refused = run(module, *question, **other)
            assert refused.code == 1
            assert "all-MiniLM-L6-v2" in refused.output
            assert "poe run-feature-engineering-pipeline" in refused.output
            assert "Traceback" not in refused.output
        rebuilt = run("tools.run", "feature-engineering", "--config", str(features_of(indexed)), **other)
        assert rebuilt.code == 0, rebuilt.output
        found = run("tools.retrieve", "--query", "clock of tower 7", **other)
        assert (found.code, "5 hits" in found.output) == (0, True), found.output
    assert resources.index.count() == chunks
    assert run("tools.retrieve", "--query", "clock").code == 1


def features_of(config: Path) -> Path:
    """The configuration's part for the feature pipeline."""
    parameters = yaml.safe_load(config.read_text())["parameters"]
    path = config.with_name("features.yaml")
    path.write_text(yaml.safe_dump({"parameters": {"features": parameters["features"]}}))
    return path


@pytest.mark.slow
def test_questions_that_cannot_be_used_are_refused_with_what_to_do(run: Run, indexed: Path) -> None:
    refused = {
        ("--query", "  "): "The question is empty",
        ("--query", "clocks " * 14_300): "100,099 characters; at most 4,000",
        (
            "--query",
            "clock",
            "--author",
            "Ada Bryon",
        ): "There is no author 'Ada Bryon' here. Closest: Ada Byron.",
        (
            "--query",
            "clock",
            "--category",
            "novel",
        ): "There is no category 'novel' here. There are: post.",
        ("--query", "clock", "--k", "0"): "--k must lie between 1 and 100, got 0",
        ("--query", "clock", "--from", "soon"): "--from expects a date like 2026-01-31, got 'soon'",
        ("--query", "clock", "--from", "2026-02-01", "--to", "2026-01-01"): "lies after --to",
    }
    for arguments, said in refused.items():
        ended = run("tools.retrieve", *arguments)
        assert (ended.code, "Traceback" in ended.output) == (1, False), ended.output
        assert said in ended.output
    for question in (
        "Сколько секунд теряют часы?",
        "時計は何秒遅れますか",
        "🕰️",
        "'; DROP TABLE clocks; --",
        "[bold]{}%s\x1b",
    ):
        ended = run("tools.retrieve", "--query", question)
        assert (ended.code, "5 hits" in ended.output) == (0, True), ended.output


def test_without_an_index_a_question_says_how_to_make_one(project: Path, run: Run) -> None:
    for module, question in (
        ("tools.retrieve", ("--query", "clock")),
        ("tools.ask", ("How does a clock keep time?",)),
    ):
        ended = run(module, *question)
        assert ended.code == 1
        assert "poe run-feature-engineering-pipeline" in ended.output
        assert "Traceback" not in ended.output
