"""Reply to greetings, thanks and questions about the twin itself, from facts of the collection."""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from llm_engineering.application.inference.catalogue import Wording, describe_categories
from llm_engineering.application.ports import DocumentCard
from llm_engineering.application.text.words import split_words

_THANKS = frozenset(
    "thanks thank thx ty cheers danke merci dankeschön great cool perfect awesome super toll prima".split()
)
_GOODBYE = frozenset("bye goodbye tschüss tschüs ciao cya".split())
_GREETING = frozenset("hi hello hey hiya yo hallo moin servus morning evening afternoon".split())
_AUTHORS_NAMED = 3


def reply_to(message: str, cards: Sequence[DocumentCard], *, owner: str | None = None) -> str:
    """Return a reply, in English or German.

    Args:
        cards: the documents there are; empty where they cannot be read.
        owner: whose twin it is; None: that of all authors.
    """
    words = split_words(message)
    german = Wording.choose_for(message).german or bool(
        {"hallo", "danke", "moin", "servus", "tschüss", "du", "bist", "kannst"} & set(words)
    )
    said = set(words)
    question = "?" in message or re.match(
        r"(?i)\W*(?:who|what|how|which|are|can|do|help|wer|was|wie|bist|kannst|hilf)", message
    )
    if said & _GOODBYE and not question:
        return "Bis bald!" if german else "Goodbye!"
    if said & _THANKS and not question:
        return "Gern geschehen." if german else "You're welcome."
    greeting = ("Hallo! " if german else "Hello! ") if said & _GREETING else ""
    return greeting + _introduce(cards, owner, german)


def _introduce(cards: Sequence[DocumentCard], owner: str | None, german: bool) -> str:
    # Whoever's files a repository holds is no voice, unless there is no other.
    prose = [card for card in cards if card.category != "repository"] or cards
    authors = [name for name, _ in Counter(card.author for card in prose if card.author).most_common()]
    named = [owner] if owner else authors[:_AUTHORS_NAMED]
    whose = (" und " if german else " and ").join(
        [", ".join(named[:-1]), named[-1]] if len(named) > 1 else named
    )
    if not cards:
        nobody = whose or ("niemandem" if german else "nobody yet")
        return (
            f"Ich bin der KI-Zwilling von {nobody} und antworte aus gesammelten Texten."
            if german
            else f"I am the AI twin of {nobody}, and answer from collected texts."
        )
    more = len(authors) - len(named) if not owner else 0
    if more > 0:
        whose += f" und {more} weiteren" if german else f" and {more} more"
    kinds = ", ".join(f"{number:,} {noun}" for noun, number in describe_categories(cards, german=german))
    dates = sorted(card.published_at for card in cards if card.published_at)
    span = _describe_span(dates, german)
    example = next(
        (card for card in sorted(cards, key=_newest_first) if card.title and card.category != "repository"),
        None,
    )
    subject = example.title if example else ""
    author = owner or (example.author if example else next(iter(named), ""))
    if german:
        lines = [
            f"{f'Ich bin der KI-Zwilling von {whose}. ' if whose else ''}Ich kenne {len(cards):,} gesammelte Texte{span} "
            f"({kinds}) und antworte und schreibe daraus. Zum Beispiel:",
            "",
            *([f"- „Fasse „{subject}“ zusammen“"] if subject else []),
            *([f"- „Schreibe einen LinkedIn-Beitrag im Stil von {author}“"] if author else []),
            "- „Liste die neuesten Artikel auf“",
        ]
    else:
        lines = [
            f"{f'I am the AI twin of {whose}. ' if whose else ''}I know {len(cards):,} collected texts{span} ({kinds}), "
            "and answer and write from them. For example:",
            "",
            *([f"- “Summarise “{subject}””"] if subject else []),
            *([f"- “Draft a LinkedIn post in the style of {author}”"] if author else []),
            "- “List the latest articles”",
        ]
    return "\n".join(lines)


def _describe_span(dates: Sequence[datetime], german: bool) -> str:
    if not dates:
        return ""
    first, last = f"{dates[0]:%Y-%m-%d}", f"{dates[-1]:%Y-%m-%d}"
    return f" vom {first} bis {last}" if german else f" from {first} to {last}"


def _newest_first(card: DocumentCard) -> tuple[float, str]:
    return (-card.published_at.timestamp() if card.published_at else 0.0, card.title)
