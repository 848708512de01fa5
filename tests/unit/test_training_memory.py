"""The memory estimate: known numbers of known models, and a refusal that names the knob."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.dpo import DpoConfig
from llm_engineering.application.training.finetune.preflight import (
    ModelShape,
    adapter_parameters,
    check_memory,
    estimate_memory,
    estimate_preference_memory,
)
from llm_engineering.domain.errors import ConfigurationError

GIB = 1 << 30
_H, _I, _KV, _L = 4096, 14336, 1024, 32
BLOCK = ((_H, _H), (_H, _KV), (_H, _KV), (_H, _H), (_H, _I), (_H, _I), (_I, _H))
LLAMA_8B = ModelShape(
    parameters=8_030_261_248,
    linear_parameters=_L * sum(a * b for a, b in BLOCK),
    vocabulary=128_256,
    hidden=_H,
    layers=_L,
    intermediate=_I,
    attention_width=_H,
    kv_width=_KV,
    adapted=BLOCK * _L,
)
ESTIMATOR = partial(estimate_memory, LLAMA_8B, "bf16")


def config(**values: object) -> SftConfig:
    return SftConfig.model_validate({"batch_size": 2, **values})


class TestEstimate:
    def test_adapters_of_rank_16_on_all_layers_of_llama_8b_are_the_known_42_million(self) -> None:
        assert adapter_parameters(LLAMA_8B, config().lora) == 41_943_040

    def test_full_training_with_adamw_is_16_bytes_a_parameter_before_activations(self) -> None:
        found = estimate_memory(LLAMA_8B, "bf16", config(method="full"), 1024)
        fixed = found.weights + found.gradients + found.optimizer
        assert fixed == LLAMA_8B.parameters * 16

    def test_four_bit_weights_of_llama_8b_fit_in_six_gib(self) -> None:
        found = estimate_memory(LLAMA_8B, "bf16", config(method="qlora"), 1024)
        assert 5 * GIB < found.weights < 6 * GIB

    def test_lora_keeps_weights_in_16_bits_and_trains_little(self) -> None:
        found = estimate_memory(LLAMA_8B, "bf16", config(), 1024)
        assert found.weights == LLAMA_8B.parameters * 2
        assert found.gradients + found.optimizer + found.adapters < GIB

    def test_checkpointing_keeps_little_more_than_a_blocks_activations(self) -> None:
        kept = estimate_memory(LLAMA_8B, "bf16", config(), 1024).activations
        saved = estimate_memory(LLAMA_8B, "bf16", config(gradient_checkpointing=True), 1024).activations
        assert saved < kept / 8

    def test_logits_are_a_chunk_however_long_the_sequences(self) -> None:
        short = estimate_memory(LLAMA_8B, "bf16", config(), 512)
        assert short.logits == estimate_memory(LLAMA_8B, "bf16", config(), 4096).logits

    @given(
        batch=st.integers(1, 64),
        sequence=st.integers(16, 8192),
        method=st.sampled_from(["lora", "qlora", "full"]),
    )
    def test_more_at_a_time_never_needs_less(self, batch: int, sequence: int, method: str) -> None:
        less = estimate_memory(LLAMA_8B, "bf16", config(batch_size=batch, method=method), sequence)
        more = estimate_memory(LLAMA_8B, "bf16", config(batch_size=batch + 1, method=method), sequence + 1)
        assert more.total >= less.total
        assert all(part >= 0 for part in less)


def test_a_cpus_allocator_keeps_a_share_of_what_comes_and_goes() -> None:
    found = estimate_memory(LLAMA_8B, "fp32", config(), 1024)
    assert found.on("cuda") == found
    assert found.on("cpu").total - found.total == int((found.activations + found.logits) * 0.8)


class TestRefusal:
    def refused(self, free: int, device: str = "cuda", **values: object) -> str:
        with pytest.raises(ConfigurationError) as refusal:
            check_memory(ESTIMATOR, config(**values), 1024, free, device)
        return str(refusal.value)

    def test_it_gives_the_parts_and_what_would_make_it_fit(self) -> None:
        told = self.refused(40 * GIB, method="full")
        assert "weights 29.92 GiB" in told
        assert "make it fit: method: lora" in told
        assert "method: qlora" in told

    def test_a_cpu_is_not_told_to_take_four_bits(self) -> None:
        assert "qlora" not in self.refused(40 * GIB, device="cpu", method="full")

    def test_where_no_single_knob_is_enough_all_are_told(self) -> None:
        told = self.refused(4 * GIB, method="full")
        assert "Turn several of these" in told
        assert "smaller base" in told

    def test_what_fits_is_let_through_up_to_the_allowed_share(self) -> None:
        chosen = config(max_memory_fraction=0.5)
        needed = ESTIMATOR(chosen, 1024).total
        assert check_memory(ESTIMATOR, chosen, 1024, needed * 2 + 2, "cuda").total == needed
        with pytest.raises(ConfigurationError, match="50%"):
            check_memory(ESTIMATOR, chosen, 1024, needed * 2 - 2, "cuda")

    def test_preference_training_is_told_no_method_since_that_is_the_sft_models(self) -> None:
        chosen = DpoConfig(batch_size=2)
        estimator = partial(estimate_preference_memory, LLAMA_8B, "bf16")
        with pytest.raises(
            ConfigurationError, match=r"batch_size: 1 with gradient_accumulation_steps: 2"
        ) as refusal:
            check_memory(estimator, chosen, 1024, 16 * GIB, "cuda")
        assert "gradient_checkpointing: true" in str(refusal.value)
        assert "qlora" not in str(refusal.value)


def test_preference_training_needs_two_sequences_two_adapters_and_all_logits() -> None:
    one = estimate_memory(LLAMA_8B, "bf16", config(batch_size=4), 512)
    pairs = estimate_preference_memory(LLAMA_8B, "bf16", DpoConfig(batch_size=2), 512)
    assert pairs.activations == one.activations
    assert pairs.adapters == 2 * one.adapters
    assert pairs.gradients == one.gradients
    assert pairs.logits == 2 * 2 * 512 * LLAMA_8B.vocabulary * 4 * 4
