"""How questions are searched for, as ``configs/inference.yaml`` says it: one section a stage."""

from pydantic import Field

from llm_engineering.application.inference.guards import GuardConfig
from llm_engineering.application.inference.query_expansion import ExpansionConfig
from llm_engineering.application.inference.search import CANDIDATES_PER_HIT, RERANKER_WEIGHT
from llm_engineering.application.inference.self_query import SelfQueryConfig
from llm_engineering.domain.documents import Model
from llm_engineering.domain.retrieval import Fusion, MetadataFilter, Query, RrfFusion, SearchMode

MOST_HITS = 100
"""The largest k of a query."""


class RerankConfig(Model):
    """Reranking, where the settings name a reranker."""

    enabled: bool = True
    candidates_per_hit: int = Field(default=4, ge=1, le=20)
    """N: candidates that are reranked for one hit that is asked for."""
    max_candidates: int = Field(default=40, ge=1, le=500)
    """Most candidates that are reranked, whatever k is; those below keep the order of the search, with a score of 0."""
    weight: float = Field(default=RERANKER_WEIGHT, ge=0, le=1)
    """The reranker's share of the final score; the rest is the search's own."""
    timeout_seconds: float = Field(default=3.0, gt=0)
    """Then the hits stay as the search ranked them; up to four times as long where it took long lately."""


class EmbeddingConfig(Model):
    """Embedding of the questions; those of concurrent requests are embedded together."""

    timeout_seconds: float = Field(default=5.0, gt=0)
    """Then the search goes by words alone; up to four times as long where it took long lately."""
    max_batch: int = Field(default=8, ge=1)
    """Questions of one call."""
    at_once: int = Field(default=2, ge=1)
    """Calls at a time. With 2 × 8, 32 questions on 2 cores took three quarters of the time of one call of 32."""


class RetrievalConfig(Model):
    """How questions are searched for; one section a stage."""

    mode: SearchMode = SearchMode.HYBRID
    fusion: Fusion = RrfFusion()
    k: int = Field(default=5, ge=1, le=MOST_HITS)
    guard: GuardConfig = GuardConfig()
    self_query: SelfQueryConfig = SelfQueryConfig()
    expansion: ExpansionConfig = ExpansionConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    rerank: RerankConfig = RerankConfig()
    candidates_per_hit: int = Field(default=CANDIDATES_PER_HIT, ge=1, le=20)
    """How many hits are fetched for one that is asked for where nothing is reranked, so that dropping near-duplicates leaves
    enough."""
    question_weight: float = Field(default=2.0, gt=0)
    """Weight of the question's own hits, against 1 for those of each rewrite, where lists are fused."""
    values_seconds: float = Field(default=5.0, ge=0)
    """How long the index's filter values are kept before they are read again."""

    @property
    def needs_model(self) -> bool:
        """Whether any stage asks the language model."""
        expansion = self.expansion
        return self.self_query.kind == "model" or expansion.enabled or expansion.follow_up.kind == "model"

    def query(
        self,
        text: str,
        *,
        k: int | None = None,
        mode: SearchMode | None = None,
        fusion: Fusion | None = None,
        filter: MetadataFilter | None = None,
    ) -> Query:
        """Return a query, with what the caller left open as configured.

        Raises:
            InvalidInputError: the question is empty or too long.
        """
        return Query.ask(
            text,
            k=self.k if k is None else k,
            mode=mode or self.mode,
            fusion=fusion or self.fusion,
            filter=filter or MetadataFilter(),
        )
