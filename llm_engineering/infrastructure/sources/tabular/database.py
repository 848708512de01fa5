"""A table of a database, or a query, as records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.application.features.links import hide_credentials
from llm_engineering.domain.errors import CollectionError
from llm_engineering.infrastructure.sources.tabular.rows import BrokenRow, Row

if TYPE_CHECKING:
    from sqlalchemy import Select, TextClause

_BATCH_ROWS = 256


class DatabaseTable:
    """Rows of a table or query, streamed. They are numbered from 1, in the order of the cursor where there is one.

    Args:
        url: SQLAlchemy's address. A SQLite file is opened for reading only.
        table: name, also ``schema.name``; None: the query, or the only table that there is.
        query: one statement that selects.
        cursor: column that only grows, such as a time of change; None: all rows, always.
        after: the cursor's value up to which rows were read before; rows with that very value come again, since others may have
            got it meanwhile.

    Raises:
        CollectionError: the database cannot be reached, or has no such table, query or cursor.
    """

    def __init__(
        self,
        url: str,
        *,
        table: str | None = None,
        query: str | None = None,
        cursor: str | None = None,
        after: Any = None,
    ) -> None:
        import sqlalchemy
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

        self._shown = hide_credentials(url)
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError,)
        try:
            self._engine = sqlalchemy.create_engine(_read_only(url))
            statement, values = self._statement(table, query, cursor, after)
            self._connection = self._engine.connect().execution_options(yield_per=_BATCH_ROWS)
        except ImportError as error:
            raise CollectionError(
                f"{self._shown} cannot be opened: {error}. Install the database's driver, for example psycopg2 for postgresql."
            ) from None
        except (ArgumentError, NoSuchModuleError) as error:
            raise CollectionError(
                f"{self._shown} cannot be opened: {hide_credentials(str(error))}."
            ) from None
        except ValueError:  # whose text may be a password, where the address lacks its @
            raise CollectionError(
                f"The address of a {url.partition('://')[0]} database cannot be read: its port is no number. Expected "
                "DATABASE://HOST:PORT/NAME."
            ) from None
        except self._errors as error:
            raise self._failed(error) from None
        try:
            self._result = self._connection.execute(statement, values)
            self.columns = tuple(self._result.keys())
        except self._errors as error:
            self.close()
            raise self._failed(error) from None

    def read_rows(self, columns: tuple[str, ...]) -> Iterator[Row | BrokenRow]:  # noqa: ARG002 - all come at once
        """Yield every row."""
        number = 0
        try:
            for row in self._result:
                number += 1
                yield Row(number, dict(zip(self.columns, row, strict=True)))
        except self._errors as error:
            raise CollectionError(f"{self._shown} failed after row {number}: {_plain(error)}") from error

    def close(self) -> None:
        """Let go of the connection."""
        if hasattr(self, "_connection"):
            self._connection.close()
        self._engine.dispose()

    def _statement(
        self, table: str | None, query: str | None, cursor: str | None, after: Any
    ) -> "tuple[Select[Any] | TextClause, dict[str, Any]]":
        from sqlalchemy import MetaData, Table, column, inspect, literal, select, text

        if query is not None:
            if cursor is None:
                return text(query), {}
            # Around the query, so that it may be of any form.
            quoted = self._engine.dialect.identifier_preparer.quote(cursor)
            where = f" WHERE records.{quoted} >= :after" if after is not None else ""
            ordered = (
                f"SELECT * FROM ({query.rstrip().rstrip(';')}) AS records{where} ORDER BY records.{quoted}"
            )
            return text(ordered), {} if after is None else {"after": after}
        names = inspect(self._engine).get_table_names()
        if table is None and len(names) != 1:
            listing = ", ".join(sorted(names)) or "none"
            raise CollectionError(
                f"{self._shown} has {len(names)} tables ({listing}): name one with the option table, or give a query."
            )
        schema, _, name = (table or names[0]).rpartition(".")
        found = Table(name, MetaData(), schema=schema or None, autoload_with=self._engine)
        chosen = select(found)
        if cursor is not None:
            if cursor not in found.c:
                raise CollectionError(
                    f"{self._shown} has no column {cursor!r} for the cursor; there are {', '.join(found.c.keys())}."
                )
            if after is not None:
                # As it was stored: a text compares with dates in every database.
                chosen = chosen.where(column(cursor) >= literal(after))
            chosen = chosen.order_by(column(cursor))
        return chosen, {}

    def _failed(self, error: Exception) -> CollectionError:
        return CollectionError(f"{self._shown} cannot be read: {_plain(error)}")


def dump_cursor(value: Any) -> str:
    """Return a cursor's value as it is kept with a document."""
    return json.dumps(value if isinstance(value, int | float) else str(value))


def load_cursor(kept: str | None) -> Any:
    """Return what :func:`dump_cursor` wrote; None for anything else."""
    try:
        return json.loads(kept or "null")
    except ValueError:
        return None


def _read_only(url: str) -> str:
    if not url.lower().startswith("sqlite:///") or ":memory:" in url:
        return url
    path = Path(url[len("sqlite:///") :].partition("?")[0])
    if not path.is_file():
        raise CollectionError(
            f"There is no file {str(path)!r}. Relative paths start at the folder of the command."
        )
    return f"sqlite:///file:{path}?mode=ro&uri=true"


def _plain(error: Exception) -> str:
    """The driver's own words, without the statement and its values."""
    return hide_credentials(str(getattr(error, "orig", None) or error).partition("\n")[0])[:300]
