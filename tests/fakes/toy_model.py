"""A language model of two layers with random weights, and a tokenizer trained on a few lines: real files, in a second."""

import json
from collections.abc import Sequence
from pathlib import Path

from llm_engineering.application.llm.chat_templates import load_template, template_names
from llm_engineering.domain.datasets import DatasetManifest, InstructSample, Origin, Provenance, Split
from llm_engineering.domain.documents import Span

LINES = (
    "An index keeps vectors beside words, and a query asks both.",
    "Chunks overlap so that a thought survives the cut between them.",
    "A reranker reads the question and the passage together.",
    "Grounded answers cite the place that they were taken from.",
    "Quantised weights are small, and a little wrong everywhere.",
)


def make_tokenizer(folder: Path, *, adds_bos: bool = False, padding_is_eos: bool = False) -> None:
    """A byte-level BPE tokenizer that knows the control tokens of every chat template.

    Args:
        adds_bos: put ``<|begin_of_text|>`` in front by itself, as Llama 3's does.
        padding_is_eos: have no padding token of its own.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    control = sorted({token for name in template_names() for token in load_template(name).control_tokens})
    special = ["<pad>", *control, "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*LINES, "user\nassistant\nsystem\n\n\n", "### Instruction:\n"], trainer)
    if adds_bos:
        bos = "<|begin_of_text|>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, tokenizer.token_to_id(bos))],
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        bos_token="<|begin_of_text|>",
        pad_token=None if padding_is_eos else "<pad>",
    ).save_pretrained(folder)


def make_model(folder: Path, *, seed: int = 0, adds_bos: bool = False, padding_is_eos: bool = False) -> Path:
    """A Llama-shaped model with its tokenizer, in a folder as ``from_pretrained`` takes it."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(2)
    make_tokenizer(folder, adds_bos=adds_bos, padding_is_eos=padding_is_eos)
    vocabulary = len(AutoTokenizer.from_pretrained(folder))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_samples(
    count: int, *, split: Split = Split.TRAIN, answers: Sequence[str] = LINES
) -> list[InstructSample]:
    """Samples that differ; their answers go round."""
    return [
        InstructSample(
            instruction=f"What about number {number}?",
            answer=answers[number % len(answers)],
            origin=Origin(
                document_id=f"{split}-{number}",
                content_hash="0" * 64,
                span=Span(start=0, end=10),
                author="Ada",
                category="article",
                language="en",
            ),
            provenance=Provenance(made_by="back_translation"),
            split=split,
        )
        for number in range(count)
    ]


def write_dataset(
    folder: Path,
    train: Sequence[InstructSample],
    validation: Sequence[InstructSample] = (),
    test: Sequence[InstructSample] = (),
    *,
    template_name: str = "chatml",
    kind: str = "instruct",
) -> Path:
    """A data set's folder, as the generation pipeline leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {Split.TRAIN: train, Split.VALIDATION: validation, Split.TEST: test}
    for split, samples in splits.items():
        lines = "".join(sample.model_dump_json() + "\n" for sample in samples)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    manifest = DatasetManifest.model_validate(
        {
            "kind": kind,
            "name": "toy",
            "version": "1",
            "counts": {split: len(samples) for split, samples in splits.items()},
            "documents": {split: len(samples) for split, samples in splits.items()},
            "template": template_name,
            "template_hash": load_template(template_name).hash,
            "seed": 0,
        }
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.model_dump(mode="json")), encoding="utf-8")
    return folder
