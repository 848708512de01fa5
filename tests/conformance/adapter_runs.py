"""Two adapters trained over one base of two layers, for the tests of serving them together."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_engineering.infrastructure.training.export import Exporter
from tests.conformance.sft_runs import train
from tests.fakes.toy_model import LINES, make_model, make_samples, write_dataset


def make_base(folder: Path, seed: int = 0) -> Path:
    """Its norms differ from one, as a trained model's do: they tell one base from another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_model(folder, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    unseen = [*tokenizer.added_tokens_decoder, *_halves(tokenizer.get_vocab())]
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim == 1:
                weights.normal_(1.0, 0.2)
            elif "embed" not in name:
                weights.mul_(4.0)  # else every layer would add next to nothing to what it reads
        model.get_input_embeddings().weight[unseen] *= 0.1  # else it says nothing that can be read
    model.save_pretrained(folder)
    return folder


def _halves(vocabulary: Mapping[str, int]) -> list[int]:
    """Single bytes that are no character by themselves."""
    return [number for token, number in vocabulary.items() if len(token) == 1 and not token.isascii()]


def make_adapter(base: Path, root: Path, answers: Sequence[str] = LINES[:1], **values: object) -> Path:
    """The folder of a model that was trained to say ``answers``, exported."""
    samples = make_samples(16, answers=answers)
    dataset = write_dataset(root / "dataset", samples, template_name=str(values.get("template", "chatml")))
    model = train(base, dataset, root, **{"max_steps": 12, "lora": {"r": 8}, **values})
    Exporter(lambda name, _: name).export(model.folder)
    return model.folder


def make_adapters(base: Path, root: Path) -> dict[str, Path]:
    """``articles`` and ``posts``, which answer differently."""
    return {
        name: make_adapter(base, root / name, LINES[number : number + 1])
        for number, name in enumerate(("articles", "posts"))
    }
