"""Key points: opinions that say the same, counted by different reviewers. Counts are arithmetic, never a model's."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_engineering.application.analysis.heads import Floats
from llm_engineering.application.reviews.aspects import AspectFinder
from llm_engineering.application.reviews.config import ReviewSummaries
from llm_engineering.application.reviews.polarity import UNSURE, PolarityScorer
from llm_engineering.application.text.words import STOP_WORDS, content_stems, split_words, stem
from llm_engineering.domain.reviews import KeyPoint, Opinion, Polarity

MOST_OPINIONS = 2_000
"""Of a product and a polarity, that are compared each with each."""
_NAMED = 0.5
"""Least share of a group's opinions that hold the word it is named by."""
_FUNCTION_WORDS = frozenset().union(*STOP_WORDS.values())
_GOOD_LENGTH = 60
"""Characters of a quote that is easily read; longer ones are chosen less."""


@dataclass
class _Group:
    name: str
    is_aspect: bool
    members: list[int] = field(default_factory=list)


def find_key_points(
    opinions: Sequence[Opinion],
    reviewers: Mapping[str, str],
    sampled: Collection[str],
    scorer: PolarityScorer,
    config: ReviewSummaries,
) -> list[KeyPoint]:
    """Return what several reviewers say alike: praise first, then complaints, those with most support first.

    Args:
        reviewers: who wrote each review, by its id.
        sampled: reviews whose quotes come first.
    """
    points: list[KeyPoint] = []
    for polarity, letter in ((Polarity.POSITIVE, "p"), (Polarity.NEGATIVE, "n")):
        fitting = [one for one in opinions if one.polarity is polarity][:MOST_OPINIONS]
        if not fitting:
            continue
        vectors = scorer.embedder.embed([one.quote for one in fitting])
        groups = _group_opinions(fitting, vectors, scorer, config)
        made = [_make_point(group, fitting, vectors, reviewers, sampled, polarity) for group in groups]
        kept = [one for one in made if one.support >= config.min_support]
        kept.sort(key=lambda one: (-one.support, not one.name, one.name, one.document_ids))
        points += [
            one.model_copy(update={"id": f"{letter}{number}"})
            for number, one in enumerate(kept[: config.points], start=1)
        ]
    return points


def _group_opinions(
    opinions: Sequence[Opinion], vectors: Floats, scorer: PolarityScorer, config: ReviewSummaries
) -> list[_Group]:
    stems = [content_stems(one.quote) for one in opinions]
    finder = AspectFinder(config.aspects)
    named: dict[str, _Group] = {}
    free: list[int] = []
    for place, one in enumerate(opinions):
        # A model's word for it, or an aspect of the YAML, decides; the rest goes by likeness.
        fitting = finder.find(f"{one.quote} {one.aspect}")
        for name in fitting or ([one.aspect] if one.aspect else []):
            named.setdefault(name, _Group(name, True)).members.append(place)
        if not fitting and not one.aspect:
            free.append(place)
    for group in _cluster(free, vectors, scorer.same):
        name = _name_group(group, opinions, stems, scorer)
        key = name or f"#{group[0]}"
        named.setdefault(key, _Group(name, False)).members.extend(group)
    _join_stragglers(named, stems)
    return list(named.values())


def _cluster(places: Sequence[int], vectors: Floats, threshold: float) -> list[list[int]]:
    """Greedy: whoever has most neighbours takes them, then the next of those that are left."""
    if not places:
        return []
    chosen = vectors[list(places)]
    near = (chosen @ chosen.T) >= threshold
    left = np.ones(len(places), dtype=bool)
    groups = []
    while left.any():
        degrees = (near & left).sum(axis=1) * left
        centre = int(degrees.argmax())
        members = np.flatnonzero(near[centre] & left)
        if not len(members):
            members = np.array([centre])
        left[members] = False
        left[centre] = False
        groups.append([places[int(one)] for one in members])
    return groups


def _name_group(
    members: Sequence[int],
    opinions: Sequence[Opinion],
    stems: Sequence[frozenset[str]],
    scorer: PolarityScorer,
) -> str:
    """The word that most of them share and that by itself neither praises nor complains; empty where there is none."""
    if len(members) < 2:
        return ""
    counts: Counter[str] = Counter()
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    for place in members:
        words = [word for word in split_words(opinions[place].quote) if len(word) > 2 and word.isalpha()]
        roots = {stem(word) for word in words if word not in _FUNCTION_WORDS} & stems[place]
        counts.update(roots)
        for word in words:
            spelled[stem(word)][word] += 1
    least = max(2.0, _NAMED * len(members))
    candidates = [root for root, count in counts.most_common(6) if count >= least]
    if not candidates:
        return ""
    words = [spelled[root].most_common(1)[0][0] for root in candidates]
    scores = scorer.score(words)
    return next((word for word, score in zip(words, scores, strict=True) if abs(score) < UNSURE), "")


def _join_stragglers(named: dict[str, _Group], stems: Sequence[frozenset[str]]) -> None:
    """Let opinions that stand alone join the group whose name they hold."""
    by_root = {stem(group.name): group for group in named.values() if group.name}
    for key in [key for key, group in named.items() if not group.name and len(group.members) == 1]:
        place = named[key].members[0]
        fitting = next((by_root[root] for root in sorted(stems[place]) if root in by_root), None)
        if fitting is not None:
            fitting.members.append(place)
            del named[key]


def _make_point(
    group: _Group,
    opinions: Sequence[Opinion],
    vectors: Floats,
    reviewers: Mapping[str, str],
    sampled: Collection[str],
    polarity: Polarity,
) -> KeyPoint:
    members = group.members
    centre = vectors[members].mean(axis=0)
    nearness = {place: float(vectors[place] @ centre) for place in members}

    def rank(place: int) -> float:
        one = opinions[place]
        lengthy = max(0, len(one.quote) - _GOOD_LENGTH) / 400
        return nearness[place] - lengthy + (0.05 if one.document_id in sampled else 0.0)

    best: dict[str, int] = {}
    for place in sorted(members, key=rank, reverse=True):
        best.setdefault(opinions[place].document_id, place)
    documents = list(best)
    return KeyPoint(
        id="p0",
        name=group.name,
        is_aspect=group.is_aspect,
        polarity=polarity,
        support=len({reviewers[one] for one in documents}),
        document_ids=tuple(sorted(documents)),
        evidence=tuple(opinions[place].evidence for place in best.values()),
        sampled=len({reviewers[one] for one in documents if one in sampled}),
    )
