"""Groups that must stay on one side of a split."""

from collections.abc import Mapping, Sequence


def join_groups(units: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the group of each unit: two share one if they share any of their names, directly or through others.

    Args:
        units: the names of each, such as a client and a group of near-duplicates, one at least. A group is called by the least of
            the first names in it, so that it keeps its name where nothing is joined.
    """
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        while (parent := parents.setdefault(name, name)) != name:
            parents[name] = name = parents[parent]
        return name

    for first, *others in units.values():
        for other in others:
            parents[find(other)] = find(first)
    called: dict[str, str] = {}
    for first, *_ in units.values():
        root = find(first)
        called[root] = min(called.get(root, first), first)
    return {unit: called[find(first)] for unit, (first, *_) in units.items()}
