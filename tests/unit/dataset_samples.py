"""Samples and documents for the tests of data sets."""

import random
from typing import Literal

from llm_engineering.domain.datasets import InstructSample, Origin, PreferenceSample, Provenance, Split
from llm_engineering.domain.documents import CleanDocument, Span, User, derive_id

WORDS = [f"{a}{b}{c}" for a in ("ba", "ko", "mi", "tu", "re") for b in ("lan", "dor", "vis", "mek", "sto") for c in
         ("", "ta", "no", "ri", "se", "lu", "pa", "ki")]  # fmt: skip

MadeBy = Literal["back_translation", "model", "evolution", "feedback"]


def prose(seed: int, words: int = 120) -> str:
    """Text of no meaning, in sentences; another seed gives other words in another order."""
    chance = random.Random(seed)
    chosen = [
        chance.choice(WORDS) + str(chance.randrange(40)) * (chance.random() < 0.2) for _ in range(words)
    ]
    lines = [" ".join(chosen[i : i + 12]).capitalize() + "." for i in range(0, words, 12)]
    return " ".join(lines)


def document(text: str, name: str = "d1", language: str = "en", group: str | None = None) -> CleanDocument:
    return CleanDocument(
        id=derive_id("document", name),
        category="articles",
        title=f"On {name}",
        text=text,
        link=f"https://example.org/{name}",
        platform="example",
        author="Ada Example",
        author_id=User(full_name="Ada Example").id,
        language=language,
        source_hash="1",
        duplicate_group=group,
    )


def origin(of: CleanDocument, start: int = 0, end: int | None = None) -> Origin:
    return Origin(
        document_id=of.id,
        content_hash=of.content_hash,
        span=Span(start=start, end=len(of.text) if end is None else end),
        title=of.title,
        author=of.author,
        category=of.category,
        language=of.language,
    )


def instruct(
    instruction: str = "What does the author say on gardens?",
    answer: str = "",
    of: CleanDocument | None = None,
    made_by: MadeBy = "back_translation",
    split: Split | None = None,
) -> InstructSample:
    of = of or document(answer or prose(1))
    return InstructSample(
        instruction=instruction,
        answer=answer or of.text,
        origin=origin(of),
        provenance=Provenance(made_by=made_by),
        split=split,
    )


def preference(
    prompt: str = "What does the author say on gardens?",
    chosen: str = "",
    rejected: str = "",
    of: CleanDocument | None = None,
    split: Split | None = None,
) -> PreferenceSample:
    of = of or document(chosen or prose(1))
    return PreferenceSample(
        prompt=prompt,
        chosen=chosen or of.text,
        rejected=rejected or prose(2),
        origin=origin(of),
        provenance=Provenance(made_by="back_translation", model="tiny"),
        split=split,
    )
