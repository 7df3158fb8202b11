"""Who reaches whom, for all pairs at once, is what a search from each end finds; and time grows with the links."""

import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from thinwire.topologies.generators import Wire, switched_node
from thinwire.topologies.reach import loosest, reached

NODES = tuple("abcdefgh")
GPUS = st.integers(1, len(NODES)).map(lambda n: NODES[:n])
EDGES = st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)), max_size=24)


def searched(source: str, targets: dict[str, list[str]], forwards: Sequence[str]) -> set[str]:
    found, queue = {source}, [source]
    for node in queue:
        if node == source or node in forwards:
            for target in targets.get(node, ()):
                if target not in found:
                    found.add(target)
                    queue.append(target)
    return found


@given(gpus=GPUS, edges=EDGES, switch=st.booleans())
def test_against_a_search_from_each_end(gpus: tuple[str, ...], edges: list[tuple[str, str]], switch: bool) -> None:
    forwards = [node for node in NODES if node not in gpus]
    ends = [*gpus, *(forwards[:1] if switch else ())]  # a switch that sums is an end that forwards
    targets: dict[str, list[str]] = {}
    for a, b in edges:
        targets.setdefault(a, []).append(b)
    masks = reached(ends, targets, forwards)
    reach = {end: searched(end, targets, forwards) for end in ends}
    assert [{ends[i] for i in range(len(ends)) if mask >> i & 1} for mask in masks] == [
        {other for other in ends if other in reach[end]} for end in ends
    ]
    broken = [(a, b) for a in ends for b in ends if b not in reach[a]]
    found = loosest(ends, masks)
    if not broken:
        assert found is None
        return
    loose = max(ends, key=lambda node: sum(node in pair for pair in broken))
    assert found == (loose, *next(pair for pair in broken if loose in pair))


def test_thousands_of_gpus_are_checked_at_once() -> None:
    """All pairs one by one take a quarter of a minute. The bound is generous: a busy machine needs a tenth of it."""
    node = switched_node(4096, Wire(1e9, 1e-6), reduces=True)
    targets: dict[str, list[str]] = {}
    for link in node.links:
        targets.setdefault(link.source, []).append(link.target)
    begun = time.perf_counter()
    masks = reached(node.gpus, targets, ["nvswitch"])
    assert loosest(node.gpus, masks) is None
    del targets["gpu7"]
    assert loosest(node.gpus, reached(node.gpus, targets, ["nvswitch"])) == ("gpu7", "gpu7", "gpu0")
    assert time.perf_counter() - begun < 3
