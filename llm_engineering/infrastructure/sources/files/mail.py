"""Messages: single ones (.eml), and mailboxes (mbox) as Thunderbird, Apple Mail and Google Takeout write them."""

import mailbox
import re
from collections.abc import Iterator
from contextlib import closing
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from email.utils import parseaddr
from pathlib import Path

from llm_engineering.domain.documents import User, text_hash
from llm_engineering.infrastructure.sources.files.markup import to_markdown
from llm_engineering.infrastructure.sources.files.writings import LeftOut, Limits, UnreadableError, Writing
from llm_engineering.infrastructure.sources.web.page_metadata import parse_date

_QUOTED = re.compile(r"^\s*>")
_QUOTE_HEAD = re.compile(r"(?i)^\s*(on|am) .{5,200}(wrote|schrieb)( .{1,80})?:\s*$")


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
        text = str(body.get_content()) if body is not None else ""
        html = body is not None and body.get_content_type() == "text/html"
        subject, sender, date, identifier = (
            str(message.get(name) or "").strip() for name in ("Subject", "From", "Date", "Message-ID")
        )
    except (LookupError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise UnreadableError(f"The message is damaged: {error}.") from error
    text = to_markdown(text) if html else _own_words(text)
    if not text.strip():
        raise UnreadableError("The message holds no text of its own.")
    name, _ = parseaddr(sender)
    return Writing(
        text,
        " ".join(subject.split()),
        key=identifier.strip("<>") or text_hash(text)[:20],
        published_at=parse_date(date),
        author=" ".join(name.split()),
        platform="mail",
        category="post",
    )


def _own_words(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if line == "-- ":  # a signature follows (RFC 3676)
            break
        if not _QUOTED.match(line) and not _QUOTE_HEAD.match(line):
            lines.append(line.rstrip())
    return "\n".join(lines).strip()
