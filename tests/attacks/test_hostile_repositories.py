"""Repositories and git servers of strangers."""

import asyncio
import subprocess
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.ports import EndOfSource, FetchedDocument, Link, SourceItem
from llm_engineering.domain.errors import CollectionError
from llm_engineering.infrastructure.sources.git import GitReader, commands
from llm_engineering.infrastructure.sources.git.globs import MAX_PATTERN_CHARS, matches
from llm_engineering.infrastructure.sources.git.selection import MAX_RULES, Attributes
from tests.attacks.watching import measure_cost
from tests.durations import allow
from tests.fakes.git_server import GitServer
from tests.fakes.serving import LoopbackServer

AUTHOR = "Ada Winter"
CREDENTIALS = "ada:s3cret-pw"


def git(folder: Path, *arguments: str, text: str = "") -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, input=text).stdout.strip()


def make_repository(folder: Path, **files: str) -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    for name, content in {"README.md": "# Project\n\nWhat it does.\n", **files}.items():
        (folder / name).write_text(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Work")
    return folder


async def read(reader: GitReader, url: object, found_through: str = "") -> list[SourceItem]:
    return [item async for item in reader.read(Link(str(url), AUTHOR, found_through=found_through), {})]


def titles(items: list[SourceItem]) -> list[str]:
    return [item.document.title for item in items if isinstance(item, FetchedDocument)]


# --- S3: patterns ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
async def test_patterns_that_can_be_tried_in_many_ways_do_not_hang_the_run(tmp_path: Path) -> None:
    rules = f"{'*a' * 90}b linguist-vendored\n" * 200
    folder = make_repository(tmp_path / "project", **{".gitattributes": rules, "a" * 200: "A text.\n"})
    async with measure_cost() as cost:
        items = await read(GitReader(), folder)
    assert "a" * 200 in titles(items)
    assert items[-1] == EndOfSource()
    assert cost.longest_stand < 0.05


@given(st.text("*a?/", min_size=1, max_size=MAX_PATTERN_CHARS), st.integers(1, 400), st.booleans())
@settings(deadline=None, max_examples=200)
def test_no_pattern_takes_long(pattern: str, length: int, deep: bool) -> None:
    started = time.thread_time()
    matches("/".join("a" * length) if deep else "a" * length, [pattern + "b"])
    assert time.thread_time() - started < 0.5


async def test_a_rule_that_cannot_be_read_costs_itself_and_not_the_repository(tmp_path: Path) -> None:
    attributes = "[z-a] linguist-vendored\nnotes.md linguist-vendored\n" + "x" * 500 + " linguist-generated\n"
    folder = make_repository(
        tmp_path / "project", **{".gitattributes": attributes, "notes.md": "Not theirs."}
    )
    assert titles(await read(GitReader(), folder)) == [".gitattributes", "README.md"]
    parsed = Attributes.parse(attributes)
    assert len(parsed.unreadable) == 2
    assert "[z-a]" in parsed.unreadable[0]


def test_a_list_of_rules_without_end_is_cut() -> None:
    parsed = Attributes.parse("a linguist-vendored\n" * 10_000)
    assert len(parsed.rules) == MAX_RULES
    assert parsed.unreadable


async def test_a_tree_that_holds_itself_a_billion_times_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_OUTPUT_BYTES", 2_000_000)
    folder = make_repository(tmp_path / "bomb")
    entry = f"100644 blob {git(folder, 'rev-parse', 'HEAD:README.md')}\ta"
    for _ in range(6):
        tree = git(folder, "mktree", text="\n".join(entry.replace("\ta", f"\t{n}") for n in range(30)))
        entry = f"040000 tree {tree}\ta"
    git(folder, "update-ref", "refs/heads/main", git(folder, "commit-tree", tree, "-m", "Bomb"))
    async with measure_cost() as cost, asyncio.timeout(60):
        with pytest.raises(CollectionError):
            await read(GitReader(), folder)
    assert cost.peak_bytes < 20_000_000


# --- S4, S8: redirects -------------------------------------------------------------------------------------------------


class RedirectingServer(LoopbackServer):
    """Sends git elsewhere."""

    def __init__(self, target: str) -> None:
        outer = self
        self.authorizations: list[str | None] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.authorizations.append(self.headers["Authorization"])
                self.send_response(301)
                self.send_header("Location", target + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        super().__init__(Handler)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    git(tmp_path, "clone", "-q", "--bare", str(make_repository(tmp_path / "source")), str(folder / "x.git"))
    git(folder / "x.git", "config", "uploadpack.allowFilter", "true")
    return folder


async def test_credentials_stay_where_they_were_given_for(published: Path) -> None:
    with GitServer(published) as elsewhere, RedirectingServer(elsewhere.url) as first:
        link = first.url.replace("://", f"://{CREDENTIALS}@") + "/x.git"
        found = await read(GitReader(private_addresses="always"), link)
        assert titles(found) == ["README.md"]
        assert first.authorizations[0] is not None
        assert set(elsewhere.authorizations) == {None}


async def test_a_token_stays_on_its_server(published: Path) -> None:
    with GitServer(published) as elsewhere, RedirectingServer(elsewhere.url) as first:
        reader = GitReader(token="t0ken-t0ken", token_servers=[f"{first.url}/"], private_addresses="always")
        assert titles(await read(reader, f"{first.url}/x.git")) == ["README.md"]
        assert set(elsewhere.authorizations) == {None}


async def test_a_repository_may_not_send_git_to_a_service_inside(published: Path) -> None:
    with GitServer(published) as inside, RedirectingServer(inside.url) as first:
        with pytest.raises(CollectionError):
            await read(GitReader(), f"{first.url}/x.git")
        with pytest.raises(CollectionError):
            await read(GitReader(), f"{inside.url}/x.git", found_through="https://example.org/feed.xml")
        with pytest.raises(CollectionError):
            await read(GitReader(private_addresses="never"), f"{inside.url}/x.git")
        assert inside.authorizations == []


async def test_a_server_that_redirects_in_a_circle_is_left(published: Path) -> None:
    with RedirectingServer("") as circle:
        started = time.monotonic()
        with pytest.raises(CollectionError):
            await read(GitReader(), f"{circle.url}/x.git")
        assert time.monotonic() - started < allow(20)
        assert len(circle.authorizations) <= 12
