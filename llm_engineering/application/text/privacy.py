"""One policy for personal data: keep it, mask it, or put a pseudonym in its place."""

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Literal

from llm_engineering.application.ports import PersonalDataFinder
from llm_engineering.domain.documents import text_hash

Action = Literal["keep", "mask", "pseudonymise"]
_LETTERS = 10
# Digits could be taken for a number of somebody's.
_AS_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


@dataclass(frozen=True, slots=True)
class PrivacyPolicy:
    """What is done with what a finder finds.

    A pseudonym is an HMAC of kind and value: the same person has the same one everywhere, and nobody without the key can tell
    whose it is, or make one. With the key, the pseudonym of a known value can be computed, and nothing else be turned back.
    """

    finder: PersonalDataFinder
    action: Action = "mask"
    key: bytes = b""
    """Of pseudonyms; lost or changed, the same person gets another pseudonym from then on."""

    def __post_init__(self) -> None:
        if self.action == "pseudonymise" and len(self.key) < 16:
            raise ValueError(f"pseudonyms need a key of at least 16 bytes; got {len(self.key)}")

    @property
    def version(self) -> str:
        """Return what changes with the policy, so that documents are cleaned again."""
        return f"{self.action}:{self.finder.version}:{text_hash(self.key.hex())[:12] if self.key else ''}"

    def apply(self, text: str) -> str:
        """Return the text as the policy wants it."""
        if self.action == "keep":
            return text
        parts, end = [], 0
        for span in self.finder.find(text):
            parts += [text[end : span.start], self.replace(span.kind, text[span.start : span.end])]
            end = span.end
        return "".join([*parts, text[end:]]) if parts else text

    def name_writer(self, name: str) -> str:
        """Return the pseudonym of a customer who wrote something, sixteen letters; empty without a key of 16 bytes."""
        folded = " ".join(name.casefold().split())
        if len(self.key) < 16 or not folded:
            return ""
        digest = hmac.new(self.key, f"writer:{folded}".encode(), hashlib.sha256).hexdigest()
        return digest[:16].translate(_AS_LETTERS)

    def apply_outside(self, text: str) -> str:
        """Return the text for what leaves the house: it names no person, whatever is done with what stays."""
        return (replace(self, action="mask") if self.action == "keep" else self).apply(text)

    def replace(self, kind: str, value: str) -> str:
        """Return what stands in a value's place: ``[e-mail]``, or ``[e-mail 3f9a2b71c4]``."""
        if self.action == "pseudonymise":
            # As people write it does not matter: case, blanks and marks within numbers.
            folded = "".join(filter(str.isalnum, value.casefold())) if kind != "e-mail" else value.casefold()
            digest = hmac.new(self.key, f"{kind}:{folded}".encode(), hashlib.sha256).hexdigest()
            return f"[{kind} {digest[:_LETTERS]}]"
        return f"[{kind}]"
