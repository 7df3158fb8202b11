"""A machine file out of what a host's files tell: as small a topology as fits, each number with its source."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinwire.edge.words import place
from thinwire.edge.writing import write_text
from thinwire.topologies.cluster import Cluster, Gpu
from thinwire.topologies.dumps.seen import SeenNic
from thinwire.topologies.dumps.tell import tell
from thinwire.topologies.files import read_cluster
from thinwire.topologies.importing.explicit import explicit
from thinwire.topologies.importing.hardware import Carrier, Family, fabric, family, nearest, xgmi
from thinwire.topologies.importing.identity import identify
from thinwire.topologies.importing.merge import Host, merge
from thinwire.topologies.importing.pcie import Pci, one_way, pci, peers
from thinwire.topologies.importing.tree import Switch, Tree, leaves, tree
from thinwire.topologies.importing.unknown import NCCL_TESTS, Unknown, listed
from thinwire.topologies.importing.written import Quantity, gb, toml, us

SHARP_SINCE = 4  # NVLink generation whose switches can sum (NVLink SHARP)
BOARDS = (8, 16)  # GPUs of boards on which every GPU's NVLinks lead to switches
TOLD = 0.7  # a copy's rate below this share of the nominal one contradicts the count of links


@dataclass(frozen=True, slots=True)
class Imported:
    """A machine file and what is to be said of it: what was understood, and what is assumed."""

    text: str
    cluster: Cluster
    understood: tuple[str, ...]
    unknown: tuple[Unknown, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Bonded:
    """How GPUs are wired besides PCIe. kind: by switches, each with each, some pairs, or not at all."""

    kind: str
    link: Quantity | None = None  # a port, or a wire between two
    each: Quantity | None = None  # one link
    said: str = ""


def imported(paths: Sequence[str], gpu: str | None = None, name: str | None = None, out: str | None = None) -> Imported:
    """The machine of these files.

    Args:
        paths: dumps of one machine, in any order.
        gpu: a catalog GPU, or the path of a GPU's file; counts more than what the files say.
        name: what the machine is called; `out` and the GPUs make one up where it is None.
        out: where the file will lie, for the path of a GPU's own file.

    Raises:
        ValueError: a file that is no dump, files that do not fit together, a GPU that nothing tells.
    """
    host = merge([tell(path) for path in paths])
    notes = list(host.notes)
    try:
        known = identify(host.gpus, gpu, notes)
    except ValueError as error:
        raise ValueError(f"{place(host.path)}: {error}") from None
    kind = family(known.name)
    host, bonded = _bonds(host, known, kind, notes)
    shape = tree(host)
    unknown: list[Unknown] = []
    if bonded.kind == "none" and (host.links_lost or (host.static and kind is not None and kind.nvlink)):
        unknown.append(Unknown("NVLinks, which GPUs of this kind may have", "none", "nvidia-smi topo -m", "nvlink"))
    topology, numbers, carrier, peer_to_peer = _topology(host, known, kind, bonded, shape, unknown, notes)
    chosen = fabric(carrier, known.name)
    unknown.append(Unknown(
        "the software's costs of an exchange", f"fabric {chosen}, the shipped profile nearest in kind",
        NCCL_TESTS, "fabric",
    ))  # fmt: skip
    title = name or (Path(out).stem if out else None) or f"{len(host.gpus)}x{known.name}-imported"
    document: dict[str, Any] = {
        "name": title,
        "title": _title(host, known, bonded, shape, carrier),
        "gpu": known.name if gpu is None or not gpu.endswith(".toml") else _relative(gpu, out),
        "fabric": chosen,
        "peer_to_peer": peer_to_peer,
        "assumptions": [_sentence(each) for each in (*notes, *(f"{each.what}: {each.taken}" for each in unknown))],
        "domain": _domains(host, shape),
        "topology": topology,
    }
    if not document["domain"]:
        del document["domain"]
    unknown += listed(numbers)
    text = toml(document, (f"Imported by thinwire from {', '.join(Path(path).name for path in host.files)}.",))
    cluster = _checked(text, gpu)
    told = {"gpus": str(len(host.gpus)), "machine": out or "machine.toml"}
    listing = tuple(replace(each, command=_filled(each.command, told)) for each in unknown)
    return Imported(text, cluster, tuple(_understood(host, known, bonded, shape, carrier)), listing, tuple(notes))


def _filled(command: str, told: dict[str, str]) -> str:
    for key, value in told.items():
        command = command.replace("{" + key + "}", value)
    return command


def _relative(gpu: str, out: str | None) -> str:
    return os.path.relpath(gpu, Path(out).parent) if out else str(Path(gpu).resolve())


def _checked(text: str, gpu: str | None) -> Cluster:
    """The file as its reader takes it: a fault of ours is found before anything is written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "machine.toml"
        if gpu is not None and gpu.endswith(".toml"):
            text = re.sub(
                r'^gpu = ".*"$', lambda _: f"gpu = '{Path(gpu).resolve()}'", text, count=1, flags=re.MULTILINE
            )
        write_text(path, text)
        return read_cluster(path)


# ---- NVLink and xGMI


def _bonds(host: Host, gpu: Gpu, kind: Family | None, notes: list[str]) -> tuple[Host, _Bonded]:
    """How the GPUs are wired besides PCIe."""
    count = len(host.gpus)
    each = _one_link(host, gpu, kind)
    of = f"as {Path(host.bonds_path).name} counts"
    if host.to_switch:
        least = min(host.to_switch)
        if least == 0:
            notes.append("some GPUs have no NVLink to a switch: NVLinks are left out, PCIe carries everything")
            return replace(host, bonds={}, to_switch=()), _Bonded("none")
        if least < max(host.to_switch):
            notes.append(
                f"GPUs have {least} to {max(host.to_switch)} NVLinks to switches: the fewest are taken for all"
            )
        port = _measured(host, _times(each, least, f"{least} NVLinks a GPU, {of}"), notes)
        return host, _Bonded("switched", port, each, f"NVSwitch, {least} NVLinks a GPU")
    counts = {host.bonds.get((i, j), 0) for i in range(count) for j in range(i + 1, count)}
    if count > 1 and len(counts) == 1 and (links := counts.pop()):
        total = kind.nvlinks if kind is not None and kind.nvlinks else 18
        switched = host.wire == "nvlink" and (
            links * (count - 1) > total if count > 2 else bool(kind and kind.sxm and links == total)
        )
        wire = _counted(links, "NVLink" if host.wire == "nvlink" else "xGMI link")
        link = _measured(host, _times(each, links, f"{wire}, {of}"), notes)
        if switched:
            return host, _Bonded("switched", link, each, f"NVSwitch, {links} NVLinks a GPU")
        return host, _Bonded("mesh", link, each, f"{wire} between every two GPUs")
    if host.bonds:
        wire = "NVLink" if host.wire == "nvlink" else "xGMI"
        return host, _Bonded(
            "pairs", None, each, f"{wire} between {len(host.bonds)} of {count * (count - 1) // 2} pairs"
        )
    if host.static and kind is not None and kind.sxm and kind.nvlink > 2 and count in BOARDS:
        port = _times(each, kind.nvlinks, f"{kind.nvlinks} NVLinks of a GPU on a board of {count}")
        where = port.source.partition(": ")[2]
        port = Quantity(port.value, port.unit, f"assumed: {where}, which a vendor's file does not tell")
        notes.append(f"a vendor's file tells no NVLinks: {count} GPUs of this kind are taken to be on NVSwitches")
        return host, _Bonded("switched", port, each, f"NVSwitch (assumed), {kind.nvlinks} NVLinks a GPU")
    return host, _Bonded("none")


def _one_link(host: Host, gpu: Gpu, kind: Family | None) -> Quantity:
    """One NVLink or xGMI link, each way."""
    if host.wire == "xgmi":
        first = host.gpus[0]
        # gfx94x are MI300X and MI300A alike: where no PCI id tells them apart, the GPU's name does.
        alike = first.arch is None or first.arch.startswith("gfx94")
        known = xgmi(first.pci_id, *((gpu.name, first.arch) if alike else (first.arch, gpu.name)))
        if known is not None:
            return Quantity(known.gb_per_s, "GB/s", f"datasheet: {known.source}")
        return gb(46.0, "assumed: an xGMI link of MI100's, the slowest known")
    if kind is not None and kind.nvlinks:
        return Quantity(kind.nvlink_gb_per_s, "GB/s", f"datasheet: {kind.source}")
    return gb(25.0, "assumed: 25 GB/s an NVLink each way, as NVLink 2 to 4 have")


def _times(each: Quantity, count: int, why: str) -> Quantity:
    kind, _, where = each.source.partition(": ")
    return gb(each.value * count, f"{kind}: {why}, of {each.value:g} GB/s ({where})")


def _measured(host: Host, nominal: Quantity, notes: list[str]) -> Quantity:
    """The nominal rate, which profiles are fitted to; a measured one where it contradicts the count of links."""
    found = one_way(host, lambda two: True, peer=True)
    if found is None:
        return nominal
    share = found.value / nominal.value
    if TOLD <= share <= 1.05:
        notes.append(
            f"copies were measured at {found.value:g} GB/s, {share:.0%} of the links' {nominal.value:g}: the nominal "
            "rate stays in the file, for the profile's losses are counted from it"
        )
        return nominal
    notes.append(
        f"copies were measured at {found.value:g} GB/s, {share:.0%} of what the links would carry: the measured rate "
        "is taken"
    )
    return found


# ---- the topology


def _topology(
    host: Host,
    gpu: Gpu,
    kind: Family | None,
    bonded: _Bonded,
    shape: Tree,
    unknown: list[Unknown],
    notes: list[str],
) -> tuple[dict[str, Any], dict[str, Any], Carrier, str]:
    """The table `topology`, its numbers each once, what carries flows, and the sentence about peer-to-peer."""
    count = len(host.gpus)
    if bonded.kind in ("switched", "mesh"):
        assert bonded.link is not None
        carrier: Carrier = "nvlink" if host.wire == "nvlink" else "xgmi"
        latency = "the measured floor of a step is the fabric profile's"
        if bonded.kind == "switched":
            sharp = kind is not None and kind.nvlink >= SHARP_SINCE
            port = {
                "bandwidth": bonded.link,
                "latency": us(0.25, f"assumed: half a microsecond through NVSwitch; {latency}"),
            }
            table = {"kind": "switched_node", "gpus": count, "reduces": sharp, "port": port}
            return table, table, carrier, "yes, over NVSwitch"
        link = {"bandwidth": bonded.link, "latency": us(0.5, f"assumed: one hop without a switch; {latency}")}
        which = "NVLink" if host.wire == "nvlink" else "xGMI"
        table = {"kind": "full_mesh", "gpus": count, "link": link}
        return table, table, carrier, f"yes, {which} between every two GPUs"
    works, why = peers(host, gpu, kind, unknown, notes)
    costs = pci(host, gpu, kind, shape, works, unknown)
    if not works:
        carrier = "pcie staged"
    elif nearest(costs.generation) == 4:
        carrier = "pcie 4"
    else:
        together = [len(list(leaves(switch.below))) for switch in shape.switches]
        carrier = "pcie 5 by switches" if max(together, default=0) > 2 else "pcie 5"
    simple = _pcie_tree(shape, costs, works)
    if bonded.kind == "pairs":
        if hidden := sum(two in host.loose for two in host.bonds):
            unknown.append(Unknown(
                "which PCIe switch GPUs with a link of their own share", f"none ({_counted(hidden, 'pair')})",
                "NCCL_TOPO_DUMP_FILE=topo.xml, any NCCL program", "hidden",
            ))  # fmt: skip
        if len(host.bonds) == count * (count - 1) // 2:
            carrier = "nvlink" if host.wire == "nvlink" else "xgmi"
        else:
            notes.append(
                "exchanges run in the order of ranks, over PCIe between GPUs without a link of their own: NCCL looks "
                "for rings along the links"
            )
        return explicit(host, shape, costs, works, bonded.each), simple, carrier, why
    if regular(shape, costs):
        return simple, simple, carrier, why
    return explicit(host, shape, costs, works, None), simple, carrier, why


def regular(shape: Tree, costs: Pci) -> bool:
    """Whether `generators.pcie_tree` draws this tree: ranks in order, equal links, equal switches or none."""
    if shape.ranks != list(range(len(shape.ranks))) or len({q.value for q in costs.links.values()}) > 1:
        return False
    if not shape.switches:
        return True
    items = [item for domain in shape.domains for item in domain]
    sizes = {len(item.below) if isinstance(item, Switch) else 0 for item in items}
    flat = all(isinstance(item, Switch) and all(isinstance(one, int) for one in item.below) for item in items)
    return flat and len(sizes) == 1 and len({costs.uplink(each.uplink).value for each in shape.switches}) == 1


def _pcie_tree(shape: Tree, costs: Pci, works: bool) -> dict[str, Any]:
    switches = shape.switches
    table: dict[str, Any] = {"kind": "pcie_tree", "islands": [len(list(leaves(items))) for items in shape.domains]}
    if switches:
        table["gpus_per_switch"] = len(switches[0].below)
    if not works:
        table["peer_to_peer"] = False
    table |= {"gpu_duplex": costs.duplex, "host_memory": costs.host_memory}
    table["gpu_link"] = costs.gpu_link(0)
    if switches:
        table["switch_link"] = costs.switch_link(switches[0].uplink)
    if len(shape.domains) > 1:
        table["socket_link"] = costs.socket_link
    return {key: value for key, value in table.items() if value is not None}


# ---- what is said of it


def _sentence(text: str) -> str:
    """A remark with a capital and a full stop; names of files stay as they are."""
    first = text.split(" ")[0]
    return (text if "." in first or "/" in first else text[:1].upper() + text[1:]).rstrip(".") + "."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _title(host: Host, gpu: Gpu, bonded: _Bonded, shape: Tree, carrier: Carrier) -> str:
    parts = [f"{len(host.gpus)}x {gpu.name}", bonded.said or "PCIe"]
    if bonded.kind in ("none", "pairs"):
        sizes = [len(switch.below) for switch in shape.switches]
        if sizes:
            parts.append(f"{len(sizes)} PCIe switch{'es' if len(sizes) > 1 else ''} shared by GPUs")
        parts.append("no peer-to-peer" if carrier == "pcie staged" else "peer-to-peer")
    if len(shape.domains) > 1:
        parts.append(f"{len(shape.domains)} NUMA domains")
    return ", ".join(parts)


def _domains(host: Host, shape: Tree) -> list[dict[str, Any]]:
    """The NUMA domains with their PCIe switches and NICs; [] where nothing beyond the topology is known."""
    found = []
    domains = list(shape.names)
    extra = [nic.domain or "" for nic in host.nics if (nic.domain or "") not in domains and not nic.near]
    for name in [*domains, *dict.fromkeys(extra)]:
        items = shape.domains[domains.index(name)] if name in domains else ()
        ranks = sorted(leaves(items))
        nics = [nic for nic in host.nics if (nic.near[0] in ranks if nic.near else (nic.domain or "") == name)]
        switches = [sorted(leaves([each])) for each in Tree((name,), (items,), {}).switches]
        table: dict[str, Any] = {"numa": name or "0", "gpus": ranks}
        if switches:
            table["switches"] = switches
        if nics:
            table["nics"] = [_nic(host, nic) for nic in nics]
        found.append(table)
    return found if host.nics or len(domains) > 1 else []


def _nic(host: Host, nic: SeenNic) -> dict[str, Any]:
    table: dict[str, Any] = {"name": nic.name}
    if nic.near:
        table["gpus"] = list(nic.near)
    if nic.rate_bits_per_s:
        rate = float(f"{nic.rate_bits_per_s / 1e9:.4g}")
        table["rate"] = Quantity(rate, "Gb/s", f"datasheet: as {Path(host.path).name} reports")
    return table


def _understood(host: Host, gpu: Gpu, bonded: _Bonded, shape: Tree, carrier: Carrier) -> list[str]:
    lines = [f"{len(host.gpus)} GPUs: {gpu.name}"]
    if len(shape.domains) > 1:
        groups = " | ".join(_ranks(sorted(leaves(items))) for items in shape.domains)
        lines.append(f"{len(shape.domains)} NUMA domains: {groups}")
    if shape.switches:
        lines.append(
            f"PCIe switches shared by GPUs: {' | '.join(_ranks(sorted(leaves([each]))) for each in shape.switches)}"
        )
    if bonded.said:
        lines.append(bonded.said)
    if bonded.kind in ("none", "pairs"):
        lines.append(
            "no peer-to-peer: transfers bounce through host memory"
            if carrier == "pcie staged"
            else "peer-to-peer over PCIe"
        )
    if host.nics:
        rates = sorted({nic.rate_bits_per_s / 1e9 for nic in host.nics if nic.rate_bits_per_s})
        lines.append(
            _counted(len(host.nics), "NIC")
            + (f" of {' and '.join(f'{rate:g}' for rate in rates)} Gb/s" if rates else "")
        )
    return lines


def _ranks(ranks: Sequence[int]) -> str:
    whole = len(ranks) > 2 and list(ranks) == list(range(ranks[0], ranks[-1] + 1))
    return f"{ranks[0]}-{ranks[-1]}" if whole else ",".join(map(str, ranks))
