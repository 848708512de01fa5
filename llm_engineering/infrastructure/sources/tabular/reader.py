"""Reads a table: one document per row."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import aclosing, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import ValidationError

from llm_engineering.application.failures import MAX_PAYLOAD_CHARS
from llm_engineering.application.features.links import hide_credentials
from llm_engineering.application.ports import (
    Discovered,
    EndOfSource,
    FetchedDocument,
    Link,
    Rejected,
    SourceItem,
    StoredVersion,
)
from llm_engineering.domain.categories import CategorySpec, category_spec
from llm_engineering.domain.documents import RawDocument, text_hash
from llm_engineering.domain.errors import CollectionError, ConfigurationError, ExtractionError, FetchError
from llm_engineering.domain.facets import MetadataValue
from llm_engineering.infrastructure.shared.addresses import PrivateAddresses
from llm_engineering.infrastructure.shared.language import detect_language
from llm_engineering.infrastructure.sources.tabular.columns import Columns, resolve
from llm_engineering.infrastructure.sources.tabular.contract import Contract
from llm_engineering.infrastructure.sources.tabular.database import dump_cursor, load_cursor
from llm_engineering.infrastructure.sources.tabular.places import (
    FORMATS,
    fetch,
    find_file,
    form_of,
    is_bucket,
    is_database,
    is_web,
    list_tables,
)
from llm_engineering.infrastructure.sources.tabular.rows import BrokenRow, Row, Table
from llm_engineering.infrastructure.sources.tabular.values import (
    as_datetime,
    as_language,
    as_scalar,
    as_text,
    is_missing,
    strip_html,
)

if TYPE_CHECKING:
    import httpx

USUAL_CATEGORY = "post"
"""Of rows, where the link says nothing."""
_OPTIONS = (
    "column_map",
    "contract",
    "cursor",
    "date_format",
    "delimiter",
    "encoding",
    "format",
    "languages",
    "max_items",
    "min_words",
    "query",
    "records_at",
    "table",
)
# What every link may carry, or inherits from the feed that led to it.
_COMMON_OPTIONS = ("author_from_page", "reader")
_BATCH_ROWS = 256


class TableReader:
    """Reads CSV, TSV, JSON, JSON Lines (these also in gzip), Parquet and SQLite from a path or a ``file:``, ``http(s):`` or
    bucket URL (``s3://``, ``gs://``), and tables of a database. A folder or pattern (``data/*.csv``) leads to each table in it.

    A link without a category holds posts, by the columns ``title`` and ``text``. Link options:

    - ``column_map`` (field → column, see ``columns.resolve``), ``date_format`` (one or a list);
    - ``delimiter``, ``encoding``, ``format`` (where the ending does not tell), ``records_at`` (see ``JsonTable``);
    - ``table`` or ``query`` of a database, with a ``cursor``: a column that only grows, so that later runs read what is new;
    - ``contract``: a JSON Schema that each record must fit, beside the category's own;
    - ``languages``: those that the texts may be in (codes); ``min_words``: a record with a shorter text is rejected;
    - ``max_items``: rows to read; what lies beyond then never counts as gone.

    A document is identified by the row's ``link``, else by ``TABLE#id``, else by a hash of the row's used cells. Bad
    rows are yielded as Rejected with ``TABLE:LINE`` and the others go on. Files are read in a thread, batch by batch:
    the next rows are read when the last ones have been taken, so memory does not grow with the table.

    Args:
        max_text_chars: a row with a longer text is rejected.
        max_download_bytes: a table on the web that is larger is given up.
        private_addresses: see :data:`PrivateAddresses`.
        name_writer: makes a pseudonym of a customer's name; without, or where it gives none, nothing is kept of the name.
    """

    name = "table"

    def __init__(
        self,
        *,
        max_text_chars: int = 1_000_000,
        max_download_bytes: int = 1_000_000_000,
        timeout_seconds: float = 60.0,
        private_addresses: PrivateAddresses = "given",
        name_writer: Callable[[str], str] | None = None,
    ) -> None:
        self._name_writer = name_writer
        self._max_text_chars = max_text_chars
        self._max_download_bytes = max_download_bytes
        self._timeout = timeout_seconds
        self._private_addresses = private_addresses

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:
        """Yield a FetchedDocument or Rejected per row, then EndOfSource; of a folder, each table as Discovered.

        Raises:
            CollectionError: the category is unknown, an option or the columns are wrong, or the file cannot be read.
            ExtractionError: the table has no rows, or the folder no tables.
        """
        spec = _checked_category(link)
        _check_options(link)
        contract = Contract([spec.contract, link.options.get("contract")])
        tables = None
        if not is_database(link.url) and not is_web(link.url):
            tables = await asyncio.to_thread(list_tables, link.url)
        for url in tables or ():
            yield Discovered(replace(link, url=url))
        if tables is not None:
            return
        with tempfile.TemporaryDirectory(prefix="twin-table-") as folder:
            path = None if is_database(link.url) else await self._locate(link, Path(folder))
            items = self._items(link, spec, contract, path, known)
            try:
                while batch := await _next_batch(items):
                    for item in batch:
                        yield item
            finally:
                items.close()

    async def close(self) -> None:
        """Nothing is held between links."""

    async def _locate(self, link: Link, folder: Path) -> Path:
        if is_web(link.url):
            return await self._download(link, folder)
        if is_bucket(link.url):
            return await asyncio.to_thread(fetch, link.url, folder, self._max_download_bytes)
        return find_file(link.url)

    def _items(
        self,
        link: Link,
        spec: CategorySpec,
        contract: Contract,
        path: Path | None,
        known: Mapping[str, StoredVersion],
    ) -> Generator[SourceItem, None, None]:
        limit = link.options.get("max_items")
        shown = f"{hide_credentials(link.url)}{link.part}"
        after = _find_cursor(link, shown, known)
        with closing(self._open(link, path, after)) as table:
            columns = _resolve(link, spec, table.columns, shown, contract.fields)
            mapper = _RowMapper(link, spec, columns, contract, shown, self._max_text_chars, self._name_writer)
            count = 0
            for row in islice(table.read_rows(columns.used), limit):
                count += 1
                yield mapper.item(row)
        if after is not None:
            return  # what was read before is not gone
        if not count:
            raise ExtractionError(f"{shown} has columns, but no rows.")
        if limit is None or count < limit:
            yield EndOfSource()

    def _open(self, link: Link, path: Path | None, after: Any) -> Table:
        options = link.options
        # A field is somewhat longer in its file than as text; one row is never more than this in memory.
        row_chars = 2 * self._max_text_chars + 1_000
        form = form_of(str(options.get("format") or (path.name if path else "")))
        encoding = options.get("encoding")
        if path is None or form == "sqlite":
            from llm_engineering.infrastructure.sources.tabular.database import DatabaseTable

            address = link.url if path is None else f"sqlite:///{path}"
            return DatabaseTable(
                address,
                table=options.get("table"),
                query=options.get("query"),
                cursor=options.get("cursor"),
                after=after,
            )
        if form == "csv":
            from llm_engineering.infrastructure.sources.tabular.delimited import DelimitedTable

            return DelimitedTable(path, encoding, options.get("delimiter"), row_chars)
        if form in ("json", "jsonl"):
            from llm_engineering.infrastructure.sources.tabular.json_records import JsonTable

            return JsonTable(
                path,
                encoding,
                by_line=form == "jsonl",
                max_row_chars=row_chars,
                records_at=options.get("records_at"),
            )
        if form == "parquet":
            from llm_engineering.infrastructure.sources.tabular.parquet import ParquetTable

            return ParquetTable(path)
        raise CollectionError(
            f"{hide_credentials(link.url)} is no table of a known format. Expected one of: {', '.join(FORMATS)} "
            "(also with .gz), by the file's ending or the link's option format."
        )

    async def _download(self, link: Link, folder: Path) -> Path:
        import httpx

        from llm_engineering.infrastructure.shared.web_client import MAX_REDIRECTS, WebClient, find_redirect

        target = folder / (Path(unquote(urlsplit(link.url).path)).name or "table")
        shown = hide_credentials(link.url)
        client = WebClient(private_addresses=self._private_addresses, timeout_seconds=self._timeout)
        url: str | None = link.url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                assert url is not None
                async with client.stream(url, given=link.given) as response:
                    url = find_redirect(url, response)
                    if url is None:
                        await self._save(response, target)
                        return target
            raise FetchError(f"it redirects more than {MAX_REDIRECTS} times")
        except (httpx.HTTPError, httpx.InvalidURL, FetchError) as error:
            raise FetchError(f"{shown} cannot be fetched: {error or type(error).__name__}") from error
        finally:
            await client.close()

    async def _save(self, response: "httpx.Response", target: Path) -> None:
        from llm_engineering.infrastructure.shared.web_client import read_body

        if response.status_code != 200:
            raise FetchError(f"it answered {response.status_code} {response.reason_phrase}")
        size = 0
        with target.open("wb") as file:
            async with aclosing(read_body(response)) as pieces:
                async for piece in pieces:
                    size += len(piece)
                    if size > self._max_download_bytes:
                        raise FetchError(f"it is larger than the limit of {self._max_download_bytes:,} bytes")
                    file.write(piece)


class _RowMapper:
    """Makes documents of rows, by resolved columns."""

    def __init__(
        self,
        link: Link,
        spec: CategorySpec,
        columns: Columns,
        contract: Contract,
        shown: str,
        max_text_chars: int,
        name_writer: Callable[[str], str] | None,
    ) -> None:
        self._name_writer = name_writer
        self._link = link
        self._spec = spec
        self._facets = {facet.name: facet for facet in spec.facets}
        self._columns = columns
        self._contract = contract
        self._cursor = link.options.get("cursor")
        self._languages = tuple(link.options.get("languages") or ())
        self._min_words = link.options.get("min_words") or 0
        self._shown = shown
        self._platform = Path(unquote(urlsplit(shown).path)).name.partition(".")[0] or "table"
        self._max_text_chars = max_text_chars
        formats = link.options.get("date_format") or ()
        self._date_formats = (formats,) if isinstance(formats, str) else tuple(formats)
        # Hashes instead of texts: a table may have millions of rows.
        self._seen: set[int] = set()

    def item(self, row: Row | BrokenRow) -> SourceItem:
        source = f"{self._shown}:{row.line}"
        private = self._spec.private_authors
        if isinstance(row, BrokenRow):  # which of its letters are a name, nobody can tell
            return Rejected(source, row.reason, "" if private else _storable(row.payload))
        try:
            return FetchedDocument(self._document(row.values))
        except ValueError as error:
            reason = _validation_reason(error) if isinstance(error, ValidationError) else str(error)
            kept = row.values
            if private:  # a column that nobody uses may hold a name too
                hidden = (self._columns.fields.get("author"), self._columns.metadata.get(self._spec.writer))
                kept = {
                    name: value
                    for name, value in kept.items()
                    if name in self._columns.used and name not in hidden
                }
            return Rejected(source, f"{reason[:1].upper()}{reason[1:]}.", _storable(as_text(kept)))

    def _document(self, values: Mapping[str, Any]) -> RawDocument:
        fields = {name: values.get(column) for name, column in self._columns.fields.items()}
        if self._spec.private_authors:
            fields.pop("author", None)
        metadata = self._metadata(values)
        text = self._text(values, metadata)
        title = " ".join(strip_html(as_text(fields.get("title"))).split())
        _require_unicode(text, *map(as_text, fields.values()))
        published_at = self._date(fields.get("published_at"))
        record = {**self._raw(values), **_present(fields), **metadata, "title": title, "text": text}
        self._contract.check(_as_json(record))
        language = as_language(fields.get("language"))
        return RawDocument(
            category=self._spec.name,
            title=title,
            text=text,
            link=self._identity(values, fields),
            origin=self._shown,
            platform=self._platform,
            author=" ".join(as_text(fields.get("author")).split()) or self._link.author,
            language=detect_language(text, self._languages) if language == "und" else language,
            published_at=published_at,
            metadata=metadata,
            etag=dump_cursor(values[self._cursor]) if self._cursor and self._cursor in values else None,
        )

    def _text(self, values: Mapping[str, Any], metadata: Mapping[str, MetadataValue]) -> str:
        parts = []
        for column in self._columns.text:
            name = next((name for name, source in self._columns.metadata.items() if source == column), "")
            value = metadata.get(name, values.get(column))
            words = strip_html(as_text(value)).strip()
            label = self._columns.labels.get(column)
            if words:
                parts.append(f"{label}: {words}" if label else words)
        text = "\n\n".join(parts)
        if not text:
            raise ValueError(f"the text is missing (column {' and '.join(map(repr, self._columns.text))})")
        if len(text) > self._max_text_chars:
            raise ValueError(
                f"the text has {len(text):,} characters, more than the {self._max_text_chars:,} allowed"
            )
        if self._min_words and (count := len(text.split())) < self._min_words:
            raise ValueError(f"the text has {count} words, fewer than the {self._min_words} asked for")
        return text

    def _metadata(self, values: Mapping[str, Any]) -> dict[str, MetadataValue]:
        read: dict[str, MetadataValue] = {}
        for name, column in self._columns.metadata.items():
            value = values.get(column)
            if is_missing(value):
                continue
            if name == self._spec.writer:
                if pseudonym := self._name_writer(as_text(value)) if self._name_writer else "":
                    read[name] = pseudonym
                continue
            facet = self._facets.get(name)
            try:
                read[name] = (
                    facet.read(strip_html(value) if isinstance(value, str) else value)
                    if facet
                    else as_scalar(value)
                )
            except ValueError as error:
                raise ValueError(f"column {column!r}: {error}") from None
        return read

    def _raw(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Cells that only the contract speaks of."""
        return {
            name: as_scalar(values[column])
            for name, column in self._columns.checked.items()
            if not is_missing(values.get(column))
        }

    def _identity(self, values: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
        given = as_text(fields.get("link")).strip()
        key = as_text(fields.get("id")).strip()
        if not given and not key:
            # Equal rows are one document, wherever they stand.
            cells = [as_text(values.get(column)) for column in self._columns.used]
            return f"{self._shown}#{text_hash(as_text(cells))[:20]}"
        identity = given or f"{self._shown}#{quote(key, safe='/:@', errors='surrogatepass')}"
        if hash(identity) in self._seen:
            raise ValueError(
                f"another row above has the same {'link' if given else 'id'}, {(given or key)[:100]!r}"
            )
        self._seen.add(hash(identity))
        return identity

    def _date(self, value: Any) -> Any:
        if is_missing(value):
            return None
        try:
            return as_datetime(value, self._date_formats)
        except ValueError as error:
            raise ValueError(f"column {self._columns.fields['published_at']!r}: {error}") from None


def _checked_category(link: Link) -> CategorySpec:
    try:
        return category_spec(link.category or USUAL_CATEGORY)
    except ConfigurationError as error:
        raise CollectionError(str(error)) from error


def _resolve(
    link: Link, spec: CategorySpec, available: tuple[str, ...], shown: str, checked: Iterable[str]
) -> Columns:
    try:
        return resolve(spec, link.options.get("column_map"), available, shown, checked)
    except CollectionError as error:
        if link.category is not None:
            raise
        raise CollectionError(
            f"{error} Without a category its rows are read as {USUAL_CATEGORY}s; in a configuration file, the link can name "
            "another, such as category: review, and a column_map."
        ) from error


def _check_options(link: Link) -> None:
    problems = [
        f"there is no option {name!r} (expected {', '.join(_OPTIONS)})"
        for name in link.options
        if name not in (*_OPTIONS, *_COMMON_OPTIONS)
    ]
    limit, delimiter = link.options.get("max_items"), link.options.get("delimiter")
    problems += [
        f"{name} must be a text, got {link.options[name]!r}"
        for name in ("cursor", "query", "records_at", "table")
        if name in link.options and not (isinstance(link.options[name], str) and link.options[name].strip())
    ]
    if "query" in link.options and "table" in link.options:
        problems.append("table and query exclude each other")
    languages, least = link.options.get("languages", []), link.options.get("min_words", 0)
    if not isinstance(languages, list) or not all(
        isinstance(code, str) and len(code) == 2 for code in languages
    ):
        problems.append(f"languages must be a list of codes such as [en, de], got {languages!r}")
    if isinstance(least, bool) or not isinstance(least, int) or least < 0:
        problems.append(f"min_words must be a whole number, got {least!r}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        problems.append(f"max_items must be a whole number above 0, got {limit!r}")
    if delimiter is not None and (
        not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n'
    ):
        problems.append(f"delimiter must be one character, got {delimiter!r}")
    if problems:
        raise CollectionError(
            f"The options of {hide_credentials(link.url)} are wrong: {'; '.join(problems)}."
        )


def _find_cursor(link: Link, shown: str, known: Mapping[str, StoredVersion]) -> Any:
    """The greatest value of the cursor among the stored records of this link; None where all rows are to be read."""
    if link.options.get("cursor") is None:
        return None
    kept = [
        load_cursor(version.etag) for document, version in known.items() if document.startswith(f"{shown}#")
    ]
    values = [value for value in kept if value is not None]
    return max(values, default=None, key=lambda value: (isinstance(value, str), value))


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: as_text(value) for name, value in fields.items() if not is_missing(value)}


def _as_json(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}


async def _next_batch(items: Generator[SourceItem, None, None]) -> list[SourceItem]:
    """The next rows, read in a thread. Cancelled, it waits until the thread has let go of the file."""
    reading = asyncio.ensure_future(asyncio.to_thread(_take, items))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait([reading])
        raise


def _take(items: Iterator[SourceItem]) -> list[SourceItem]:
    return list(islice(items, _BATCH_ROWS))


def _require_unicode(*texts: str) -> None:
    """Lone surrogates, of damaged bytes or of broken JSON escapes, can be stored nowhere."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            around = text[max(0, error.start - 20) : error.start]
            raise ValueError(f"the row holds bytes that are no text, after {around!r}") from None


def _storable(payload: str) -> str:
    return payload[:MAX_PAYLOAD_CHARS].encode("utf-8", "replace").decode()


def _validation_reason(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors(include_url=False)
    )
