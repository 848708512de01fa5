"""Learn the intent router from ``samples/intents.jsonl``, and say how well it does on the prompts kept back."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llm_engineering.application.inference.intents import INTENTS, WEIGHTS, Router, learn_router
from llm_engineering.domain.inference import Intent
from tools.console import console, run

PROMPTS = Path(__file__).resolve().parents[1] / "samples" / "intents.jsonl"


def read_prompts(split: str) -> list[tuple[str, Intent]]:
    """Return the prompts of a split (``train`` or ``test``) with their intents."""
    lines = map(json.loads, PROMPTS.read_text(encoding="utf-8").splitlines())
    return [(line["text"], Intent(line["intent"])) for line in lines if line["split"] == split]


def count_errors(router: Router, prompts: Sequence[tuple[str, Intent]]) -> Counter[tuple[Intent, Intent]]:
    """Return how often each intent was taken for another: (intent, taken for) and how often."""
    decided = [(intent, INTENTS[int(router.compute_scores(text).argmax())]) for text, intent in prompts]
    return Counter(pair for pair in decided if pair[0] is not pair[1])


def main() -> int:
    router = learn_router(read_prompts("train"))
    router.save(WEIGHTS)
    held_out = read_prompts("test")
    errors = count_errors(router, held_out)
    right = len(held_out) - errors.total()
    console.print(
        f"{right} of {len(held_out)} held-out prompts are routed right ({100 * right / len(held_out):.1f} %)."
    )
    for (intent, taken), number in errors.most_common():
        console.print(f"  {intent} taken for {taken}: {number}")
    return 0


if __name__ == "__main__":
    run(main)
