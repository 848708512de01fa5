"""The retrieval half of the inference pipeline: from a question to ranked hits, and what they were found with."""

import asyncio
from dataclasses import dataclass

from llm_engineering.application.ports import Embedder, LanguageModel, Message, Reranker, VectorIndex
from llm_engineering.application.retrieval import retrieve
from llm_engineering.application.tracing import Recorder
from llm_engineering.domain.documents import Model
from llm_engineering.domain.inference import MadeWith
from llm_engineering.domain.retrieval import Fusion, Hit, Query, RrfFusion, SearchMode


class RetrievalConfig(Model):
    """How questions are searched for; one section a stage."""

    mode: SearchMode = SearchMode.HYBRID
    fusion: Fusion = RrfFusion()
    k: int = 5


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Hits, best first, and what they were found with."""

    question: str
    """The question as the input guard let it through, personal data masked where that was chosen."""
    hits: tuple[Hit, ...]
    made_with: MadeWith


class Retriever:
    """Runs the stages of retrieval over ports that are handed to it.

    Args:
        model: for self-query and expansion; None: these use rules only, or are off.
        reranker: None: hits stay as the search ranked them.
    """

    def __init__(
        self,
        index: VectorIndex,
        embedder: Embedder,
        model: LanguageModel | None = None,
        reranker: Reranker | None = None,
        config: RetrievalConfig = RetrievalConfig(),
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._model = model
        self._reranker = reranker
        self._config = config

    async def retrieve(
        self, query: Query, recorder: Recorder, history: tuple[Message, ...] = ()
    ) -> Retrieved:
        """The ``query.k`` best hits.

        Args:
            history: earlier turns of the conversation, oldest first.

        Raises:
            InvalidInputError: the question or its filter cannot be used.
            StoreUnavailableError: there is no index, or it does not answer.
        """
        with recorder.span("search", "retrieval", query=query.text) as span:
            hits = await asyncio.to_thread(retrieve, query, self._index, self._embedder)
            span.attributes["hits"] = len(hits)
        made_with = MadeWith(
            mode=query.mode,
            fusion=query.fusion,
            embedder=self._embedder.fingerprint.model,
            filter=query.filter,
            queries=(query.text,),
        )
        return Retrieved(query.text, tuple(hits), made_with)
