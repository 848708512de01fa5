"""Text inside a chat template that looks like the template's own marks.

Such text is **escaped, not refused**: an article on chat formats is training data like any other, and a question may
quote it. One character of the mark is replaced by a look-alike, so that no tokenizer takes it for a control token and
no reader for a new turn. All templates escape the same marks: a tokenizer may know those of other families too.
Escaping what is escaped changes nothing.
"""

import re

_CONTROL = re.compile(
    r"""<(?=
        [|｜][^\s<>|｜]{1,64}[|｜]>                  # <|im_start|>, <|eot_id|>, <|end|>, <|endoftext|>, DeepSeek's wide bars
      | /?(?:start|end)_of_(?:turn|image)>          # Gemma
      | /?s> | <SYS>> | </SYS>>                     # Llama 2, Mistral
      | (?:bos|eos|pad|unk|mask|cls|sep)>           # control tokens of SentencePiece vocabularies
      | unused\d{1,4}>
    )""",
    re.VERBOSE,
)
# Alpaca's headings are plain Markdown; only at the start of a line, and with the colon, do they begin a section.
_HEADING = re.compile(r"^([ \t]*)#(?=##[ \t]*(?:Instruction|Input|Response)[ \t]*:)", re.MULTILINE)
_BRACKET = re.compile(r"\[(?=/?INST\])")

RULES = "\n".join((_CONTROL.pattern, _HEADING.pattern, _BRACKET.pattern))
"""Part of every template's hash: text escaped by other rules is other text."""


def escape_markers(text: str) -> str:
    """Return the text as it may stand in a turn: ``<|im_end|>`` becomes ``‹|im_end|>``, ``### Response:`` ``＃##
    Response:``."""
    text = _CONTROL.sub("‹", text)
    text = _HEADING.sub(r"\1＃", text)
    return _BRACKET.sub("(", text)
