"""De-duplication: 100,000 samples through the gates for exact and near-duplicates, with duplicates planted.

Texts are of passage length (about 1,500 characters). Every twentieth is a copy of an earlier one with a word changed, which
the gate must find; a hundredth are exact copies.
"""

import random
from typing import Any

from rich.table import Table

from benchmarks.common import Check, console, peak_mb, show_checks, timed
from llm_engineering.application.training.datasets.gates import ExactDuplicates, NearDuplicates, run_gates
from llm_engineering.domain.datasets import InstructSample, Origin, Provenance
from llm_engineering.domain.documents import Span

SECONDS = 60.0
_WORDS_EACH = 230
_VOCABULARY = 20_000
_NEAR_EVERY, _EXACT_EVERY = 20, 100


def main(samples: int = 100_000) -> dict[str, Any]:
    """Measure with that many samples; the target is set for 100,000."""
    made, near, exact = planted(samples)
    result, seconds = timed(lambda: run_gates(made, [ExactDuplicates(), NearDuplicates()]))
    by_gate = {count.gate: count.dropped for count in result.counts}
    table = Table(title=f"{samples:,} samples", title_justify="left")
    for heading in ("gate", "planted", "dropped"):
        table.add_column(heading, justify="left" if heading == "gate" else "right")
    table.add_row("exact duplicates", f"{exact:,}", f"{by_gate['exact_duplicates']:,}")
    table.add_row("near-duplicates", f"{near:,}", f"{by_gate['near_duplicates']:,}")
    console.print(table)
    scaled = "" if samples == 100_000 else " (scaled up)"
    found = by_gate["near_duplicates"] / near if near else 1.0
    checks = [
        Check(
            f"de-duplication of 100,000 samples{scaled}",
            seconds * 100_000 / samples,
            SECONDS,
            "at most",
            " s",
        ),
        Check("planted exact duplicates dropped", by_gate["exact_duplicates"], exact, "exactly"),
        Check("planted near-duplicates dropped, share", found, 0.99, "at least"),
    ]
    shown = [check.as_dict() for check in checks]
    show_checks("De-duplication", shown)
    return {"samples": samples, "seconds_measured": seconds, "peak_mb": peak_mb(), "checks": shown}


def planted(samples: int) -> tuple[list[InstructSample], int, int]:
    """Samples, with the number of near and of exact duplicates among them."""
    chance = random.Random(0)
    vocabulary = [f"{chance.randrange(36**5):05x}"[: chance.randrange(2, 9)] for _ in range(_VOCABULARY)]
    texts: list[list[str]] = []
    near = exact = 0
    for number in range(samples):
        if number and number % _EXACT_EVERY == 0:
            texts.append(texts[-1])
            exact += 1
        elif number and number % _NEAR_EVERY == 10:
            words = texts[-1].copy()
            words[chance.randrange(len(words))] = "changed"
            texts.append(words)
            near += 1
        else:
            texts.append(chance.choices(vocabulary, k=_WORDS_EACH))
    return [_sample(str(number), " ".join(words)) for number, words in enumerate(texts)], near, exact


def _sample(document: str, text: str) -> InstructSample:
    origin = Origin(
        document_id=document,
        content_hash="",
        span=Span(start=0, end=len(text)),
        author="Ada Example",
        category="articles",
        language="en",
    )
    return InstructSample(
        instruction="Say it in the author's words.",
        answer=text,
        origin=origin,
        provenance=Provenance(made_by="back_translation"),
    )
