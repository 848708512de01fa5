"""Reads a git repository: one document per text file of its newest commit."""

import asyncio
import contextlib
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from loguru import logger

from llm_engineering.application.features.links import hide_credentials
from llm_engineering.application.ports import (
    EndOfSource,
    FetchedDocument,
    Link,
    Rejected,
    SourceItem,
    StoredVersion,
)
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError, ExtractionError, FetchError
from llm_engineering.domain.facets import MetadataValue
from llm_engineering.infrastructure.shared.addresses import PrivateAddresses, may_lead_inside, resolve_host
from llm_engineering.infrastructure.sources.git import commands, selection
from llm_engineering.infrastructure.sources.git.address import (
    Address,
    basic_authorization,
    parse_address,
)
from llm_engineering.infrastructure.sources.git.globs import matches
from llm_engineering.infrastructure.sources.git.languages import language_of

_NOT_FOUND = (
    "could not read username",
    "authentication failed",
    "not found",
    "terminal prompts disabled",
    "403",
    "401",
    "permission denied",
)
_UNREACHABLE = (
    "could not resolve",
    "unable to connect",
    "connection refused",
    "timed out",
    "couldn't connect",
    "failed to connect",
)
_REDIRECTED = re.compile(r"returned error: 30[12378]\b")
MAX_REDIRECTS = 5
SELECTION_SECONDS = 30.0
_OPTIONS = ("branch", "exclude", "include")
# What every link may carry, or inherits from the feed that led to it.
_COMMON_OPTIONS = ("author_from_page", "max_items", "reader")


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    object_id: str


class GitReader:
    """Reads any git URL, or a repository's folder on this machine (what is committed there, not what lies about).

    Link options: ``branch`` (default: the repository's own), ``include`` and ``exclude`` (patterns over paths, as in
    ``.gitignore``; a file is read when it matches an include, where there are any, and no exclude).

    Nothing of the repository is executed or even checked out: blobs are read from git's object store, so hooks,
    filters, symbolic links and odd file names have no effect.

    Args:
        token: sent, as a password, to ``token_servers`` only, through git's environment.
        private_addresses: see :data:`PrivateAddresses`.
        timeout_seconds: for the whole clone.
        max_repository_bytes: a clone that grows beyond this is given up.
        max_file_bytes: larger files are skipped (and not even downloaded where the server can leave them out).
        max_files: files beyond this number, in order of their paths, are reported as rejected.
    """

    name = "git"

    def __init__(
        self,
        token: str | None = None,
        *,
        private_addresses: PrivateAddresses = "given",
        timeout_seconds: float = 120.0,
        max_repository_bytes: int = 500_000_000,
        max_file_bytes: int = 200_000,
        max_files: int = 5_000,
        token_servers: Sequence[str] = ("https://github.com/",),
    ) -> None:
        self._token = token
        self._private_addresses = private_addresses
        self._timeout = timeout_seconds
        self._max_repository_bytes = max_repository_bytes
        self._max_file_bytes = max_file_bytes
        self._max_files = max_files
        self._token_servers = tuple(token_servers)

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:  # noqa: ARG002
        """Clone, then yield one FetchedDocument per text file, and EndOfSource where the repository was read to its end.

        Raises:
            CollectionError: git is missing, or the repository cannot be had: private, absent, too large, too slow.
            ExtractionError: the repository has no text files (that the patterns let through).
        """
        address, branch, include, exclude = _understand(link)
        environ = commands.git_environment({})  # what comes after the clone needs no secret
        folder = Path(tempfile.mkdtemp(prefix="twin-git-"))
        try:
            await self._fetch(address, branch, folder, link.found_through or address.clone_url)
            default_branch = await self._git(folder, environ, "symbolic-ref", "--short", "HEAD")
            files = await self._list(folder, environ, address)
            skipped: Counter[str] = Counter()
            count = 0
            contents = self._contents(files, include, exclude, folder, environ, skipped)
            async with contextlib.aclosing(contents):
                async for path, content in contents:
                    document = _document(
                        link, address, branch, default_branch.strip(), path, content, skipped
                    )
                    if document is None:
                        continue
                    if count == self._max_files:
                        yield Rejected(address.public_url, self._too_many(path))
                        return
                    count += 1
                    yield FetchedDocument(document)
            logger.info(
                "{}: {} text files read, skipped: {}", address.public_url, count, dict(skipped) or "none"
            )
            if not count:
                raise ExtractionError(
                    f"{address.public_url} holds no text file to collect ({_explain(skipped)}). "
                    "Check the branch and the options include and exclude."
                )
            yield EndOfSource()
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    async def close(self) -> None:
        """Nothing is held between links."""

    def _too_many(self, path: str) -> str:
        return (
            f"The repository has more than {self._max_files:,} text files; those from {path!r} on were left out. "
            "Narrow the link with the options include and exclude, or raise max_files."
        )

    def _secrets(self, address: Address) -> dict[str, str]:
        authorization = address.authorization
        if authorization is None and self._token and address.server in self._token_servers:
            authorization = basic_authorization(f"x-access-token:{self._token}")
        return (
            {f"http.{address.server}.extraHeader": f"Authorization: {authorization}"} if authorization else {}
        )

    async def _fetch(self, address: Address, branch: str | None, folder: Path, given: str) -> None:
        """Clone, through redirects: each is checked like a link, and the credentials stay where they belong."""
        at = address
        for _ in range(MAX_REDIRECTS + 1):
            secrets = self._secrets(at)
            pinned = await self._pin(at, given)
            said = await self._clone(at, branch, folder, commands.git_environment({**secrets, **pinned}))
            if not said:
                return
            if not at.server or not _REDIRECTED.search(said):
                raise CollectionError(self._why(said, at, branch, with_token=bool(secrets)))
            at = await self._next_hop(at, given)
        raise CollectionError(f"{address.public_url} redirects more than {MAX_REDIRECTS} times.")

    async def _pin(self, address: Address, given: str) -> dict[str, str]:
        """The setting that ties the server's name to the addresses that were checked (git 2.37 and later)."""
        parts = urlsplit(address.clone_url if address.server else address.public_url)
        if parts.scheme == "file" or (address.server and parts.scheme in getproxies()):
            return {}  # a proxy resolves names itself
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # Feeds and redirects lead to http and https only, so everything else was written by the user.
        inside = may_lead_inside(
            self._private_addresses, address.clone_url, given if address.server else address.clone_url
        )
        try:
            addresses = await resolve_host(parts.hostname or "", port, inside=inside)
        except FetchError as error:
            raise CollectionError(f"{address.public_url}: {error}.") from error
        except OSError as error:
            if not address.server:
                return {}  # a name out of ssh's own configuration
            raise CollectionError(f"{address.public_url} cannot be reached: {error.strerror}.") from error
        joined = ",".join(f"[{one}]" if ":" in one else one for one in addresses)
        return {"http.curloptResolve": f"{parts.hostname}:{port}:{joined}"} if address.server else {}

    async def _next_hop(self, address: Address, given: str) -> Address:
        """Where the server sends git."""
        import httpx

        from llm_engineering.infrastructure.shared.web_client import WebClient, find_redirect

        query = "/info/refs?service=git-upload-pack"
        url = f"{address.clone_url}{query}"
        headers = {"Authorization": address.authorization} if address.authorization else {}
        client = WebClient(private_addresses=self._private_addresses, timeout_seconds=30.0)
        try:
            async with client.stream(url, given=given, headers=headers) as response:
                target = find_redirect(url, response) or ""
        except (httpx.HTTPError, httpx.InvalidURL, FetchError) as error:
            raise CollectionError(f"{address.public_url}: {error or type(error).__name__}.") from error
        finally:
            await client.close()
        if not target.endswith(query):
            raise CollectionError(f"{address.public_url} redirects to what is no git repository.")
        reached = parse_address(target.removesuffix(query))
        same_server = reached.server == address.server
        return replace(
            address,
            clone_url=reached.clone_url,
            authorization=address.authorization if same_server else None,
        )

    async def _clone(
        self, address: Address, branch: str | None, folder: Path, environ: Mapping[str, str]
    ) -> str:
        """Clone into the folder; returns what git said where it failed, else nothing."""
        arguments = [
            "clone",
            "--bare",
            "--quiet",
            "--depth=1",
            "--single-branch",
            "--no-tags",
            "--template=",
            f"--filter=blob:limit={self._max_file_bytes + 1}",
            *([f"--branch={branch}"] if branch else []),
            "--",
            address.clone_url,
            str(folder),
        ]
        try:
            async with asyncio.timeout(self._timeout), commands.run_git(arguments, environ) as process:
                status, _, messages = await commands.finish(process, folder, self._max_repository_bytes)
        except TimeoutError:
            raise CollectionError(
                f"Cloning {address.public_url} took longer than {self._timeout:g} s and was given up. "
                "Try again later, or raise the time limit."
            ) from None
        except commands.TooLargeError:
            raise CollectionError(
                f"{address.public_url} is larger than the limit of {self._max_repository_bytes:,} bytes, "
                "counting its newest commit only."
            ) from None
        return messages.decode(errors="replace") or f"git ended with status {status}" if status else ""

    def _why(self, said: str, address: Address, branch: str | None, *, with_token: bool) -> str:
        lower = said.lower()
        if branch and "remote branch" in lower:
            return (
                f"{address.public_url} has no branch or tag {branch!r}. Check the option branch of the link."
            )
        if "dubious ownership" in lower:
            return (
                f"{address.public_url} belongs to another user, and git reads such a folder only when told that it is "
                "safe: git config --global --add safe.directory FOLDER"
            )
        if any(sign in lower for sign in _UNREACHABLE):
            return f"{address.public_url} cannot be reached: {_last_line(said)}"
        if "does not appear to be a git repository" in lower or "not a git repository" in lower:
            return (
                f"{address.public_url} is no git repository. Expected one's URL, or a folder with .git in it."
            )
        if any(sign in lower for sign in _NOT_FOUND):
            hint = (
                "The credentials given do not open it: check that the token is valid and may read this repository."
                if with_token
                else "If it is private, set GITHUB_TOKEN (for GitHub), or use an ssh address with a key."
            )
            return f"{address.public_url} does not exist or is private ({_last_line(said)}). {hint}"
        return f"git could not clone {address.public_url}: {_last_line(said)}"

    async def _git(self, folder: Path, environ: Mapping[str, str], *arguments: str) -> str:
        """Output of a command on the clone; empty when it fails."""
        try:
            async with (
                asyncio.timeout(self._timeout),
                commands.run_git(["-C", str(folder), *arguments], environ) as process,
            ):
                status, output, _ = await commands.finish(process, folder, 2 * self._max_repository_bytes)
        except TimeoutError:
            raise CollectionError(
                f"git {arguments[0]} took longer than {self._timeout:g} s on the clone, which was given up."
            ) from None
        except commands.TooLargeError:
            raise CollectionError(
                f"git {arguments[0]} lists more than {commands.MAX_OUTPUT_BYTES:,} bytes of files; the repository was given up."
            ) from None
        return "" if status else output.decode(errors="surrogateescape")

    async def _list(self, folder: Path, environ: Mapping[str, str], address: Address) -> list[_File]:
        """The regular files of the newest commit, by path: symbolic links and submodules are not followed."""
        listing = await self._git(folder, environ, "ls-tree", "-r", "-z", "--full-tree", "HEAD")
        if not listing:
            raise ExtractionError(
                f"{address.public_url} is empty: it has no commit, or its newest commit has no file."
            )
        files = []
        for entry in filter(None, listing.split("\0")):
            meta, _, path = entry.partition("\t")
            mode, _, object_id = meta.split()
            within = (
                address.folder is None
                or path.startswith(f"{address.folder.rstrip('/')}/")
                or path == address.folder
            )
            if mode in ("100644", "100755") and within:
                files.append(_File(path, object_id))
        return files

    async def _contents(
        self,
        files: Sequence[_File],
        include: Sequence[str],
        exclude: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        skipped: Counter[str],
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """(path, bytes) of the files that are worth opening and small enough, one at a time."""
        # Sizes come from the local objects: asking for those of blobs that were filtered out would download them.
        everything = await self._git(
            folder, environ, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objectsize)"
        )
        sizes = dict(line.split() for line in everything.splitlines())
        async with commands.run_git(
            ["-C", str(folder), "cat-file", "--batch"], environ, stdin=asyncio.subprocess.PIPE
        ) as process:
            attributes = await self._attributes(process, files, sizes)
            for problem in attributes.unreadable[:10]:
                logger.warning("A rule of .gitattributes was left out: {}", problem)
            paths = [file.path for file in files]
            # In a thread: a stranger's rules are asked for each of his files.
            reasons = await asyncio.to_thread(_reasons_to_skip, paths, include, exclude, attributes)
            for file, reason in zip(files, reasons, strict=True):
                if (
                    reason is None
                    and int(sizes.get(file.object_id, self._max_file_bytes + 1)) > self._max_file_bytes
                ):
                    reason = "too large"
                if reason is None:
                    yield file.path, await _blob(process, file.object_id)
                else:
                    skipped[reason] += 1

    async def _attributes(
        self, process: asyncio.subprocess.Process, files: Sequence[_File], sizes: Mapping[str, str]
    ) -> selection.Attributes:
        for file in files:
            if (
                file.path == ".gitattributes"
                and int(sizes.get(file.object_id, self._max_file_bytes + 1)) <= self._max_file_bytes
            ):
                return selection.Attributes.parse(
                    (await _blob(process, file.object_id)).decode(errors="replace")
                )
        return selection.Attributes()


def _reasons_to_skip(
    paths: Sequence[str], include: Sequence[str], exclude: Sequence[str], attributes: selection.Attributes
) -> list[str | None]:
    deadline = time.monotonic() + SELECTION_SECONDS
    reasons: list[str | None] = []
    for path in paths:
        if time.monotonic() > deadline:
            raise CollectionError(
                f"Choosing among {len(paths):,} files took longer than {SELECTION_SECONDS:g} s: the repository's "
                ".gitattributes is too long for so many. Narrow the link to a folder of it."
            )
        if (include and not matches(path, include)) or matches(path, exclude):
            reasons.append("left out by include or exclude")
        else:
            reasons.append(selection.reason_to_skip_path(path, attributes))
    return reasons


def _understand(link: Link) -> tuple[Address, str | None, list[str], list[str]]:
    unknown = set(link.options) - {*_OPTIONS, *_COMMON_OPTIONS}
    if unknown:
        raise CollectionError(
            f"A git link has no option {', '.join(map(repr, sorted(unknown)))}. Expected: {', '.join(_OPTIONS)}."
        )
    address = parse_address(link.url)
    branch = link.options.get("branch", address.branch)
    if branch is not None and (
        not isinstance(branch, str) or not re.fullmatch(r"(?!-)[^\s~^:?*\[\\]+", branch)
    ):
        raise CollectionError(f"The option branch must be the name of a branch or tag, not {branch!r}.")
    patterns = []
    for option in ("include", "exclude"):
        value = link.options.get(option) or []
        value = [value] if isinstance(value, str) else list(value)
        try:
            matches("probe", map(str, value))
        except ValueError as error:
            raise CollectionError(f"The option {option} is wrong: {error}") from None
        patterns.append([str(pattern) for pattern in value])
    return address, branch, patterns[0], patterns[1]


async def _blob(process: asyncio.subprocess.Process, object_id: str) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{object_id}\n".encode())
    try:
        await process.stdin.drain()
        header = (await process.stdout.readline()).split()
        content = await process.stdout.readexactly(int(header[2]) + 1)
    except (OSError, IndexError, ValueError, asyncio.IncompleteReadError) as error:
        raise CollectionError(
            f"git stopped while its objects were read (object {object_id}); the clone is damaged."
        ) from error
    return content[:-1]


def _document(
    link: Link,
    address: Address,
    branch: str | None,
    default_branch: str,
    path: str,
    content: bytes,
    skipped: Counter[str],
) -> RawDocument | None:
    """The document of a file; None, with the reason counted, for one that holds no text of its own."""
    decoded = selection.decode(content)
    text, encoding = decoded or ("", "")
    language, metadata = "", dict[str, MetadataValue]()
    reason = None if decoded else "binary or data"
    if decoded and path.lower().endswith(".ipynb"):
        text, language = selection.notebook_text(text) or ("", "")
        metadata["format"] = "notebook"
    reason = reason or selection.reason_to_skip_text(text)
    # A path is bytes to git; what is no UTF-8 in it is shown with replacement characters.
    shown = path.encode(errors="surrogateescape").decode(errors="replace")
    if reason:
        skipped[reason] += 1
        return None
    # No commit here: metadata counts as content, and every file would look changed at each commit.
    metadata |= {"path": shown, "repository": address.name, "branch": branch or default_branch}
    if encoding != "utf-8":
        metadata["encoding"] = encoding
    return RawDocument(
        category=link.category or "repository",
        title=shown,
        text=text,
        link=address.link(shown, branch),
        origin=hide_credentials(link.url),
        platform=address.platform,
        author=link.author,
        language=language or language_of(path, text),
        metadata={key: value for key, value in metadata.items() if value != ""},
    )


def _last_line(said: str) -> str:
    lines = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and not line.startswith(("Cloning into", "warning:"))
    ]
    chosen = next(
        (line for line in reversed(lines) if line.startswith(("fatal:", "remote:", "ERROR"))),
        lines[-1] if lines else "no message",
    )
    return re.sub(r"//[^/@\s]+@", "//", chosen)[:300]


def _explain(skipped: Counter[str]) -> str:
    return (
        ", ".join(f"{count} {reason}" for reason, count in skipped.most_common()) or "it has no regular file"
    )
