"""Learn the routers of messages from ``samples``, and say how well they do on the prompts kept back."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llm_engineering.application.inference import follow_ups, intents
from llm_engineering.application.inference.follow_ups import LONGEST, REFERENCES, Reference
from llm_engineering.application.inference.intents import INTENTS, Router, learn_router
from tools.console import console, run

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
OTHERS = 200
"""Short prompts of all intents that the router of follow-ups learns as new requests."""


def read_prompts(split: str, file: str = "intents", field: str = "intent") -> list[tuple[str, str]]:
    """Return the prompts of a split (``train`` or ``test``) with their labels."""
    lines = map(json.loads, (SAMPLES / f"{file}.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["text"], line[field]) for line in lines if line["split"] == split]


def read_follow_ups(split: str) -> list[tuple[str, str]]:
    """Return follow-ups with what they refer to; to train on, with other short prompts, which refer to nothing."""
    given = read_prompts(split, "follow_ups", "follow_up")
    if split == "test":
        return given
    short = [text for text, _ in read_prompts(split) if len(text.split()) <= LONGEST]
    return given + [(text, Reference.NEW) for text in random.Random(0).sample(short, OTHERS)]


def learn_follow_ups() -> Router:
    """Learn the router of follow-ups; they are few and short, so no word is too rare to learn."""
    return learn_router(read_follow_ups("train"), REFERENCES, least=1)


def count_errors(
    router: Router, prompts: Sequence[tuple[str, str]], labels: Sequence[str] = INTENTS
) -> Counter[tuple[str, str]]:
    """Return how often each label was taken for another: (label, taken for) and how often."""
    decided = [(label, str(labels[int(router.compute_scores(text).argmax())])) for text, label in prompts]
    return Counter(pair for pair in decided if pair[0] != pair[1])


def main() -> int:
    _learn("prompts", learn_router(read_prompts("train")), read_prompts("test"), INTENTS, intents.WEIGHTS)
    _learn("follow-ups", learn_follow_ups(), read_follow_ups("test"), REFERENCES, follow_ups.WEIGHTS)
    return 0


def _learn(
    name: str, router: Router, held_out: Sequence[tuple[str, str]], labels: Sequence[str], file: Path
) -> None:
    router.save(file)
    errors = count_errors(router, held_out, labels)
    right = len(held_out) - errors.total()
    console.print(
        f"{right} of {len(held_out)} held-out {name} are read right ({100 * right / len(held_out):.1f} %)."
    )
    for (label, taken), number in errors.most_common():
        console.print(f"  {label} taken for {taken}: {number}")


if __name__ == "__main__":
    run(main)
