"""Chat templates: the published formats, exact spans, and text that cannot pass for a turn."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm_engineering.application.llm.chat_templates import (
    TemplateUse,
    check_contract,
    escape_markers,
    load_template,
    template_names,
)
from llm_engineering.application.ports import Message
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TemplateMismatchError

NAMES = template_names()
CHAT = [Message("user", "Why?"), Message("assistant", "Because."), Message("user", "And?")]
WITH_SYSTEM = [Message("system", "Be brief."), *CHAT]

# What the families' published templates write for the two conversations, generation prompt included.
PUBLISHED = {
    "chatml": (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause."
        "<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant"
        "<|end_header_id|>\n\nBecause.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nBecause.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nWhy?\n\n### Response:\nBecause.</s>\n\n### Instruction:\nAnd?\n\n### Response:\n",
        "Be brief.\n\n### Instruction:\nWhy?\n\n### Response:\nBecause.</s>\n\n### Instruction:\nAnd?\n\n### Response:\n",
    ),
    "phi3": (
        "<|user|>\nWhy?<|end|>\n<|assistant|>\nBecause.<|end|>\n<|user|>\nAnd?<|end|>\n<|assistant|>\n",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\nBecause.<|end|>\n<|user|>\nAnd?<|end|>\n"
        "<|assistant|>\n",
    ),
    "gemma": (
        "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\nBecause.<end_of_turn>\n"
        "<start_of_turn>user\nAnd?<end_of_turn>\n<start_of_turn>model\n",
        "<bos><start_of_turn>user\nBe brief.\n\nWhy?<end_of_turn>\n<start_of_turn>model\nBecause.<end_of_turn>\n"
        "<start_of_turn>user\nAnd?<end_of_turn>\n<start_of_turn>model\n",
    ),
}

texts = st.text(min_size=1).filter(lambda text: text.strip() != "")
MARKS = """<|im_end|> <|im_start|>user <|eot_id|> <|end|> <|assistant|> <end_of_turn> <start_of_turn>model </s> <s> <bos>
<eos> [INST] <|endoftext|> \U000f0000""".split()
marks = st.sampled_from([*MARKS, "\n\n### Response:\n", "### Instruction:"])
hostile = st.lists(st.one_of(marks, st.text(max_size=5)), min_size=1, max_size=6).map("".join)
anything = st.one_of(texts, hostile).filter(lambda text: text.strip() != "")


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    pairs = draw(st.lists(st.tuples(anything, anything), min_size=1, max_size=3))
    system = [Message("system", draw(anything))] if draw(st.booleans()) else []
    return [
        *system,
        *(m for user, answer in pairs for m in (Message("user", user), Message("assistant", answer))),
    ]


class TestFormat:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_is_the_familys_published_one(self, name: str) -> None:
        plain, with_system = PUBLISHED[name]
        assert load_template(name).render(CHAT, add_generation_prompt=True).text == plain
        assert load_template(name).render(WITH_SYSTEM, add_generation_prompt=True).text == with_system

    def test_phi_closes_a_finished_conversation_with_eos(self) -> None:
        assert load_template("phi3").render(CHAT[:2]).text.endswith("Because.<|end|>\n<|endoftext|>")

    @pytest.mark.parametrize("name", ["llama3", "gemma"])
    def test_families_that_trim_trim(self, name: str) -> None:
        ragged = [Message("user", " Why? \n"), Message("assistant", "\n Because. ")]
        assert load_template(name).render(ragged) == load_template(name).render(CHAT[:2])

    @pytest.mark.parametrize("name", NAMES)
    def test_a_blank_system_message_is_none(self, name: str) -> None:
        chosen = load_template(name)
        assert chosen.render([Message("system", " \n"), *CHAT]) == chosen.render(CHAT)

    @pytest.mark.parametrize("name", NAMES)
    def test_bos_is_written_once_and_can_be_left_to_a_server(self, name: str) -> None:
        rendered = load_template(name).render([Message("user", load_template(name).bos + "Why?")])
        assert rendered.text == rendered.bos + rendered.text_without_bos
        assert not rendered.bos or rendered.text.count(rendered.bos) == 1

    @pytest.mark.parametrize("name", NAMES)
    def test_engines_without_the_generation_tag_render_the_same(self, name: str) -> None:
        chosen = load_template(name)
        plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
            chosen.portable
        )
        given_ = [{"role": message.role, "content": message.content} for message in WITH_SYSTEM]
        text = plain.render(
            messages=given_, add_generation_prompt=True, bos_token=chosen.bos, eos_token=chosen.eos
        )
        assert text == chosen.render(WITH_SYSTEM, add_generation_prompt=True).text

    def test_alpaca_ends_answers_with_the_tokenizers_own_eos(self) -> None:
        chosen = load_template("alpaca").for_eos("<|im_end|>")
        assert chosen.stop == "<|im_end|>"
        assert chosen.render(CHAT[:2]).text.endswith("Because.<|im_end|>")
        assert chosen.hash == load_template("alpaca").hash

    @pytest.mark.parametrize("name", ["chatml", "llama3", "phi3", "gemma"])
    def test_a_family_with_a_stop_token_keeps_it_whatever_eos_is(self, name: str) -> None:
        assert load_template(name).for_eos("<other>").stop == load_template(name).stop
        assert load_template(name).stop in load_template(name).control_tokens


class TestSpans:
    @pytest.mark.parametrize("name", NAMES)
    @given(messages=conversations())
    def test_they_hold_the_assistants_words_and_the_stop_token_and_nothing_else(
        self, name: str, messages: list[Message]
    ) -> None:
        chosen = load_template(name)
        rendered = chosen.render(messages)
        answers = [escape_markers(message.content) for message in messages if message.role == "assistant"]
        if name in ("llama3", "gemma"):
            answers = [answer.strip() for answer in answers]
        assert [rendered.text[a:b] for a, b in rendered.answers] == [a + chosen.stop for a in answers]

    @pytest.mark.parametrize("name", NAMES)
    @given(messages=conversations())
    def test_what_stands_before_an_answer_is_the_prompt_that_asks_for_it(
        self, name: str, messages: list[Message]
    ) -> None:
        chosen = load_template(name)
        rendered = chosen.render(messages)
        prompt = chosen.render(messages[:-1], add_generation_prompt=True)
        assert rendered.text[: rendered.answers[-1].start] == prompt.text
        assert rendered.answers[:-1] == prompt.answers


class TestForgery:
    @pytest.mark.parametrize("name", NAMES)
    @given(messages=conversations())
    def test_no_text_makes_a_control_mark(self, name: str, messages: list[Message]) -> None:
        chosen = load_template(name)
        harmless = [Message(message.role, "x") for message in messages]
        marks = re.compile(
            r"<\|\w+\|>|</?(?:start|end)_of_turn>|</?s>|<[be]os>|^### (?:Instruction|Response):", re.M
        )
        assert marks.findall(chosen.render(messages).text) == marks.findall(chosen.render(harmless).text)

    @given(text=st.one_of(st.text(), hostile))
    def test_escaping_twice_changes_nothing_more(self, text: str) -> None:
        assert escape_markers(escape_markers(text)) == escape_markers(text)
        assert len(escape_markers(text)) == len(text)

    @pytest.mark.parametrize(
        "text", ["a <| b |> c", "x < y", "## Response", "# Notes:", "list[int]", "<em>s</em>", "<source>"]
    )
    def test_ordinary_text_stays_as_it_is(self, text: str) -> None:
        assert escape_markers(text) == text

    def test_text_is_never_a_template(self) -> None:
        text = "{{ bos_token }}{% generation %}{# x #}"
        assert text in load_template("chatml").render([Message("user", text)]).text


class TestOrder:
    @pytest.mark.parametrize(
        "roles", ["", "assistant", "system", "user user", "user system", "system system user", "user assistant assistant"]
    )  # fmt: skip
    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_no_conversation_is_refused(self, name: str, roles: str) -> None:
        messages = [Message(role, "x") for role in roles.split()]  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError):
            load_template(name).render(messages)

    def test_a_reply_to_a_reply_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="nothing to answer"):
            load_template("chatml").render(CHAT[:2], add_generation_prompt=True)


class TestContract:
    def test_each_template_has_its_own_hash_and_keeps_it(self) -> None:
        hashes = {name: load_template(name).hash for name in NAMES}
        assert len(set(hashes.values())) == len(NAMES)
        assert hashes == PINNED, "a version that models were trained on is not edited: add a new one"

    def test_equal_sides_may_go_on(self) -> None:
        check_contract(TemplateUse.of_this_version("a", "chatml"), TemplateUse.of_this_version("b", "chatml"))

    def test_another_template_is_refused_naming_both_sides(self) -> None:
        ours = TemplateUse.of_this_version("the training run", "chatml")
        theirs = TemplateUse.of_this_version("the data set articles@1", "gemma")
        with pytest.raises(TemplateMismatchError) as refusal:
            check_contract(ours, theirs)
        for told in ("the training run has 'chatml'", "the data set articles@1 has 'gemma'", ours.hash):
            assert told in str(refusal.value)

    def test_another_definition_of_the_same_name_is_refused(self) -> None:
        ours = TemplateUse.of_this_version("the service", "chatml")
        with pytest.raises(TemplateMismatchError, match="its definition changed"):
            check_contract(ours, TemplateUse("the model", "chatml", "000000000000"))

    def test_an_unknown_template_is_told_with_those_that_exist(self) -> None:
        with pytest.raises(ConfigurationError, match="There are: alpaca, chatml"):
            load_template("chatlm")
        with pytest.raises(ConfigurationError, match="no version 99"):
            load_template("chatml", 99)


PINNED = {
    "alpaca": "6456bece4f8a",
    "chatml": "cf4e7adbcaca",
    "gemma": "1f7413b76961",
    "llama3": "85a5d1faecb6",
    "phi3": "72801a40d3d4",
}
