"""Finding people in texts: e-mail addresses, phone numbers, and names that are given."""

import re
from collections.abc import Sequence

from pydantic import BaseModel

# Anchored at the start of a run and bounded, so that a long run without an @ is looked at once.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_PHONE = re.compile(r"(?<![\w@/.:,\]-])(?:\+|\()?\d[\d ().\-/\u00a0]{5,22}\d(?![\w@])")
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}")
_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")


def find_emails(text: str) -> list[tuple[int, int]]:
    """Return where e-mail addresses stand."""
    return [match.span() for match in _EMAIL.finditer(text)]


def find_phones(text: str) -> list[tuple[int, int]]:
    """Return where phone numbers stand; see :func:`mask_personal_data`."""
    return [
        # A parenthesis that opens before the number and does not close in it is the sentence's.
        (match.start() + (match[0][0] == "(" and ")" not in match[0]), match.end())
        for match in _PHONE.finditer(text)
        if _is_phone(match[0])
    ]


def compile_names(names: Sequence[str]) -> re.Pattern[str] | None:
    """Return what finds names as whole words, in any case and with any blanks between their words; None: there are none."""
    spelled = ["\\s+".join(map(re.escape, name.split())) for name in names if name.strip()]
    return re.compile(rf"(?<!\w)(?:{'|'.join(spelled)})(?!\w)", re.IGNORECASE) if spelled else None


def names_any(record: BaseModel, names: re.Pattern[str]) -> bool:
    """Return whether a record holds one of the names of :func:`compile_names`, in whatever field."""
    # Line breaks and tabs stand escaped in it.
    return names.search(re.sub(r"\\[nrt]", " ", record.model_dump_json())) is not None


def mask_personal_data(text: str) -> str:
    """Replace e-mail addresses by ``[e-mail]`` and phone numbers by ``[phone]``.

    A phone number is one with a country code, an area code in parentheses or a leading zero, or three or more groups of
    digits; dates, IP addresses and plain numbers such as an order's stay.
    """
    if "@" in text:
        text = _EMAIL.sub("[e-mail]", text)
    return _PHONE.sub(_mask_phone, text)


def _mask_phone(match: re.Match[str]) -> str:
    return "[phone]" if _is_phone(match.group()) else match.group()


def _is_phone(found: str) -> bool:
    digits = sum(character.isdecimal() for character in found)
    groups = re.findall(r"\d+", found)
    if not 7 <= digits <= 15 or _DATE.search(found) or _ADDRESS.fullmatch(found):
        return False
    international = found[0] == "+" or found.startswith("00")
    national = found[0] in "(0" and digits >= 9
    grouped = len(groups) >= 3 and digits >= 9 and all(2 <= len(group) <= 5 for group in groups[1:])
    return international or national or grouped
