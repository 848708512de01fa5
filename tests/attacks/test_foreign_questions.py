"""Questions on what was never collected, to an embedder for which everything is alike."""

from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import pytest

from llm_engineering.application.ports import Vectors
from tests.fakes.embedder import HashEmbedder
from tests.fakes.operated_service import OperatedService, eventually
from tests.fakes.service import QUESTION, serving


class CrowdedEmbedder(HashEmbedder):
    """As multilingual E5: a large part of each vector is the same, so that unrelated texts have a cosine of 0.8."""

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        crowded = super()._vectors(texts) * np.float32(0.45)
        crowded[:, 0] += 0.9
        return np.asarray(crowded / np.linalg.norm(crowded, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    operated = OperatedService(tmp_path_factory.mktemp("crowded"), embedder=CrowdedEmbedder(dimension=256))
    with serving(operated.app) as url:
        eventually(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        yield url


def ask(url: str, question: str) -> bool:
    """Whether an answer is given."""
    return not httpx.post(f"{url}/rag", json={"query": question}, timeout=20).json()["answer"]["abstained"]


# --- S13 ---------------------------------------------------------------------------------------------------------------


def test_unrelated_texts_are_near_for_it() -> None:
    one, other = CrowdedEmbedder(dimension=256).embed_documents(["bread and yeast", "the overlap of chunks"])
    assert one @ other > 0.6


def test_a_foreign_question_is_declined_and_another_answered(url: str) -> None:
    assert ask(url, QUESTION)
    assert not ask(url, "Which yeast suits a sourdough loaf?")
    assert not ask(url, "Who won the football cup in 1966?")
