"""NCCL's and RCCL's topology XML, system versions 1 and 2: what NCCL_TOPO_DUMP_FILE writes, and vendors' own files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from thinwire.edge.limits import DUMP_DEVICES, DUMP_ELEMENTS, NESTING
from thinwire.edge.reading import UnreadableError
from thinwire.edge.words import cut, shown
from thinwire.topologies.dumps.plain import GRAPHS, WHAT
from thinwire.topologies.dumps.seen import Pair, Pcie, Seen, SeenGpu, SeenNic, pair

_SPEED = re.compile(r"\s*(\d{1,3}(?:\.\d{1,3})?)\s*GT/s")
_BUS = re.compile(r"(?:[0-9a-f]{1,8}:)?[0-9a-f]{1,2}:[0-9a-f]{1,2}(?:\.[0-9a-f])?")
BRIDGE, NETWORK, SWITCH = "0x0604", "0x02", "0x0680"
GPU_CLASSES = ("0x0302", "0x0380", "0x1200")  # 3D controller, display controller, processing accelerator
VGA = "0x0300"  # a GPU if NVIDIA's: others are mostly the board's own
FASTEST_NIC_MBIT = 3_200_000.0  # four times the fastest port of today; drivers have written kilobits


@dataclass(slots=True)
class _Element:
    tag: str
    given: Mapping[str, str]
    inside: list[_Element] = field(default_factory=list)

    def walk(self) -> Iterator[_Element]:
        yield self
        for each in self.inside:
            yield from each.walk()


class _Builder:
    """Elements of a document, within limits of number and nesting. ValueError beyond them."""

    def __init__(self) -> None:
        self.root: _Element | None = None
        self.open: list[_Element] = []
        self.count = 0

    def start(self, tag: str, given: dict[str, str]) -> None:
        self.count += 1
        DUMP_ELEMENTS.check("elements", self.count)
        if len(self.open) >= NESTING.most:
            raise ValueError(f"elements lie in each other more than {NESTING.most} deep")
        element = _Element(tag, given)
        if self.open:
            self.open[-1].inside.append(element)
        else:
            self.root = element
        self.open.append(element)

    def end(self, _: str) -> None:
        self.open.pop()

    def data(self, _: str) -> None:
        """Text between elements says nothing."""

    def close(self) -> _Element | None:
        return self.root


def nccl(text: str, path: str) -> Seen:
    """What a topology file says. UnreadableError for what is no such file, or is cut."""
    root = _parsed(text, path)
    if root.tag != "system":
        other = f"XML with the root <{cut(root.tag)}>, where NCCL's topologies have <system>"
        what = GRAPHS if root.tag == "graphs" else other
        raise UnreadableError(path, WHAT, f"it is {what}")
    return _Reader(path).read(root)


def _parsed(text: str, path: str) -> _Element:
    begin = text.find("<")
    end = text.rfind(">")
    text = text[begin : end + 1] if 0 <= begin < end else text
    text = re.sub(r"\A<\?xml[^>]{0,200}\?>", "", text)
    builder = _Builder()
    parser: Any = DefusedXMLParser(target=builder, forbid_dtd=True)
    try:
        parser.feed(text)
        root = parser.close()
    except DefusedXmlException:
        raise UnreadableError(path, WHAT, "XML with a DTD or entities of its own, which no topology has") from None
    except ParseError as error:
        line = error.position[0]
        if builder.open and "no element found" in str(error):
            raise UnreadableError(
                path, WHAT, f"the XML ends inside <{cut(builder.open[-1].tag)}>: give all of it", line
            ) from None
        raise UnreadableError(path, WHAT, f"no well-formed XML: {cut(str(error))}", line) from None
    except (ValueError, LookupError) as error:
        raise UnreadableError(path, WHAT, str(error)) from None
    if not isinstance(root, _Element):
        raise UnreadableError(path, WHAT, "no well-formed XML")
    return root


@dataclass(frozen=True, slots=True)
class _Placed:
    """A pci element and where it lies."""

    element: _Element
    domain: str
    way: tuple[str, ...]


class _Reader:
    def __init__(self, path: str) -> None:
        self.path = path
        self.notes: list[str] = []
        self.gpus: list[tuple[_Placed, _Element | None]] = []
        self.nics: list[SeenNic] = []
        self.uplinks: dict[str, Pcie] = {}
        self.unknown = 0
        self.lost = False
        self.hosts: set[str] = set()

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def read(self, root: _Element) -> Seen:
        version = root.given.get("version", "")
        if version not in ("1", "2"):
            self.note(f"system version {shown(version)}: read as versions 1 and 2")
        for index, cpu in enumerate(each for each in root.walk() if each.tag == "cpu"):
            numa = cpu.given.get("numaid", "")
            host = cpu.given.get("host_hash", "")
            self.hosts.add(host)
            if numa in ("-1", ""):
                self.note("the host reports no NUMA domains")
            self._below(cpu, f"{host}/{cut(numa, 20) or index}" if host else cut(numa, 20) or str(index), ())
        found = self._gpus()
        if not found:
            raise UnreadableError(self.path, WHAT, self._without_gpus())
        if len(self.hosts) > 1:
            raise UnreadableError(self.path, WHAT, f"it holds {len(self.hosts)} hosts (host_hash); an import is of one")
        DUMP_DEVICES.check("GPUs", len(found))
        buses = [_bus(placed.element) for placed, _ in found]
        at = {bus: i for i, bus in enumerate(buses) if bus is not None}
        bonds, to_switch, wire = self._bonds([gpu for _, gpu in found], at)
        gpus = tuple(_gpu(i, placed, gpu) for i, (placed, gpu) in enumerate(found))
        static = all(gpu is None for _, gpu in found)
        if static:
            self.note(
                "no <gpu> element: a vendor's file; its GPUs are taken in the order of their bus ids, nvidia-smi's"
            )
        return Seen(
            "nccl", self.path, gpus, tuple(self._near(gpus)), self.uplinks, bonds, wire, to_switch,
            notes=tuple(self.notes), complete=True, static=static, links_lost=self.lost,
        )  # fmt: skip

    def _below(self, parent: _Element, domain: str, way: tuple[str, ...]) -> None:
        for each in parent.inside:
            if each.tag == "pci":
                self._pci(each, domain, way)
            elif each.tag == "nic":
                self._nic(each, domain, way)
            elif each.tag == "gpu" and parent.tag == "cpu":  # on a board whose GPUs hang on the CPU
                self.gpus.append((_Placed(each, domain, way), each))

    def _pci(self, pci: _Element, domain: str, way: tuple[str, ...]) -> None:
        kind = pci.given.get("class", "").lower()
        gpu = next((each for each in pci.inside if each.tag == "gpu"), None)
        below = [each for each in pci.inside if each.tag == "pci"]
        if gpu is not None:
            self.gpus.append((_Placed(pci, domain, way), gpu))
        elif below or kind.startswith(BRIDGE):
            name = _bus(pci) or f"switch{len(self.uplinks)}"
            if name in self.uplinks:
                name = f"{name}#{len(self.uplinks)}"
            self.uplinks[name] = _link(pci)
            self._below(pci, domain, (*way, name))
        elif kind.startswith(GPU_CLASSES) or (kind.startswith(VGA) and pci.given.get("vendor", "").lower() == "0x10de"):
            self.gpus.append((_Placed(pci, domain, way), None))
        elif any(each.tag == "nic" for each in pci.inside):
            self._below(pci, domain, way)
        elif kind.startswith(NETWORK):
            self.nics.append(SeenNic(f"nic {_bus(pci) or len(self.nics)}", None, way, domain))
        elif not kind and _id(pci) is not None and pci.given.get("vendor", "").lower() in ("0x10de", "0x1002"):
            self.gpus.append((_Placed(pci, domain, way), None))
        elif not kind:
            self.unknown += 1

    def _nic(self, nic: _Element, domain: str, way: tuple[str, ...]) -> None:
        for net in (each for each in nic.inside if each.tag == "net"):
            mbit = _number(net.given.get("speed", ""))
            if mbit is not None and mbit > FASTEST_NIC_MBIT:
                self.note(f"a NIC's speed of {shown(net.given.get('speed'))} Mb/s cannot be: taken as kb/s")
                mbit = mbit / 1000 if mbit / 1000 <= FASTEST_NIC_MBIT else None
            name = cut(net.given.get("name", "") or f"nic{len(self.nics)}", 40)
            self.nics.append(SeenNic(name, mbit * 1e6 if mbit else None, way, domain))

    def _gpus(self) -> list[tuple[_Placed, _Element | None]]:
        """In the order of `dev`; where a file has no <gpu>, by bus id."""
        named = [(placed, gpu) for placed, gpu in self.gpus if gpu is not None]
        if not named:
            return sorted(self.gpus, key=lambda one: _bus_key(_bus(one[0].element)))
        if left := len(self.gpus) - len(named):
            self.note(
                f"{left} more devices of a GPU's class have no <gpu> element: NCCL did not see them, they are left out"
            )
        devs = [_number(gpu.given.get("dev", "")) for _, gpu in named if gpu is not None]
        if None in devs or len(set(devs)) != len(devs):
            self.note("GPUs without a number of their own (dev): taken in the order of their bus ids")
            return sorted(named, key=lambda one: _bus_key(_bus(one[0].element)))
        order = sorted(range(len(named)), key=lambda i: devs[i] or 0.0)
        return [named[i] for i in order]

    def _without_gpus(self) -> str:
        if self.unknown:
            return (
                f"its {self.unknown} devices have neither a class nor a <gpu>, so GPUs cannot be told from NICs: give "
                "`nvidia-smi topo -m`, or what NCCL_TOPO_DUMP_FILE=topo.xml dumps on the running machine"
            )
        return "a topology without a GPU"

    def _bonds(
        self, elements: list[_Element | None], at: Mapping[str, int]
    ) -> tuple[dict[Pair, int], tuple[int, ...], Any]:
        said: dict[Pair, int] = {}
        to_switch = [0] * len(elements)
        wires = set()
        selves = gone = 0
        for i, gpu in enumerate(elements):
            for each in gpu.inside if gpu is not None else ():
                if each.tag not in ("nvlink", "xgmi"):
                    continue
                count = int(_number(each.given.get("count", "")) or 0)
                if not 0 < count <= 64:
                    self.note(f"a link with a count of {shown(each.given.get('count'))}: left out")
                    continue
                wires.add(each.tag)
                other = at.get(_full(each.given.get("target", "")))
                kind = each.given.get("tclass", "").lower()
                if kind.startswith(SWITCH):
                    to_switch[i] += count
                elif other is None:
                    gone += 1
                elif other == i:
                    selves += 1
                else:
                    said[i, other] = said.get((i, other), 0) + count
        if selves:
            self.lost = True
            self.note(
                f"the NVLinks of {selves} GPUs lead to themselves: left out; nvidia-smi topo -m tells the linked pairs"
            )
        if gone:
            self.note(f"{gone} NVLink or xGMI wires lead to devices that are not in the file: left out")
        bonds: dict[Pair, int] = {}
        for (i, j), count in said.items():
            back = said.get((j, i))
            if back is not None and back != count:
                self.note(f"GPU {i} and GPU {j} count their links as {count} and {back}: the smaller is taken")
            bonds[pair(i, j)] = count if back is None else min(count, back)
        return bonds, tuple(to_switch) if any(to_switch) else (), "xgmi" if wires == {"xgmi"} else "nvlink"

    def _near(self, gpus: tuple[SeenGpu, ...]) -> Iterator[SeenNic]:
        for nic in self.nics:
            shared = {
                i: sum(a == b for a, b in zip(nic.way, gpu.way, strict=False))
                for i, gpu in enumerate(gpus) if gpu.domain == nic.domain and nic.way[:1] == gpu.way[:1] and nic.way
            }  # fmt: skip
            near = tuple(i for i, depth in shared.items() if depth == max(shared.values()))
            yield SeenNic(nic.name, nic.rate_bits_per_s, nic.way, nic.domain, near)


def _gpu(number: int, placed: _Placed, gpu: _Element | None) -> SeenGpu:
    pci = placed.element
    arch = None
    if gpu is not None:
        gcn = gpu.given.get("gcn", "").lower().removeprefix("gfx")
        arch = f"gfx{cut(gcn, 8)}" if gcn else f"sm{cut(gpu.given.get('sm', ''), 8)}" if gpu.given.get("sm") else None
    bus = _bus(pci)
    return SeenGpu(
        bus or f"gpu{number}",
        _id(pci),
        None,
        arch,
        _link(pci),
        placed.way,
        placed.domain,
        bus,
    )


def _id(pci: _Element) -> str | None:
    """Vendor and device as `10de:2330`; None where either is not told."""
    parts = [pci.given.get(key, "").lower().removeprefix("0x") for key in ("vendor", "device")]
    return ":".join(parts) if all(re.fullmatch("[0-9a-f]{4}", part) for part in parts) else None


def _link(pci: _Element) -> Pcie:
    speed = _SPEED.match(pci.given.get("link_speed", ""))
    lanes = _number(pci.given.get("link_width", ""))
    return Pcie(
        float(speed[1]) if speed and float(speed[1]) > 0 else None, int(lanes) if lanes and 1 <= lanes <= 32 else None
    )


def _number(text: str) -> float | None:
    """A number as these files have them; None for what is none."""
    return float(text) if re.fullmatch(r"\s*\d{1,15}(?:\.\d{1,15})?\s*", text) else None


def _bus(pci: _Element) -> str | None:
    return _full(pci.given.get("busid", "")) or None


def _full(bus: str) -> str:
    """A bus id with its domain and function, in lower case; "" for what is none."""
    bus = bus.strip().lower()
    if not _BUS.fullmatch(bus):
        return ""
    parts = bus.split(":")
    domain, number, device = (["0", *parts])[-3:]
    device, _, function = device.partition(".")
    return f"{int(domain, 16):04x}:{int(number, 16):02x}:{int(device, 16):02x}.{function or '0'}"


def _bus_key(bus: str | None) -> tuple[int, ...]:
    return (1 << 40,) if bus is None else tuple(int(part, 16) for part in re.split("[:.]", bus))
