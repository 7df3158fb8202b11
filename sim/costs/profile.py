"""Profiles: the only place where seconds come from.

A GPU profile holds what one GPU's kernels cost; a fabric profile what a collective library makes of a fabric's links.
Both are JSON files (`shipped.py` finds them), written by `make calibrate` from the tables in `validation/published/`,
or by a user's own measurements. Every number names its source. A GPU without a file of its own gets its relative's
efficiencies at its own peaks (`GpuProfile.moved_to`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain, pairwise
from math import exp, isfinite, log
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from thinwire.edge.limits import CHANNELS, CHUNKS, COMPUTE, EFFICIENCY, RANKS, SECONDS
from thinwire.edge.words import cut, refusal, shown
from thinwire.reference.core.scheme import Collective
from thinwire.sim.costs.attention import AttentionModel
from thinwire.sim.costs.decode_attention import DecodeAttentionModel
from thinwire.sim.costs.elementwise import ElementwiseModel
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.heads import NO_HEADS, Cache, Heads
from thinwire.sim.costs.spread import Real, Spread, Whole, check_source
from thinwire.sim.costs.transfer import Relation, longest_rate, products_of, sentences
from thinwire.topologies.cluster import Gpu

if TYPE_CHECKING:  # a dense model never needs them
    from thinwire.sim.costs.experts import ExpertsModel
    from thinwire.sim.costs.latent import LatentModel
    from thinwire.sim.costs.recurrent import RecurrentModel


@dataclass(frozen=True, slots=True)
class Quantity:
    """A named number with the place it was learnt from: `datasheet: ...`, `measured: ...` or `assumed: ...`."""

    value: Real
    source: str

    def __post_init__(self) -> None:
        check_source(self.source)
        if not (isfinite(self.value) and self.value >= 0):
            raise ValueError(f"a quantity is finite and not negative: {self.value} ({cut(self.source)})")


@dataclass(frozen=True, slots=True)
class FitRecord:
    """What a part of a profile was fitted to, and what the fit leaves: |predicted / measured - 1| of those rows."""

    what: str
    table: str  # in validation/published/
    rows: str  # numbers from 0, as ranges: "0-52,104"
    median: Real
    percentile_90: Real
    worst: Real


@dataclass(frozen=True, slots=True)
class CodecKernel:
    """One kernel of one codec, timed itself: `call_s` a call, and `value_s` a value (a reduce: of each copy)."""

    codec: str  # its spec; raw formats too
    kind: Literal["encode", "reduce", "decode"]
    call_s: Real
    value_s: Real
    source: str

    def __post_init__(self) -> None:
        check_source(self.source)
        if not all(map(SECONDS.holds, (self.call_s, self.value_s))):
            raise ValueError(f"times lie {SECONDS.range} s: {shown(self)}")


@dataclass(frozen=True, slots=True)
class CompiledCodec:
    """One codec's kernels priced from their compiled instructions: (seconds a call, seconds a value) of each part.

    copy: of each copy of a sum; total: of a sum that is stored; again: of one that is encoded instead. A launch is in
    the calls of all but `copy`.
    """

    codec: str  # its spec
    encode: tuple[Real, Real]
    copy: tuple[Real, Real]
    total: tuple[Real, Real]
    again: tuple[Real, Real]
    decode: tuple[Real, Real]

    def __post_init__(self) -> None:
        numbers = chain(self.encode, self.copy, self.total, self.again, self.decode)
        if not all(map(SECONDS.holds, numbers)):
            raise ValueError(f"times lie {SECONDS.range} s: {shown(self)}")

    def scaled(self, factor: float) -> "CompiledCodec":
        """Everything so many times as slow."""

        def slower(part: tuple[float, float]) -> tuple[float, float]:
            return factor * part[0], factor * part[1]

        parts = map(slower, (self.encode, self.copy, self.total, self.again, self.decode))
        return CompiledCodec(self.codec, *parts)


@dataclass(frozen=True, slots=True)
class CodecCost:
    """Cost of codec kernels: a time a pass, and bytes over a share of the memory bandwidth.

    Encoded buffers have a share of their own: memory that peers may write can be slower than the GPU's own. `timed`
    holds kernels whose cost is no matter of bytes (a CPU's) and goes before the rest. `compiled` holds kernels of their
    own, priced whole as `compiled_source` says; fused ones are a matter of bytes all the same.
    """

    fused_pass_s: Quantity  # inside the collective's kernel
    separate_pass_s: Quantity  # as a launch of its own
    local_share: Quantity
    wire_share: Quantity
    timed: tuple[CodecKernel, ...] = ()
    compiled: tuple[CompiledCodec, ...] = ()
    compiled_source: str = ""

    def __post_init__(self) -> None:
        for name in ("local_share", "wire_share"):
            EFFICIENCY.check(name, getattr(self, name).value)
        for name in ("fused_pass_s", "separate_pass_s"):
            SECONDS.check(name, getattr(self, name).value)
        if self.compiled:
            check_source(self.compiled_source)

    def moved(self, relative: str, slower: float) -> "CodecCost":
        """What was priced for a `relative`, for a GPU that executes and copies so many times as slowly."""
        source = f"assumed: as on {relative}, times {slower:.3g} ({self.compiled_source.removeprefix('assumed: ')})"
        lines = tuple(line.scaled(slower) for line in self.compiled)
        return replace(self, compiled=lines, compiled_source=source if lines else "")


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """What kernels cost on one GPU."""

    name: str
    gpu: str
    gemm: Mapping[str, GemmModel]  # by weight precision: bf16, fp8
    attention: AttentionModel
    decode_attention: DecodeAttentionModel
    elementwise: ElementwiseModel
    sustained_flops_per_s: Mapping[str, Quantity]  # what power allows over a whole prefill, by precision
    kernel_gap_s: Quantity  # idle time between two kernels of an eagerly launched layer
    codec: CodecCost
    assumptions: tuple[str, ...] = ()
    fits: tuple[FitRecord, ...] = ()
    spreads: tuple[Spread, ...] = ()  # of gemm (m), both attentions (keys), elementwise (bytes), gap, codec, prefill
    # A user's own; None: as `shipped.mixture_of` finds them when a kernel asks.
    experts: "ExpertsModel | None" = None
    latent: "LatentModel | None" = None
    recurrent: "RecurrentModel | None" = None
    heads: Heads = NO_HEADS  # attention of other heads, windows and caches than the two models': a file of its own

    def attention_for(self, head_dim: int, window: int | None, cache: Cache = "bf16") -> AttentionModel:
        """What prices prefill attention of such calls."""
        return self.heads.attention(self.attention, head_dim, window, cache)

    def decode_attention_for(self, head_dim: int, window: int | None, cache: Cache = "bf16") -> DecodeAttentionModel:
        """What prices decode attention of such calls."""
        return self.heads.decode_attention(self.decode_attention, head_dim, window, cache)

    def __post_init__(self) -> None:
        given, ceilings = sorted(self.gemm), sorted(self.sustained_flops_per_s)
        if "bf16" not in given or given != ceilings:
            raise ValueError(
                f"profile {cut(self.name)}: gemm and sustained_flops_per_s name the same precisions, bf16 among them: "
                f"{shown(given)} and {shown(ceilings)}"
            )
        for precision, ceiling in self.sustained_flops_per_s.items():
            COMPUTE.check(f"sustained_flops_per_s.{cut(precision)}", ceiling.value)
        SECONDS.check("kernel_gap_s", self.kernel_gap_s.value)

    def moved_to(self, gpu: Gpu, lender: Gpu, relation: Relation, spreads: Sequence[Spread]) -> "GpuProfile":
        """The same kernels' efficiencies at the peaks of a GPU that nobody measured. Ceilings keep their share of the
        longest-running product, codec kernels theirs of the memory bandwidth, or of the multiprocessors, clocks taken
        alike, where these are fewer; precisions that `gpu` lacks go.

        lender: the GPU that this profile is of. spreads: how far off such profiles are (`transferred.json`).
        """

        def assumed(known: Quantity, scale: float = 1.0) -> Quantity:
            return Quantity(known.value * scale, f"assumed: as on {self.gpu} ({known.source})")

        peaks = gpu.peak_flops_per_s
        memory = gpu.memory_bandwidth_bytes_per_s
        slower = max(lender.memory_bandwidth_bytes_per_s / memory, lender.sm_count / gpu.sm_count)
        gemm = {p: products_of(model, gpu, relation) for p, model in self.gemm.items() if p in peaks}
        return GpuProfile(
            name=gpu.name,
            gpu=gpu.name,
            gemm=gemm,
            attention=self.attention.moved_to(gpu.name, peaks["bf16"], memory, gpu.sm_count),
            decode_attention=self.decode_attention.moved_to(gpu.name, memory, gpu.sm_count),
            elementwise=self.elementwise.moved_to(gpu.name, memory),
            sustained_flops_per_s={
                p: assumed(self.sustained_flops_per_s[p], longest_rate(model) / longest_rate(self.gemm[p]))
                for p, model in gemm.items()
            },
            kernel_gap_s=assumed(self.kernel_gap_s),
            codec=replace(
                self.codec.moved(self.gpu, slower),
                fused_pass_s=assumed(self.codec.fused_pass_s),
                separate_pass_s=assumed(self.codec.separate_pass_s),
                local_share=assumed(self.codec.local_share),
                wire_share=assumed(self.codec.wire_share),
                timed=(),
            ),
            assumptions=sentences(gpu, self.gpu, relation, gemm["bf16"]),
            spreads=tuple(s for s in spreads if s.part.removeprefix("gemm ") in gemm or not s.part.startswith("gemm ")),
            heads=self.heads.moved_to(gpu.name, memory, gpu.sm_count, f"assumed: as on {self.gpu} ({relation})"),
        )


@dataclass(frozen=True, slots=True)
class Protocol:
    """What one library makes of one primitive at one rank count.

    A call costs `launch_s` once and `hop_s` each step, plus its bytes at `efficiency(bytes_per_rank)` of the rate the
    network would give; `bytes_per_rank` is what one rank sends in the whole call. Efficiency is interpolated on log-log
    axes and constant outside the knots; bytes / efficiency rises from knot to knot (checked), so more bytes are never
    faster.
    """

    library: str
    op: str
    primitive: str
    ranks: Whole
    launch_s: Real
    hop_s: Real
    knots: tuple[tuple[Real, Real], ...]  # (bytes_per_rank, efficiency)
    channels: Whole  # connections side by side between two ranks: each gets a link's per-flow cap
    source: str
    posted: bool = False  # sockets: a rank hands over what it sends and goes on; a GPU's kernels stay until it is sent

    def __post_init__(self) -> None:
        check_source(self.source)
        key = shown(self.key)
        if self.primitive not in STAND_INS or not RANKS.holds(self.ranks):
            allowed = ", ".join(STAND_INS)
            raise ValueError(f"protocol {key}: needs ranks {RANKS.range} and a primitive among {allowed}")
        if not all(isfinite(x) for x in (self.launch_s, self.hop_s, *chain.from_iterable(self.knots))):
            raise ValueError(f"protocol {key}: numbers must be finite")
        times = SECONDS.holds(self.launch_s) and SECONDS.holds(self.hop_s)
        if not (self.knots and times and CHANNELS.holds(self.channels)):
            raise ValueError(
                f"protocol {key}: needs knots, launch_s and hop_s {SECONDS.range}, channels {CHANNELS.range} "
                f"(given {len(self.knots)} knots, {self.launch_s}, {self.hop_s}, {self.channels})"
            )
        if self.posted and self.primitive == "nvls":
            raise ValueError(f"protocol {key}: a switch that sums needs every rank, so nvls cannot be posted")
        for nbytes, efficiency in self.knots:
            if not (nbytes > 0 and EFFICIENCY.holds(efficiency)):
                raise ValueError(
                    f"protocol {key}: knots are bytes above 0 and an efficiency {EFFICIENCY.range}: "
                    f"{nbytes}, {efficiency}"
                )
        for (low, slow), (high, fast) in pairwise(self.knots):
            if not (high > low and high / fast >= low / slow * (1 - 1e-9)):
                raise ValueError(f"protocol {key}: bytes/efficiency must rise, knots {(low, slow)} and {(high, fast)}")

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What the entry is looked up by."""
        return self.library, self.op, self.primitive, self.ranks

    @property
    def hops(self) -> int:
        """Messages of one size that a rank sends in the whole call, chunk by chunk."""
        return max(1, self.ranks - 1) * (2 if self.op == "all_reduce" else 1)

    def efficiency(self, bytes_per_rank: float) -> float:
        """Share of the network's rate reached when a rank sends `bytes_per_rank` in all."""
        knots = self.knots
        if bytes_per_rank <= knots[0][0]:
            return knots[0][1]
        for (low, slow), (high, fast) in pairwise(knots):
            if bytes_per_rank <= high:
                share = log(bytes_per_rank / low) / log(high / low)
                return exp(log(slow) + share * (log(fast) - log(slow)))
        return knots[-1][1]


ASKED_FOR = ("pcie-ipc",)  # libraries that run when asked for by name: the last to stand in for others
# Where a fabric lacks a primitive, the nearest in kind stands in, in this order; the prediction says so.
STAND_INS: Mapping[str, tuple[str, ...]] = {
    "all_to_all": ("all_gather", "reduce_scatter", "ring"),
    "all_gather": ("all_to_all", "reduce_scatter", "ring"),
    "reduce_scatter": ("all_to_all", "all_gather", "ring"),
    "ring": ("all_to_all", "all_gather", "nvls"),
    "tree": ("ring", "all_to_all", "nvls"),
    "nvls": ("ring", "all_to_all"),
}


@dataclass(frozen=True, slots=True)
class Baseline:
    """One way a library or engine carries an uncompressed op; `chunks` pieces of the message are pipelined through
    its steps.
    """

    library: str
    collective: str
    chunks: Whole = 1

    def __post_init__(self) -> None:
        if self.collective not in get_args(Collective) or not CHUNKS.holds(self.chunks):
            raise ValueError(
                f"a baseline needs a collective and chunks {CHUNKS.range}: {shown(self.collective)}, {self.chunks}"
            )


@dataclass(frozen=True, slots=True)
class FabricProfile:
    """What the collective libraries make of one fabric."""

    name: str
    protocols: tuple[Protocol, ...]
    baseline: Mapping[str, tuple[Baseline, ...]]  # op -> what an engine's uncompressed op chooses from
    libraries: Mapping[str, str]  # who carries encoded bytes, by codec launch: "separate", "fused"
    assumptions: tuple[str, ...] = ()
    fits: tuple[FitRecord, ...] = ()
    within: str | None = None  # the fabric of one island, where this one joins several
    spreads: tuple[Spread, ...] = ()  # of what each library carries, by bytes of the message, and of stand-ins
    own: tuple[str, ...] = ()  # carriers timed on the user's very host: what other hosts differ by is no part of theirs

    def protocol(self, library: str, op: str, primitive: str, ranks: int) -> tuple[Protocol, str]:
        """The entry to use and, where it is not the one asked for, a sentence saying what stands in (else "")."""
        best: Protocol | None = None
        best_rank: tuple[float, ...] = ()
        order = (primitive, *STAND_INS.get(primitive, ()))
        chosen_from = {choice.library for choices in self.baseline.values() for choice in choices}
        for p in self.protocols:
            if p.primitive not in order:
                continue
            rank = (
                float(p.library in ASKED_FOR and p.library != library),
                float(order.index(p.primitive)),
                float(p.library != library),
                float(p.op != op),
                float(p.library not in chosen_from),
                abs(log(p.ranks / ranks)),
                float(p.ranks),
            )
            if best is None or rank < best_rank:
                best, best_rank = p, rank
        if best is None:
            raise ValueError(
                f"fabric {self.name} has no protocol for {primitive}; "
                f"it has {', '.join(sorted({p.primitive for p in self.protocols}))}"
            )
        if best.key == (library, op, primitive, ranks) or (best.primitive, best.library, best.ranks) == (
            primitive,
            library,
            ranks,
        ):
            return best, ""
        return best, (
            f"{self.name}: no measurement of {primitive} by {library} on {ranks} ranks; its software latency and "
            f"efficiency are those of {best.primitive} by {best.library} on {best.ranks} ranks"
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """A GPU's and a fabric's costs together."""

    gpu: GpuProfile
    fabric: FabricProfile

    @property
    def name(self) -> str:
        """Both names, for people."""
        return f"gpu-{self.gpu.name} + fabric-{self.fabric.name}"


STRICT = ConfigDict(extra="forbid")


@checked(frozen=True, config=STRICT)
class _GpuFile:
    """A GPU profile as it stands in its file: the kernels' models still as plain tables."""

    name: str
    gpu: str
    gemm: dict[str, Any]
    attention: Any
    decode_attention: Any
    elementwise: Any
    sustained_flops_per_s: dict[str, Quantity]
    kernel_gap_s: Quantity
    codec: CodecCost
    assumptions: tuple[str, ...] = ()
    fits: tuple[FitRecord, ...] = ()
    spreads: tuple[Spread, ...] = ()
    experts: Any = None
    latent: Any = None
    recurrent: Any = None


def gpu_profile(data: Mapping[str, Any]) -> GpuProfile:
    """A GPU profile from the contents of its file. Raises ValueError naming what is wrong."""
    file = _validated(TypeAdapter(_GpuFile), data)
    try:
        return GpuProfile(
            name=file.name,
            gpu=file.gpu,
            gemm={precision: GemmModel.from_dict(table) for precision, table in file.gemm.items()},
            attention=AttentionModel.from_dict(file.attention),
            decode_attention=DecodeAttentionModel.from_dict(file.decode_attention),
            elementwise=ElementwiseModel.from_dict(file.elementwise),
            sustained_flops_per_s=file.sustained_flops_per_s,
            kernel_gap_s=file.kernel_gap_s,
            codec=file.codec,
            assumptions=file.assumptions,
            fits=file.fits,
            spreads=file.spreads,
            **mixture_models({name: getattr(file, name) for name in MIXTURE}),
        )
    except ValueError as error:
        raise ValueError(f"profile {cut(file.name)}: {error}") from None


MIXTURE = ("experts", "latent", "recurrent")


def mixture_models(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The models of routed experts, latent attention and layers with a state from their tables, where there are any.
    ValueError as `from_dict` of each.
    """
    given = {name: table for name, table in tables.items() if table is not None}
    if not given:
        return {}
    from thinwire.sim.costs.experts import ExpertsModel
    from thinwire.sim.costs.latent import LatentModel
    from thinwire.sim.costs.recurrent import RecurrentModel

    known = {"experts": ExpertsModel, "latent": LatentModel, "recurrent": RecurrentModel}
    return {name: known[name].from_dict(table) for name, table in given.items()}  # type: ignore[attr-defined]


@checked(frozen=True, config=STRICT)
class _FabricFile:
    """A fabric profile as it stands in its file."""

    name: str
    protocols: tuple[Protocol, ...]
    baseline: dict[str, tuple[Baseline, ...]]
    libraries: dict[str, str]
    assumptions: tuple[str, ...] = ()
    fits: tuple[FitRecord, ...] = ()
    within: str | None = None
    spreads: tuple[Spread, ...] = ()
    own: tuple[str, ...] = ()


CODEC_ALWAYS = ("fused_pass_s", "separate_pass_s", "local_share", "wire_share")


def gpu_profile_dict(profile: GpuProfile) -> dict[str, Any]:
    """What `gpu_profile` reads."""
    codec = {key: value for key, value in asdict(profile.codec).items() if value or key in CODEC_ALWAYS}
    return {
        "name": profile.name,
        "gpu": profile.gpu,
        "sustained_flops_per_s": {p: asdict(q) for p, q in profile.sustained_flops_per_s.items()},
        "kernel_gap_s": asdict(profile.kernel_gap_s),
        "codec": codec,
        "assumptions": list(profile.assumptions),
        "fits": [asdict(fit) for fit in profile.fits],
        "spreads": [asdict(spread) for spread in profile.spreads],
        "elementwise": profile.elementwise.to_dict(),
        "attention": profile.attention.to_dict(),
        "decode_attention": profile.decode_attention.to_dict(),
        "gemm": {precision: model.to_dict() for precision, model in profile.gemm.items()},
        **{name: its.to_dict() for name in MIXTURE if (its := getattr(profile, name)) is not None},
    }


def fabric_profile(data: Mapping[str, Any]) -> FabricProfile:
    """A fabric profile from the contents of its file. Raises ValueError naming what is wrong."""
    file = _validated(TypeAdapter(_FabricFile), data)
    if set(file.libraries) != {"separate", "fused"}:
        given = shown(sorted(file.libraries))
        raise ValueError(f"fabric {cut(file.name)}: libraries must be separate and fused: {given}")
    return FabricProfile(**{each.name: getattr(file, each.name) for each in fields(FabricProfile)})


def fabric_profile_dict(profile: FabricProfile) -> dict[str, Any]:
    """What `fabric_profile` reads."""
    protocols = [{k: v for k, v in asdict(p).items() if v or k != "posted"} for p in profile.protocols]
    own = {"own": list(profile.own)} if profile.own else {}
    return {k: v for k, v in asdict(profile).items() if k != "own"} | {"protocols": protocols} | own


def _validated(adapter: TypeAdapter[Any], data: Mapping[str, Any]) -> Any:
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(cut(str(part)) for part in first["loc"])
        name = cut(str(data.get("name", "?"))) if isinstance(data, Mapping) else "?"
        raise ValueError(f"profile {name}: {where}: {refusal(first)}") from None
