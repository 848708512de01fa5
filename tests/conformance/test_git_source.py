"""The git reader against real repositories: made here with git, read through ``file://``, a path, and HTTP."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_engineering.application.ports import EndOfSource, FetchedDocument, Link, Rejected, SourceItem
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.sources.git import GitReader
from llm_engineering.infrastructure.sources.git.address import parse_address
from llm_engineering.infrastructure.sources.git.globs import matches
from llm_engineering.infrastructure.sources.git.languages import language_of
from tests.durations import allow
from tests.fakes.git_server import GitServer

AUTHOR = "Ada Winter"


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every clone must be gone when its link is done."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, files: dict[str, str | bytes], message: str = "Work") -> None:
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "-m", message)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(
        folder, {"README.md": "# Project\n\nWhat it does.\n", "src/main.py": "def main():\n    return 'Hi'\n"}
    )
    return folder


async def read(reader: GitReader, url: object, **options: object) -> list[SourceItem]:
    return [item async for item in reader.read(Link(str(url), AUTHOR, options=options), {})]


def documents(items: list[SourceItem]) -> dict[str, RawDocument]:
    return {item.document.title: item.document for item in items if isinstance(item, FetchedDocument)}


async def test_each_text_file_of_the_newest_commit_is_one_document(repository: Path) -> None:
    items = await read(GitReader(), repository.as_uri())

    found = documents(items)
    assert list(found) == ["README.md", "src/main.py"]
    source = found["src/main.py"]
    assert source.text == "def main():\n    return 'Hi'\n"
    assert (source.category, source.language, source.platform) == ("repository", "python", "git")
    assert source.link == f"{repository.as_uri()}#src/main.py"
    assert source.metadata == {"path": "src/main.py", "repository": "project", "branch": "main"}
    assert source.author == AUTHOR
    assert found["README.md"].language == "markdown"
    assert items[-1] == EndOfSource()


async def test_a_path_reads_what_is_committed_and_not_what_lies_about(repository: Path) -> None:
    (repository / "src/main.py").write_text("half finished")
    (repository / "notes.txt").write_text("not committed")

    found = documents(await read(GitReader(), repository))

    assert list(found) == ["README.md", "src/main.py"]
    assert "Hi" in found["src/main.py"].text


async def test_a_bare_repository_and_a_work_tree_give_the_same_texts(
    repository: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repository), "bare.git")

    from_bare, from_tree = [
        documents(await read(GitReader(), url)) for url in (tmp_path / "bare.git", repository / ".git")
    ]

    assert {t: d.text for t, d in from_bare.items()} == {t: d.text for t, d in from_tree.items()}


async def test_a_commit_elsewhere_leaves_a_file_unchanged(repository: Path) -> None:
    before = documents(await read(GitReader(), repository))
    commit(repository, {"README.md": "# Project\n\nNow it does more.\n"})
    after = documents(await read(GitReader(), repository))

    assert after["src/main.py"].content_hash == before["src/main.py"].content_hash
    assert after["README.md"].id == before["README.md"].id
    assert after["README.md"].content_hash != before["README.md"].content_hash


async def test_the_option_branch_chooses_what_is_read(repository: Path) -> None:
    git(repository, "checkout", "-q", "-b", "feature/x")
    commit(repository, {"feature.py": "x = 1\n"})
    git(repository, "checkout", "-q", "main")

    default = documents(await read(GitReader(), repository))
    branch = documents(await read(GitReader(), repository, branch="feature/x"))

    assert "feature.py" not in default
    assert branch["feature.py"].metadata["branch"] == "feature/x"
    assert branch["README.md"].id != default["README.md"].id, "two branches are two sets of documents"


async def test_a_branch_that_does_not_exist_is_named(repository: Path) -> None:
    with pytest.raises(CollectionError, match="no branch or tag 'nowhere'"):
        await read(GitReader(), repository, branch="nowhere")


@pytest.mark.parametrize("branch", ["--upload-pack=touch /tmp/x", "a b", "", 7])
async def test_a_branch_that_could_be_an_option_of_git_is_refused(repository: Path, branch: object) -> None:
    with pytest.raises(CollectionError, match="name of a branch"):
        await read(GitReader(), repository, branch=branch)


async def test_binaries_vendored_and_generated_files_are_left_out(repository: Path) -> None:
    foreign = {
        "image.dat": b"\x89PNG\r\n\x00\x1a",
        "packed": bytes(range(1, 32)) * 20,
        "logo.svg": "<svg/>",
        "node_modules/lib/index.js": "x",
        "web/vendor/jquery.js": "x",
        "dist/out.js": "x",
        "poetry.lock": "x",
        "package-lock.json": "{}",
        "app.min.js": "x",
        "bundle.js": "var a=1;" * 2_000,
        "api_pb2.py": "x",
        "models.go": "// Code generated by tool. DO NOT EDIT.\npackage models\n",
        "empty.py": "  \n",
        "third/lib.c": "int x;",
        ".gitattributes": "third/** linguist-vendored\nown/build/*.py -linguist-vendored\n",
        "own/build/steps.py": "step = 1\n",
    }
    commit(repository, foreign)

    found = documents(await read(GitReader(), repository))

    assert list(found) == [".gitattributes", "README.md", "own/build/steps.py", "src/main.py"]


async def test_symbolic_links_and_submodules_are_not_followed(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("outside the repository")
    (repository / "link.txt").symlink_to(tmp_path / "secret.txt")
    head = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{head},module")
    git(repository, "add", "link.txt")
    git(repository, "commit", "-q", "-m", "Links")

    assert list(documents(await read(GitReader(), repository))) == ["README.md", "src/main.py"]


async def test_text_in_an_old_encoding_is_read_and_the_guess_noted(repository: Path) -> None:
    commit(
        repository,
        {
            "latin.txt": "Grüße, naïve café\r\nzwei\r\n".encode("cp1252"),
            "wide.txt": "weit".encode("utf-16"),
            "marked.py": b"\xef\xbb\xbfx = 1\n",
        },
    )

    found = documents(await read(GitReader(), repository))

    assert found["latin.txt"].text == "Grüße, naïve café\nzwei\n"
    assert found["latin.txt"].metadata["encoding"] == "cp1252"
    assert (found["wide.txt"].text, found["wide.txt"].metadata["encoding"]) == ("weit", "utf-16")
    assert found["marked.py"].text == "x = 1\n"
    assert "encoding" not in found["marked.py"].metadata


async def test_a_notebook_gives_its_cells_without_outputs(repository: Path) -> None:
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Study\n", "Words."]},
            {"cell_type": "code", "source": "print(1)", "outputs": [{"text": "SECRET OUTPUT"}]},
            {"cell_type": "code", "source": []},
        ],
        "metadata": {"language_info": {"name": "Julia"}},
    }
    commit(repository, {"study.ipynb": json.dumps(notebook), "broken.ipynb": "{not json"})

    found = documents(await read(GitReader(), repository))

    assert found["study.ipynb"].text == "# Study\nWords.\n\n```julia\nprint(1)\n```"
    assert found["study.ipynb"].language == "julia"
    assert "broken.ipynb" not in found


async def test_include_and_exclude_choose_files(repository: Path) -> None:
    commit(
        repository, {"src/deep/util.py": "u = 1\n", "tests/test_a.py": "a = 1\n", "docs/guide.md": "Guide\n"}
    )

    found = documents(await read(GitReader(), repository, include=["*.py", "docs/**"], exclude=["tests/"]))

    assert list(found) == ["docs/guide.md", "src/deep/util.py", "src/main.py"]


async def test_odd_file_names_make_valid_links(repository: Path) -> None:
    commit(repository, {"dir with space/a#b?.md": "Text\n", "ünï.md": "Text\n", "line\nbreak.md": "Text\n"})

    found = documents(await read(GitReader(), repository))

    assert found["dir with space/a#b?.md"].link.endswith("/project#dir%20with%20space/a%23b%3F.md")
    assert {"ünï.md", "line\nbreak.md"} <= set(found)


async def test_files_beyond_the_size_limit_are_skipped(repository: Path) -> None:
    commit(repository, {"large.txt": "word " * 1_000, "small.txt": "word"})

    found = documents(await read(GitReader(max_file_bytes=1_000), repository))

    assert "small.txt" in found
    assert "large.txt" not in found


async def test_large_files_are_not_even_downloaded_where_the_server_can_leave_them_out(
    repository: Path,
) -> None:
    commit(repository, {"large.txt": os.urandom(600_000).hex()})
    reader = GitReader(max_repository_bytes=300_000)
    with pytest.raises(CollectionError, match="larger than the limit of 300,000 bytes"):
        await read(reader, repository)

    git(repository, "config", "uploadpack.allowFilter", "true")

    assert list(documents(await read(reader, repository))) == ["README.md", "src/main.py"]


async def test_more_files_than_allowed_are_reported_and_nothing_counts_as_gone(repository: Path) -> None:
    items = await read(GitReader(max_files=1), repository)

    assert [type(item) for item in items] == [FetchedDocument, Rejected]
    assert isinstance(items[-1], Rejected)
    assert "more than 1 text files; those from 'src/main.py' on" in items[-1].reason


async def test_leaving_early_ends_git_and_removes_the_clone(repository: Path) -> None:
    commit(repository, {f"f{i}.txt": "text" for i in range(50)})
    items = GitReader().read(Link(str(repository), AUTHOR), {})

    first = await anext(items)
    await items.aclose()  # type: ignore[attr-defined]

    assert isinstance(first, FetchedDocument)


async def test_an_empty_repository_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")

    with pytest.raises(ExtractionError, match="is empty: it has no commit"):
        await read(GitReader(), tmp_path / "empty")


async def test_a_repository_without_text_says_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, {"a.png": b"\x89PNG\x00", "b.dat": b"\x00\x01"})

    with pytest.raises(ExtractionError, match=r"no text file to collect \(2 binary or data"):
        await read(GitReader(), folder)


async def test_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()

    with pytest.raises(CollectionError, match="is no git repository"):
        await read(GitReader(), tmp_path / "plain")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("no/such/folder", "no folder 'no/such/folder'"),
        ("ext::sh -c touch% /tmp/pwned", "no folder"),
        ("ftp://example.org/x", "ftp://example.org is no git URL"),
        ("https://[broken/x", "cannot be read"),
        ("ssh://-oProxyCommand=touch/x", "is no git URL"),
    ],
)
async def test_what_is_no_repository_address_is_refused(url: str, reason: str) -> None:
    with pytest.raises(CollectionError, match=reason.replace("(", r"\(")):
        await read(GitReader(), url)


async def test_an_unknown_option_is_named(repository: Path) -> None:
    with pytest.raises(CollectionError, match=r"no option 'brunch'\. Expected: branch, exclude, include"):
        await read(GitReader(), repository, brunch="main")


async def test_without_git_the_message_says_how_to_install_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(CollectionError, match=r"'git' is not installed.*apt-get install git"):
        await read(GitReader(), repository)


async def test_a_hook_s_own_git_variables_do_not_mislead_the_clone(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent/index")

    assert documents(await read(GitReader(), repository))


@pytest.fixture
def published(repository: Path, tmp_path: Path) -> Path:
    """A folder with the repository as ``notes.git``, for a server."""
    folder = tmp_path / "published"
    git(repository, "clone", "-q", "--bare", str(repository), str(folder / "notes.git"))
    git(folder / "notes.git", "config", "uploadpack.allowFilter", "true")
    return folder


async def test_a_private_repository_says_so_and_what_to_set(tmp_path: Path) -> None:
    with GitServer(tmp_path, password="ada:right") as server, pytest.raises(CollectionError) as caught:
        await read(GitReader(), f"{server.url}/owner/private.git")

    assert "does not exist or is private" in str(caught.value)
    assert "GITHUB_TOKEN" in str(caught.value)


async def test_a_repository_that_does_not_exist_says_so(tmp_path: Path) -> None:
    with GitServer(tmp_path) as server, pytest.raises(CollectionError, match="does not exist or is private"):
        await read(GitReader(), f"{server.url}/nothing.git")


async def test_a_public_repository_is_read_over_http(published: Path) -> None:
    with GitServer(published) as server:
        items = await read(GitReader(), f"{server.url}/notes.git")

    assert list(documents(items)) == ["README.md", "src/main.py"]
    assert documents(items)["README.md"].link == f"{server.url}/notes#README.md"
    assert items[-1] == EndOfSource()


async def test_the_token_opens_its_own_servers_and_is_sent_to_no_other(published: Path) -> None:
    with GitServer(published, password="x-access-token:right") as server:
        with pytest.raises(CollectionError, match="If it is private, set GITHUB_TOKEN"):
            await read(GitReader(token="right"), f"{server.url}/notes.git")
        assert set(server.authorizations) == {None}, "127.0.0.1 is not GitHub"

        reader = GitReader(token="right", token_servers=[f"{server.url}/"])
        assert documents(await read(reader, f"{server.url}/notes.git"))


async def test_a_wrong_token_is_told_without_showing_it(published: Path) -> None:
    with GitServer(published, password="x-access-token:right") as server:
        reader = GitReader(token="wrong-one", token_servers=[f"{server.url}/"])
        with pytest.raises(CollectionError, match="check that the token is valid") as caught:
            await read(reader, f"{server.url}/notes.git")

    assert "wrong-one" not in str(caught.value)


async def test_credentials_of_a_link_reach_the_server_and_no_command_line_nor_document(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    original = asyncio.create_subprocess_exec

    async def recording(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        commands.append(" ".join(arguments))
        return await original(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recording)
    with GitServer(published, password="ada:s3cret pw") as server:
        link = server.url.replace("://", "://ada:s3cret%20pw@") + "/notes.git"
        found = documents(await read(GitReader(), link))

    assert found["README.md"].origin == f"{server.url}/notes.git"
    assert commands
    assert "s3cret" not in " ".join(commands) + "".join(d.model_dump_json() for d in found.values())


async def test_a_server_that_never_answers_is_given_up_with_all_its_processes(tmp_path: Path) -> None:
    with GitServer(tmp_path, hang=True) as server:
        started = time.monotonic()
        with pytest.raises(CollectionError, match=r"took longer than 0\.5 s"):
            await read(GitReader(timeout_seconds=0.5), f"{server.url}/slow.git")
        assert time.monotonic() - started < allow(5)
        assert not _processes_naming(f"{server.url}/slow.git"), "git's helper must not go on downloading"


async def test_a_cancelled_read_ends_git(tmp_path: Path) -> None:
    with GitServer(tmp_path, hang=True) as server:
        task = asyncio.create_task(read(GitReader(), f"{server.url}/slow.git"))
        while not server.authorizations:  # noqa: ASYNC110 - filled by the server's thread
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not _processes_naming(f"{server.url}/slow.git")


def _processes_naming(words: str) -> list[str]:
    commands = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(command) for command in commands if words in command]


async def test_an_unreachable_server_is_told_from_a_private_repository() -> None:
    with pytest.raises(CollectionError, match="cannot be reached"):
        await read(GitReader(), "http://127.0.0.1:9/x.git")


@pytest.mark.parametrize(
    ("url", "clone_url", "public_url", "platform", "name"),
    [
        (
            "https://github.com/ada/notes.git",
            "https://github.com/ada/notes.git",
            "https://github.com/ada/notes",
            "github",
            "ada/notes",
        ),
        (
            "https://www.GitHub.com/ada/notes/",
            "https://www.github.com/ada/notes",
            "https://github.com/ada/notes",
            "github",
            "ada/notes",
        ),
        (
            "git@github.com:ada/notes.git",
            "git@github.com:ada/notes.git",
            "https://github.com/ada/notes",
            "github",
            "ada/notes",
        ),
        (
            "ssh://git@gitlab.com/a/b/c.git",
            "ssh://git@gitlab.com/a/b/c.git",
            "https://gitlab.com/a/b/c",
            "gitlab",
            "a/b/c",
        ),
        (
            "https://user:pw@git.example.org:8443/x.git",
            "https://git.example.org:8443/x.git",
            "https://git.example.org:8443/x",
            "git.example.org",
            "x",
        ),
    ],
)
def test_addresses_are_taken_apart(
    url: str, clone_url: str, public_url: str, platform: str, name: str
) -> None:
    address = parse_address(url)
    assert (address.clone_url, address.public_url, address.platform, address.name) == (
        clone_url,
        public_url,
        platform,
        name,
    )


def test_a_link_into_a_forge_s_tree_names_branch_and_folder_and_files_open_there() -> None:
    address = parse_address("https://github.com/ada/notes/tree/dev/docs/deep")
    assert (address.clone_url, address.branch, address.folder) == (
        "https://github.com/ada/notes",
        "dev",
        "docs/deep",
    )
    assert (
        address.link("docs/deep/a b.md", "dev") == "https://github.com/ada/notes/blob/dev/docs/deep/a%20b.md"
    )
    assert (
        parse_address("git@gitlab.com:a/b.git").link("x.py", None)
        == "https://gitlab.com/a/b/-/blob/HEAD/x.py"
    )


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.py", "a/b/c.py", True),
        ("*.py", "a/b/c.pyc", False),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/x/a.py", False),
        ("/README.md", "docs/README.md", False),
        ("docs", "docs/a/b.md", True),
        ("docs/", "docs", False),
        ("**/test_*.py", "test_a.py", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "a/z", True),
        ("[ab]?.md", "bx.md", True),
        ("[!ab]?.md", "bx.md", False),
        ("a+b(c).md", "a+b(c).md", True),
    ],
)
def test_patterns_mean_what_gitignore_means(pattern: str, path: str, expected: bool) -> None:
    assert matches(path, [pattern]) is expected


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        ("Dockerfile", "", "dockerfile"),
        ("deploy/Dockerfile.gpu", "", "dockerfile"),
        ("CMakeLists.txt", "", "cmake"),
        ("run", "#!/usr/bin/env python3\n", "python"),
        ("run", "#!/bin/bash -e\n", "shell"),
        ("run", "#!/usr/bin/env -S node --x\n", "javascript"),
        ("LICENSE", "Apache", "und"),
        (".gitignore", "x", "und"),
    ],
)
def test_languages_are_told_by_name_ending_or_first_line(path: str, text: str, language: str) -> None:
    assert language_of(path, text) == language


def test_git_is_there() -> None:
    assert shutil.which("git"), "these tests need git, as the project itself does"
