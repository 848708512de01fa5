"""What is looked at before ZenML starts, so that a wrong link, author, database or data set is told within seconds."""

import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from llm_engineering.application.analysis.config import RecordAnalysis
from llm_engineering.application.config import StrictConfig
from llm_engineering.application.evaluation.models.config import ModelEvaluationParameters
from llm_engineering.application.evaluation.rag.config import RagEvaluation
from llm_engineering.application.features.config import (
    CollectRun,
    DigitalDataEtl,
    EndToEndData,
    FeatureEngineering,
    LinkSpec,
)
from llm_engineering.application.inference.search import Facets, spell_filter
from llm_engineering.application.training.datasets.config import (
    DatasetRun,
    GenerateInstructDataset,
    GeneratePreferenceDataset,
)
from llm_engineering.application.training.finetune.data import MANIFEST
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.datasets import DatasetManifest, Split
from llm_engineering.domain.errors import (
    ConfigurationError,
    FetchError,
    InvalidInputError,
    MissingDependencyError,
)
from llm_engineering.domain.hints import POE
from llm_engineering.domain.retrieval import MetadataFilter
from llm_engineering.settings import Settings
from tools.checks import find_missing_group

CONNECT_SECONDS = 1.5
_PORTS = {"http": 80, "https": 443}
_LOCAL = {"127.0.0.1", "localhost", "::1"}
RunT = TypeVar("RunT", bound=DatasetRun)


def check_inputs(parameters: StrictConfig, settings: Settings) -> list[str]:
    """Check what a run needs; returns warnings on what it will not be able to say.

    Raises:
        TwinError: something is missing or wrong; says what to do.
    """
    warnings: list[str] = []
    match parameters:
        case DigitalDataEtl() | EndToEndData():
            check_links(parameters.collect)
            check_database(settings)
        case FeatureEngineering() | RecordAnalysis():
            check_database(settings)
        case GenerateInstructDataset() | GeneratePreferenceDataset():
            check_database(settings)
        case RagEvaluation():
            for file in parameters.rag_evaluation.questions.files:
                if not file.is_file():
                    raise ConfigurationError(f"There is no file of questions {file}.")
        case Training():
            _check_training(parameters)
        case ModelEvaluationParameters():
            _require_group("training", "Comparing models")
            run = parameters.model_evaluation
            dataset = run.dataset or _find_newest(run.datasets, "instruct")
            if dataset is not None and (told := describe_limits(dataset, parameters)) is not None:
                warnings.append(told)
    return warnings


def check_links(collect: CollectRun) -> None:
    """Refuse web addresses that cannot be ones.

    Raises:
        ConfigurationError: names all of them.
    """
    wrong = [f"{link.url}: {told}" for link in collect.links if (told := _describe_mistake(link))]
    if wrong:
        raise ConfigurationError("These links cannot be read:\n" + "\n".join(f"  - {line}" for line in wrong))


def _describe_mistake(link: LinkSpec) -> str:
    scheme, separator, rest = link.url.strip().partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        known = ("http", "https", "file", "git", "ssh", "git+ssh", "git+https", "git+http")
        return f"'{scheme}://' is no kind of link" if separator and scheme.lower() not in known else ""
    if not rest.strip("/") or any(mark.isspace() for mark in rest):
        return "expected an address such as https://your.blog/feed.xml"
    return ""


def check_hosts(links: Sequence[str]) -> None:
    """Refuse to start where none of the web addresses has a server that listens. Blocking, for two seconds at most.

    Raises:
        FetchError: says what became of each.
    """
    parts = [part for part in map(urlsplit, links) if part.scheme in ("http", "https") and part.hostname]
    if not parts or len(parts) < len(links):
        return  # others are of this machine: they are looked at when they are read
    hosts = {(part.hostname or "", part.port or _PORTS[part.scheme]) for part in parts}
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(_try_host, *zip(*hosts, strict=True)))
    if all(told):
        raise FetchError(
            "Nothing can be collected: " + "; ".join(sorted(told)) + ". Check the links, and the network."
        )


def _try_host(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except socket.gaierror:
        return f"there is no host {host}"
    except ConnectionRefusedError:
        return f"nothing listens at {host}:{port}"
    except OSError:
        return ""  # slow, or behind a proxy: reading it will tell
    return ""


def check_database(settings: Settings) -> None:
    """Make sure that the data warehouse answers: a local one within a second.

    Raises:
        StoreUnavailableError: it does not.
    """
    with open_resources(shorten_wait(settings)) as resources:
        resources.warehouse.ping()


def shorten_wait(settings: Settings) -> Settings:
    """Return the settings with no more than a second for a database of this machine, which answers at once or not at all."""
    database = settings.database
    host = database.uri.get_secret_value().partition("://")[2].rpartition("@")[2].partition("/")[0]
    if host.rpartition(":")[0].strip("[]") not in _LOCAL:
        return settings
    short = database.model_copy(update={"timeout_seconds": min(1.0, database.timeout_seconds)})
    return settings.model_copy(update={"database": short})


def choose_author(run: RunT, author: str | None, settings: Settings) -> RunT:
    """Return the run of a data set with whose texts it is made of, as the warehouse spells the name.

    Args:
        author: as asked for; None: the run's own, else the twin's.

    Raises:
        UnknownFilterValueError: nothing by that author was collected; names the closest.
        StoreUnavailableError: the data warehouse does not answer.
    """
    wanted = author or run.author or settings.twin_author
    if not wanted:
        return run
    with open_resources(shorten_wait(settings)) as resources:
        counts = resources.warehouse.documents.count_documents()
    if not counts:
        raise InvalidInputError(
            f"Nothing was collected yet. Collect with: {POE} run-end-to-end-data-pipeline --link URL"
        )
    known = Facets(author={name: 1 for _, name in counts})
    spelled = spell_filter(MetadataFilter(authors=(wanted,)), known).authors[0]
    return run.model_copy(update={"author": spelled})


def _check_training(parameters: Training) -> None:
    _require_group("training", "Training")
    for run, kind in ((parameters.training, "instruct"), (parameters.dpo, "preference")):
        if run is None:
            continue
        if run.dataset is None:
            _find_newest(Path("data/datasets"), kind)
        elif not (run.dataset / MANIFEST).is_file():
            raise ConfigurationError(f"{run.dataset} is no data set: it holds no {MANIFEST}.")


def _require_group(name: str, purpose: str) -> None:
    if missing := find_missing_group(name):
        raise MissingDependencyError(missing, name, purpose)


def _find_newest(folder: Path, kind: str) -> Path | None:
    """The newest data set of the folder; None where it may lie elsewhere, on another stack than this machine's.

    Raises:
        ConfigurationError: there is none.
    """
    if os.environ.get("ZENML_STORE_URL"):
        return None
    found = [file for file in folder.glob(f"*/*/{MANIFEST}") if _read_kind(file) == kind]
    if not found:
        raise ConfigurationError(
            f"There is no {kind} data set in {folder} yet. Make one: {POE} run-generate-{kind}-datasets-pipeline"
        )
    return max(found, key=lambda file: file.stat().st_mtime).parent


def _read_kind(manifest: Path) -> str:
    try:
        return DatasetManifest.model_validate_json(manifest.read_bytes()).kind
    except (OSError, ValidationError):
        return ""


def describe_limits(dataset: Path, parameters: ModelEvaluationParameters) -> str | None:
    """Return what an evaluation on this data set cannot decide, so that nobody waits for it; None where it can."""
    try:
        manifest = DatasetManifest.model_validate_json((dataset / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise ConfigurationError(f"{dataset} is no data set: its manifest.json cannot be read.") from None
    run, policy = parameters.model_evaluation, parameters.promotion
    if policy is None:
        return None
    there, documents = manifest.counts.get(Split.TEST, 0), manifest.documents.get(Split.TEST, 0)
    asked = min(there, run.samples or there)
    short = []
    if asked < policy.min_items:
        why = f"the test split has {there}" if asked == there else f"'samples' in the YAML says {run.samples}"
        short.append(f"at least {policy.min_items} test questions, and {why}")
    if documents < policy.min_clusters:
        short.append(f"texts of {policy.min_clusters} documents, and the test split has {documents}")
    if not short:
        return None
    return f"This cannot promote a model: that takes {'; and '.join(short)}. The comparison is made all the same."
