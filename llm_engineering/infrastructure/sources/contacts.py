"""Records that name addresses become those of clients, as they are collected; the addresses themselves are not kept."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from llm_engineering.application.features.contacts import Contact, Contacts
from llm_engineering.application.ports import FetchedDocument, Link, SourceItem, SourceReader, StoredVersion
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError

OPTION = "contacts"
ADDRESSES = "addresses"
"""Metadata that holds a record's addresses, until they are a client's."""


class AssociatingReader:
    """Reads as another reader does. Where a link has the option ``contacts``, a file of clients, each record gets the ``client``
    whose its ``metadata.addresses`` are, and ``client_by``: ``address``, ``domain``, ``ambiguous`` or ``none``.

    Such a link is read whole each time: what a source says of its freshness knows nothing of the file of clients.
    """

    def __init__(self, reader: SourceReader) -> None:
        self._reader = reader
        self.name = reader.name

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:
        """Yield what the other reader yields.

        Raises:
            CollectionError: as the other reader does; or the file of clients cannot be read.
        """
        if OPTION not in link.options:
            async for item in self._reader.read(link, known):
                yield item
            return
        contacts = read_contacts(Path(str(link.options[OPTION])))
        rest = {name: value for name, value in link.options.items() if name != OPTION}
        async for item in self._reader.read(replace(link, options=rest), {}):
            yield (
                FetchedDocument(_associate(item.document, contacts))
                if isinstance(item, FetchedDocument)
                else item
            )

    async def close(self) -> None:
        """Close the other reader."""
        await self._reader.close()


def read_contacts(path: Path) -> Contacts:
    """Read a file of clients: JSON Lines of ``{"client": …, "addresses": […], "domains": […]}``.

    Raises:
        CollectionError: it cannot be read, or a line is of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CollectionError(f"The contacts {path} cannot be read: {error}.") from None
    contacts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            contacts.append(Contact.model_validate(json.loads(line)))
        except (ValueError, ValidationError):
            raise CollectionError(
                f"{path}:{number}: expected an object such as "
                '{"client": "Client 1", "addresses": ["jo@one.example"], "domains": ["one.example"]}.'
            ) from None
    return Contacts(contacts)


def _associate(document: RawDocument, contacts: Contacts) -> RawDocument:
    metadata = dict(document.metadata)
    named = metadata.pop(ADDRESSES, ())
    addresses = named if isinstance(named, tuple) else str(named).replace(";", ",").split(",")
    found = contacts.find_client(addresses)
    if found.client is not None:
        metadata["client"] = found.client
    metadata["client_by"] = found.by
    # Built anew: model_copy would carry the old content hash along.
    return RawDocument(**{**document.model_dump(), "metadata": metadata})
