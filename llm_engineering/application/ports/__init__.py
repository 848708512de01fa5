"""What the use cases need from the outside: one small Protocol each, implemented by the adapters in ``infrastructure``.

Every adapter of a port, and its fake in ``tests/fakes``, passes the same conformance suite (``tests/conformance``).
Constructors of adapters only store configuration; the first use opens, ``close`` releases and may be called twice.
"""

from llm_engineering.application.ports.access import KeyStore, RateLimiter
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
from llm_engineering.application.ports.observability import NullTracer, Progress, SilentProgress, Tracer
from llm_engineering.application.ports.retrieval import (
    Embedder,
    EmbeddingCache,
    IndexWriter,
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
from llm_engineering.application.ports.training import ExperimentTracker, ModelRegistry
from llm_engineering.application.ports.warehouse import Warehouse

__all__ = [
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
    "FeedbackStore",
    "FetchedDocument",
    "Generation",
    "GenerationCache",
    "GenerationOptions",
    "IndexWriter",
    "KeyStore",
    "LanguageModel",
    "Link",
    "Message",
    "ModelRegistry",
    "NotModified",
    "NullTracer",
    "PageRenderer",
    "Part",
    "Progress",
    "RateLimiter",
    "Rejected",
    "Reranker",
    "SearchRequest",
    "SilentProgress",
    "SourceItem",
    "SourceReader",
    "StoredVersion",
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
