"""Several files of one machine put together: structure from one, names, peer-to-peer and rates from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinwire.edge.words import place
from thinwire.topologies.dumps.names import Named
from thinwire.topologies.dumps.seen import Pair, Pcie, Rates, Seen, SeenGpu, SeenNic, pair
from thinwire.topologies.dumps.tell import Told
from thinwire.topologies.importing.identity import labelled

_RANK = {"nccl": 0, "smi": 1, "rocm": 2}  # who is asked for the structure: NCCL's files know links, too


@dataclass(frozen=True, slots=True)
class Host:
    """One machine as its files tell it: the fields of `Seen`, and what they disagree about. path: the structure's."""

    path: str
    gpus: tuple[SeenGpu, ...]
    nics: tuple[SeenNic, ...]
    uplinks: Mapping[str, Pcie]
    bonds: Mapping[Pair, int]
    bonds_path: str
    wire: str
    to_switch: tuple[int, ...]
    loose: frozenset[Pair]
    peers: Mapping[Pair, bool]
    peers_path: str
    rates: tuple[tuple[str, Rates], ...]
    notes: tuple[str, ...]
    static: bool
    links_lost: bool
    files: tuple[str, ...]

    def together(self, two: Pair) -> bool:
        """Whether two GPUs share a NUMA domain."""
        return self.gpus[two[0]].domain == self.gpus[two[1]].domain


def merge(files: Sequence[Told]) -> Host:
    """One machine. ValueError where no file has a structure, or two are of different machines."""
    structures = sorted(
        (seen for told in files for seen in told.seen if seen.complete), key=lambda seen: _RANK[seen.format]
    )
    if not structures:
        raise ValueError(
            f"{place(files[0].path)}{' and the others tell' if len(files) > 1 else ' tells'} no GPU's place: add the "
            "output of `nvidia-smi topo -m` or `rocm-smi --showtopo`, or the XML that NCCL_TOPO_DUMP_FILE dumps"
        )
    base, notes = structures[0], list[str]()
    for seen in structures:
        notes += (f"{place(seen.path)}: {note}" if len(files) > 1 else note for note in seen.notes)
    count = len(base.gpus)
    bonds, bonds_path, wire, to_switch, peers = base.bonds, base.path, base.wire, base.to_switch, dict(base.peers)
    for other in structures[1:]:
        if len(other.gpus) != count:
            raise ValueError(
                f"{place(base.path)} has {count} GPUs and {place(other.path)} {len(other.gpus)}: give one "
                "machine's files"
            )
        notes += _disagreements(base, other)
        if not bonds and not to_switch and (other.bonds or other.to_switch):
            bonds, bonds_path, wire, to_switch = other.bonds, other.path, other.wire, other.to_switch
        peers = {**other.peers, **peers}
    peers_path = base.path if peers else ""
    rates: list[tuple[str, Rates]] = []
    for seen in sorted((s for told in files for s in told.seen if not s.complete), key=lambda s: s.format == "rates"):
        if len(seen.gpus) > count:
            raise ValueError(
                f"{place(seen.path)} is about {len(seen.gpus)} GPUs, {place(base.path)} has {count}: "
                "give one machine's files"
            )
        if len(seen.gpus) < count and (seen.peers or seen.rates):
            notes.append(f"{place(seen.path)} is about {len(seen.gpus)} of the {count} GPUs: taken to be the first")
        if clash := next((two for two, works in seen.peers.items() if peers.get(two, works) != works), None):
            notes.append(
                f"{place(seen.path)} and {place(peers_path)} disagree whether GPU {clash[0]} and GPU {clash[1]} reach "
                f"each other: {place(seen.path)} counts"
            )
        if seen.peers:
            peers.update(seen.peers)
            peers_path = seen.path
        rates += ((seen.path, each) for each in seen.rates)
    return Host(
        base.path, _named(base.gpus, files, notes), base.nics or next((s.nics for s in structures if s.nics), ()),
        base.uplinks, bonds, bonds_path, wire, to_switch, base.loose, peers, peers_path, tuple(rates),
        tuple(dict.fromkeys(notes)), base.static, base.links_lost and not bonds, tuple(told.path for told in files),
    )  # fmt: skip


def _named(gpus: tuple[SeenGpu, ...], files: Sequence[Told], notes: list[str]) -> tuple[SeenGpu, ...]:
    names: tuple[Named, ...] = next((told.names for told in files if told.names), ())
    return labelled(gpus, names, notes)


def _disagreements(base: Seen, other: Seen) -> list[str]:
    """What two structures say of pairs in different words: the first pair of each kind."""
    found = []
    files = f"{place(base.path)} and {place(other.path)} disagree"
    pairs = [pair(i, j) for i in range(len(base.gpus)) for j in range(i + 1, len(base.gpus))]
    for i, j in pairs:
        here, there = (_shares(seen, i, j) for seen in (base, other))
        if None not in (here, there) and here != there and (i, j) not in base.loose | other.loose:
            found.append(f"{files} whether GPU {i} and GPU {j} share a PCIe switch: the first counts")
            break
    for i, j in pairs:
        domains = [(seen.gpus[i].domain, seen.gpus[j].domain) for seen in (base, other)]
        if all(None not in two for two in domains) and len({a == b for a, b in domains}) > 1:
            found.append(f"{files} whether GPU {i} and GPU {j} share a NUMA domain: the first counts")
            break
    if (
        base.bonds
        and other.bonds
        and (clash := next((p for p in pairs if base.bonds.get(p) != other.bonds.get(p)), None))
    ):
        found.append(f"{files} about the links between GPU {clash[0]} and GPU {clash[1]}: the first counts")
    return found


def _shares(seen: Seen, i: int, j: int) -> bool | None:
    a, b = seen.gpus[i], seen.gpus[j]
    return bool(a.way and b.way and a.way[0] == b.way[0] and a.domain == b.domain)
