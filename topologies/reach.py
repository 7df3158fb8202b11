"""Who can reach whom in a machine, for all pairs at once: time grows with the links, not with the pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence


def reached(ends: Sequence[str], targets: Mapping[str, Sequence[str]], forwards: Iterable[str]) -> list[int]:
    """For each end the ends it reaches, itself among them, as bits: bit i is `ends[i]`.

    targets: where links lead from a node. forwards: the nodes that pass traffic on; a path goes through no other.
    """
    bit = {end: 1 << i for i, end in enumerate(ends)}
    beyond = _beyond({node: targets.get(node, ()) for node in forwards}, bit)
    found = []
    for end in ends:
        mask = bit[end] | beyond.get(end, 0)
        for target in targets.get(end, ()):
            mask |= bit.get(target, 0) | beyond.get(target, 0)
        found.append(mask)
    return found


def _beyond(targets: Mapping[str, Sequence[str]], bit: Mapping[str, int]) -> dict[str, int]:
    """Bits of what each forwarding node reaches, itself too if it is an end. Tarjan's strongly connected components,
    without recursion: they come after all that they lead to, and the nodes of one reach the same.
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    masks: dict[str, int] = {}
    open_nodes: list[str] = []
    for root in targets:
        if root in order:
            continue
        order[root] = low[root] = len(order)
        open_nodes.append(root)
        stack = [(root, iter(targets[root]))]
        while stack:
            node, rest = stack[-1]
            for target in rest:
                if target not in targets or target in masks:  # no forwarder, or of a component that is complete
                    continue
                if target in order:
                    low[node] = min(low[node], order[target])
                    continue
                order[target] = low[target] = len(order)
                open_nodes.append(target)
                stack.append((target, iter(targets[target])))
                break
            else:
                stack.pop()
                if stack:
                    low[stack[-1][0]] = min(low[stack[-1][0]], low[node])
                if low[node] == order[node]:
                    members = [open_nodes.pop()]
                    while members[-1] != node:
                        members.append(open_nodes.pop())
                    mask = 0
                    for member in members:
                        mask |= bit.get(member, 0)
                        for target in targets[member]:
                            mask |= bit.get(target, 0) | masks.get(target, 0)
                    masks.update(dict.fromkeys(members, mask))
    return masks


def loosest(ends: Sequence[str], masks: Sequence[int]) -> tuple[str, str, str] | None:
    """Where not every end reaches every other: the end that most broken pairs share, and the first such pair."""
    everyone = (1 << len(ends)) - 1
    if all(mask == everyone for mask in masks):
        return None
    broken = [0] * len(ends)
    alike: dict[int, int] = {}
    for i, mask in enumerate(masks):
        broken[i] += len(ends) - mask.bit_count()
        alike[mask] = alike.get(mask, 0) + 1
    for mask, times in alike.items():
        for i in _bits(everyone & ~mask):
            broken[i] += times
    loose = broken.index(max(broken))
    for i, mask in enumerate(masks):
        missing = everyone & ~mask
        if i != loose:
            missing &= 1 << loose
        if missing:
            return ends[loose], ends[i], ends[next(_bits(missing))]
    raise AssertionError("an end that no pair is broken at")


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
