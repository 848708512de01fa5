"""What the service is made of."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.application.analysis.service import AnalysisService
from llm_engineering.application.features.add import Addition
from llm_engineering.application.inference.pipeline import InferencePipeline
from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.application.inference.support import SupportDesk
from llm_engineering.application.ports import (
    CleanStore,
    DraftStore,
    FeedbackStore,
    PipelineRunner,
    SummaryStore,
    VectorIndex,
)
from llm_engineering.domain.inference import Grounding

if TYPE_CHECKING:
    from llm_engineering.application.inference.records import RecordSearch
    from llm_engineering.infrastructure.api.health import Health
    from llm_engineering.infrastructure.api.metrics import ServiceMetrics

SERVED_NAME = "llm-twin"
"""The model name that stays the same whatever model answers behind it."""


AddFile = Callable[[str, bytes, str], Coroutine[Any, Any, Addition]]


def _no_keys() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """Ports and plain values, ready to use; see :func:`~llm_engineering.infrastructure.api.app.create_app`."""

    pipeline: InferencePipeline
    index: VectorIndex
    feedback: FeedbackStore | None = None
    """None: votes are not taken."""
    drafts: DraftStore | None = None
    """None: drafts are not kept."""
    add_file: AddFile | None = None
    """Makes a file part of the collection, from its name, its bytes and its author; None: files are not taken."""
    reports: Path | None = None
    """The folder of HTML reports."""
    analyses: AnalysisService | None = None
    """None: no text is analysed."""
    support: SupportDesk | None = None
    """None: customers are not served."""
    records: "RecordSearch | None" = None
    """None: records are not searched on routes of their own."""
    cached_responses: int = 0
    """How many responses of searches among records are kept while the index stands as it does."""
    summaries: SummaryStore | None = None
    """None: summaries of products' reviews are not served."""
    reviews: CleanStore | None = None
    """What the page of a product shows behind its points; None: their quotes alone."""
    runner: PipelineRunner | None = None
    """None: no pipeline is started over HTTP."""
    retrieval: RetrievalConfig = RetrievalConfig()
    """How is searched where a request does not say."""
    grounding: Grounding = "annotate"
    """Shown by ``GET /info``, as are the next four."""
    reranker: str | None = None
    embedder: str = ""
    version: str = "0"
    webhook_secret: str | None = None
    """Of systems that sign what they post; None: what is signed is refused."""
    keys_required: Callable[[], bool] = _no_keys
    health: "Health | None" = None
    """None: no ``/health`` routes and no ``/metrics``."""
    metrics: "ServiceMetrics | None" = None
    heartbeat_seconds: float = 15.0
    """A stream that is silent for so long sends a comment, for proxies close silent connections."""
