"""lm-evaluation-harness, really run: tasks of one's own over local files, on the models that the evaluation has open."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
torch = pytest.importorskip("torch")

from llm_engineering.application.evaluation.models.systems import LoadedModel, System  # noqa: E402
from llm_engineering.application.llm.chat_templates import load_template  # noqa: E402
from llm_engineering.application.ports import Message  # noqa: E402
from llm_engineering.domain.errors import ConfigurationError  # noqa: E402
from llm_engineering.domain.models import Score  # noqa: E402
from llm_engineering.infrastructure.evaluation.lm_harness import LmHarness  # noqa: E402
from llm_engineering.infrastructure.llms.transformers_local import TransformersModels  # noqa: E402
from tests.fakes.toy_model import make_model  # noqa: E402

ITEMS = 12
CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
WRITING = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tasks; the data file of one is missing."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "items.jsonl"
    lines = [
        {"question": f"How many are {n} and 1?", "choices": [" one", " two or three"], "answer": n % 2}
        for n in range(ITEMS)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name, text, source in (
        ("counting", CHOICE, data),
        ("counting_aloud", WRITING, data),
        ("counting_nothing", CHOICE, folder / "missing.jsonl"),
    ):
        (folder / f"{name}.yaml").write_text(text.format(name=name, data=source), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("adapter")
    model: Any = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    )
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture
def models(base: Path) -> Iterator[TransformersModels]:
    opened = TransformersModels(lambda name, revision: str(base))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _away_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def _system(**changes: Any) -> System:
    return System(**{"name": "base", "label": "toy", "base": "toy", "template": "chatml", **changes})


def _scores(models: TransformersModels, harness: LmHarness, system: System) -> dict[str, Score]:
    with models.open(system) as model:
        return {score.metric: score for score in harness.compute_scores(system, model.loaded)}


def _by_hand(model: LoadedModel) -> float:
    """Accuracy of the choices: the answer with the higher log-likelihood after the question counts."""
    right = 0
    for n in range(ITEMS):
        sums = []
        for choice in (" one", " two or three"):
            question = model.tokenizer(f"How many are {n} and 1?")["input_ids"]
            whole = torch.tensor([question + model.tokenizer(choice)["input_ids"]])
            with torch.inference_mode():
                told = torch.log_softmax(model.network(whole).logits[0, :-1].float(), dim=-1)
            own = told[torch.arange(whole.shape[1] - 1), whole[0, 1:]]
            sums.append(float(own[len(question) - 1 :].sum()))
        right += int(sums[n % 2] > sums[1 - n % 2])
    return right / ITEMS


def test_a_task_over_a_local_file_is_scored_as_by_hand_for_base_and_adapter(
    models: TransformersModels, tasks: Path, adapter: Path
) -> None:
    harness = LmHarness(["counting"], include_path=tasks, batch_size=5)
    harness.prepare()
    for system in (_system(name="sft", adapter=adapter), _system()):
        score = _scores(models, harness, system)["harness/counting/acc"]
        with models.open(system) as model:
            assert score.value == pytest.approx(_by_hand(model.loaded))
        assert (score.n, score.higher_is_better) == (ITEMS, True)
        error = (score.value * (1 - score.value) / (ITEMS - 1)) ** 0.5
        assert score.low == pytest.approx(score.value - 1.96 * error)
        assert score.high == pytest.approx(score.value + 1.96 * error)


def test_written_answers_limit_examples_and_chat_reach_the_harness(
    models: TransformersModels, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = LmHarness(
        ["counting", "counting_aloud"],
        include_path=tasks,
        limit=3,
        num_fewshot=2,
        chat=True,
        batch_size=2,
        seed=7,
    )
    system = _system(system_message="Count.")
    asked: list[str] = []
    with models.open(system) as model:
        own, tokenizer = model.loaded, model.loaded.tokenizer
        forward = own.network.forward

        def listening(*arguments: Any, **named: Any) -> Any:
            ids = named.get("input_ids", arguments[0] if arguments else None)
            asked.extend(tokenizer.decode(row) for row in ids)
            return forward(*arguments, **named)

        monkeypatch.setattr(own.network, "forward", listening)
        scores = {score.metric: score for score in harness.compute_scores(system, own)}
    assert {name: score.n for name, score in scores.items()} == {
        "harness/counting/acc": 3,
        "harness/counting_aloud/exact_match": 3,
    }
    turns = [Message("system", "Count."), Message("user", "How many are 0 and 1?")]
    head = load_template("chatml").render(turns).text.partition("How many")[0]
    prompts = [text for text in asked if "How many" in text]
    assert prompts
    assert all(head in text for text in prompts)
    assert any(text.count("<|im_start|>user") == 3 for text in prompts)  # two examples, then the question


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("counting_nothing", "counting_nothing .*missing.jsonl"),
        ("no_such", "no task no_such.*counting, counting_aloud"),
        ("arc_easy", "arc_easy .*hub"),
    ],
)
def test_what_cannot_be_had_is_told_before_a_model_works(task: str, told: str, tasks: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"(?s){told}"):
        LmHarness([task], include_path=tasks).prepare()


def test_a_folder_of_tasks_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="include_path"):
        LmHarness(["counting"], include_path=tmp_path / "none").prepare()
