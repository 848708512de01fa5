"""The data warehouse: its stores, together."""

from typing import Protocol

from llm_engineering.application.ports.analyses import AnalysisStore
from llm_engineering.application.ports.documents import (
    CleanStore,
    DeadLetterStore,
    DocumentStore,
    DraftStore,
    FeedbackStore,
    UserStore,
    VoiceStore,
)
from llm_engineering.application.ports.llm import GenerationCache
from llm_engineering.application.ports.notices import NoticeStore
from llm_engineering.application.ports.retrieval import EmbeddingCache
from llm_engineering.application.ports.reviews import SummaryStore


class Warehouse(Protocol):
    """What was collected, what was made of it, and what people said of it. For use cases that need many of the stores; others
    are handed those that they use."""

    @property
    def users(self) -> UserStore: ...

    @property
    def documents(self) -> DocumentStore: ...

    @property
    def clean(self) -> CleanStore: ...

    @property
    def dead_letters(self) -> DeadLetterStore: ...

    @property
    def embeddings(self) -> EmbeddingCache: ...

    @property
    def feedback(self) -> FeedbackStore: ...

    @property
    def drafts(self) -> DraftStore: ...

    @property
    def generations(self) -> GenerationCache: ...

    @property
    def voices(self) -> VoiceStore: ...

    @property
    def analyses(self) -> AnalysisStore: ...

    @property
    def notices(self) -> NoticeStore: ...

    @property
    def summaries(self) -> SummaryStore: ...
