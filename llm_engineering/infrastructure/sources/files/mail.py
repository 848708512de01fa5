"""Messages: single ones (.eml), and mailboxes (mbox) as Thunderbird, Apple Mail and Google Takeout write them."""

import mailbox
import re
from collections.abc import Iterator
from contextlib import closing
from email import message_from_bytes
from email.message import EmailMessage, MIMEPart
from email.policy import default
from email.utils import getaddresses, parseaddr
from pathlib import Path

from llm_engineering.domain.documents import User, text_hash
from llm_engineering.infrastructure.sources.files.markup import to_markdown
from llm_engineering.infrastructure.sources.files.writings import LeftOut, Limits, UnreadableError, Writing
from llm_engineering.infrastructure.sources.git.selection import decode as decode_text
from llm_engineering.infrastructure.sources.web.page_metadata import parse_date

_QUOTED = re.compile(r"^\s*>")
_QUOTE_HEAD = re.compile(
    # One that is wrapped stands on two lines.
    r"(?im)^[ \t]*(?:on|am|le) [^\n]{5,200}?(?:\n[^\n>]{0,100}?)?(?:wrote|schrieb|a écrit)(?: [^\n]{1,80})?:[ \t]*$"
)
_FORWARDED = re.compile(
    r"(?im)^[ \t]*-{3,} ?(?:original message|ursprüngliche nachricht|message d'origine) ?-{3,}"
)
_SIGNATURE = re.compile(r"(?m)^-- ?$")
_MOST_SIGNATURE_LINES = 10
"""After two hyphens without a blank, which may be anything; with one it is a signature, however long (RFC 3676)."""
_IDENTIFIER = re.compile(r"<([^<>\s]{1,500})>")


def read_message(content: bytes, limits: Limits) -> Iterator[Writing]:  # noqa: ARG001 - as the others
    """Yield the text of one message, without what it quotes and without its signature."""
    yield _read(message_from_bytes(content, policy=default))


def read_mailbox(path: Path, author: str, *, of_all: bool) -> Iterator[Writing | LeftOut]:
    """Yield the messages of a mailbox.

    Args:
        author: whose messages are wanted; one that names no sender is taken for theirs.
        of_all: yield everybody's.
    """
    others = 0
    with closing(mailbox.mbox(path, create=False)) as messages:
        for number, key in enumerate(messages.iterkeys(), start=1):
            try:
                writing = _read(message_from_bytes(messages.get_bytes(key), policy=default))
            except UnreadableError as error:
                yield LeftOut(str(error), str(number))
                continue
            if (
                not of_all
                and writing.author
                and User(full_name=writing.author).id != User(full_name=author).id
            ):
                others += 1
                continue
            yield writing
    if others:
        yield LeftOut(
            f"{others:,} messages are from others than {author}. To take everybody's, each as its sender's, give the link "
            "the option author_from_page: true.",
            "others",
        )


def _read(message: EmailMessage) -> Writing:
    try:
        body = message.get_body(preferencelist=("plain", "html"))
        text = "" if body is None else _decode(body)
        html = body is not None and body.get_content_type() == "text/html"
        subject, sender, date, identifier = (
            str(message.get(name) or "").strip() for name in ("Subject", "From", "Date", "Message-ID")
        )
    except (LookupError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise UnreadableError(f"The message is damaged: {error}.") from error
    text = to_markdown(text) if html else strip_quotes(text)
    if not text.strip():
        raise UnreadableError("The message holds no text of its own.")
    name, _ = parseaddr(sender)
    identifier = identifier.strip("<>") or text_hash(text)[:20]
    return Writing(
        text,
        " ".join(subject.split()),
        key=identifier,
        published_at=parse_date(date),
        author=" ".join(name.split()),
        platform="mail",
        category="post",
        facts={
            "channel": "mail",
            "thread": find_thread(message) or identifier,
            "addresses": tuple(_list_addresses(message)),
        },
    )


def _decode(body: MIMEPart) -> str:
    try:
        return str(body.get_content())
    except LookupError:  # of an encoding that nobody knows: told by its bytes
        payload = body.get_payload(decode=True)
        found = decode_text(payload) if isinstance(payload, bytes) else None
        if found is None:
            raise
        return found[0]


def find_thread(message: EmailMessage) -> str:
    """Return the identifier of the message that began the thread: the first of References, else what it replies to; empty: it
    replies to nothing."""
    for name in ("References", "In-Reply-To"):
        if found := _IDENTIFIER.search(_read_header(message, name)):
            return found[1]
    return ""


def _list_addresses(message: EmailMessage) -> list[str]:
    """Of sender and receivers, each once."""
    headers = [_read_header(message, name) for name in ("From", "Reply-To", "To", "Cc")]
    return list(dict.fromkeys(address for _, address in getaddresses(headers) if "@" in address))


def _read_header(message: EmailMessage, name: str) -> str:
    try:
        return str(message.get(name) or "")
    except (LookupError, ValueError, AttributeError, TypeError):  # the parser of headers gives up on some
        return ""


def strip_quotes(text: str) -> str:
    """Return what a message's own author wrote in it: without what it quotes, and without the signature below it."""
    text = _QUOTE_HEAD.sub("", text)
    if forwarded := _FORWARDED.search(text):
        text = text[: forwarded.start()]
    lines = [line.rstrip() for line in _cut_signature(text).splitlines() if not _QUOTED.match(line)]
    return "\n".join(lines).strip()


def _cut_signature(text: str) -> str:
    for found in _SIGNATURE.finditer(text):
        rest = text[found.end() :].strip("\n")
        if found[0] == "-- " or rest.count("\n") < _MOST_SIGNATURE_LINES:
            return text[: found.start()]
    return text
