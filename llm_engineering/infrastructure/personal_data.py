"""Personal data by rules: patterns, check digits, and names that are known. Names that nobody listed stay."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

from llm_engineering.application.features.links import is_secret_name
from llm_engineering.application.ports import PersonalKind, PersonalSpan
from llm_engineering.application.text.pii import compile_names, find_emails, find_phones
from llm_engineering.domain.documents import text_hash

_RULES = "1"
"""Raise it with every change of the rules."""
_CARD = re.compile(r"(?<![\w.-])[3-6]\d(?:[ -]?\d){11,17}(?![\w-]|\.\d)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_IP = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7})(?![\w:]|\.\d)"
)
_VERSION = re.compile(r"(?:\bv|\bver(?:sion)?|\brelease|\bbuild)[\s.:=]*$", re.IGNORECASE)
_PARAMETER = re.compile(r"https?://[^\s?#]{1,500}[?#][^\s]{1,2000}")
_PAIR = re.compile(r"(?<=[?&#])(?P<name>[\w.-]{1,60})=(?P<value>[^&#\s\"'<>)]{4,2000})")
_ORDER: tuple[PersonalKind, ...] = ("token", "e-mail", "iban", "card", "ssn", "ip", "phone", "name")
"""Of two that overlap, the earlier in this list counts."""


class RulesFinder:
    """Finds e-mail addresses, phone numbers, cards and IBANs by their check digits, US social security numbers, IP addresses,
    tokens in web addresses, and the names given.

    Args:
        names: of people, whole ("Ada Winter"): found in any case. One of one word is found where it is capitalised.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        known = sorted(
            {" ".join(name.split()) for name in names if len(name.strip()) > 2}, key=len, reverse=True
        )
        self.version = f"rules-{_RULES}-{text_hash(chr(10).join(known))[:12]}"
        self._names = compile_names(known)

    def find(self, text: str) -> Sequence[PersonalSpan]:
        """Return what is personal, in order, without overlaps."""
        spans = sorted(self._find_all(text), key=lambda span: (_ORDER.index(span.kind), span.start))
        kept: list[PersonalSpan] = []
        for span in spans:
            if not any(span.start < other.end and other.start < span.end for other in kept):
                kept.append(span)
        return sorted(kept, key=lambda span: span.start)

    def _find_all(self, text: str) -> Iterator[PersonalSpan]:
        if "@" in text:
            yield from (PersonalSpan("e-mail", *span) for span in find_emails(text))
        if "://" in text:
            yield from _find_tokens(text)
        if any(character.isdecimal() for character in text):
            yield from _find_numbers(text)
        if ":" in text or "." in text:
            yield from _find_addresses(text)
        if self._names is not None:
            for match in self._names.finditer(text):
                if " " in match[0] or match[0][:1].isupper():
                    yield PersonalSpan("name", *match.span())


def _find_numbers(text: str) -> Iterator[PersonalSpan]:
    from stdnum import iban, luhn

    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if len(set(digits)) > 1 and luhn.is_valid(digits):
            yield PersonalSpan("card", *match.span())
    for match in _IBAN.finditer(text):
        # A word in capitals may follow: as far as it is valid.
        words = match[0].split(" ")
        for count in range(len(words), 0, -1):
            candidate = " ".join(words[:count])
            if iban.is_valid(candidate):
                yield PersonalSpan("iban", match.start(), match.start() + len(candidate))
                break
    yield from (PersonalSpan("ssn", *match.span()) for match in _SSN.finditer(text))
    yield from (PersonalSpan("phone", *span) for span in find_phones(text))


def _find_addresses(text: str) -> Iterator[PersonalSpan]:
    for match in _IP.finditer(text):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        if (
            not _VERSION.search(text[max(0, match.start() - 12) : match.start()])
            and not address.is_unspecified
        ):
            yield PersonalSpan("ip", *match.span())


def _find_tokens(text: str) -> Iterator[PersonalSpan]:
    for link in _PARAMETER.finditer(text):
        for pair in _PAIR.finditer(link[0]):
            if is_secret_name(pair["name"]):
                yield PersonalSpan(
                    "token", link.start() + pair.start("value"), link.start() + pair.end("value")
                )
