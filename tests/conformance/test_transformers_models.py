"""Models in folders: base and adapters over one base, answers in batches, likelihoods of answer tokens only."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from llm_engineering.application.evaluation.models.systems import System  # noqa: E402
from llm_engineering.application.llm.chat_templates import load_template  # noqa: E402
from llm_engineering.application.ports import Message, SilentProgress  # noqa: E402
from llm_engineering.domain.errors import ConfigurationError, ModelFileError  # noqa: E402
from llm_engineering.infrastructure.llms.transformers_local import TransformersModels  # noqa: E402
from tests.fakes.toy_model import make_model  # noqa: E402

QUIET = SilentProgress()
PROMPTS = [
    [Message("user", "What is an index?")],
    [Message("user", "Why do chunks overlap, and how much of it is enough?")],
    [Message("system", "Be short."), Message("user", "Hi")],
]
ANSWERED = [[*turns, Message("assistant", "An index keeps vectors beside words.")] for turns in PROMPTS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [_adapter(base, tmp_path_factory.mktemp("adapters") / str(seed), seed) for seed in (1, 2)]


@pytest.fixture
def models(base: Path) -> Iterator[TransformersModels]:
    opened = TransformersModels(lambda name, _: str(base) if name == "toy" else name)
    yield opened
    opened.close()


def _adapter(base: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter whose second matrices are not zero, so that it changes what the model says."""
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: Any = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    )
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def _system(**changes: Any) -> System:
    return System(**{"name": "base", "label": "toy", "base": "toy", "template": "chatml", **changes})


def _texts(models: TransformersModels, system: System, batch_size: int = 3) -> list[str]:
    with models.open(system) as model:
        found = model.generate_answers(
            PROMPTS, max_tokens=12, repetition_penalty=1.2, batch_size=batch_size, progress=QUIET
        )
        return [written.text for written in found]


def test_a_batch_gives_the_answers_of_one_at_a_time_in_order(
    models: TransformersModels, adapters: list[Path]
) -> None:
    system = _system(adapter=adapters[0])
    together = _texts(models, system, 3)
    assert together == _texts(models, system, 1)
    assert all(together)
    assert len(set(together)) > 1


def test_answers_end_at_the_limit_and_say_so(models: TransformersModels) -> None:
    with models.open(_system()) as model:
        found = model.generate_answers(
            PROMPTS, max_tokens=5, repetition_penalty=1.0, batch_size=2, progress=QUIET
        )
    assert all(written.tokens <= 5 for written in found)
    assert all(written.cut == (written.tokens == 5) for written in found)


def test_likelihoods_are_those_of_the_answers_tokens_alone(models: TransformersModels, base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with models.open(_system()) as model:
        found = model.compute_likelihoods(ANSWERED, batch_size=3, progress=QUIET)
    tokenizer, plain = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
    for turns, likelihood in zip(ANSWERED, found, strict=True):
        text = load_template("chatml").render(turns).text
        prompt = load_template("chatml").render(turns[:-1], add_generation_prompt=True).text
        before = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        stop = text.index("<|im_end|>", len(prompt)) + len("<|im_end|>")
        ids = tokenizer(text[:stop], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logs = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = -sum(float(logs[place - 1, ids[place]]) for place in range(before, len(ids)))
        assert likelihood is not None
        assert (
            abs(likelihood.tokens - (len(ids) - before)) <= 1
        )  # ChatML's line break may ride on the stop token
        assert likelihood.nll == pytest.approx(expected, rel=0.02)
        assert (
            math.exp(likelihood.nll / likelihood.tokens) > 100
        )  # random weights: near the vocabulary's size


def test_adapters_are_switched_over_one_base_and_off_again(
    models: TransformersModels, adapters: list[Path], base: Path
) -> None:
    alone = {
        adapter: _texts(TransformersModels(lambda *_: str(base)), _system(adapter=adapter))
        for adapter in adapters
    }
    before = _texts(models, _system())
    first, second = (_texts(models, _system(adapter=adapter)) for adapter in adapters)
    assert first == alone[adapters[0]]
    assert second == alone[adapters[1]]
    assert first != second != before
    assert _texts(models, _system()) == before
    assert _texts(models, _system(adapter=adapters[0])) == first


def test_a_whole_model_stands_in_place_of_base_and_adapter(
    models: TransformersModels, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "merged", seed=5)
    found = []
    for system in (_system(weights=other), _system()):
        with models.open(system) as model:
            found.append(model.compute_likelihoods(ANSWERED[:1], batch_size=1, progress=QUIET)[0])
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].nll != found[1].nll


def test_what_does_not_fit_the_context_is_not_answered_and_not_scored(models: TransformersModels) -> None:
    long = [Message("user", "word " * 3000)]
    with models.open(_system()) as model:
        written, other = model.generate_answers(
            [long, PROMPTS[0]], max_tokens=5, repetition_penalty=1.0, batch_size=2, progress=QUIET
        )
        scored, _ = model.compute_likelihoods(
            [[*long, Message("assistant", "Yes.")], ANSWERED[0]], batch_size=2, progress=QUIET
        )
    assert (written.text, written.cut, scored) == ("", True, None)
    assert other.tokens > 0


def test_files_that_are_no_model_are_told(
    models: TransformersModels, adapters: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match="cannot be loaded"), models.open(_system(weights=tmp_path)):
        pass
    with pytest.raises(ModelFileError, match="cannot be put over"), models.open(_system(adapter=tmp_path)):
        pass


def test_a_template_that_the_tokenizer_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "plain")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace("<start_of_turn>", "<other>"), encoding="utf-8")
    models = TransformersModels(lambda *_: str(folder))
    with pytest.raises(ConfigurationError, match="does not fit"), models.open(_system(template="gemma")):
        pass
