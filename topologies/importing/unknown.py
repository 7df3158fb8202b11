"""What an imported machine rests on without having been told: each with the command that would measure it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from thinwire.topologies.importing.written import Quantity

# {gpus} and {machine} are filled in where the machine is known.
NCCL_TESTS = (
    "all_reduce_perf -b 4K -e 1G -f 4 -g {gpus} > nccl.log; thinwire calibrate --logs nccl.log --cluster {machine}"
)
ONE_WAY = "nvbandwidth -t device_to_device_memcpy_read_ce, or p2pBandwidthLatencyTest"
BOTH_WAYS = "nvbandwidth -t device_to_device_bidirectional_memcpy_read_ce"
PEERS = "nvidia-smi topo -p2p r"
ROCM_PEERS = "rocm-smi --showtopo (link accessibility)"
LINKS = "NCCL_TOPO_DUMP_FILE=topo.xml with any NCCL program, and import that, too"

# Key of the file -> what it is in words, and what measures it. The end of the dotted key counts.
_MEASURES = (
    ("gpu_link.bandwidth", "a GPU's PCIe link", ONE_WAY),
    ("gpu_link.flow_cap", "a copy through host memory", "p2pBandwidthLatencyTest (P2P=Disabled)"),
    ("gpu_duplex", "a GPU's sending and receiving together", BOTH_WAYS),
    ("host_memory", "host memory's share of bounced copies", NCCL_TESTS),
    ("switch_link.bandwidth", "a PCIe switch's link to its host bridge", f"{LINKS}; {NCCL_TESTS}"),
    ("socket_link.bandwidth", "the link between NUMA domains", NCCL_TESTS),
    ("socket_link.flow_cap", "one flow between NUMA domains", ONE_WAY),
    ("port.bandwidth", "a GPU's NVLinks", "nvidia-smi topo -m, nvidia-smi nvlink -s"),
    ("link.bandwidth", "a link between two GPUs", "nvidia-smi topo -m, nvidia-smi nvlink -s"),
    ("latency", "latencies of links", "p2pBandwidthLatencyTest (latencies), or calibrate --logs"),
)


@dataclass(frozen=True, slots=True)
class Unknown:
    """what: in words; taken: what stands in for it, and why; command: what would measure it; key: for scripts."""

    what: str
    taken: str
    command: str
    key: str


def listed(topology: Mapping[str, Any]) -> Iterator[Unknown]:
    """The assumed numbers of a topology's table, equal ones once."""
    seen = set()
    for key, quantity in _quantities(topology, ""):
        if quantity.kind != "assumed":
            continue
        for end, what, command in _MEASURES:
            if key.endswith(end):
                entry = (what, quantity.value, quantity.source)
                if end == "latency":
                    entry = (what, 0.0, "")
                if entry not in seen:
                    seen.add(entry)
                    why = quantity.source.removeprefix("assumed: ")
                    taken = (
                        f"{quantity.value:g} {quantity.unit}, {why}"
                        if end != "latency"
                        else "0.1 to 0.5 us a hop, as on the shipped machines"
                    )
                    yield Unknown(what, taken, command, key)
                break


def _quantities(value: Any, at: str) -> Iterator[tuple[str, Quantity]]:
    if isinstance(value, Quantity):
        yield at, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _quantities(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _quantities(inner, at)
