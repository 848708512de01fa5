"""Which tokens of a rendered conversation carry loss: the assistant's words and the stop token, nothing else.

The tokens in front of an answer are, to the last, those that a server gets when it tokenizes the prompt alone. Where a
tokenizer would merge characters across that border, the text is tokenized in pieces instead: a model is not taught from
tokens that it will never see.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from llm_engineering.application.llm.chat_templates import (
    ChatTemplate,
    RenderedChat,
    load_template,
    template_names,
)
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError

IGNORED = -100
"""The label of a token without loss, as PyTorch's cross entropy has it."""


class ChatTokenizer(Protocol):
    """A tokenizer with offsets. It adds nothing by itself, and knows control tokens when it sees them."""

    bos_id: int | None
    adds_bos: bool
    """Whether the model was trained with BOS in front of every text."""
    eos: str

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return token ids, and the characters ``[start, end)`` that each was made from."""
        ...


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A sequence to train on; both lists are equally long."""

    input_ids: list[int]
    labels: list[int]
    """The token's own id where it carries loss, else :data:`IGNORED`."""

    def __len__(self) -> int:
        """Tokens."""
        return len(self.input_ids)


def fit_template(name: str, tokenizer: ChatTokenizer, base: str) -> ChatTemplate:
    """Return the template for this tokenizer.

    Raises:
        ConfigurationError: a control token of the template is none to the tokenizer, so that a model would read it as
            ordinary text and could never stop cleanly; the message names templates that fit.
    """
    chosen = load_template(name).for_eos(tokenizer.eos)
    missing = _unknown(chosen, tokenizer)
    if not missing:
        return chosen
    fitting = [
        other
        for other in template_names()
        if not _unknown(load_template(other).for_eos(tokenizer.eos), tokenizer)
    ]
    advice = f"Templates that fit: {', '.join(fitting)}." if fitting else "No template here fits it."
    raise ConfigurationError(
        f"The chat template '{name}' does not fit the tokenizer of {base}: {', '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} no control token there. {advice}"
    )


def _unknown(chosen: ChatTemplate, tokenizer: ChatTokenizer) -> list[str]:
    return [token for token in chosen.control_tokens if len(tokenizer.encode(token)[0]) != 1]


def encode_chat(rendered: RenderedChat, tokenizer: ChatTokenizer) -> EncodedChat:
    """Return tokens and labels of a conversation, BOS once in front where template or tokenizer has one.

    Raises:
        InvalidInputError: an answer left no token.
    """
    ids, offsets = tokenizer.encode(rendered.text)
    if any(_merges(rendered.text, ids, offsets, start, tokenizer) for start, _ in rendered.answers):
        ids, offsets = _in_pieces(rendered, tokenizer)
    labels = [IGNORED] * len(ids)
    for start, end in rendered.answers:
        # Judged by its first character: a stop token may swallow the white space that follows it.
        inside = [place for place, (first, _) in enumerate(offsets) if start <= first < end]
        if not inside:
            raise InvalidInputError(
                f"An answer of a conversation left no token: {rendered.text[start:end]!r}."
            )
        for place in inside:
            labels[place] = ids[place]
    if tokenizer.adds_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids, labels = [tokenizer.bos_id, *ids], [IGNORED, *labels]
    return EncodedChat(ids, labels)


def _merges(
    text: str, ids: list[int], offsets: list[tuple[int, int]], border: int, tokenizer: ChatTokenizer
) -> bool:
    """Whether the tokens up to the border are others than those of the text up to the border."""
    before = [token for token, (first, _) in zip(ids, offsets, strict=True) if first < border]
    return before != tokenizer.encode(text[:border])[0]


def _in_pieces(rendered: RenderedChat, tokenizer: ChatTokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, end in _pieces(rendered):
        guard = tokenizer.eos if start else ""
        # Behind a control token, as every piece but the first stands: alone, some tokenizers would put a space before it.
        found, places = tokenizer.encode(guard + rendered.text[start:end])
        for token, (first, last) in zip(found, places, strict=True):
            if first >= len(guard):
                ids.append(token)
                offsets.append((first - len(guard) + start, last - len(guard) + start))
    return ids, offsets


def _pieces(rendered: RenderedChat) -> Iterator[tuple[int, int]]:
    borders = sorted({0, len(rendered.text), *(place for span in rendered.answers for place in span)})
    yield from pairwise(borders)
