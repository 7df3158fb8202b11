"""Who is near whom, from words for pairs to groups within groups: what `nvidia-smi topo -m` prints, as a tree.

A distance is a level of the tree, so of any three devices the two largest distances are equal. That fills gaps of a
matrix that was cut, and shows where a matrix contradicts itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thinwire.topologies.dumps.seen import Pair, pair

PIX, PXB, PHB, NODE, SYS = 1, 2, 3, 4, 5
LEVELS: Mapping[str, int] = {"PIX": PIX, "PXB": PXB, "PHB": PHB, "NODE": NODE, "SYS": SYS, "SOC": SYS}
"""What nvidia-smi prints -> how far: one switch, several, the host bridge, the NUMA domain, across domains."""
WORDS = {level: word for word, level in LEVELS.items() if word != "SOC"}
FAR = 99


def filled(count: int, known: Mapping[Pair, int]) -> tuple[dict[Pair, int], frozenset[Pair], tuple[Pair, ...]]:
    """All pairs' distances; the pairs that even so are only bounded or unknown; and those that contradict others.

    Returns distances as the tree has them (the smallest largest step of any way between two), FAR where there is none.
    """
    best = {(i, j): FAR for i in range(count) for j in range(count) if i != j}
    for (i, j), level in known.items():
        best[i, j] = best[j, i] = min(best[i, j], level)
    for k in range(count):
        for i in range(count):
            if i == k or best[i, k] == FAR:
                continue
            for j in range(count):
                if j not in (i, k) and (way := max(best[i, k], best[k, j])) < best[i, j]:
                    best[i, j] = way
    distances = {(i, j): best[i, j] for i in range(count) for j in range(i + 1, count)}
    against = tuple(sorted(two for two, level in known.items() if distances[two] < level))
    # An unknown distance is told exactly where some third device is nearer to one of the two than to the other.
    told = {
        (i, j)
        for i, j in distances
        if (i, j) in known
        or any(
            (a := known.get(pair(i, k))) is not None and (b := known.get(pair(j, k))) is not None and a != b
            for k in range(count) if k not in (i, j)
        )
    }  # fmt: skip
    return distances, frozenset(distances.keys() - told), against


def classes(members: Sequence[int], distances: Mapping[Pair, int], most: int) -> list[tuple[int, ...]]:
    """The members in groups whose own distances are at most so large, by smallest member."""
    groups: list[list[int]] = []
    for one in sorted(members):
        for group in groups:
            if distances.get(pair(one, group[0]), FAR) <= most:
                group.append(one)
                break
        else:
            groups.append([one])
    return [tuple(group) for group in groups]


def ways(count: int, distances: Mapping[Pair, int]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Each device's domain, and the switches between it and the host bridge, from the bridge down."""
    domains, found = [""] * count, [list[str]() for _ in range(count)]
    for number, domain in enumerate(classes(range(count), distances, NODE)):
        for one in domain:
            domains[one] = str(number)
        for outer in classes(domain, distances, PXB):
            inner = classes(outer, distances, PIX)
            for group in ([outer] if len(outer) > 1 else []) + [each for each in inner if 1 < len(each) < len(outer)]:
                for one in group:
                    found[one].append(f"switch.{group[0]}.{len(group)}")
    return domains, [tuple(way) for way in found]
