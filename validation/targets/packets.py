"""Fused all-reduces as others ship them, FP8 packets and NVFP4, on the catalog machine that is nearest to theirs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from thinwire.reference.catalog import scheme
from thinwire.reference.core.scheme import Raw, Scheme
from thinwire.sim.costs.spread import find, sum_interval
from thinwire.sim.events.exchange import UNCOMPRESSED
from thinwire.validation.fits.published_tables import Row, rows
from thinwire.validation.targets.fabric import breakdown, exchanger_of, regime, size, spread_of
from thinwire.validation.targets.targets import Entry, Limits, Point, Section

TABLES = ("compressed_allreduce_2026", "nvfp4_allreduce_2026")
TIME_LIMITS, GAIN_LIMITS = Limits(median=0.25), Limits(signs_right=0.90)
FROM_BYTES = 2**20  # smaller messages are sent uncompressed

# GPU of the tables, catalog machine, whether that is one of its kind
HOSTS = (
    ("RTX PRO 6000", "8xrtx-pro-6000-pcie", True),
    ("RTX 6000D", "8xrtx-pro-6000-pcie", False),
    ("B200", "8xb200-nvlink", True),
    ("GB300", "8xb200-nvlink", False),
)
# Implementation, its preset, the uncompressed kernels of the same order that it is measured against
PRESETS = (
    ("TRT-LLM low-precision two-shot", "trtllm-fp8", ("TRT-LLM two-shot", "two-shot")),
    ("NVFP4 two-shot", "nvfp4-two-shot", ("TRT-LLM two-shot", "two-shot")),
    ("NVFP4 one-shot", "nvfp4-one-shot", ("one-shot",)),
)
QUICKREDUCE = {"FP4 (e2m1, 32 a scale)": "quickreduce-fp4", "int3 block32": "quickreduce-int3"}
QUICKREDUCE_MACHINE = "8xmi300x-xgmi"
LEFT_OUT = (
    "copy-engine DMA ring and NCCL on 8 PCIe GPUs (14 rows): the GPU is not named, and no compressed wire is timed",
    "R9700, Walsh-Hadamard in 6 bits (1 row): no catalog machine, and no codec of ours to the byte",
    "MI350X, torchcomms FP8 (16 rows): ranges over sizes that are not given, on a relay between hosts",
    "RTX 6000D, NCCL (2 rows): uncompressed only",
    "EQuARX on TPU (1 row): no catalog machine, and no size",
    "Flash Communication (1 row): somebody's summary, without GPU and ranks",
)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A published compressed all-reduce, and the uncompressed one of the same host and order where there is one."""

    gpu: str
    ranks: int
    nbytes: int
    seconds: float
    uncompressed_s: float | None


def _pairs(gpu: str, implementation: str, partners: Sequence[str]) -> list[_Pair]:
    own = [row for table in TABLES for row in rows(table) if row["gpu"] == gpu]
    plain = {
        int(row["message_bytes"]): float(row["latency_us"]) * 1e-6
        for row in own
        if row["implementation"] in partners and row["wire_format"].startswith("bf16")
    }
    return [_pair(row, plain) for row in own if row["implementation"] == implementation]


def _pair(row: Row, plain: dict[int, float]) -> _Pair:
    nbytes = int(row["message_bytes"])
    return _Pair(row["gpu"], int(row["ranks"]), nbytes, float(row["latency_us"]) * 1e-6, plain.get(nbytes))


@cache
def _simulated(machine: str, ranks: int, chosen: Scheme, nbytes: int) -> tuple[float, str, tuple[float, float]]:
    """Seconds, where they come from, and their interval: codec and wire err independently."""
    exchanger = exchanger_of(machine, ranks)
    timed = exchanger.time("all_reduce", nbytes // 2, chosen)
    seconds = exchanger.alone(timed).seconds
    codec_s = min(seconds, float(timed.codec_s_R.max()))
    known = exchanger.cost.profile
    wire = spread_of(timed, known.fabric.spreads)
    codec = find(known.gpu.spreads, 0.0, "codec")
    return seconds, breakdown(timed, seconds), sum_interval(seconds, [(seconds - codec_s, wire), (codec_s, codec)])


def _entries(key: str, what: str, machine: str, gated: bool, pairs: Iterable[tuple[str, _Pair]]) -> list[Entry]:
    """Of pairs and the presets that they are predicted by."""
    times, gains = [], []
    for name, pair in pairs:
        preset = scheme(name)
        plain = Scheme(f"bf16 {preset.collective}", Raw(), Raw(), preset.collective, codec_launch="fused")
        seconds, detail, interval = _simulated(machine, pair.ranks, preset, pair.nbytes)
        where = pair.gpu, regime(pair.nbytes), f"{name}, {pair.gpu} x{pair.ranks}, {size(pair.nbytes)}"
        times.append(Point(*where, pair.seconds, seconds, detail, interval))
        if pair.uncompressed_s is not None:
            plain_s = _simulated(machine, pair.ranks, plain, pair.nbytes)[0]
            gains.append(Point(*where, pair.uncompressed_s / pair.seconds, plain_s / seconds, detail))
    how = f"held out, on {machine}"
    return [
        Entry(f"{key}.time", f"{what}, time", how, tuple(times), TIME_LIMITS, gated),
        Entry(f"{key}.gain", f"{what}, gain", how, tuple(gains), GAIN_LIMITS, gated),
    ]


def _quickreduce() -> Entry:
    points = []
    for row in rows(TABLES[0]):
        if row["gpu"] == "MI355X" and row["wire_format"] in QUICKREDUCE:
            name, ranks, nbytes = QUICKREDUCE[row["wire_format"]], int(row["ranks"]), int(row["message_bytes"])
            seconds, detail, _ = _simulated(QUICKREDUCE_MACHINE, ranks, scheme(name), nbytes)
            plain_s, _, _ = _simulated(QUICKREDUCE_MACHINE, ranks, UNCOMPRESSED, nbytes)
            label = f"{name}, MI355X x{ranks}, {size(nbytes)}"
            points.append(Point("MI355X", regime(nbytes), label, float(row["speedup"]), plain_s / seconds, detail))
    what, how = "QuickReduce FP4 and INT3, gain over RCCL", f"held out, on {QUICKREDUCE_MACHINE}"
    return Entry("packets.mi355x.gain", what, how, tuple(points), GAIN_LIMITS, False)


def packets() -> Section:
    """TensorRT-LLM's FP8 packets, NVFP4 in one and two shots, QuickReduce's FP4 and INT3."""
    entries = []
    for gpu, machine, own in HOSTS:
        key, small = f"packets.{gpu.lower().replace(' ', '-')}", []
        for implementation, name, partners in PRESETS:
            pairs = [(name, pair) for pair in _pairs(gpu, implementation, partners)]
            large = [(name, pair) for name, pair in pairs if pair.nbytes >= FROM_BYTES]
            small += [(name, pair) for name, pair in pairs if pair.nbytes < FROM_BYTES]
            entries += _entries(f"{key}.{name}", f"{name} on {gpu}", machine, own, large)
        entries += _entries(f"{key}.small", f"all three on {gpu} below 1 MiB", machine, False, small)
    return Section(
        "packets",
        "FP8 and NVFP4 packets",
        "time <= 25 % median from 1 MiB up on RTX PRO 6000 and B200, sign of the gain over bf16 right in 90 %",
        """
        Rows: compressed_allreduce_2026.csv and nvfp4_allreduce_2026.csv, none of them fitted to. Each preset is
        simulated on the catalog machine nearest to the host, its kernels fused, by what carries other fused exchanges
        there; the uncompressed exchange beside it is of the same order (two-shot, one-shot), not the best there is. RTX
        6000D, GB300 (two hosts of four) and MI355X have no machine of their own here and are not asked for, nor are
        messages below 1 MiB, which engines send uncompressed.

        Both PCIe hosts have no switches: their kernels' stores cross the root complex in small transactions and move
        about 1 GB/s a rank by the source's own account, where copies on the catalog's machine with switches move 50.
        The time of in-kernel exchanges on such a host is out of reach of that machine; a log of one's own tells it.
        """,
        (*entries, _quickreduce()),
        LEFT_OUT,
    )
