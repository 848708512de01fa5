"""Merged models and GGUF files: they say what base and adapter say, and a changed file is refused."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.ports import GenerationOptions, Message
from llm_engineering.application.training.finetune.model_folder import GGUF, open_servable, verify_folder
from llm_engineering.application.training.finetune.sft import TrainedModel
from llm_engineering.bootstrap.llm_service import with_trained_model
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.training import quantise_model
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    ModelFileError,
    TemplateMismatchError,
    TrainingError,
)
from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel
from llm_engineering.infrastructure.training import export
from llm_engineering.infrastructure.training.export import DIFFERENCE, Exporter
from llm_engineering.infrastructure.training.gguf.vocabulary import _LLAMA3, _splitting
from llm_engineering.infrastructure.training.gguf.writer import write_gguf
from llm_engineering.settings import LlamaCppSettings, load_settings
from tests.conformance.sft_runs import base, dataset, train
from tests.fakes.toy_model import make_samples, write_dataset
from tools import export_model

pytest.importorskip("trl", reason="the group 'training' is not installed")
pytest.importorskip("gguf", reason="the group 'training' is not installed")

__all__ = ["base", "dataset"]

TEXTS = (
    "Plain words, and a thought.",
    "Numbers 12 and 345,678.90; dates 2024-01-02",
    "It's what they'd said:   three spaces,\n\n\tand a tab ",
    "Grüße, naïve café — “quoted” … 北京 🙂👩‍🚀",
    "def f(x):\n    return x ** 2  # squared\n",
    "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def exported(base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    model = train(base, dataset, tmp_path_factory.mktemp("export"), max_steps=12, lora={"r": 8})
    manifest = Exporter(lambda name, _: name).export(model.folder)
    return TrainedModel(model.folder, manifest, model.record)


def log_probabilities(model: Any, ids: Sequence[int]) -> Any:
    import torch

    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([list(ids)])).logits.float(), -1)


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def llama_cpp_tokens(gguf: Path, texts: Sequence[str]) -> list[list[int]]:
    async def ask() -> list[list[int]]:
        model = LlamaCppModel(gguf, context_tokens=512, threads=1)
        try:
            async with model._http() as client:
                bodies = [{"content": text, "add_special": True, "parse_special": True} for text in texts]
                return [(await client.post("/tokenize", json=body)).json()["tokens"] for body in bodies]
        finally:
            await model.close()

    return asyncio.run(ask())


class TestMerge:
    def test_merged_weights_give_the_adapters_logits(self, exported: TrainedModel, base: Path) -> None:
        """In 32 bits to within 1e-4; stored in 16 bits to within 0.01 nats."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(plain, str(exported.folder / "adapter")).eval()
        ids = tokenizer_of(base)(TEXTS[0])["input_ids"]
        expected = log_probabilities(adapted, ids)
        with adapted.disable_adapter():
            without = log_probabilities(adapted, ids)
        merged = AutoModelForCausalLM.from_pretrained(exported.folder / "merged", dtype=torch.float32).eval()
        stored = log_probabilities(merged, ids)
        exact = log_probabilities(adapted.merge_and_unload(), ids)
        assert (expected - without).abs().max() > 0.1  # the adapter says something
        assert torch.allclose(exact, expected, atol=1e-4)
        assert (stored - expected).abs().max() < 0.01
        assert exported.manifest.metrics[DIFFERENCE] < 0.01

    def test_the_weights_are_stored_in_16_bits_with_tokenizer_and_template(
        self, exported: TrainedModel
    ) -> None:
        from safetensors.torch import load_file

        merged = exported.folder / "merged"
        assert {str(w.dtype) for w in load_file(merged / "model.safetensors").values()} == {"torch.float16"}
        assert tokenizer_of(merged).chat_template == load_template("chatml").source
        assert json.loads((merged / "generation_config.json").read_text())["eos_token_id"]

    def test_exporting_again_changes_nothing(self, exported: TrainedModel) -> None:
        before = {f: f.stat().st_mtime_ns for f in exported.folder.rglob("*") if f.is_file()}

        def never(name: str, _: str | None) -> str:
            raise AssertionError(name)

        again = Exporter(never).export(exported.folder)
        assert again == exported.manifest
        assert {f: f.stat().st_mtime_ns for f in exported.folder.rglob("*") if f.is_file()} == before

    def test_weights_too_large_for_fp16_are_stored_in_bf16(
        self, base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        model = train(base, dataset, tmp_path, max_steps=1, lora={"r": 2})
        wide = AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad():
            wide.model.embed_tokens.weight[-1] = 1e6  # of a token that the probe has not
        wide.save_pretrained(tmp_path / "wide")
        monkeypatch.setattr(export, "TOLERANCE", 10.0)  # bf16 is coarse for a toy's random weights
        Exporter(lambda *_: str(tmp_path / "wide")).export(model.folder)
        stored = load_file(model.folder / "merged" / "model.safetensors")
        assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16

    def test_a_merge_that_rounding_has_spoilt_is_not_kept(
        self, base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = train(base, dataset, tmp_path, max_steps=1, lora={"r": 2})
        monkeypatch.setattr(export, "TOLERANCE", 1e-9)
        with pytest.raises(TrainingError, match="nats"):
            Exporter(lambda name, _: name).export(model.folder)
        assert not list(model.folder.glob("merged*"))


class TestManifest:
    def test_it_names_every_file_and_the_folder_is_as_it_says(self, exported: TrainedModel) -> None:
        manifest = verify_folder(exported.folder)
        assert {GGUF, "merged/model.safetensors", "adapter/adapter_model.safetensors"} <= set(manifest.files)
        assert (manifest.template, manifest.dataset) == ("chatml", "toy@1")

    @pytest.mark.parametrize("name", ["merged/tokenizer.json", "adapter/adapter_config.json", GGUF])
    def test_a_changed_file_is_refused_by_name(self, exported: TrainedModel, name: str) -> None:
        file = exported.folder / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        try:
            with pytest.raises(ModelFileError, match=f"{name} was changed"):
                open_servable(exported.folder)
        finally:
            file.write_bytes(whole)

    def test_a_file_that_is_gone_or_slipped_in_is_refused_by_name(self, exported: TrainedModel) -> None:
        file = exported.folder / "merged" / "config.json"
        moved = file.rename(file.with_name("other.json"))
        try:
            with pytest.raises(ModelFileError) as told:
                verify_folder(exported.folder)
        finally:
            moved.rename(file)
        assert "merged/config.json is missing" in str(told.value)
        assert "merged/other.json is not in the manifest" in str(told.value)

    def test_it_may_answer_in_the_place_of_the_configured_model(self, exported: TrainedModel) -> None:
        chosen = with_trained_model(load_settings(None), str(exported.folder))
        assert isinstance(chosen.llm, LlamaCppSettings)
        assert chosen.llm.model_path == exported.folder / GGUF
        assert (chosen.llm.grounding, chosen.llm.keep_warm) == ("annotate", 0)
        with open_resources(chosen) as resources:
            assert exported.manifest.content_hash[:8] in resources.language_model.name

    def test_another_definition_of_the_template_refuses_to_be_served(self, exported: TrainedModel) -> None:
        file = exported.folder / "model.json"
        whole = file.read_text()
        file.write_text(whole.replace(exported.manifest.template_hash, "0" * 12))
        try:
            with pytest.raises(TemplateMismatchError, match="000000000000"):
                open_servable(exported.folder)
        finally:
            file.write_text(whole)


@pytest.mark.allow_hosts(["127.0.0.1"])
class TestGguf:
    def test_llama_cpp_makes_the_same_tokens(self, exported: TrainedModel) -> None:
        tokenizer = tokenizer_of(exported.folder / "merged")
        ours = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        assert llama_cpp_tokens(exported.folder / GGUF, TEXTS) == ours

    def test_a_tokenizer_that_takes_digits_one_by_one_does_so_in_llama_cpp(
        self, exported: TrainedModel, tmp_path: Path
    ) -> None:
        """As SmolLM's does; with merges of digits, which the other way of splitting would use."""
        shutil.copytree(exported.folder / "merged", tmp_path / "merged")
        file = tmp_path / "merged" / "tokenizer.json"
        told = json.loads(file.read_text())
        unused = next(token for token in told["model"]["vocab"] if len(token) > 3 and token.isalpha())
        told["model"]["vocab"]["12"] = told["model"]["vocab"].pop(unused)
        told["model"]["merges"] = [
            ["1", "2"],
            *(m for m in told["model"]["merges"] if unused not in ("".join(m), *m)),
        ]
        together = tmp_path / "together"
        shutil.copytree(tmp_path / "merged", together)
        (together / "tokenizer.json").write_text(json.dumps(told))
        digits = {"type": "Digits", "individual_digits": True}
        told["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, told["pre_tokenizer"]]}
        file.write_text(json.dumps(told))
        counted = []
        for folder in (together, tmp_path / "merged"):
            tokenizer = tokenizer_of(folder)
            write_gguf(folder, folder / "x.gguf", load_template("chatml"), "x")
            ours = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
            assert llama_cpp_tokens(folder / "x.gguf", TEXTS) == ours
            counted.append(len(ours[1]))
        assert counted[1] > counted[0]

    def test_llama_cpp_goes_on_as_transformers_does(self, exported: TrainedModel) -> None:
        """The whole way: our template through llama.cpp's own renderer, greedy, token by token until the stop token."""
        import torch
        from transformers import AutoModelForCausalLM

        question = [Message("user", "What about number 3?")]
        merged = exported.folder / "merged"
        tokenizer = tokenizer_of(merged)
        prompt = load_template("chatml").render(question, add_generation_prompt=True).text
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

        async def reply() -> str:
            served = LlamaCppModel(exported.folder / GGUF, context_tokens=512, threads=1)
            try:
                options = GenerationOptions(max_tokens=12, temperature=0)
                return "".join([d.text async for d in served.stream(question, options)])
            finally:
                await served.close()

        assert expected.strip()
        assert asyncio.run(reply()) == expected

    def test_in_8_bits_it_is_half_as_large_and_hardly_worse(
        self, exported: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The task, as a user gets it: files that llama.cpp loads, and the perplexity of each."""
        tests = write_dataset(tmp_path / "set", make_samples(24), test=make_samples(4, split=Split.TEST))
        out = tmp_path / "out"
        arguments = [str(exported.folder), "--dataset", str(tests), "--out", str(out)]
        assert export_model.main([*arguments, "--kind", "q8_0", "--kind", "q4_0"]) == 0
        rows = [
            line.split("│")[1:5]
            for line in capsys.readouterr().out.splitlines()
            if ".gguf" in line and "│" in line
        ]
        before, eight, four = (float(row[2]) for row in rows)
        assert eight == pytest.approx(before, rel=0.02)
        assert four == pytest.approx(before, rel=0.5)
        whole, large, small = (exported.folder / GGUF, *sorted(out.glob("*.gguf"), reverse=True))
        assert whole.stat().st_size > large.stat().st_size > small.stat().st_size
        assert llama_cpp_tokens(small, TEXTS) == llama_cpp_tokens(whole, TEXTS)
        assert verify_folder(exported.folder)  # what was registered is as it was
        with pytest.raises(InvalidInputError, match="already"):
            quantise_model(large, out / "twice.gguf", "q4_0")
        assert not (out / "twice.gguf").exists()

    def test_another_architecture_is_refused_by_name_and_leaves_no_file(
        self, exported: TrainedModel, tmp_path: Path
    ) -> None:
        config = json.loads((exported.folder / "merged" / "config.json").read_text())
        for wrong, told in (
            ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
            ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "positions are scaled"),
            ({"attention_bias": True}, "biases"),
        ):
            (tmp_path / "config.json").write_text(json.dumps({**config, **wrong}))
            with pytest.raises(ConfigurationError, match=told):
                write_gguf(tmp_path, tmp_path / "gguf" / "x.gguf", load_template("chatml"), "x")
        assert not list(tmp_path.glob("gguf/*"))


class TestSplitting:
    BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}  # noqa: RUF012

    def told(self, *steps: dict[str, Any], **model: Any) -> dict[str, Any]:
        kept = {"type": "Sequence", "pretokenizers": list(steps)}
        return {"model": {"type": "BPE", **model}, "normalizer": None, "pre_tokenizer": kept}

    def test_families_that_llama_cpp_knows_get_its_name_for_them(self) -> None:
        digits = {"type": "Digits", "individual_digits": True}
        words = {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False}
        assert _splitting(self.told(self.BYTES)) == "gpt-2"
        assert _splitting(self.told(digits, self.BYTES)) == "smollm"
        llama3 = self.told(words, {**self.BYTES, "use_regex": False}, ignore_merges=True)
        assert _splitting(llama3) == "llama-bpe"

    def test_all_others_are_refused(self) -> None:
        for told in (
            self.told({"type": "Metaspace"}),
            self.told({**self.BYTES, "add_prefix_space": True}),
            self.told({"type": "Digits", "individual_digits": False}, self.BYTES),
            {**self.told(self.BYTES), "normalizer": {"type": "NFC"}},
            {**self.told(self.BYTES), "model": {"type": "Unigram"}},
        ):
            with pytest.raises(ConfigurationError, match="cannot be converted"):
                _splitting(told)


def test_an_unmerged_folder_is_no_servable_one(base: Path, dataset: Path, tmp_path: Path) -> None:
    model = train(base, dataset, tmp_path, max_steps=1, lora={"r": 2})
    with pytest.raises(ModelFileError, match="has no gguf/model"):
        open_servable(model.folder)


def test_a_base_that_is_gone_is_told(base: Path, dataset: Path, tmp_path: Path) -> None:
    model = train(base, dataset, tmp_path, max_steps=1, lora={"r": 2})
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        Exporter(lambda *_: str(tmp_path / "nowhere")).export(model.folder)
