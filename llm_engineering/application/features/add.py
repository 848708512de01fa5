"""Add one file to the collection at once: collect, clean and index it, in place of the next run of the pipelines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_engineering.application.features.collect import STAGE, collect, in_thread
from llm_engineering.application.features.collect_report import LinkOutcome, LinkStatus
from llm_engineering.application.features.config import FeatureRun
from llm_engineering.application.features.index import find_changes
from llm_engineering.application.features.pipeline import (
    clean_documents,
    index_documents,
    mark_near_duplicates,
)
from llm_engineering.application.features.voices import build_voice_profiles
from llm_engineering.application.ports import Embedder, Link, SourceReader, VectorIndex, Warehouse
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.documents import User
from llm_engineering.domain.errors import ExtractionError

MAX_AT_ONCE = 200
"""Documents that are indexed while somebody waits; more are left to the feature pipeline."""


@dataclass(frozen=True, slots=True)
class Addition:
    """What became of a file."""

    outcome: LinkOutcome
    searchable: bool
    """False: it is stored, and can be found after the next run of the feature pipeline."""


async def add_file(
    name: str,
    content: bytes,
    author: str,
    *,
    folder: Path,
    readers: Mapping[str, SourceReader],
    warehouse: Warehouse,
    index: VectorIndex,
    embedder: Embedder,
    features: FeatureRun,
    privacy: PrivacyPolicy | None = None,
) -> Addition:
    """Keep a file in ``folder`` and make it part of the collection. The same name again replaces what was kept under it.

    It is indexed at once where nothing else in the index has to change for it, as an index that was built with other
    settings would.

    Args:
        name: its last part counts; its ending says what the file is.
        readers: with the one named ``files``.
        features: as the feature pipeline runs.
        privacy: as the feature pipeline treats personal data.

    Raises:
        ExtractionError: nothing in it can be used; what was kept under the name before stays.
        StoreError: a store failed. Send it again.
    """
    path = folder / User(full_name=author).id / Path(name).name
    before = await in_thread(_replace, path, content)
    report = await collect(
        [Link(str(path.resolve()), author, options={"reader": "files"})],
        {"files": readers["files"]},
        warehouse.documents,
        warehouse.users,
        warehouse.dead_letters,
    )
    outcome = report.outcomes[0]
    if outcome.status is LinkStatus.FAILED:
        await in_thread(_put_back, path, before)
        sources = [outcome.url, *(source for source, _ in outcome.rejections)]
        await in_thread(warehouse.dead_letters.resolve, STAGE, sources)
        raise ExtractionError(outcome.rejections[0][1] if outcome.rejections else outcome.reason)
    return Addition(outcome, await in_thread(_build, warehouse, index, embedder, features, privacy))


def _build(
    warehouse: Warehouse,
    index: VectorIndex,
    embedder: Embedder,
    features: FeatureRun,
    privacy: PrivacyPolicy | None,
) -> bool:
    """Clean and index what is new. False: that is more than the new documents, and is left to the feature pipeline."""
    clean_documents(
        warehouse.documents, warehouse.clean, warehouse.dead_letters, max_failed_share=1, privacy=privacy
    )
    known = {identifier for identifier, _ in index.list_versions()}
    mark_near_duplicates(warehouse.clean)
    changes = find_changes(
        warehouse.clean, index, embedder.fingerprint, features.chunking, title_vectors=features.title_vectors
    )
    # Of documents that are indexed already, a handful may be new versions: the file itself, or one in its group.
    if len(changes) > MAX_AT_ONCE or len(known & changes) > max(1, len(known) // 10):
        return False
    index_documents(
        warehouse.clean,
        index,
        embedder,
        warehouse.embeddings,
        features.chunking,
        dead_letters=warehouse.dead_letters,
        max_failed_share=1,
        title_vectors=features.title_vectors,
    )
    build_voice_profiles(warehouse.clean, warehouse.voices)
    return True


def _replace(path: Path, content: bytes) -> bytes | None:
    """Write a file; returns what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.is_file() else None
    if content != before:  # its time counts as the text's date where the text says none
        path.write_bytes(content)
    return before


def _put_back(path: Path, before: bytes | None) -> None:
    if before is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(before)
