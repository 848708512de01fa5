"""What is known of the collection as a whole: its documents' metadata, and which of them are about a subject."""

import threading
import time
from collections.abc import Callable, Sequence

from loguru import logger

from llm_engineering.application.inference.catalogue import matches_topic
from llm_engineering.application.ports import (
    CleanStore,
    DocumentCard,
    Embedder,
    SearchRequest,
    VectorIndex,
    VoiceStore,
)
from llm_engineering.application.text.markdown import shorten, strip_markdown
from llm_engineering.domain.categories import CATALOGUE, Chunking
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import StoreError
from llm_engineering.domain.retrieval import Hit, MetadataFilter, SearchMode
from llm_engineering.domain.voices import VoiceProfile

CANDIDATES = 200
"""Chunks that are looked at for documents about a subject."""
_NEARLY = 0.1
"""How far below the nearest chunk others may lie, where none is near."""
_OPENING = 70
"""Characters of a text's beginning that stand for a missing title."""


class Collection:
    """The documents there are. Threads may share it; every method blocks.

    Args:
        keep_seconds: how long a reading of the metadata may be old.
        min_similarity: cosine similarity to a subject from which a chunk is about it, whatever its words.
    """

    def __init__(
        self,
        store: CleanStore,
        index: VectorIndex,
        embedder: Embedder,
        *,
        min_similarity: float,
        voices: VoiceStore | None = None,
        keep_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._index = index
        self._embedder = embedder
        self._min_similarity = min_similarity
        self._voices = voices
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[float, tuple[DocumentCard, ...]] | None = None

    def read_cards(self) -> tuple[DocumentCard, ...]:
        """Return the metadata of all documents.

        Raises:
            StoreError: the warehouse cannot be read.
        """
        with self._lock:
            if self._kept is None or self._clock() - self._kept[0] >= self._keep_seconds:
                self._kept = (self._clock(), tuple(self._store.list_cards()))
            return self._kept[1]

    def read_openings(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the first words of documents, by id.

        Raises:
            StoreError: the warehouse cannot be read.
        """
        return (
            {
                document.id: shorten(strip_markdown(document.text), _OPENING)
                for document in self._store.get(ids)
            }
            if ids
            else {}
        )

    def read_documents(self, ids: Sequence[str]) -> dict[str, CleanDocument]:
        """Return whole documents by id; those that are gone are left out.

        Raises:
            StoreError: the warehouse cannot be read.
        """
        return {document.id: document for document in self._store.get(ids)} if ids else {}

    def find_voice(self, author: str, *, german: bool) -> VoiceProfile | None:
        """Return how an author writes in a language, or in another one where they write none in it; None: not known."""
        if self._voices is None:
            return None
        try:
            found = self._voices.find(author)
        except StoreError as error:
            logger.warning("The draft goes without a voice profile: {}", error)
            return None
        wanted = [voice for voice in found if voice.language == ("de" if german else "en")]
        return next(iter(wanted or found), None)

    def find_repeated(self, author: str) -> tuple[str, ...]:
        """Return the sentences that an author says everywhere, such as adverts, folded for comparison."""
        voice = self.find_voice(author, german=False)
        return voice.repeated if voice is not None else ()

    def find_about(
        self,
        topic: str,
        filter: MetadataFilter = MetadataFilter(),
        *,
        mentions: bool = False,
        floor: float | None = None,
    ) -> dict[str, list[Hit]]:
        """Return the chunks about a subject, by document, best first.

        A chunk is about it where it is similar enough, or where its title and headings, or all of a short text, hold the
        subject's words.

        Args:
            mentions: any chunk that holds the words will do, and no other.
            floor: cosine similarity from which the nearest ones will do; None: as for all subjects.

        Raises:
            StoreError: the index cannot be read.
            ModelError: the embedder failed.
        """
        request = SearchRequest(
            text=topic,
            vector=self._embedder.embed_queries([topic])[0],
            filter=filter,
            k=CANDIDATES,
            mode=SearchMode.HYBRID,
        )
        (hits,) = self._index.search([request], self._embedder.fingerprint)
        found: dict[str, list[Hit]] = {}
        nearest = max((hit.dense_score or 0.0 for hit in hits), default=0.0)
        enough = self._min_similarity if floor is None else max(floor, nearest - _NEARLY)
        for hit in hits:
            if (
                matches_topic(topic, hit.chunk.embedding_text)
                if mentions
                else self._is_about(topic, hit, enough)
            ):
                found.setdefault(hit.chunk.document_id, []).append(hit)
        return found

    def find_examples(self, author: str, topic: str, count: int = 2) -> list[str]:
        """Return texts of an author that show how they write: posts near the subject, else any passages of theirs.

        Raises:
            StoreError, ModelError: see :meth:`find_about`.
        """
        vector = self._embedder.embed_queries([topic])[0]
        wanted = [MetadataFilter(authors=(author,), categories=("post",)), MetadataFilter(authors=(author,))]
        requests = [
            SearchRequest(text=topic, vector=vector, filter=filter, k=count, mode=SearchMode.DENSE)
            for filter in wanted
        ]
        posts, others = self._index.search(requests, self._embedder.fingerprint)
        return [hit.chunk.text for hit in (posts or others)]

    def _is_about(self, topic: str, hit: Hit, enough: float) -> bool:
        if hit.dense_score is not None and hit.dense_score >= enough:
            return True
        chunk = hit.chunk
        spec = CATALOGUE.get(chunk.category)  # it may have been removed since
        short = spec is not None and spec.chunking is Chunking.RECORD
        return matches_topic(topic, chunk.embedding_text if short else chunk.title_text)
