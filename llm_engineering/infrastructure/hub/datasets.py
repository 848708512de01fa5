"""Data sets for the library ``datasets``, and on a hub.

Saving needs the group ``training`` (``datasets``); pushing needs only ``huggingface_hub``, which is always there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_engineering.domain.datasets import InstructSample, PreferenceSample, Split
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    MissingDependencyError,
    StoreError,
)

PUSHED = ("README.md", "manifest.json", "report.html", *(f"{split}.jsonl" for split in Split))
"""What goes to a hub. What was dropped stays here: it was dropped for a reason."""


def save_for_hub(folder: Path, splits: Mapping[Split, Sequence[InstructSample | PreferenceSample]]) -> None:
    """Write splits as ``datasets.DatasetDict.save_to_disk`` does. An empty split has the columns of the others.

    Raises:
        MissingDependencyError: the library is not installed.
        OSError: the folder cannot be written.
    """
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(
            "datasets", "training", "Writing a data set for the library datasets"
        ) from None
    preference = any(isinstance(sample, PreferenceSample) for part in splits.values() for sample in part)
    features = _features(preference)
    tables = {}
    for split in Split:
        rows = [sample.model_dump(mode="json") for sample in splits.get(split, ())]
        # By columns: rows of an empty split would leave its table without any.
        columns = {name: [row[name] for row in rows] for name in features}
        tables[split.value] = datasets.Dataset.from_dict(columns, features=features)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        # Of its own accord the library writes no file for an empty split, and cannot read that again.
        shards = {name: None if len(table) else 1 for name, table in tables.items()}
        datasets.DatasetDict(tables).save_to_disk(str(folder), num_shards=shards)
    finally:
        if shown:
            datasets.enable_progress_bars()


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where a data set went."""

    url: str
    commit: str


@dataclass(frozen=True, slots=True)
class DatasetsHub:
    """A hub that data sets are pushed to.

    Args:
        token: with the right to write.
        endpoint: address of the hub; None: the public one, or what ``HF_ENDPOINT`` says.
    """

    token: str
    endpoint: str | None = None

    def push(self, folder: Path, repository: str, *, private: bool = True) -> Pushed:
        """Make the repository where there is none, and put the folder's files there in one commit.

        A repository that exists keeps its visibility.

        Raises:
            InvalidInputError: the repository's name is not OWNER/NAME, or the folder holds no data set.
            ConfigurationError: the hub does not accept the token, or it may not write there.
            StoreError: the hub cannot be reached, or failed.
        """
        import httpx
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        if not (folder / "manifest.json").is_file():
            raise InvalidInputError(f"{folder} holds no data set: it has no manifest.json.")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise InvalidInputError(f"{repository!r} is no repository; expected OWNER/NAME.")
        api = HfApi(endpoint=self.endpoint, token=self.token)
        try:
            url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                repo_type="dataset",
                folder_path=folder,
                allow_patterns=list(PUSHED),
                commit_message=f"Data set {folder.name}",
            )
        except HFValidationError as error:
            raise InvalidInputError(f"{repository!r} is no repository: {error}") from None
        except HfHubHTTPError as error:
            raise _refused(error, repository) from None
        except (httpx.HTTPError, OSError) as error:
            raise StoreError(
                f"The hub cannot be reached ({type(error).__name__}: {error}). Try again later; nothing was lost."
            ) from None
        return Pushed(str(url), getattr(commit, "oid", ""))


def _refused(error: Any, repository: str) -> ConfigurationError | StoreError:
    status = error.response.status_code if error.response is not None else None
    if status in (401, 403):
        return ConfigurationError(
            f"The hub refused to write to {repository} (status {status}). HF_TOKEN must be a token with the right to write "
            "there."
        )
    return StoreError(f"The hub failed on {repository} (status {status}). Try again later.")


def _features(preference: bool) -> Any:
    from datasets import Features, List, Value

    text, number = Value("string"), Value("int64")
    names = ("prompt", "chosen", "rejected") if preference else ("instruction", "answer")
    origin = dict.fromkeys(
        ("document_id", "content_hash", "title", "author", "category", "language", "group"), text
    )
    provenance = dict.fromkeys(("made_by", "model", "prompt_hash"), text)
    return Features(
        {
            **dict.fromkeys(names, text),
            **({} if preference else {"history": List({"role": text, "content": text})}),
            "origin": {**origin, "span": {"start": number, "end": number}},
            "provenance": {**provenance, "evolutions": List(text), "seed": number},
            "split": text,
        }
    )
