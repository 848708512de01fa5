"""Text of others inside a prompt: made unable to close its fence, to pass for a message, or to hide words.

What is changed is changed in the prompt alone; the passages themselves, and every offset into them, stay as they are.
"""

import re
from dataclasses import dataclass

FENCES = ("source", "question", "instructions", "system", "user", "assistant")
"""Names of the tags that only templates may write."""

_IGNORABLE = r"[\s\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]*"
_LESS = "<＜﹤‹〈⟨❮˂"
_TAG = re.compile(
    rf"(?:[{_LESS}]|&lt;?|&#0*60;?|&#x0*3c;?)(?={_IGNORABLE}(?:[/／⁄∕]{_IGNORABLE})?"
    rf"(?:{'|'.join(_IGNORABLE.join(name) for name in FENCES)}))",
    re.IGNORECASE,
)
# Marks by which chat templates set off messages. A server that reads them in a text would take it for another turn.
_TURNS = re.compile(
    r"<(?=\||/?s>|<SYS>>|</?SYS>>|/?(?:start|end)_of_turn>|/?(?:begin|end)▁?of▁?sentence|｜)|\[(?=/?INST\])",
    re.IGNORECASE,
)
# Characters of the tag block are invisible everywhere and carry ASCII: words that a reader of the source cannot see.
_HIDDEN = re.compile("[\U000e0000-\U000e007f\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_OPENING = "\u2039"


def make_inert(text: object) -> str:
    """Return the text as it may stand inside a fence: tags of the prompt's own, in any spelling, are opened by ``‹``."""
    safe = _HIDDEN.sub("", str(text))
    safe = _TAG.sub(_OPENING, safe)
    return _TURNS.sub(lambda match: "(" if match.group() == "[" else _OPENING, safe)


@dataclass(frozen=True, slots=True)
class Shown:
    """A source as a template shows it."""

    number: int
    heading: str
    text: str


def present_source(number: int, heading: str, text: str) -> Shown:
    """Return a source made inert. A heading is one line, so that it cannot pass for the text below it."""
    return Shown(number, make_inert(" ".join(heading.split())), make_inert(text.strip("\n")))
