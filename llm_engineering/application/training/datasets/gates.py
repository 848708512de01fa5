"""Quality gates: each returns the samples it drops, with a reason for each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from llm_engineering.application.training.datasets.chat_samples import Sample, answer_of, prompt_of

S = TypeVar("S", bound=Sample)

EXAMPLES = 3
_EXCERPT = 160

Reasons = Mapping[int, str]
"""Position of a dropped sample to the reason, in words that a report can group by (no figures of the sample)."""


class Gate(Protocol):
    """Judges samples, each alone or all together. Judging again what was kept drops nothing more."""

    @property
    def name(self) -> str: ...

    def __call__(self, samples: Sequence[Sample]) -> Reasons: ...


@dataclass(frozen=True)
class Dropped(Generic[S]):
    """A sample that a gate did not let through."""

    sample: S
    gate: str
    reason: str


@dataclass(frozen=True, slots=True)
class GateCount:
    """What a gate did."""

    gate: str
    seen: int
    kept: int
    reasons: Mapping[str, int]
    """How often each reason was given, most frequent first."""
    examples: tuple[tuple[str, str], ...] = ()
    """(reason, the sample's beginning) of the first few dropped."""

    @property
    def dropped(self) -> int:
        return self.seen - self.kept


@dataclass(frozen=True)
class Gated(Generic[S]):
    """What came through, what did not, and the counts of each gate in order."""

    kept: tuple[S, ...]
    dropped: tuple[Dropped[S], ...]
    counts: tuple[GateCount, ...]


def run_gates(samples: Sequence[S], gates: Sequence[Gate]) -> Gated[S]:
    """Send samples through the gates, one after the other; the order of what is kept stays."""
    kept = list(samples)
    dropped: list[Dropped[S]] = []
    counts: list[GateCount] = []
    for gate in gates:
        reasons = gate(kept) if kept else {}
        out = [Dropped(kept[position], gate.name, reasons[position]) for position in sorted(reasons)]
        seen = len(kept)
        kept = [sample for position, sample in enumerate(kept) if position not in reasons]
        dropped += out
        counts.append(count_of(gate.name, seen, out))
    return Gated(tuple(kept), tuple(dropped), tuple(counts))


def count_of(gate: str, seen: int, dropped: Sequence[Dropped[S]]) -> GateCount:
    """The line of the report for a gate that saw ``seen`` samples."""
    reasons = dict(Counter(item.reason for item in dropped).most_common())
    examples = tuple((item.reason, excerpt(item.sample)) for item in dropped[:EXAMPLES])
    return GateCount(gate, seen, seen - len(dropped), reasons, examples)


def excerpt(sample: Sample) -> str:
    """A sample's beginning on one line."""
    text = f"{' '.join(prompt_of(sample).split())} → {' '.join(answer_of(sample).split())}"
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"
