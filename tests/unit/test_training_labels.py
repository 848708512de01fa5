"""Labels: exactly the assistant's tokens and the stop token carry loss, whatever the tokenizer merges."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from llm_engineering.application.llm.chat_templates import (
    RenderedChat,
    TextSpan,
    escape_markers,
    load_template,
    template_names,
)
from llm_engineering.application.ports import Message
from llm_engineering.application.training.finetune.labels import (
    IGNORED,
    EncodedChat,
    encode_chat,
    fit_template,
)
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError

NAMES = template_names()
CONTROL = sorted(
    {token for name in NAMES for token in load_template(name).control_tokens} | {"<|endoftext|>"}
)


class SmallTokenizer:
    """A real byte-level BPE tokenizer; ``greedy``: without any split before merging, so that it merges across borders."""

    def __init__(
        self, *, adds_bos: bool = False, greedy: bool = False, control: Sequence[str] = CONTROL
    ) -> None:
        self._bpe = Tokenizer(models.BPE())
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not greedy)
        self._bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=[*control, "<bos-of-tests>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        lines = ["\nBecause of the cut\n", "Response:\nBecause\n", "\n\nWhy so\n", "assistant\nBecause", "Be"]
        self._bpe.train_from_iterator(lines * 3, trainer)
        self.bos_id = self._bpe.token_to_id("<bos-of-tests>")
        self.adds_bos = adds_bos
        self.eos = "<|im_end|>" if "<|im_end|>" in control else control[0]

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = self._bpe.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._bpe.decode(list(ids), skip_special_tokens=False))


@cache
def tokenizer(greedy: bool = False, adds_bos: bool = False) -> SmallTokenizer:
    return SmallTokenizer(greedy=greedy, adds_bos=adds_bos)


def chat(*answers: str) -> list[Message]:
    return [m for answer in answers for m in (Message("user", "Why so?"), Message("assistant", answer))]


def learned(encoded: EncodedChat, with_: SmallTokenizer) -> str:
    """What the labels say, decoded."""
    return with_.decode([label for label in encoded.labels if label != IGNORED])


class TestLabels:
    @pytest.mark.parametrize("greedy", [False, True], ids=["splitting", "merging"])
    @pytest.mark.parametrize("name", NAMES)
    @given(answers=st.lists(st.text(min_size=1).filter(lambda t: t.strip() != ""), min_size=1, max_size=2))
    @settings(deadline=None, max_examples=40)
    def test_decoded_they_are_the_answers_with_their_stop_tokens(
        self, name: str, greedy: bool, answers: list[str]
    ) -> None:
        small = tokenizer(greedy)
        chosen = fit_template(name, small, "the test's model")
        rendered = chosen.render(chat(*answers))
        encoded = encode_chat(rendered, small)
        trimmed = [a.strip() if name in ("llama3", "gemma") else a for a in map(escape_markers, answers)]
        assert learned(encoded, small) == "".join(answer + chosen.stop for answer in trimmed)
        assert small.decode(encoded.input_ids) == rendered.text

    @pytest.mark.parametrize("greedy", [False, True], ids=["splitting", "merging"])
    @pytest.mark.parametrize("name", NAMES)
    def test_the_prompts_tokens_are_those_that_a_server_gets(self, name: str, greedy: bool) -> None:
        small = tokenizer(greedy)
        chosen = fit_template(name, small, "the test's model")
        encoded = encode_chat(chosen.render(chat("Because of the cut")), small)
        prompt = chosen.render(chat("")[:1], add_generation_prompt=True).text
        first = next(place for place, label in enumerate(encoded.labels) if label != IGNORED)
        assert encoded.input_ids[:first] == small.encode(prompt)[0]

    def test_a_tokenizer_that_merges_across_the_border_is_really_one(self) -> None:
        """So that the tests above prove something: taken whole, its tokens would hold a line end of the header."""
        small = tokenizer(greedy=True)
        rendered = fit_template("alpaca", small, "").render(chat("Because of the cut"))
        ids, offsets = small.encode(rendered.text)
        border = rendered.answers[0].start
        assert any(first < border < last for first, last in offsets)
        assert encode_chat(rendered, small).input_ids != ids

    def test_the_stop_token_carries_loss_and_the_header_does_not(self) -> None:
        small = tokenizer()
        encoded = encode_chat(load_template("chatml").render(chat("Because")), small)
        stop = small.encode("<|im_end|>")[0][0]
        assert [label for label in encoded.labels if label == stop] == [stop]
        assert encoded.input_ids.count(stop) == 2, "the user's turn ends with one too, without loss"

    def test_an_answer_without_a_token_is_refused(self) -> None:
        class Deaf(SmallTokenizer):
            def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
                return [], []

        with pytest.raises(InvalidInputError, match="left no token"):
            encode_chat(RenderedChat("ab", (TextSpan(1, 2),)), Deaf())


class TestBos:
    def test_a_tokenizer_that_wants_bos_gets_one(self) -> None:
        small = tokenizer(adds_bos=True)
        encoded = encode_chat(load_template("chatml").render(chat("Because")), small)
        assert encoded.input_ids[0] == small.bos_id
        assert encoded.input_ids.count(small.bos_id) == 1
        assert encoded.labels[0] == IGNORED

    def test_where_the_template_writes_it_there_is_no_second(self) -> None:
        small = SmallTokenizer(adds_bos=True)
        small.bos_id = small.encode("<|begin_of_text|>")[0][0]
        encoded = encode_chat(load_template("llama3").render(chat("Because")), small)
        assert encoded.input_ids.count(small.bos_id) == 1

    def test_a_tokenizer_without_bos_gets_none(self) -> None:
        small = tokenizer()
        assert (
            small.bos_id not in encode_chat(load_template("chatml").render(chat("Because")), small).input_ids
        )


class TestFit:
    def test_a_template_whose_marks_are_mere_text_to_the_tokenizer_is_refused(self) -> None:
        small = SmallTokenizer(control=["<|im_start|>", "<|im_end|>"])
        assert fit_template("chatml", small, "a model").name == "chatml"
        with pytest.raises(ConfigurationError) as refusal:
            fit_template("llama3", small, "a model")
        assert "<|eot_id|>" in str(refusal.value)
        assert "Templates that fit: alpaca, chatml" in str(refusal.value)

    def test_alpaca_takes_the_tokenizers_eos(self) -> None:
        small = SmallTokenizer(control=["<end>"])
        chosen = fit_template("alpaca", small, "a model")
        encoded = encode_chat(chosen.render(chat("Because")), small)
        assert learned(encoded, small) == "Because<end>"
