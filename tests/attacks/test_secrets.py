"""Secrets in links and settings: they are planted, and looked for wherever something is written."""

import asyncio
import json
import logging
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loguru import logger

from llm_engineering.application.features.collect import collect
from llm_engineering.application.features.links import find_query_secret, hide_credentials
from llm_engineering.application.ports import Link, SourceReader
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.infrastructure.logs import configure_logging, mask
from llm_engineering.infrastructure.sources.git import GitReader
from llm_engineering.infrastructure.sources.tabular import TableReader
from llm_engineering.infrastructure.sources.web.article import ArticleReader
from llm_engineering.infrastructure.sources.web.client import PoliteClient
from llm_engineering.infrastructure.sources.web.feed import FeedReader
from llm_engineering.settings import load_settings
from tests.fakes.fault_server import FaultServer, Reply
from tests.fakes.warehouse import FakeWarehouse

AUTHOR = "Ada Winter"
PRINTABLE = st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_categories=("Cc", "Cs", "Zs"))
# Hypothesis takes words out of the code too, such as names of fields, which stand in what is written.
PASSWORDS = st.text(PRINTABLE, min_size=10, max_size=30).map(lambda text: f"pW{text}")


def contains(text: str, secret: str) -> bool:
    """Whether a secret can be read in a text, in whatever way it was escaped."""
    forms = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
    return any(form in text for form in forms)


# --- S7: links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/page", "/feed.xml", "/table.csv", "/repository.git"])
@pytest.mark.parametrize("works", [True, False])
@given(password=PASSWORDS)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_password_of_a_link_is_written_nowhere(
    caplog: pytest.LogCaptureFixture, path: str, works: bool, password: str
) -> None:
    caplog.clear()
    lines: list[str] = []
    for name in ("httpx", "httpcore", "asyncio"):  # as when ZenML's own level is raised
        caplog.set_level(logging.DEBUG, name)
    caplog.set_level(logging.DEBUG)
    configure_logging(format="human", level="DEBUG", write=lines.append)
    warehouse = FakeWarehouse()

    async def run() -> str:
        async with FaultServer() as server:
            texts = {
                "/page": f"<article><h1>A page</h1>{'<p>Words of a page.</p>' * 40}</article>",
                "/feed.xml": f"<rss><channel><item><link>{server.url('/page')}</link></item></channel></rss>",
                "/table.csv": "text\nA row\n",
            }
            for name, text in texts.items():
                server.put(name, text if works else Reply("no", 403))
            client = PoliteClient(user_agent="x", max_retries=0, per_host_delay_seconds=0)
            readers: dict[str, SourceReader] = {
                "article": ArticleReader(client),
                "feed": FeedReader(client),
                "table": TableReader(),
                "git": GitReader(),
            }
            link = server.url(path).replace("://", f"://ada:{quote(password, safe='')}@")
            report = await collect(
                [Link(link, AUTHOR, category="article")],
                readers,
                warehouse.documents,
                warehouse.users,
                warehouse.dead_letters,
            )
            for reader in readers.values():
                await reader.close()
            assert any("authorization" in request.headers for request in server.requests) or "git" in path
            return repr(report)

    written = [asyncio.run(run()), *lines, caplog.text]
    written += [document.model_dump_json() for document in warehouse.documents.stream()]
    written += [letter.model_dump_json() for letter in warehouse.dead_letters.stream()]
    assert not [text for text in written if contains(text, password)]


@given(password=PASSWORDS.filter(lambda password: not set("\"'") & set(password)))  # where text ends
@example("pa/ss/word/pass")
@example("p@ss@word@pass")
@example("pa?ss#word?pass")
def test_a_password_that_was_not_escaped_is_hidden_too(password: str) -> None:
    text = f"it failed: https://ada:x{password}@example.org/x was refused"
    assert not contains(mask(text), password)


def test_a_token_in_front_of_the_host_is_hidden() -> None:
    assert mask("see https://t0ken-t0ken@example.org/a") == "see https://***@example.org/a"
    assert hide_credentials("https://ada:pa/ss@example.org/a") == "https://example.org/a"
    assert hide_credentials("https://example.org:80/a@b") == "https://example.org:80/a@b"
    assert mask("https://example.org:80/a@b and https://example.org/c@d") == (
        "https://example.org:80/a@b and https://example.org/c@d"
    )


# --- S7: settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["human", "json"])
@given(secret=PASSWORDS)
@example('quo"te\\back"slash')
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_secret_of_the_settings_is_masked_however_it_is_escaped(format: str, secret: str) -> None:
    lines: list[str] = []
    chosen = load_settings(
        None,
        log={"format": format, "level": "DEBUG"},
        github_token=secret,
        database={"uri": f"mongodb://ada:{quote('db-' + secret, safe='')}@127.0.0.1/x"},
    )
    start_logging(chosen, lines.append)
    logger.info("said {}", secret)
    logger.info("said {!r}", {"key": secret})
    logger.info("said {}", json.dumps({"key": secret}))
    logger.info("asked https://example.org/?token={}", quote(secret, safe=""))
    logger.bind(token=secret).warning("bound")
    logger.info("tried {}", chosen.database.uri.get_secret_value())
    logger.info("tried {}", "db-" + secret)
    try:
        raise ValueError(secret)
    except ValueError:
        logger.exception("it failed")
    assert len(lines) == 8
    assert not [line for line in lines if contains(line, secret)]


def test_a_secret_that_holds_another_leaves_nothing_behind() -> None:
    lines: list[str] = []
    configure_logging(secrets=("abcdef", "abcdefghi"), write=lines.append)
    logger.info("said abcdefghi")
    assert "ghi" not in lines[0]


# --- S7: parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/?token=abc", "token"),
        ("https://example.org/?a=1&access_token=abc", "access_token"),
        ("https://example.org/?X-Amz-Signature=abc", "X-Amz-Signature"),
        ("https://example.org/?api_key=abc&b=2", "api_key"),
        ("https://example.org/?page=2&author=x&keyword=token", None),
        ("https://example.org/?token=", None),
        ("http://[", None),
    ],
)
def test_a_secret_in_the_query_of_a_link_is_noticed(url: str, name: str | None) -> None:
    assert find_query_secret(url) == name


async def test_a_secret_in_the_query_of_a_link_is_warned_of_without_being_shown(server: FaultServer) -> None:
    lines: list[str] = []
    configure_logging(write=lines.append)
    warehouse = FakeWarehouse()
    client = PoliteClient(user_agent="x", max_retries=0)
    await collect(
        [Link(server.url("/?token=s3cret-t0ken"), AUTHOR)],
        {"article": ArticleReader(client)},
        warehouse.documents,
        warehouse.users,
        warehouse.dead_letters,
    )
    await client.close()
    assert "WARNING" in lines[0]
    assert "s3cret-t0ken" not in lines[0]
