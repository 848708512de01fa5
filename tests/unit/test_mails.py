"""Mails as records: what their author wrote, their thread, and whose they are."""

import json
import mailbox
from email.message import EmailMessage
from pathlib import Path

import pytest

from llm_engineering.application.features.contacts import Association, Contact, Contacts
from llm_engineering.application.ports import FetchedDocument, Link
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import CollectionError
from llm_engineering.infrastructure.sources.contacts import AssociatingReader
from llm_engineering.infrastructure.sources.files import FilesReader
from llm_engineering.infrastructure.sources.files.mail import strip_quotes

CONTACTS = Contacts(
    [
        Contact(
            client="North", addresses=("jo@north.example", "shared@house.example"), domains=("north.example",)
        ),
        Contact(
            client="South", addresses=("shared@house.example",), domains=("south.example", "mail.example")
        ),
        Contact(client="West", domains=("mail.example", "old.north.example")),
    ]
)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("Yes.\n\n> Shall we?\n> When?\n\nOn Monday.", "Yes.\n\n\nOn Monday."),
        ("Fine.\n\nOn Mon, 3 May 2026, Jo wrote:\n> Shall we?", "Fine."),
        ("Fine.\n\nOn Mon, 3 May 2026 at 10:00, Jo North <jo@north.example>\nwrote:\n> Shall we?", "Fine."),
        ("Gut.\n\nAm 3. Mai 2026 schrieb Jo North:\n> Wollen wir?", "Gut."),
        ("Good.\n-- \nJo North\n" + "A line.\n" * 20, "Good."),
        ("Good.\n--\nJo North\nNorth Ltd", "Good."),
        (
            "List:\n--\n" + "A line of the text.\n" * 12,
            "List:\n--\n" + ("A line of the text.\n" * 12).strip(),
        ),
        ("See below.\n\n-----Original Message-----\nFrom: Jo\n\nAll of it.", "See below."),
        ("Mine.\n> -----Original Message-----\n> theirs\nMine again.", "Mine.\nMine again."),
        ("On Monday we said what we wanted.", "On Monday we said what we wanted."),
    ],
)
def test_quotes_and_signatures_go_and_nothing_else(text: str, own: str) -> None:
    assert strip_quotes(text) == own


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["JO@north.example"], ("North", "address")),
        (["us@own.example", "somebody@north.example"], ("North", "domain")),
        (["x@mail.north.example"], ("North", "domain")),
        (["x@old.north.example"], ("West", "domain")),
        (["jo@north.example", "x@south.example"], ("North", "address")),
        (["x@north.example", "x@south.example"], (None, "ambiguous")),
        (["shared@house.example"], (None, "ambiguous")),
        (["x@mail.example"], (None, "ambiguous")),
        (["x@elsewhere.example", "", "nonsense"], (None, "none")),
        ([], (None, "none")),
    ],
)
def test_a_record_is_its_addresses_owners_then_its_domains_else_nobodys(
    addresses: list[str], found: tuple[str | None, str]
) -> None:
    assert CONTACTS.find_client(addresses) == Association(*found)  # type: ignore[arg-type]


def message(number: int, sender: str, text: str, *references: int) -> EmailMessage:
    one = EmailMessage()
    one["From"], one["To"], one["Subject"] = sender, "us@own.example", "The bond"
    one["Message-ID"], one["Date"] = f"<{number}@x>", f"Mon, {number} May 2026 10:00:00 +0000"
    if references:
        one["References"] = " ".join(f"<{other}@x>" for other in references)
    one.set_content(text)
    return one


async def collect_mails(folder: Path, **options: object) -> list[RawDocument]:
    box = mailbox.mbox(folder / "box.mbox")
    for one in (
        message(1, "Jo <jo@north.example>", "We would buy the bond.\n-- \nJo"),
        message(2, "Kim <kim@south.example>", "So would we."),
        message(3, "Jo <jo@north.example>", "When?\n\n> We would buy.", 1, 2),
        message(4, "Al <al@elsewhere.example>", "Hello."),
    ):
        box.add(one)
    box.close()
    link = Link(str(folder / "box.mbox"), "", "interaction", options=options)
    items = [item async for item in AssociatingReader(FilesReader()).read(link, {})]
    return [item.document for item in items if isinstance(item, FetchedDocument)]


async def test_mails_become_records_of_clients_without_addresses(tmp_path: Path) -> None:
    file = tmp_path / "contacts.jsonl"
    clients = [
        {"client": "North", "addresses": ["jo@north.example"]},
        {"client": "South", "domains": ["south.example"]},
    ]
    file.write_text("\n".join(map(json.dumps, clients)))
    found = await collect_mails(tmp_path, contacts=str(file))
    assert [
        (one.text, one.metadata.get("client"), one.metadata["client_by"], one.metadata["thread"])
        for one in found
    ] == [
        ("We would buy the bond.", "North", "address", "1@x"),
        ("So would we.", "South", "domain", "2@x"),
        ("When?", "North", "address", "1@x"),
        ("Hello.", None, "none", "4@x"),
    ]
    assert not any("@north" in one.model_dump_json() or one.author for one in found)


@pytest.mark.parametrize("content", [None, "{", '{"name": "x"}', b"\xff\xfe\xff"])
async def test_contacts_that_cannot_be_read_end_the_link(tmp_path: Path, content: str | bytes | None) -> None:
    file = tmp_path / "contacts.jsonl"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CollectionError, match="contacts"):
        await collect_mails(tmp_path, contacts=str(file))
