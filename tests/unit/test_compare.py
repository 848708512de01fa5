"""What a training ends with: requests that were held back, answered by base and twin, within a time."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from llm_engineering.application.evaluation.models.systems import LoadedModel, System, Written
from llm_engineering.application.ports import Message, Progress
from llm_engineering.application.ports.observability import SilentProgress
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.models import ModelManifest
from tests.fakes.toy_model import make_samples, write_dataset
from tools.compare import PROMPTS, answer_requests, choose_requests

SYSTEM = System("twin", "twin:1", "base", "chatml", system_message="You are Ada.")


class RepeatingModel:
    """Says again what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Message]] = []

    @property
    def loaded(self) -> LoadedModel:
        raise NotImplementedError

    def generate_answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        batch_size: int,
        progress: Progress,
    ) -> list[Written]:
        self.asked += conversations
        return [Written(turns[-1].content, max_tokens, cut=True) for turns in conversations]

    def compute_likelihoods(
        self, conversations: Sequence[Sequence[Message]], *, batch_size: int, progress: Progress
    ) -> list[None]:
        return [None for _ in conversations]


def manifest(dataset: str) -> ModelManifest:
    return ModelManifest.model_construct(dataset=dataset, template="chatml")


def test_each_request_is_answered_as_the_model_was_trained() -> None:
    model = RepeatingModel()
    texts = answer_requests(model, SYSTEM, ["One?", "Two?"], progress=SilentProgress())
    assert texts == ["One?…", "Two?…"]
    assert [[turn.role for turn in turns] for turns in model.asked] == [["system", "user"]] * 2


def test_when_the_time_is_used_up_no_further_answer_is_begun() -> None:
    model = RepeatingModel()
    texts = answer_requests(model, SYSTEM, ["One?", "Two?", "Three?"], progress=SilentProgress(), seconds=-1)
    assert texts == ["One?…", "", ""]
    assert len(model.asked) == 1


def test_the_requests_are_of_texts_that_were_held_back(tmp_path: Path) -> None:
    held = make_samples(5, split=Split.TEST)
    write_dataset(tmp_path / "toy" / "1", make_samples(4), test=held)
    requests = choose_requests(manifest("toy@1"), tmp_path)
    assert len(requests) == PROMPTS
    assert set(requests) <= {sample.instruction for sample in held}


@pytest.mark.parametrize("dataset", ["gone@1", "", "toy"])
def test_without_the_data_set_usual_requests_are_made(tmp_path: Path, dataset: str) -> None:
    requests = choose_requests(manifest(dataset), tmp_path)
    assert len(set(requests)) == PROMPTS
