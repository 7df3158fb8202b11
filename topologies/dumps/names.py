"""GPUs told by name: the tables of nvidia-smi, `nvidia-smi -L`, lspci, rocm-smi, and the heads of bandwidth tests."""

from __future__ import annotations

import re
from dataclasses import dataclass

from thinwire.topologies.dumps.plain import readable

_LISTED = re.compile(r"\bGPU (\d{1,4}): ([^()\n]{3,120}?) \(UUID: ")
_TABLE = re.compile(
    r"^\|\s{0,8}(\d{1,4})\s{1,8}((?:NVIDIA|Tesla|Quadro|GeForce|GRID|A\d|H\d)[^|]{0,80}?)\s{1,40}"
    r"(?:(?:On|Off|N/A|Enabled|Disabled|WDDM|TCC|MCDM)\s{0,8})?\|\s{0,8}([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d)"
)
_DEVICE = re.compile(
    r"^\s{0,8}Device:? (\d{1,4})[:,] ([^,()\n]{3,120}?)(?:, pciBusID: ([0-9a-fA-F]{1,4})\b|\s*\(|\s*$)"
)
_ROCM = re.compile(
    r"^GPU\[(\d{1,4})\]\s{0,8}:\s{0,8}(?:Card [Ss]eries|Device Name|Market Name)\s{0,8}:\s{0,8}(.{3,120})$"
)
_LSPCI = re.compile(
    r"^\s{0,8}([0-9a-f]{0,8}:?[0-9a-f]{2}:[0-9a-f]{2}\.\d) "
    r"(?:3D|VGA compatible|Display) controller|^\s{0,8}([0-9a-f]{0,8}:?[0-9a-f]{2}:[0-9a-f]{2}\.\d) Processing accel"
)
_ID = re.compile(r"\[(10de|1002):([0-9a-f]{4})\]")
_BRACKETS = re.compile(r"\[([^\[\]]{3,60})\]")


@dataclass(frozen=True, slots=True)
class Named:
    """What a line says of a GPU: its number, product name, PCI id (`10de:2330`) and bus, where it tells them."""

    number: int
    product: str | None = None
    pci_id: str | None = None
    bus: str | None = None


def named(text: str) -> tuple[Named, ...]:
    """GPUs that lines of a text name, by number; () where none does. What is told twice is taken once."""
    found: dict[int, Named] = {}
    listed = 0
    for _, line in readable(text):
        line = line.rstrip()
        if match := _LISTED.search(line) or _DEVICE.match(line) or _ROCM.match(line):
            number, product = int(match[1]), match[2].strip()
            if product.isdigit() or "Access Peer" in product:
                continue
            bus = match[3] if match.re is _DEVICE and match[3] else None
            found.setdefault(number, Named(number, product, bus=bus))
        elif match := _TABLE.match(line):
            found.setdefault(int(match[1]), Named(int(match[1]), match[2].strip(), bus=match[3].lower()))
        elif match := _LSPCI.match(line):
            ids, names = _ID.search(line), _BRACKETS.findall(line)
            if ids or "NVIDIA" in line or "AMD" in line:
                product = next((name for name in names if not re.fullmatch(r"[0-9a-f]{4}(:[0-9a-f]{4})?", name)), None)
                found.setdefault(
                    listed, Named(listed, product, f"{ids[1]}:{ids[2]}" if ids else None, match[1] or match[2])
                )
                listed += 1
    return tuple(found[number] for number in sorted(found))
