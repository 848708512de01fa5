"""From samples to a data set in a folder: gates, splits, statistics, card, report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm_engineering.application.chat_templates import template
from llm_engineering.application.dataset_quality.contamination import read_protected
from llm_engineering.application.dataset_quality.data_card import data_card
from llm_engineering.application.dataset_quality.files import SaveForHub, manifest_of, write_dataset
from llm_engineering.application.dataset_quality.gates import Gate
from llm_engineering.application.dataset_quality.judging import Judged, JudgeGate, judge
from llm_engineering.application.dataset_quality.pipeline import Curated, curate, gates_of
from llm_engineering.application.dataset_quality.report import html_report
from llm_engineering.application.dataset_quality.rules import TokenCounter
from llm_engineering.application.dataset_quality.samples import Sample
from llm_engineering.application.dataset_quality.statistics import statistics
from llm_engineering.application.dataset_runs import DatasetRun
from llm_engineering.application.ports import CleanStore, Embedder, LanguageModel
from llm_engineering.application.stages import batched
from llm_engineering.domain.datasets import DatasetManifest, Split
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import InvalidInputError

_BATCH = 256


@dataclass(frozen=True, slots=True)
class MadeDataset:
    """A data set that was written."""

    folder: Path
    manifest: DatasetManifest
    curated: Curated[Sample]
    report: str
    """HTML."""

    def metadata(self) -> dict[str, Any]:
        """What a run's report says of it."""
        counts = self.manifest.counts
        return {
            "name": self.manifest.name,
            "version": self.manifest.version,
            "folder": str(self.folder),
            **{f"{split.value}_samples": counts[split] for split in Split},
            **{f"{split.value}_documents": self.manifest.documents[split] for split in Split},
            "samples_made": self.curated.made,
            "samples_dropped": len(self.curated.dropped),
            "dropped_by_gate": {count.gate: count.dropped for count in self.curated.counts if count.dropped},
            "template": f"{self.manifest.template} ({self.manifest.template_hash})",
        }


async def make_dataset(
    samples: Sequence[Sample],
    run: DatasetRun,
    clean: CleanStore,
    *,
    kind: Literal["instruct", "preference"],
    embedder: Embedder | None = None,
    judges: Sequence[LanguageModel] = (),
    count: TokenCounter | None = None,
    save_for_hub: SaveForHub | None = None,
) -> MadeDataset:
    """Check the samples, split them by document and write the folder.

    Raises:
        InvalidInputError: no sample passed, or there are too few documents for the splits.
        ConfigurationError: a gate needs something that is not there.
        StoreError: documents cannot be read, or the folder cannot be written.
    """
    documents = _documents(clean, samples)
    gates: list[Gate] = gates_of(run.quality, documents, count=count, embedder=embedder)
    judged: Judged | None = None
    if judges:
        judged = await judge(samples, judges, run.quality.judge, run.seed)
        gates.append(JudgeGate(judged, run.quality.judge))
    curated = curate(
        samples,
        gates,
        run.quality,
        groups={key: document.duplicate_group for key, document in documents.items()},
        protected=[item for file in run.protected for item in read_protected(file)],
        seed=run.seed,
    )
    if not curated.splits.get(Split.TRAIN):
        raise InvalidInputError(_nothing_left(curated))
    used = template(run.chat_template)
    manifest = manifest_of(
        kind,
        run.name,
        curated.splits,
        template=used.name,
        template_hash=used.hash,
        seed=run.seed,
        config=run.model_dump(mode="json"),
    )
    figures = statistics(curated.splits, count)
    links = {key: document.link for key, document in documents.items()}
    report = html_report(manifest, curated, figures, judged)
    folder = write_dataset(
        run.folder,
        manifest,
        curated.splits,
        curated.dropped,
        card=data_card(manifest, curated, figures, links),
        report=report,
        save_for_hub=save_for_hub,
    )
    return MadeDataset(folder, manifest, curated, report)


def _documents(clean: CleanStore, samples: Sequence[Sample]) -> dict[str, CleanDocument]:
    wanted = sorted({sample.origin.document_id for sample in samples})
    return {document.id: document for batch in batched(wanted, _BATCH) for document in clean.get(batch)}


def _nothing_left(curated: Curated[Sample]) -> str:
    reasons = [
        f"{count.gate}: {count.dropped} ({'; '.join(f'{times} × {why}' for why, times in count.reasons.items())})"
        for count in curated.counts
        if count.dropped
    ]
    return (
        f"No sample is left to train on: {curated.made} were made, and the gates dropped {len(curated.dropped)}. By gate: "
        f"{', '.join(reasons) or 'none'}. Loosen the gates in the run's YAML under 'quality', or collect more documents."
    )
