"""What a training ends with: requests that were held back, answered by base and twin, within a time."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from llm_engineering.application.ports import GenerationOptions, Message
from llm_engineering.application.ports.llm import Delta
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.models import ModelManifest
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.toy_model import make_samples, write_dataset
from tools.compare import PROMPTS, TOKENS, answer_requests, choose_requests


def manifest(dataset: str) -> ModelManifest:
    return ModelManifest.model_construct(dataset=dataset, template="chatml")


async def test_each_request_is_answered_as_the_model_was_trained() -> None:
    model = ScriptedLanguageModel(["An answer.", "word " * 100])
    first, second = await answer_requests(model, "You are Ada.", ["One?", "Two?"])
    assert first == "An answer."
    assert len(second.split()) == TOKENS
    assert second.endswith("…")
    assert [[turn.role for turn in call.messages] for call in model.calls] == [["system", "user"]] * 2


async def test_when_the_time_is_used_up_no_further_answer_is_begun() -> None:
    model = ScriptedLanguageModel(default="An answer.")
    assert await answer_requests(model, "", ["One?", "Two?"], seconds=-1) == ["", ""]
    assert model.calls == []


class SlowModel(ScriptedLanguageModel):
    """Times out in the middle of its first reply."""

    async def stream(
        self, messages: Sequence[Message], options: GenerationOptions = GenerationOptions()
    ) -> AsyncGenerator[Delta, None]:
        first = not self.calls
        async for delta in super().stream(messages, options):
            yield delta
            if first:
                raise ModelServiceError("It took too long.", reason="timeout")


async def test_an_answer_that_takes_too_long_is_cut_and_the_others_are_given() -> None:
    assert await answer_requests(SlowModel(["Slow is this.", "Quick."]), "", ["One?", "Two?"]) == [
        "Slow",
        "Quick.",
    ]


async def test_a_model_that_fails_is_told() -> None:
    broken = ScriptedLanguageModel([Reply("An answer.", fail_after=0)])
    with pytest.raises(ModelServiceError):
        await answer_requests(broken, "", ["One?"])


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
