"""Routed experts on one GPU: seconds of one call over the experts that a rank holds.

One call stands for what an engine runs between the router's top-k and the combine: (token, choice) pairs are sorted by
expert, each expert that any token chose multiplies its rows by its weights (gate and up, then down, the activation in
between), and the rows are summed back into tokens. `rows` pairs reach `hit` of the experts held. The model
(docs/decisions/032-mixture-kernels.md):

    time     = launch + depth + softmax(products, weights) + moved + passed
    products = hit * flops of a row * (rows / hit) / (efficiency(rows / hit) * peak)
    weights  = hit * (bytes of an expert / (share * bandwidth) + expert_s)
    moved    = row_passes * bytes of the rows' activations / bandwidth      passed: the same of pairs of other ranks

An expert with few rows is read as fast as memory gives it, one with many runs at a share of the peak that grows with
its rows. As `efficiency` never falls and rows / `efficiency` never does either (checked), no more rows and no more
experts hit ever take less: seconds never decrease in `rows`, nor in `hit` at fixed rows.

The tables behind the fit replay one call: small weights come from the L2 there. `time_s` is the engine's, between two
of whose calls all other layers' weights pass; `replayed_s` is the benchmark's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from thinwire.edge.limits import COMPUTE
from thinwire.edge.words import shown
from thinwire.sim.costs.tables import mapping, number, value_of

ACTIVATION_BYTES = 2
"""bf16 rows between kernels; what is quantised on the way is absorbed by the fitted passes."""

VALUE_BYTES: Mapping[str, float] = {
    # a value, with its share of the scales: int4 a bf16 for 128 values, mxfp4 a byte for 32, nvfp4 a byte for 16
    "bf16": 2, "fp8": 1, "fp8-block": 1, "int8": 1, "int4": 0.515625, "nvfp4": 0.5625, "mxfp4": 0.53125,
}  # fmt: skip

ROWS_AXIS = (1, 16, 32, 64, 128, 256, 512, 2048, 8192)
"""Rows of an expert at which its efficiency is given: in between by logarithms, beyond the last it stays."""

# Whose kernels stand in for a precision that was not measured, the first that was: kernels that multiply in the same
# format, then those that unpack weights into bf16.
STAND_INS: Mapping[str, tuple[str, ...]] = {
    "bf16": (),
    "fp8": ("fp8-block", "bf16"),
    "fp8-block": ("fp8", "bf16"),
    "int8": ("fp8", "fp8-block", "bf16"),
    "int4": ("mxfp4", "bf16"),
    "mxfp4": ("int4", "bf16"),
    "nvfp4": ("int4", "mxfp4", "bf16"),
}


EIGHT_BITS = ("fp8", "fp8-block", "int8")


def peak_of(precision: str, peaks: Mapping[str, float]) -> float:
    """FLOP/s at which a GPU of these dense peaks (by format) multiplies experts' rows; nvfp4 at four times bf16's where
    it has fp4's tensor cores. Weight-only formats, and nvfp4 elsewhere, unpack weights into bf16. ValueError for a
    format that it lacks.
    """
    if precision in ("bf16", "int4", "mxfp4"):
        return peaks["bf16"]
    if precision == "nvfp4":
        return peaks["bf16"] * (4 if "fp4" in peaks else 1)
    name = precision.partition("-")[0]
    if precision not in VALUE_BYTES or name not in peaks:
        has = ", ".join(p for p in VALUE_BYTES if p not in EIGHT_BITS or p.partition("-")[0] in peaks)
        raise ValueError(f"experts' weights must be one of {has} on this GPU: {shown(precision)}")
    return peaks[name]


@dataclass(frozen=True, slots=True)
class GroupedKernels:
    """What an engine runs for experts of one precision on one kind of GPU. Build with validation/mixtures/experts.py.

    Facts: `peak_flops_per_s` (dense, of the format multiplied in), `memory_bandwidth_bytes_per_s`, `bytes_per_value`
    (of weights), `width_block` (an expert's width is padded to a multiple of it). Fitted: `launch_s`, `depth_s` (of
    each value that the two products sum over, hidden and width: what one tile takes from end to end),
    `share_efficiency` of the bandwidth, `expert_s` (to start on an expert), `sharpness` (exponent of the soft maximum),
    `row_passes` and `passed_passes` (over the activations of a row, of one that another rank's expert has),
    `efficiencies` (of the peak, at ROWS_AXIS); for the benchmark alone `cache_bytes`, `cache_speedup` and
    `cache_steepness`. `source` says where the numbers are from.
    """

    precision: str
    peak_flops_per_s: float
    memory_bandwidth_bytes_per_s: float
    bytes_per_value: float
    width_block: int
    launch_s: float
    depth_s: float
    share_efficiency: float
    expert_s: float
    sharpness: float
    row_passes: float
    passed_passes: float
    efficiencies: tuple[float, ...]
    cache_bytes: float
    cache_speedup: float
    cache_steepness: float
    source: str

    def __post_init__(self) -> None:
        for name in ("peak_flops_per_s", "memory_bandwidth_bytes_per_s", "bytes_per_value", "width_block",
                     "share_efficiency", "cache_bytes", "cache_speedup"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("launch_s", "depth_s", "expert_s", "row_passes", "passed_passes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        exponents = self.sharpness, self.cache_steepness
        if min(exponents) < 1 or max(exponents) > 100 or self.cache_speedup < 1:
            raise ValueError(f"exponents lie in 1..100, cache_speedup is 1 or more: {exponents}, {self.cache_speedup}")
        if len(self.efficiencies) != len(ROWS_AXIS) or not min(self.efficiencies, default=0.0) > 0:
            raise ValueError(f"need {len(ROWS_AXIS)} efficiencies above 0, got {shown(self.efficiencies)}")
        steps = zip(ROWS_AXIS, self.efficiencies, strict=True)
        for (few, low), (many, high) in pairwise(steps):
            if not (low <= high <= low * many / few * (1 + 1e-9)):
                raise ValueError(
                    f"efficiencies must not fall, nor rise faster than rows: {low} at {few} rows, {high} at {many}"
                )

    def efficiency(self, rows: float) -> float:
        """Share of the peak that an expert with so many rows reaches."""
        if rows >= ROWS_AXIS[-1]:
            return self.efficiencies[-1]
        at = next(i for i, many in enumerate(ROWS_AXIS) if rows < many) if rows > 1 else 1
        few, low, high = ROWS_AXIS[at - 1], self.efficiencies[at - 1], self.efficiencies[at]
        share = math.log(max(rows, 1.0) / few) / math.log(ROWS_AXIS[at] / few)
        return low * math.exp(share * math.log(high / low))

    def time_s(self, rows: int, hit: int, hidden: int, width: int, gated: bool, passed: int = 0) -> float:
        """Seconds of one call of an engine; see `ExpertsModel.time_s`."""
        return self._time_s(rows, hit, hidden, width, gated, passed, 1.0)

    def replayed_s(self, rows: int, hit: int, hidden: int, width: int, gated: bool, passed: int = 0) -> float:
        """The same as the tables measure it: weights that fit the L2 are read from there."""
        if not hit:
            return self._time_s(rows, hit, hidden, width, gated, passed, 1.0)
        weights = hit * (3 if gated else 2) * hidden * self._padded(width) * self.bytes_per_value
        warm = 1.0 / (1.0 + (weights / self.cache_bytes) ** self.cache_steepness)
        return self._time_s(rows, hit, hidden, width, gated, passed, 1.0 - warm * (1.0 - 1.0 / self.cache_speedup))

    def _padded(self, width: int) -> int:
        return -(-width // self.width_block) * self.width_block

    def _time_s(self, rows: int, hit: int, hidden: int, width: int, gated: bool, passed: int, reading: float) -> float:
        padded, products = self._padded(width), 3 if gated else 2
        bandwidth = self.memory_bandwidth_bytes_per_s
        row_bytes = ACTIVATION_BYTES * (2 * hidden + (products + 1) * padded)  # in and out of either product
        found = self.launch_s + self.depth_s * (hidden + width)
        found += (rows * self.row_passes + passed * self.passed_passes) * row_bytes / bandwidth
        if not rows:
            return found
        values = products * hidden * padded  # of an expert's weights
        products_s = 2.0 * values * rows / (self.efficiency(rows / hit) * self.peak_flops_per_s)
        weights_s = values * self.bytes_per_value / (self.share_efficiency * bandwidth) * reading + self.expert_s
        high, low = max(products_s, hit * weights_s), min(products_s, hit * weights_s)
        return float(found + high * (1.0 + (low / high) ** self.sharpness) ** (1.0 / self.sharpness))

    def moved_to(self, gpu: str, peak_flops_per_s: float, memory_bandwidth_bytes_per_s: float) -> GroupedKernels:
        """The same kernels' shares on another GPU's facts; `gpu` is whose they are."""
        return replace(
            self,
            peak_flops_per_s=peak_flops_per_s,
            memory_bandwidth_bytes_per_s=memory_bandwidth_bytes_per_s,
            source=f"assumed: efficiencies as on {gpu} ({self.source})",
        )

    def standing_in(self, precision: str, peak_flops_per_s: float) -> GroupedKernels:
        """The same kernels' shares for weights of another format."""
        return replace(
            self,
            precision=precision,
            peak_flops_per_s=peak_flops_per_s,
            bytes_per_value=VALUE_BYTES[precision],
            source=f"assumed: efficiencies as of {self.precision} ({self.source})",
        )


# Where no relative's kernels are known: the middle of what was fitted to nine GPUs, rounded.
TYPICAL = {
    "width_block": 64, "launch_s": 20e-6, "depth_s": 1e-9, "share_efficiency": 0.9, "expert_s": 0.1e-6,
    "sharpness": 3.0, "row_passes": 2.0, "passed_passes": 0.5, "cache_bytes": 50e6, "cache_speedup": 1.5,
    "cache_steepness": 4.0,
    "efficiencies": (0.006, 0.08, 0.16, 0.3, 0.45, 0.55, 0.62, 0.65, 0.65),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExpertsModel:
    """Seconds of one call over routed experts on one kind of GPU, by the precision of their weights.

    `peaks_flops_per_s`: the GPU's dense peaks by format. `kernels`: those that were measured (or moved from a
    relative's); others stand in, and say so.
    """

    gpu: str
    peaks_flops_per_s: Mapping[str, float]
    kernels: Mapping[str, GroupedKernels]

    def __post_init__(self) -> None:
        if "bf16" not in self.kernels or "bf16" not in self.peaks_flops_per_s:
            raise ValueError(f"experts need kernels and a peak of bf16, got {shown(sorted(self.kernels))}")
        for precision, each in self.kernels.items():
            if precision not in VALUE_BYTES or each.precision != precision:
                raise ValueError(f"kernels by precision, one of {', '.join(VALUE_BYTES)}: {shown(precision)}")

    def of(self, precision: str) -> GroupedKernels:
        """The kernels of a precision, or those that stand in. ValueError for one that the GPU lacks."""
        found = self.kernels.get(precision)
        if found is not None:
            return found
        peak = peak_of(precision, self.peaks_flops_per_s)
        lender = next(each for each in STAND_INS[precision] if each in self.kernels)
        return self.kernels[lender].standing_in(precision, peak)

    def time_s(
        self,
        rows: int,
        hit: int,
        experts: int,
        hidden: int,
        width: int,
        gated: bool,
        precision: str,
        passed: int = 0,
    ) -> float:
        """Seconds of one call: permute, grouped products, activation, un-permute.

        rows: (token, choice) pairs of the `experts` held here; hit: how many of those have a row. width: an expert's
        intermediate width on this rank. passed: pairs of tokens seen here whose expert another rank holds, which
        kernels skip at a cost (an engine that gathers all tokens on all ranks). Nothing at all takes no time.
        ValueError for sizes that do not fit, or a precision that the GPU lacks.
        """
        if min(hidden, width) < 1 or passed < 0 or not (0 <= hit <= min(rows, experts)) or (rows and not hit):
            raise ValueError(
                f"need hidden and width of 1 or more, passed of 0 or more, 1 <= hit <= rows and experts: rows={rows}, "
                f"hit={hit}, experts={experts}, hidden={hidden}, width={width}, passed={passed}"
            )
        if not rows and not passed:
            return 0.0
        return self.of(precision).time_s(rows, hit, hidden, width, gated, passed)

    def moved_to(
        self, gpu: str, peaks_flops_per_s: Mapping[str, float], memory_bandwidth_bytes_per_s: float
    ) -> ExpertsModel:
        """The same kernels on another GPU's facts; precisions that it lacks go."""
        kept = {}
        for precision, each in self.kernels.items():
            format_ = {"nvfp4": "fp4"}.get(precision, precision.partition("-")[0])
            if format_ in peaks_flops_per_s or precision in ("int4", "mxfp4"):
                peak = peak_of(precision, peaks_flops_per_s)
                kept[precision] = each.moved_to(self.gpu, peak, memory_bandwidth_bytes_per_s)
        return ExpertsModel(gpu, dict(peaks_flops_per_s), kept)

    @classmethod
    def roofline(
        cls, gpu: str, peaks_flops_per_s: Mapping[str, float], memory_bandwidth_bytes_per_s: float
    ) -> ExpertsModel:
        """Of a GPU nobody measured and that is like none: typical shares of its peaks."""
        table = {
            "precision": "bf16", "peak_flops_per_s": peaks_flops_per_s["bf16"], "bytes_per_value": 2.0,
            "memory_bandwidth_bytes_per_s": memory_bandwidth_bytes_per_s,
            "source": "assumed: typical shares of the peaks of nine measured GPUs", **TYPICAL,
        }  # fmt: skip
        return cls(gpu, dict(peaks_flops_per_s), {"bf16": GroupedKernels(**table)})  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal model back."""
        kernels = {p: {**asdict(each), "efficiencies": list(each.efficiencies)} for p, each in self.kernels.items()}
        return {"gpu": self.gpu, "peaks_flops_per_s": dict(self.peaks_flops_per_s), "kernels": kernels}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExpertsModel:
        """ValueError for a missing or unknown key, or for values the model refuses."""
        what = "experts model"
        table = mapping(data, what)
        return value_of(
            cls,
            table,
            what,
            peaks_flops_per_s=peaks_from(table.get("peaks_flops_per_s"), what),
            kernels={
                p: value_of(GroupedKernels, each, f"{what}: {shown(p)}")
                for p, each in mapping(table.get("kernels"), f"{what}: kernels").items()
            },
        )


def peaks_from(given: object, what: str) -> dict[str, float]:
    """FLOP/s by format, from a table. ValueError for what is none."""
    name = f"{what}: peaks_flops_per_s"
    return {key: number(value, f"{name}: {shown(key)}", COMPUTE) for key, value in mapping(given, name).items()}
