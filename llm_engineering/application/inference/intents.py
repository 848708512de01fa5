"""Decide what a message asks for: an answer, a text, a summary, a comparison, facts of the catalogue, or small talk.

A linear classifier over words, pairs of words and parts of words, in English and German. It was learned from
``samples/intents.jsonl`` by ``./poe train-intent-router``; a message that it gets wrong is mended by adding a line there.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import log
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_engineering.application.ports import Message
from llm_engineering.domain.inference import Intent

INTENTS = tuple(Intent)
WEIGHTS = Path(__file__).with_name("intents.npz")
RIDGE = 0.3
"""Chosen by five-fold cross-validation on the training part of the prompts."""
MIN_PROMPTS = 2
"""Prompts that a feature must stand in to be learned."""
SHORT_FOLLOW_UP = 7
"""Words of a message that can be about the text before it: "shorter", "and now as a thread"."""
_TOKEN = re.compile(r"\w+(?:['’]\w+)?|[?!:\"“]")
_PREAMBLE = re.compile(
    r"^\W*(?:(?:hi|hello|hey|hallo|moin|guten\s+(?:tag|morgen|abend)|good\s+(?:morning|evening|afternoon)|dear\s+\w+)"
    r"\b(?:\s+(?:there|again|twin))?[\s,.!:–-]*)*"
    r"(?:(?:my\s+name\s+is|i\s+am|i'm|this\s+is|ich\s+bin|ich\s+heiße|mein\s+name\s+ist)\s+(?P<name>[^,.!?;]{2,60})[,.!;]\s*(?:and\s+)?)?"
    r"(?:(?:please|pls|bitte)\b[\s,]*)*"
    r"(?:(?:can|could|would|will)\s+you\s+|i(?:'d|\s+would)\s+like\s+(?:you\s+)?to\s+|help\s+me\s+(?:to\s+)?"
    r"|(?:kannst|könntest|würdest)\s+du\s+(?:mir\s+)?)?(?:(?:please|bitte)\b[\s,]*)*",
    re.IGNORECASE,
)
"""Greeting, introduction and politeness, which say nothing of the subject."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What a message asks for."""

    intent: Intent
    request: str
    """The message without greeting, introduction and politeness."""
    introduced: str = ""
    """The name by which the writer introduced themselves: "My name is Ada Winter"."""
    continues: bool = False
    """It is about the text of the previous turn."""


def route(message: str, history: Sequence[Message] = (), intent: Intent | None = None) -> Routed:
    """Decide what a message asks for.

    Args:
        history: earlier turns, oldest first.
        intent: what the caller has decided already.
    """
    text = " ".join(message.split())
    preamble = _PREAMBLE.match(text)
    request = text[preamble.end() :].strip() if preamble else text
    introduced = (preamble["name"] or "").strip() if preamble else ""
    decided = intent or classify(text)
    short = len(text.split()) <= SHORT_FOLLOW_UP
    continues = decided is Intent.WRITE and short and any(turn.role == "assistant" for turn in history)
    return Routed(decided, request or text, introduced, continues)


def classify(message: str) -> Intent:
    """Return the most likely intent of a message."""
    return INTENTS[int(load_router(WEIGHTS).compute_scores(message).argmax())]


def extract_features(message: str) -> frozenset[str]:
    """Return what the classifier looks at: words, neighbours, the beginning, the end, and runs of four letters."""
    words = _TOKEN.findall(message.casefold())
    found = {f"w {word}" for word in words}
    found |= {f"b {a} {b}" for a, b in pairwise(words)}
    found |= {f"k {a} {b}" for a, b in zip(words, words[2:], strict=False)}
    found |= {f"{place} {word}" for place, word in enumerate(words[:4])}
    found |= {f"s {' '.join(words[:2])}", f"s {' '.join(words[:3])}", f"e {' '.join(words[-1:])}"}
    found.add(f"l {min(len(words) // 3, 6)}")
    for word in words:
        padded = f"<{word}>"
        found |= {f"c {padded[start : start + 4]}" for start in range(len(padded) - 3)}
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Router:
    """The learned weights."""

    places: Mapping[str, int]
    """Row of each feature."""
    rarity: npt.NDArray[np.float32]
    """Inverse document frequency, shape (features,)."""
    weights: npt.NDArray[np.float32]
    """Shape (features, labels)."""

    def compute_scores(self, message: str) -> npt.NDArray[np.float32]:
        """Return a score for each label, in the order in which they were learned; higher is likelier."""
        known = [feature for feature in extract_features(message) if feature in self.places]
        if not any(feature.startswith("w ") and feature[2].isalpha() for feature in known):
            # Of words that were never learned, nothing can be told: the first label is the usual one.
            usual: npt.NDArray[np.float32] = np.eye(self.weights.shape[1], dtype=np.float32)[0]
            return usual
        rows = [self.places[feature] for feature in known]
        values: npt.NDArray[np.float32] = self.rarity[rows]
        scores: npt.NDArray[np.float32] = values @ self.weights[rows] / np.linalg.norm(values)
        return scores

    def save(self, path: Path) -> None:
        """Write the weights, in half precision."""
        names = sorted(self.places, key=self.places.__getitem__)
        np.savez_compressed(
            path,
            features=np.frombuffer("\n".join(names).encode(), dtype=np.uint8),
            rarity=self.rarity.astype(np.float16),
            weights=self.weights.astype(np.float16),
        )


def learn_router(
    prompts: Iterable[tuple[str, str]], labels: Sequence[str] = INTENTS, least: int = MIN_PROMPTS
) -> Router:
    """Learn the weights by ridge regression of ±1 for each label on unit-length tf-idf vectors, in its dual form.

    Args:
        prompts: texts with their labels.
        labels: all there are, the usual one first.
        least: prompts that a feature must stand in to be learned.
    """
    given = list(prompts)
    features = [extract_features(text) for text, _ in given]
    counts = Counter(feature for found in features for feature in found)
    places = {name: row for row, name in enumerate(sorted(n for n in counts if counts[n] >= least))}
    rarity = np.array([log(len(given) / counts[name]) for name in places], dtype=np.float32)
    inputs = np.zeros((len(given), len(places)), dtype=np.float32)
    for row, found in enumerate(features):
        columns = [places[name] for name in found if name in places]
        inputs[row, columns] = rarity[columns]
    inputs /= np.maximum(np.linalg.norm(inputs, axis=1, keepdims=True), 1e-9)
    targets = np.array([[1.0 if label == each else -1.0 for each in labels] for _, label in given])
    kernel = inputs @ inputs.T + RIDGE * np.eye(len(given))
    weights = inputs.T @ np.linalg.solve(kernel, targets)
    return Router(places, rarity, weights.astype(np.float32))


@cache
def load_router(weights: Path) -> Router:
    """Return the router of a file, which is read once."""
    with np.load(weights) as stored:
        names = stored["features"].tobytes().decode().split("\n")
        return Router(
            {name: row for row, name in enumerate(names)},
            stored["rarity"].astype(np.float32),
            stored["weights"].astype(np.float32),
        )
