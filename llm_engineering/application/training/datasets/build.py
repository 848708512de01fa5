"""Turn generated samples into a data set's folder: curate, describe, write."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from llm_engineering.application.failures import group_batches
from llm_engineering.application.llm.chat_templates import ChatTemplate, load_template
from llm_engineering.application.llm.judges import Jury
from llm_engineering.application.ports import CleanStore, Embedder, Message, Progress, SilentProgress
from llm_engineering.application.training.datasets.config import QualityConfig
from llm_engineering.application.training.datasets.curate import Curated, curate, gates_of
from llm_engineering.application.training.datasets.data_card import data_card
from llm_engineering.application.training.datasets.decontamination import (
    Protected,
    protect_samples,
    read_protected,
)
from llm_engineering.application.training.datasets.gates import (
    Gate,
    LanguageDetector,
    TokenCounter,
    run_gates,
)
from llm_engineering.application.training.datasets.judging import Judged, JudgeGate, judge
from llm_engineering.application.training.datasets.report import html_report
from llm_engineering.application.training.datasets.samples import Sample, kind_of
from llm_engineering.application.training.datasets.statistics import compute_statistics
from llm_engineering.application.training.datasets.store import (
    MANIFEST,
    SaveForHub,
    manifest_of,
    read_dataset,
    read_manifest,
    write_dataset,
)
from llm_engineering.domain.datasets import DatasetKind, DatasetManifest, Split
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import InvalidInputError

_BATCH = 256
_TOKENS_AT_ONCE = 512
_SILENT = SilentProgress()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a data set goes, and what it is made for."""

    root: Path
    """The folder of all data sets; this one goes to ``root/name/version``."""
    name: str
    chat_template: str
    seed: int = 0
    config: Mapping[str, object] | None = None
    """The run's parameters, for manifest and card."""


@dataclass(frozen=True, slots=True)
class Helpers:
    """What makes gates possible that need more than the samples. Each may be missing."""

    count: Callable[[Sequence[str]], Sequence[int]] | None = None
    """Tokens of texts, by the tokenizer of the model that is to be trained, or by one like it."""
    detect: LanguageDetector | None = None
    embedder: Embedder | None = None
    jury: Jury | None = None
    save_for_hub: SaveForHub | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A data set on disk."""

    folder: Path
    manifest: DatasetManifest
    curated: Curated[Any]
    page: str
    """The HTML report, as it stands in the folder."""
    judged: Judged | None = None

    def to_metadata(self) -> dict[str, Any]:
        """Return counts for a run's report."""
        manifest = self.manifest
        found: dict[str, Any] = {
            "name": manifest.name,
            "version": manifest.version,
            "folder": str(self.folder),
            **{f"{split.value}_samples": count for split, count in manifest.counts.items()},
            **{f"{split.value}_documents": count for split, count in manifest.documents.items()},
            "samples_made": self.curated.made,
            "samples_dropped": len(self.curated.dropped),
            "dropped_by_gate": {count.gate: count.dropped for count in self.curated.counts if count.dropped},
            "template": f"{manifest.template} ({manifest.template_hash})",
        }
        lint = self.curated.lint_after
        if lint is not None:
            found |= {"chosen_longer": lint.share_longer, "length_cliffs_delta": lint.cliffs_delta}
        if self.judged is not None:
            found |= {"unjudged": len(self.judged.unjudged), "judging": self.judged.to_metadata()}
        return found


async def build_dataset(
    samples: Sequence[Sample],
    clean: CleanStore,
    quality: QualityConfig,
    target: Target,
    helpers: Helpers | None = None,
    evaluation_files: Sequence[Path] = (),
    progress: Progress = _SILENT,
) -> Built:
    """Send samples through the gates, split them, and write the folder.

    The validation and test parts of data sets of the other kind, in the same root, are kept out of the training split.

    Args:
        samples: of one kind; a split that they have already is not used.
        clean: what the samples were made from. All its documents take part in the split, so that the data sets of one store
            are split alike.
        quality: gates, bounds, shares.
        target: where it goes.
        helpers: tokenizer, embedder, jury, the library ``datasets``.
        evaluation_files: texts that no split may hold, see :func:`read_protected`.

    Raises:
        InvalidInputError: there are no samples, none are left to train on, there are too few documents for the splits, the
            length bounds cannot be kept, or a file of evaluation texts cannot be read.
        StoreError: the folder cannot be written.
        ConfigurationError: a gate needs something that is not there, or there is no such chat template.
    """
    helpers = helpers or Helpers()
    kind = kind_of(samples)
    if kind is None:
        raise InvalidInputError(
            "There are no samples to make a data set of. Look at what the generation reports."
        )
    protected = [text for file in evaluation_files for text in read_protected(file)]
    sources = {document.id: document for document in _fetched(clean, samples)}
    groups = {key: group for key, _, group in clean.list_signatures()}
    chosen = load_template(target.chat_template)
    count = None if helpers.count is None else token_counter(chosen, helpers.count)
    gates: list[Gate] = gates_of(
        quality, sources, count=count, detect=helpers.detect, embedder=helpers.embedder
    )
    judged: Judged | None = None
    passed: Sequence[Sample] = ()
    if helpers.jury is not None:
        # Judges cost most, so they are asked only about what the other gates let through.
        passed = run_gates(samples, gates).kept
        judged = await judge(passed, helpers.jury, quality.judge, progress)
        gates.append(JudgeGate(judged, quality.judge))
    curated = curate(
        samples,
        gates,
        quality,
        groups=groups,
        documents=groups,
        protected=protected,
        held_out=list(read_held_out(target.root, kind)),
        seed=target.seed,
    )
    _check(curated)
    figures = compute_statistics(curated.splits, count)
    manifest = manifest_of(
        kind,
        target.name,
        curated.splits,
        template=chosen.name,
        template_hash=chosen.hash,
        seed=target.seed,
        config=target.config or {},
    )
    titles = {
        key: sources[key].title for key in manifest.document_hashes if key in sources and sources[key].title
    }
    manifest = manifest.model_copy(update={"document_titles": titles})
    page = html_report(manifest, curated, figures, judged)
    links = {key: document.link for key, document in sources.items()}
    folder = write_dataset(
        target.root,
        manifest,
        curated.splits,
        curated.dropped,
        card=data_card(manifest, curated, figures, links),
        report=page,
        judgements=None if judged is None else judged.lines(passed),
        save_for_hub=helpers.save_for_hub,
    )
    logger.info(
        "Data set {}@{}: {} of {} samples kept, in {}.",
        manifest.name,
        manifest.version,
        len(curated.kept),
        curated.made,
        folder,
    )
    return Built(folder, manifest, curated, page, judged)


def token_counter(chosen: ChatTemplate, count: Callable[[Sequence[str]], Sequence[int]]) -> TokenCounter:
    """Return what counts the tokens of conversations as the template writes them."""

    def counted(chats: Sequence[Sequence[Message]]) -> list[int]:
        found: list[int] = []
        for start in range(0, len(chats), _TOKENS_AT_ONCE):
            found += count([chosen.render(chat).text for chat in chats[start : start + _TOKENS_AT_ONCE]])
        return found

    return counted


def read_held_out(root: Path, kind: DatasetKind) -> Iterator[Protected]:
    """Yield validation and test texts of the newest version of each data set of another kind below a folder.

    A folder that is no data set, or a damaged one, is passed over with a warning: it must not stop a new one.
    """
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        manifests = sorted(folder.glob(f"[!.]*/{MANIFEST}"), key=lambda file: file.stat().st_mtime_ns)
        if not manifests:
            continue
        newest = manifests[-1].parent
        try:
            if read_manifest(newest).kind == kind:
                continue
            dataset = read_dataset(newest)
        except InvalidInputError as error:
            logger.warning("Not kept out of the training split: {}", error)
            continue
        for split in (Split.VALIDATION, Split.TEST):
            yield from protect_samples(dataset.splits[split], f"{folder.name}/{split}")


def _fetched(clean: CleanStore, samples: Sequence[Sample]) -> Iterator[CleanDocument]:
    for batch in group_batches(sorted({sample.origin.document_id for sample in samples}), _BATCH):
        yield from clean.get(batch)


def _check(curated: Curated[Any]) -> None:
    if curated.splits.get(Split.TRAIN):
        return
    why = [
        f"{count.gate}: {count.dropped} ({'; '.join(f'{times} × {reason}' for reason, times in count.reasons.items())})"
        for count in curated.counts
        if count.dropped
    ]
    raise InvalidInputError(
        f"No sample is left to train on: {curated.made} were made, and the gates dropped {len(curated.dropped)}. By gate: "
        f"{', '.join(why) or 'none'}. Loosen the gates in the run's YAML under 'quality', or collect more documents."
    )
