"""What a language model may answer to an analysis, as JSON Schema; and its reply as findings with evidence.

A quote counts where it stands in a record, character by character. A finding that needs one and has none is dropped and
counted; the others of the same reply stay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_engineering.application.llm.structured_output import UnusableReplyError, parse_json_object
from llm_engineering.domain.analyses import AnalysisField, Evidence, FieldKind, Finding
from llm_engineering.domain.documents import Span

MOST_ITEMS = 20
"""Of a list, where the field gives no ``most``."""
MOST_QUOTES = 3
_LONGEST = 2_000
"""Characters of a text."""


@dataclass(frozen=True, slots=True)
class ShownText:
    """A record as it was shown to the model."""

    document_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ReadReply:
    """What a reply says."""

    findings: tuple[Finding, ...]
    dropped: int
    """Findings without the evidence that they need."""


def make_schema(fields: Sequence[AnalysisField]) -> dict[str, Any]:
    """Return the JSON Schema of a reply about these fields."""
    return {
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in fields},
        "required": [field.name for field in fields],
        "additionalProperties": False,
    }


def _field_schema(field: AnalysisField) -> dict[str, Any]:
    match field.kind:
        case FieldKind.ENTITIES:
            item: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 200}
            return {"type": "array", "items": item, "maxItems": int(field.most or MOST_ITEMS)}
        case FieldKind.LIST:
            text = {"type": "string", "minLength": 1, "maxLength": _LONGEST}
            item = _with_quotes(field, text)
            return {"type": "array", "items": item, "maxItems": int(field.most or MOST_ITEMS)}
        case FieldKind.CLASS:
            return _with_quotes(field, {"type": "string", "enum": list(field.values)})
        case FieldKind.NUMBER:
            bounds = {"minimum": field.least, "maximum": field.most}
            number = {"type": "number", **{name: at for name, at in bounds.items() if at is not None}}
            return _with_quotes(field, {"anyOf": [number, {"type": "null"}]})
        case FieldKind.TEXT:
            return _with_quotes(field, {"type": "string", "maxLength": _LONGEST})


def _with_quotes(field: AnalysisField, value: Mapping[str, Any]) -> dict[str, Any]:
    if field.evidence == "none":
        return dict(value)
    quotes = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MOST_QUOTES}
    return {
        "type": "object",
        "properties": {"value": dict(value), "quotes": quotes},
        "required": ["value", "quotes"],
        "additionalProperties": False,
    }


def read_reply(reply: str, fields: Sequence[AnalysisField], shown: Sequence[ShownText]) -> ReadReply:
    """Return what a reply says of the fields.

    Raises:
        UnusableReplyError: it is no JSON object, or a field is missing or of the wrong shape.
    """
    given = parse_json_object(reply)
    findings: list[Finding] = []
    dropped = 0
    for field in fields:
        if field.name not in given:
            raise UnusableReplyError(f"field missing: {field.name}")
        for value, evidence in _read_field(field, given[field.name], shown):
            if field.evidence == "required" and not evidence:
                dropped += 1
            else:
                findings.append(Finding(field=field.name, value=value, evidence=evidence, made_by="llm"))
    return ReadReply(tuple(dict.fromkeys(findings)), dropped)


def _read_field(
    field: AnalysisField, given: object, shown: Sequence[ShownText]
) -> Iterator[tuple[str | float, tuple[Evidence, ...]]]:
    if field.kind is FieldKind.ENTITIES:
        for item in _expect(field, given, list, "a list"):
            quote = _expect(field, item, str, "texts")
            found = locate_quotes([quote], shown)
            yield (found[0].quote if found else quote), found
    elif field.kind is FieldKind.LIST:
        for item in _expect(field, given, list, "a list"):
            yield from _read_value(field, item, shown)
    else:
        yield from _read_value(field, given, shown)


def _read_value(
    field: AnalysisField, given: object, shown: Sequence[ShownText]
) -> Iterator[tuple[str | float, tuple[Evidence, ...]]]:
    quotes: list[Any] = []
    if field.evidence != "none":
        held = _expect(field, given, dict, "an object with `value` and `quotes`")
        given, quotes = held.get("value"), _expect(field, held.get("quotes"), list, "`quotes`")
    evidence = locate_quotes([_expect(field, quote, str, "texts as quotes") for quote in quotes], shown)
    if field.kind is FieldKind.NUMBER:
        if given is None:
            return
        if isinstance(given, bool) or not isinstance(given, int | float) or not _within(field, given):
            raise UnusableReplyError(f"no number within the bounds: {field.name}")
        yield float(given), evidence
        return
    value = _expect(field, given, str, "a text").strip()
    if field.kind is FieldKind.CLASS and value not in field.values:
        raise UnusableReplyError(f"no value of the class: {field.name}: {value[:80]!r}")
    if value:
        yield value, evidence


def _within(field: AnalysisField, value: float) -> bool:
    lowest = field.least if field.least is not None else float("-inf")
    highest = field.most if field.most is not None else float("inf")
    return lowest <= value <= highest


def _expect(field: AnalysisField, given: object, kind: type, words: str) -> Any:
    if not isinstance(given, kind):
        raise UnusableReplyError(f"expected {words}: {field.name}")
    return given


def locate_quotes(quotes: Sequence[str], shown: Sequence[ShownText]) -> tuple[Evidence, ...]:
    """Return where the quotes stand, each in the first record that holds it; those that none holds are left out."""
    found: dict[str, Evidence] = {}
    for quote in quotes:
        text = quote.strip()
        for one in shown if text else ():
            start = one.text.find(text)
            if start >= 0:
                span = Span(start=start, end=start + len(text))
                found.setdefault(text, Evidence(document_id=one.document_id, span=span, quote=text))
                break
    return tuple(found.values())
