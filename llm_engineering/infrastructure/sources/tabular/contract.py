"""What the records of a table must be like: a JSON Schema over their fields."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_engineering.domain.errors import CollectionError

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

_MOST_PROBLEMS = 5
_MOST_SHOWN = 80


class Contract:
    """JSON Schemas (draft 2020-12, formats included) that every record must fit.

    A record is checked under the names of its fields where columns are mapped, under those of its columns where not; numbers
    are numbers also where a format knows texts only.

    Args:
        schemas: all of them hold; an empty one asks for nothing.

    Raises:
        CollectionError: one is no JSON Schema; says where.
    """

    def __init__(self, schemas: Sequence[Any]) -> None:
        self._schemas = [schema for schema in schemas if schema]
        self._validators = [_compile(schema) for schema in self._schemas]

    @property
    def fields(self) -> frozenset[str]:
        """Return the names that the schemas speak of at their top."""
        return frozenset(
            name
            for schema in self._schemas
            for name in (*schema.get("properties", ()), *schema.get("required", ()))
        )

    def check(self, record: Mapping[str, Any]) -> None:
        """Return where the record fits.

        Raises:
            ValueError: it does not; names each field with its value and what was asked for.
        """
        problems = [
            _describe(error) for validator in self._validators for error in _errors(validator, record)
        ]
        if problems:
            more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
            raise ValueError(f"the contract is broken: {'; '.join(problems[:_MOST_PROBLEMS])}{more}")


def _compile(schema: Any) -> "Draft202012Validator":
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, Mapping):
        raise CollectionError(f"A contract is a JSON Schema, a mapping; got {type(schema).__name__}.")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path)) or "its top"
        raise CollectionError(f"The contract is no JSON Schema: at {where}, {error.message[:200]}.") from None
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def _errors(validator: "Draft202012Validator", record: Mapping[str, Any]) -> Iterator["ValidationError"]:
    return iter(
        sorted(validator.iter_errors(dict(record)), key=lambda error: list(map(str, error.absolute_path)))
    )


def _describe(error: "ValidationError") -> str:
    field = ".".join(map(str, error.absolute_path))
    if error.validator in ("required", "additionalProperties", "dependentRequired"):
        # Its message names fields; the value would be the whole record.
        return (f"{field}: " if field else "") + str(error.message)[:_MOST_SHOWN]
    shown = repr(error.instance)
    shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
    return f"{field or 'the record'}: {shown} does not fit {error.validator}: {str(error.validator_value)[:_MOST_SHOWN]}"
