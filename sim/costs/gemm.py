"""What one matrix product costs on one GPU: a roofline that knows tiles and waves, corrected by measurements.

C[m, n] = A[m, k] B[k, n] is cut into tiles; `sm_count` tiles run at a time, a wave, and a last wave that is not full
takes as long as a full one. The roofline is

    time    = launch + soft maximum of compute and memory (+ quantising A in fp8, + padding m to a multiple of 4)
    compute = least over tile shapes and splits of k of: waves x (wave_s + a tile at that shape's efficiency) + split_s
    memory  = bytes of A, B and C / (bandwidth x efficiency)

with a few numbers per GPU and dtype. It never decreases in m, n or k. What a library really does (which tile it picks
when, caches, clocks) is in the rest: log(measured / roofline), a correction of the efficiency, is interpolated between
the measured products by kriging (Gaussian-process regression) over log m, log n, log k, the place of m in its tile and
how full the last waves are. `validation/fits/gemm.py` fits both; docs/decisions/003-gemm-model.md says why and how
well.

The promise: `time_s` never decreases in m (within an alignment class, see `GemmModel`). In n and k the roofline never
decreases but the correction may: the decision record says by how much it does, and the tests hold it to that.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from thinwire.edge.limits import LOG_FACTOR, WIDTH
from thinwire.edge.words import cut, shown
from thinwire.reference.core.precision import BITS
from thinwire.sim.costs.tables import listed, mapping, numbers, value_of

Floats = npt.NDArray[np.float64]

TILES = ((64, 64), (64, 128), (128, 128), (128, 256), (256, 128), (256, 256))  # rows of m x columns of n
SPLITS = (2, 4, 8)  # parts that k may be cut into, to fill the SMs
WAVE_TILES = ((64, 128), (128, 128), (128, 256), (256, 128))  # the tiles whose last wave the correction looks at
SOFTNESS = 8  # exponent of the soft maximum of compute and memory: at a tie 9 % above either
PADDED_ROWS = 4  # block-scaled fp8 on Hopper wants m in multiples of 4 (vllm-project/vllm#23280, #43706, #30717) ...
PADDED_ABOVE = 256  # ... and pays for padding above this m: below, the measured rows show no difference
OUTPUT_BYTES = 2  # C is bf16 whatever the operands are
B_BYTES: Mapping[str, float] = {precision: bits / 8 for precision, bits in BITS.items()}  # a value, scales included
# Of A: in weight-only products (int4, mxfp4) bf16; fp8-block scales 128 values of a row, nvfp4 16.
A_BYTES: Mapping[str, float] = {
    "bf16": 2, "fp8": 1, "fp8-block": 1 + 4 / 128, "int8": 1, "int4": 2, "nvfp4": 0.5 + 1 / 16, "mxfp4": 2,
}  # fmt: skip
# Whose rate of a GPU's file a precision's products run at: of weight-only ones, whose kernels unpack weights, bf16's.
PEAK: Mapping[str, str] = {
    "bf16": "bf16", "fp8": "fp8", "fp8-block": "fp8", "int8": "int8", "int4": "bf16", "nvfp4": "fp4", "mxfp4": "bf16",
}  # fmt: skip
ROW_STEP: Mapping[str, int] = {"int4": 16, "mxfp4": 16}  # `Roofline.row_step` of weight-only kernels, as Marlin's
LARGEST_CORRECTION = 10  # of a logarithm: whatever weights add up to, the roofline is not wrong by 20,000
FORM = 1  # of the JSON: raised when TILES, the features or the formulas change, since weights fitted to others mislead

Tiles = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The numbers of a GPU that a matrix product depends on; the peak is the dense one of the dtype in question."""

    name: str
    peak_flops_per_s: float
    memory_bandwidth_bytes_per_s: float
    sm_count: int

    def __post_init__(self) -> None:
        for name in ("peak_flops_per_s", "memory_bandwidth_bytes_per_s", "sm_count"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite: {value} ({self.name or 'unnamed GPU'})")


@dataclass(frozen=True, slots=True)
class Roofline:
    """The roofline's numbers. Efficiencies are shares of the GPU's peaks, so they carry over to a GPU of the same kind.

    Args:
        launch_s: floor of any product.
        wave_s: start and end of one wave of tiles (pipeline fill, epilogue).
        bandwidth_efficiency: share of the memory bandwidth that a memory-bound product reaches.
        tile_efficiencies: share of the peak that full waves of each of `TILES` reach; 0 for a tile that is not used.
        split_s: cost of adding up the parts when k is split; None where the library does not split (fp8 in vLLM).
        quantise_passes: time of quantising A on the fly, in passes over it (read bf16, write A's format: 3 m k bytes in
            fp8) at the full bandwidth; 0 where A stays bf16, or was measured without.
        row_step: a tile taller than m does the work of m rows, rounded up to so many, as kernels made for decode do; 0:
            that of all its rows.
        pad_launch_s, pad_passes: fp8 on Hopper only, m above 256 and not a multiple of 4. Copying A and C to and from
            padded buffers: a fixed cost and passes over 2 m k + 4 m n bytes at the full bandwidth.
    """

    launch_s: float
    wave_s: float
    bandwidth_efficiency: float
    tile_efficiencies: Tiles
    split_s: float | None = None
    quantise_passes: float = 0.0
    pad_launch_s: float = 0.0
    pad_passes: float = 0.0
    row_step: int = 0

    def __post_init__(self) -> None:
        if len(self.tile_efficiencies) != len(TILES):
            raise ValueError(
                f"{len(TILES)} tile efficiencies, one for each of {TILES}: {len(self.tile_efficiencies)} given"
            )
        positive = (self.bandwidth_efficiency, max(self.tile_efficiencies))
        others = (
            self.launch_s,
            self.wave_s,
            self.split_s or 0.0,
            self.quantise_passes,
            self.pad_launch_s,
            self.pad_passes,
            self.row_step,
        )
        if min(positive) <= 0 or min(*others, *self.tile_efficiencies) < 0:
            raise ValueError(f"times and passes must not be negative, efficiencies must be positive: {shown(self)}")

    @property
    def padded(self) -> bool:
        """Does an m that is not a multiple of 4 cost extra?"""
        return self.pad_launch_s > 0 or self.pad_passes > 0

    @property
    def _splits(self) -> tuple[int, ...]:
        return () if self.split_s is None else SPLITS

    def times_s(self, gpu: GpuFacts, dtype: str, m: Floats, n: Floats, k: Floats) -> Floats:
        """Roofline time of many products (arrays of one shape, or that broadcast to one)."""
        a_bytes, b_bytes, bandwidth = A_BYTES[dtype], B_BYTES[dtype], gpu.memory_bandwidth_bytes_per_s
        per_sm = gpu.peak_flops_per_s / gpu.sm_count
        compute = np.full(np.broadcast(m, n, k).shape, np.inf)
        for (rows, columns), efficiency in zip(TILES, self.tile_efficiencies, strict=True):
            if efficiency > 0:
                tiles = np.ceil(m / rows) * np.ceil(n / columns)
                worked = np.minimum(rows, np.ceil(m / self.row_step) * self.row_step) if self.row_step else rows
                tile_s = 2 * worked * columns * k / (per_sm * efficiency)
                compute = np.minimum(compute, np.ceil(tiles / gpu.sm_count) * (self.wave_s + tile_s))
                for parts in self._splits:
                    waves = np.ceil(parts * tiles / gpu.sm_count)
                    compute = np.minimum(compute, waves * (self.wave_s + tile_s / parts) + (self.split_s or 0.0))
        moved_bytes = a_bytes * m * k + b_bytes * n * k + OUTPUT_BYTES * m * n
        memory = moved_bytes / (bandwidth * self.bandwidth_efficiency)
        larger = np.maximum(compute, memory)
        time = larger * (1 + (np.minimum(compute, memory) / larger) ** SOFTNESS) ** (1 / SOFTNESS) + self.launch_s
        if self.quantise_passes:
            time = time + self.quantise_passes * (2 + a_bytes) * m * k / bandwidth
        if self.padded:
            copied = 2 * a_bytes * m * k + 2 * OUTPUT_BYTES * m * n
            time = time + unaligned(m) * (self.pad_launch_s + self.pad_passes * copied / bandwidth)
        return np.asarray(time, dtype=np.float64)

    def time_s(self, gpu: GpuFacts, dtype: str, m: int, n: int, k: int) -> float:
        """The same for one product, without numpy: a few microseconds."""
        a_bytes, b_bytes = A_BYTES[dtype], B_BYTES[dtype]
        bandwidth, sms = gpu.memory_bandwidth_bytes_per_s, gpu.sm_count
        flops_s, split_s = 2 * k * sms / gpu.peak_flops_per_s, self.split_s or 0.0
        compute = math.inf
        for (rows, columns), efficiency in zip(TILES, self.tile_efficiencies, strict=True):
            if efficiency > 0:
                worked = min(rows, -(-m // self.row_step) * self.row_step) if self.row_step else rows
                tiles, tile_s = -(-m // rows) * -(-n // columns), worked * columns * flops_s / efficiency
                compute = min(compute, -(-tiles // sms) * (self.wave_s + tile_s))
                for parts in self._splits:
                    compute = min(compute, -(-parts * tiles // sms) * (self.wave_s + tile_s / parts) + split_s)
        moved_bytes = (a_bytes * m + b_bytes * n) * k + OUTPUT_BYTES * m * n
        memory = moved_bytes / (bandwidth * self.bandwidth_efficiency)
        larger = max(compute, memory)
        time: float = larger * (1 + (min(compute, memory) / larger) ** SOFTNESS) ** (1 / SOFTNESS) + self.launch_s
        time += self.quantise_passes * (2 + a_bytes) * m * k / bandwidth
        if m > PADDED_ABOVE and m % PADDED_ROWS:
            copied = 2 * a_bytes * m * k + 2 * OUTPUT_BYTES * m * n
            time += self.pad_launch_s + self.pad_passes * copied / bandwidth
        return time


@dataclass(frozen=True, slots=True)
class Correction:
    """log(measured / roofline) at any product, as weights on the measured ones.

    Args:
        m: measured m, ascending.
        shapes: measured (n, k).
        weights: one row per shape, one weight per m; 0 where nothing was measured.
        lengths: distance, in each of the features of `features`, over which the correction decays to 1/e.
    """

    m: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    weights: tuple[tuple[float, ...], ...]
    lengths: tuple[float, ...]

    def __post_init__(self) -> None:
        if (
            not self.shapes
            or len(self.weights) != len(self.shapes)
            or any(len(row) != len(self.m) for row in self.weights)
        ):
            given = [len(row) for row in self.weights]
            shape = f"{len(self.shapes)} rows (shapes, at least one) of {len(self.m)} (m)"
            raise ValueError(f"weights must be {shape}: rows of {shown(given)}")
        if list(self.m) != sorted(set(self.m)) or not self.m or self.m[0] < 1:
            raise ValueError(f"m must be positive and strictly ascending: {shown(self.m)}")
        if len(self.lengths) != FEATURES or not min(self.lengths) > 0:
            raise ValueError(f"lengths must be {FEATURES} positive numbers: {shown(self.lengths)}")


def unaligned(m: Floats) -> Floats:
    """1 where m pays for padding on a GPU that pads, 0 elsewhere."""
    return np.where((m > PADDED_ABOVE) & (m % PADDED_ROWS != 0), 1.0, 0.0)


FEATURES = 6 + len(WAVE_TILES)


def features(gpu: GpuFacts, padded: bool, m: Floats, n: Floats, k: Floats) -> Floats:
    """Where a product lies for the correction: one row of `FEATURES` numbers each.

    log m, log n, log k; how many of 64, 128, 256 m exceeds (kernels are chosen by such bands); the share of its 256-row
    tile that m fills; whether m pays for padding; for each of `WAVE_TILES` log(room in its waves / tiles).
    """
    m, n, k = (np.asarray(axis, dtype=np.float64) for axis in np.broadcast_arrays(m, n, k))
    columns = [np.log(m), np.log(n), np.log(k), 1.0 * (m > 64) + (m > 128) + (m > 256), ((m - 1) % 256 + 1) / 256]
    columns.append(unaligned(m) if padded else np.zeros_like(m))
    for rows, width in WAVE_TILES:
        tiles = np.ceil(m / rows) * np.ceil(n / width)
        columns.append(np.log(np.ceil(tiles / gpu.sm_count) * gpu.sm_count / tiles))
    return np.stack(columns, axis=-1)


def covariance(a: Floats, b: Floats, lengths: Sequence[float]) -> Floats:
    """exp(-sum over features of |difference| / length) between each row of `a` and each of `b`."""
    distance, term = np.zeros((len(a), len(b))), np.empty((len(a), len(b)))
    for column, length in enumerate(lengths):  # in place: this is a third of what a first prediction takes
        np.subtract(a[:, column, None] / length, b[None, :, column] / length, out=term)
        distance += np.abs(term, out=term)
    return np.exp(np.negative(distance, out=distance), out=distance)


def isotonic(values: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `values` in squares (pool adjacent violators)."""
    means: list[float] = []
    counts: list[int] = []
    for value in values:
        mean, count = value, 1
        while means and means[-1] > mean:
            pooled = counts[-1] + count
            mean = (means.pop() * counts[-1] + mean * count) / pooled
            count = counts.pop() + count
        means.append(mean)
        counts.append(count)
    return [mean for mean, count in zip(means, counts, strict=True) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Ladder:
    """Time over m at one (n, k) and one alignment class: log times at knots, the roofline's shape between them."""

    m: tuple[int, ...]
    log_base: tuple[float, ...]
    log_time: tuple[float, ...]

    @classmethod
    def build(cls, m: Sequence[int], log_base: Sequence[float], correction: Sequence[float]) -> "Ladder":
        """The ladder of roofline plus correction at the knots, made non-decreasing."""
        corrected = isotonic([base + add for base, add in zip(log_base, correction, strict=True)])
        return cls(tuple(m), tuple(log_base), tuple(corrected))

    def log_time_at(self, m: int, log_base: float) -> float:
        """Log of the time at m, where the roofline gives `log_base`; outside the knots the nearest one's ratio holds.

        Between two knots the time moves as far from one to the other as the roofline does (in logs), so that its tile
        and wave steps show and it is non-decreasing because the roofline is. Where the roofline is flat, log m leads.
        """
        after = bisect_right(self.m, m)
        if after == 0:
            return self.log_time[0] + log_base - self.log_base[0]
        if after == len(self.m) or self.m[after - 1] == m:
            return self.log_time[after - 1] + log_base - self.log_base[after - 1]
        low, high = self.log_base[after - 1], self.log_base[after]
        if high - low > 1e-9:
            share = min(1.0, max(0.0, (log_base - low) / (high - low)))
        else:
            share = math.log(m / self.m[after - 1]) / math.log(self.m[after] / self.m[after - 1])
        return self.log_time[after - 1] + share * (self.log_time[after] - self.log_time[after - 1])


def knots(m: Sequence[int], padded: bool) -> tuple[tuple[int, ...], ...]:
    """The m at which ladders evaluate the correction: one tuple; if m is padded two, multiples of 4 and the others."""
    if not padded:
        return (tuple(m),)
    aligned = tuple(value for value in m if value % PADDED_ROWS == 0)
    others = {value for value in m if value % PADDED_ROWS} | {value - 1 for value in aligned if value > PADDED_ABOVE}
    return aligned, tuple(sorted(others))


@dataclass(frozen=True)
class GemmModel:
    """Time of C[m, n] = A[m, k] B[k, n] on one GPU, operands in `dtype`, C in bf16.

    Where the roofline is padded (fp8 on Hopper), m above 256 falls into two alignment classes: multiples of 4, and the
    others, which are slower (measured: m = 513 may take longer than m = 768). Elsewhere there is one class. Within a
    class `time_s` never decreases in m.

    Args:
        gpu: the facts the roofline's efficiencies are shares of.
        dtype: of A and B, a precision of weights.
        base: the roofline's numbers.
        correction: None for the pure roofline.
        source: where the numbers come from: `measured: ...` or `assumed: ...`.
    """

    gpu: GpuFacts
    dtype: str
    base: Roofline
    correction: Correction | None
    source: str
    _time_s: Callable[[int, int, int], float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in A_BYTES:
            raise ValueError(f"dtype must be one of {', '.join(A_BYTES)}: {shown(self.dtype)}")
        object.__setattr__(self, "_time_s", lru_cache(maxsize=1 << 16)(self._evaluator()))

    def __hash__(self) -> int:  # equal models have equal sources; hashing ten thousand weights would be slow
        return hash((self.gpu, self.dtype, self.source))

    def __getstate__(self) -> dict[str, Any]:
        return self.to_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(GemmModel.from_dict(state).__dict__)

    def time_s(self, m: int, n: int, k: int) -> float:
        """Seconds of one product; ValueError unless m, n and k are positive integers."""
        return self._time_s(m, n, k)

    def efficiency(self, m: int, n: int, k: int) -> float:
        """Share of the peak that the product reaches."""
        return 2 * m * n * k / self.time_s(m, n, k) / self.gpu.peak_flops_per_s

    def _evaluator(self) -> Callable[[int, int, int], float]:
        gpu, dtype, base = self.gpu, self.dtype, self.base
        ladders = None
        if self.correction is not None:
            ladders = lru_cache(maxsize=1 << 10)(_ladder_builder(gpu, dtype, base, self.correction))

        def time_s(m: int, n: int, k: int) -> float:
            if min(m, n, k) < 1:
                raise ValueError(f"a product needs positive sizes: m={m}, n={n}, k={k}")
            roofline_s = base.time_s(gpu, dtype, m, n, k)
            if ladders is None:
                return roofline_s
            classes = ladders(n, k)
            ladder = classes[0] if len(classes) == 1 or m % PADDED_ROWS == 0 else classes[1]
            log_time = ladder.log_time_at(m, math.log(roofline_s))
            if not abs(log_time - math.log(roofline_s)) <= LARGEST_CORRECTION:
                raise ValueError(
                    f"the correction of {cut(self.source)} makes exp({log_time:.3g}) s of a product that the roofline "
                    f"gives {roofline_s:.3g} s, m={m}, n={n}, k={k}; allowed is up to exp({LARGEST_CORRECTION}) times"
                )
            return math.exp(log_time)

        return time_s

    @classmethod
    def roofline(
        cls,
        peak_flops_per_s: float,
        memory_bandwidth_bytes_per_s: float,
        sm_count: int,
        dtype: str = "bf16",
        *,
        name: str = "",
        matmul_efficiency: float | None = None,
    ) -> "GemmModel":
        """The pure roofline with default efficiencies, for a GPU of which nothing is measured.

        Args:
            matmul_efficiency: share of the peak that large products reach where that is known (a measured matmul
                ceiling over the datasheet's peak); scales the tiles' efficiencies so that the best equals it.
        """
        gpu = GpuFacts(name, peak_flops_per_s, memory_bandwidth_bytes_per_s, sm_count)
        if dtype not in DEFAULT:
            raise ValueError(f"dtype must be one of {', '.join(DEFAULT)}: {shown(dtype)}")
        base = DEFAULT[dtype]
        source = "assumed: roofline pooled over the measured GPUs, docs/decisions/003-gemm-model.md"
        if matmul_efficiency is not None:
            base, source = _scaled(base, matmul_efficiency), f"{source}; matmul efficiency {matmul_efficiency:g}"
        return cls(gpu, dtype, base, None, source)

    def transferred(self, gpu: GpuFacts, matmul_efficiency: float | None = None) -> "GemmModel":
        """This model's efficiencies and correction on another GPU of the same architecture.

        Args:
            gpu: the other GPU. matmul_efficiency: as in `roofline`.
        """
        base = self.base if matmul_efficiency is None else _scaled(self.base, matmul_efficiency)
        source = f"assumed: as {self.gpu.name}, at this GPU's peaks" + (
            "" if matmul_efficiency is None else f"; matmul efficiency {matmul_efficiency:g}"
        )
        return GemmModel(gpu, self.dtype, base, self.correction, source)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able and compact: about 10 KB with a correction."""
        table: dict[str, Any] = {
            "form": FORM,
            "source": self.source,
            "dtype": self.dtype,
            "gpu": asdict(self.gpu),
            "base": _base_dict(self.base),
            "correction": None,
        }
        if self.correction is not None:
            table["correction"] = {
                "m": list(self.correction.m),
                "shapes": [list(shape) for shape in self.correction.shapes],
                "lengths": list(self.correction.lengths),
                "weights": [list(row) for row in self.correction.weights],
            }
        return table

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "GemmModel":
        """The model of `to_dict`; ValueError for values that are none, and for another form of the model."""
        given = mapping(table, "GEMM model")
        if given.get("form") != FORM:
            raise ValueError(
                f"GEMM model of form {shown(given.get('form'))}; this version reads form {FORM}: calibrate again"
            )
        correction = given.get("correction")
        return value_of(
            cls,
            {name: value for name, value in given.items() if name != "form"},
            "GEMM model",
            gpu=value_of(GpuFacts, given.get("gpu"), "GEMM model: gpu"),
            base=value_of(Roofline, given.get("base"), "GEMM model: base"),
            correction=None if correction is None else _correction(correction, "GEMM model: correction"),
        )


def _base_dict(base: Roofline) -> dict[str, Any]:
    table = asdict(base) | {"tile_efficiencies": list(base.tile_efficiencies)}
    return {name: value for name, value in table.items() if name != "row_step" or value}


def _correction(table: object, what: str) -> Correction:
    found = mapping(table, what)
    pairs = tuple(numbers(pair, f"{what}: shapes", WIDTH, whole=True) for pair in listed(found.get("shapes"), what))
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{what}: shapes are pairs of n and k")
    rows = listed(found.get("weights"), f"{what}: weights")
    weights = tuple(numbers(row, f"{what}: weights", LOG_FACTOR) for row in rows)
    return value_of(Correction, table, what, shapes=pairs, weights=weights)


def _ladder_builder(
    gpu: GpuFacts, dtype: str, base: Roofline, correction: Correction
) -> Callable[[int, int], tuple[Ladder, ...]]:
    """(n, k) -> its ladders. What does not depend on (n, k) is computed at the first call."""

    @lru_cache(maxsize=1)
    def measured() -> tuple[Floats, Floats]:
        m = np.array(correction.m, dtype=np.float64)
        shapes = np.array(correction.shapes, dtype=np.float64)
        grid = features(gpu, base.padded, m[None, :], shapes[:, :1], shapes[:, 1:]).reshape(-1, FEATURES)
        return grid, np.array(correction.weights).ravel()

    def ladders(n: int, k: int) -> tuple[Ladder, ...]:
        grid, weights = measured()
        built = []
        for rows in knots(correction.m, base.padded):
            m = np.array(rows, dtype=np.float64)
            width, depth = np.float64(n) + 0 * m, np.float64(k) + 0 * m
            here = features(gpu, base.padded, m, width, depth)
            here = np.clip(here, grid.min(axis=0), grid.max(axis=0))  # beyond the measured, the edge's correction holds
            add = covariance(here, grid, correction.lengths) @ weights
            log_base = np.log(base.times_s(gpu, dtype, m, width, depth))
            built.append(Ladder.build(rows, log_base.tolist(), add.tolist()))
        return tuple(built)

    return ladders


def _scaled(base: Roofline, matmul_efficiency: float) -> Roofline:
    if not 0 < matmul_efficiency <= 1:
        raise ValueError(f"matmul_efficiency must be in (0, 1]: {matmul_efficiency}")
    factor = matmul_efficiency / max(base.tile_efficiencies)
    return Roofline(
        **{**asdict(base), "tile_efficiencies": tuple(factor * efficiency for efficiency in base.tile_efficiencies)}
    )


# One roofline fitted to the rows of all measured GPUs together: `python -m thinwire.validation.fits.gemm --transfer`
# prints them. A tile of small efficiency is one that the fit never chooses.
DEFAULT: dict[str, Roofline] = {
    "bf16": Roofline(2.246e-6, 4.095e-8, 0.7638, (0.1408, 0.6433, 0.297, 0.7975, 0.7928, 0.7688), 3.135e-6),
    "fp8": Roofline(5.132e-6, 3.167e-6, 0.7994, (1.0, 0.5857, 0.7649, 0.2873, 0.6932, 0.258), None, 2.418),
}
