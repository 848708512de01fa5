"""What the use cases need from the outside: one small Protocol each, implemented by the adapters in ``infrastructure``.

Every adapter of a port, and its fake in ``tests/fakes``, passes the same conformance suite (``tests/conformance``).
Constructors of adapters only store configuration; the first use opens, ``close`` releases and may be called twice.
"""

from llm_engineering.application.ports.access import KeyStore, RateLimiter
from llm_engineering.application.ports.analyses import AnalysisStore
from llm_engineering.application.ports.documents import (
    CleanStore,
    DeadLetterStore,
    DocumentCard,
    DocumentStore,
    DraftStore,
    FeedbackStore,
    UpsertCounts,
    UserStore,
    VoiceStore,
)
from llm_engineering.application.ports.llm import (
    Delta,
    Generation,
    GenerationCache,
    GenerationOptions,
    LanguageModel,
    Message,
)
from llm_engineering.application.ports.notices import NoticeStore, Notifier
from llm_engineering.application.ports.observability import NullTracer, Progress, SilentProgress, Tracer
from llm_engineering.application.ports.pipelines import PipelineRunner
from llm_engineering.application.ports.privacy import PersonalDataFinder, PersonalKind, PersonalSpan
from llm_engineering.application.ports.retrieval import (
    MAX_KNOWN_VALUES,
    Embedder,
    EmbeddingCache,
    FacetValues,
    IndexWriter,
    Metered,
    Part,
    Reranker,
    SearchRequest,
    TokenEncoder,
    Tokenizer,
    TokenVectors,
    VectorIndex,
    Vectors,
    extract_part,
)
from llm_engineering.application.ports.reviews import SummaryStore
from llm_engineering.application.ports.sources import (
    Discovered,
    EndOfSource,
    FetchedDocument,
    Link,
    NotModified,
    PageRenderer,
    Rejected,
    SourceItem,
    SourceReader,
    StoredVersion,
)
from llm_engineering.application.ports.training import (
    ExperimentTracker,
    HeadLearner,
    ModelRegistry,
    SharedFiles,
)
from llm_engineering.application.ports.warehouse import Warehouse

__all__ = [
    "MAX_KNOWN_VALUES",
    "AnalysisStore",
    "CleanStore",
    "DeadLetterStore",
    "Delta",
    "Discovered",
    "DocumentCard",
    "DocumentStore",
    "DraftStore",
    "Embedder",
    "EmbeddingCache",
    "EndOfSource",
    "ExperimentTracker",
    "FacetValues",
    "FeedbackStore",
    "FetchedDocument",
    "Generation",
    "GenerationCache",
    "GenerationOptions",
    "HeadLearner",
    "IndexWriter",
    "KeyStore",
    "LanguageModel",
    "Link",
    "Message",
    "Metered",
    "ModelRegistry",
    "NotModified",
    "NoticeStore",
    "Notifier",
    "NullTracer",
    "PageRenderer",
    "Part",
    "PersonalDataFinder",
    "PersonalKind",
    "PersonalSpan",
    "PipelineRunner",
    "Progress",
    "RateLimiter",
    "Rejected",
    "Reranker",
    "SearchRequest",
    "SharedFiles",
    "SilentProgress",
    "SourceItem",
    "SourceReader",
    "StoredVersion",
    "SummaryStore",
    "TokenEncoder",
    "TokenVectors",
    "Tokenizer",
    "Tracer",
    "UpsertCounts",
    "UserStore",
    "VectorIndex",
    "Vectors",
    "VoiceStore",
    "Warehouse",
    "extract_part",
]
