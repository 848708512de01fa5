"""Which column of a table becomes which field of a document."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_engineering.domain.categories import CategorySpec
from llm_engineering.domain.errors import CollectionError

FIELDS = ("title", "author", "link", "id", "published_at", "language")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table, resolved. ``text`` holds at least one."""

    text: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    """Field of :data:`FIELDS` → column."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    """Column of the text → what stands before it in the text; none for a title, and for a text that stands alone."""
    checked: Mapping[str, str] = field(default_factory=dict)
    """Further name that the contract speaks of → column."""

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(
                (*self.text, *self.fields.values(), *self.metadata.values(), *self.checked.values())
            )
        )


def resolve(
    spec: CategorySpec, column_map: Any, available: Iterable[str], table: str, checked: Iterable[str] = ()
) -> Columns:
    """Find the column of every field: named by ``column_map``, else a column of the field's own name (case ignored).

    The map's keys are ``text`` (one column, or a list that is joined), the fields above, the category's own text and metadata
    fields, and ``metadata.ANYTHING``. ``checked`` are names that a contract speaks of: what is no field of a record is a column.

    Raises:
        CollectionError: the map is malformed, names columns that are not there, or no column gives text; all at once.
    """
    available = tuple(available)
    mapped, problems = _checked(spec, column_map)
    by_name = {name.casefold(): name for name in reversed(available)}
    counts = Counter(available)

    def column(field_name: str) -> str | None:
        given = mapped.get(field_name)
        return given if isinstance(given, str) else by_name.get(field_name.casefold())

    given_text = mapped.get("text")
    labels: dict[str, str] = {}
    if given_text is not None:
        text = (given_text,) if isinstance(given_text, str) else tuple(given_text)
    else:
        placed = {name: found for name in spec.text_fields if (found := column(name))}
        text = tuple(placed.values())
        if sum(name != "title" for name in spec.text_fields) > 1:
            labels = {found: _label(spec, name) for name, found in placed.items() if name != "title"}
        if not text:
            wanted = " or ".join(map(repr, spec.text_fields))
            problems.append(
                f"no column gives the text: expected {wanted}, or a column_map such as {{text: COLUMN}}"
            )
    names = [
        *(facet.name for facet in spec.facets),
        *(key.removeprefix("metadata.") for key in mapped if key.startswith("metadata.")),
    ]
    metadata = {name: mapped.get(f"metadata.{name}") or column(name) for name in names}
    columns = Columns(
        text,
        {name: found for name in FIELDS if (found := column(name))},
        {name: found for name, found in metadata.items() if isinstance(found, str)},
        labels,
        {name: found for name in checked if (found := column(name)) and found in counts},
    )
    missing = [repr(name) for name in columns.used if name not in counts]
    if missing:
        problems.append(f"there is no column {', '.join(missing)}")
    problems += [
        f"there are {counts[name]} columns named {name!r}" for name in columns.used if counts[name] > 1
    ]
    if problems:
        listing = ", ".join(map(repr, available)) or "none"
        raise CollectionError(
            f"The columns of {table} do not fit: {'; '.join(problems)}. Columns in the table: {listing}. Name the right ones in "
            "column_map, or mend the table."
        )
    return columns


def _label(spec: CategorySpec, name: str) -> str:
    title = next((facet.title for facet in spec.facets if facet.name == name), name.replace("_", " "))
    return title[:1].upper() + title[1:]


def _checked(spec: CategorySpec, column_map: Any) -> tuple[Mapping[str, Any], list[str]]:
    if column_map is None:
        return {}, []
    if not isinstance(column_map, Mapping):
        return {}, [f"column_map must be a mapping of field to column, got {type(column_map).__name__}"]
    problems = []
    known = {"text", *FIELDS, *spec.text_fields, *(facet.name for facet in spec.facets)}
    for key, value in column_map.items():
        if key not in known and not (
            isinstance(key, str) and key.startswith("metadata.") and key != "metadata."
        ):
            problems.append(
                f"column_map has no field {key!r} (expected one of {', '.join(sorted(known))}, or metadata.NAME)"
            )
        is_list = (
            key == "text"
            and isinstance(value, list)
            and value
            and all(isinstance(part, str) for part in value)
        )
        if not (isinstance(value, str) and value) and not is_list:
            problems.append(f"column_map.{key} must be the name of a column, got {value!r}")
    return {str(key): value for key, value in column_map.items() if isinstance(value, str | list)}, problems
