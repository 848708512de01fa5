"""Customer service over fakes: the head knows words, the approved texts are those of the fake service."""

from typing import Any

import numpy as np

from llm_engineering.application.analysis.analyse import AnalysisStores, Deciders
from llm_engineering.application.analysis.heads import Heads, LinearHead, TextEmbedder
from llm_engineering.application.analysis.service import Analysed, AnalysisService
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.inference.support import SupportDesk
from llm_engineering.application.inference.support_config import SupportConfig
from llm_engineering.domain.analyses import AnalysisSpec
from tests.fakes.embedder import HashEmbedder
from tests.fakes.service import TwinService

INTENTS = ("overlap", "refund")
SPEC = AnalysisSpec.model_validate(
    {
        "task": "tickets",
        "engine": "head",
        "fields": {
            "intent": {"kind": "class", "values": list(INTENTS)},
            "amount": {"kind": "entities", "pattern": "amount"},
        },
    }
)
CONFIG = SupportConfig.model_validate(
    {
        "analysis": "configs/analysis_tickets.yaml",
        "categories": ["article"],
        "rules": [
            {"name": "wants a person", "then": "hand_over", "pattern": r"talk to a person"},
            {"name": "refund", "then": "hand_over", "intents": ["refund"]},
            {"name": "dear", "then": "hand_over", "amount_above": 500},
            {"name": "vague", "then": "ask_back", "pattern": r"^\W*help\W*$"},
        ],
        "replies": {
            "en": {
                "notice": "I am an AI.",
                "ask_back": "What is it about?",
                "hand_over": "A person takes over.",
            },
            "de": {
                "notice": "Ich bin eine KI.",
                "ask_back": "Worum geht es?",
                "hand_over": "Ein Mensch übernimmt.",
            },
        },
    }
)


class WordHeads:
    """A head that is sure where a text holds an intent's word, and of nothing else."""

    def __init__(self, embedder: HashEmbedder) -> None:
        words = embedder.embed_queries(list(INTENTS))
        weights = (20 * words.T).astype(np.float32)
        digest = embedder.fingerprint.digest
        self._head = LinearHead(INTENTS, weights, np.zeros(2, dtype=np.float32), digest, threshold=0.95)

    def find(self, task: str, field: str) -> LinearHead:
        return self._head


class Desk(SupportDesk):
    """The real desk over fakes; ``analysed`` holds what the head was shown."""

    def __init__(
        self,
        config: SupportConfig = CONFIG,
        *,
        language: str = "en",
        min_similarity: float | None = None,
        heads: Heads | None = None,
        **options: Any,
    ) -> None:
        embedder = HashEmbedder()
        answering: dict[str, Any] = {} if min_similarity is None else {"min_similarity": min_similarity}
        chosen = InferenceConfig.model_validate({"answering": {"grounding": "extractive", **answering}})
        self.twin = TwinService(embedder=embedder, config=chosen)
        stores = self.twin.warehouse
        kept = AnalysisStores(stores.clean, stores.analyses, stores.generations, stores.dead_letters)
        self.analysed: list[str] = []
        seen = self.analysed

        class Noting(AnalysisService):
            async def analyse(
                self,
                task: str,
                text: str,
                title: str = "",
                identifier: str | None = None,
                *,
                keep: bool = True,
            ) -> Analysed:
                seen.append(text)
                return await super().analyse(task, text, title, identifier, keep=keep)

        deciders = {"tickets": Deciders(heads=heads or WordHeads(embedder), embedder=TextEmbedder(embedder))}
        self.analyses = Noting([SPEC], kept, deciders)
        super().__init__(config, "tickets", self.analyses, self.twin.pipeline, lambda _: language, **options)
