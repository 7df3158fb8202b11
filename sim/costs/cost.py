"""Seconds of every kernel: the profile asked by name and shape, nothing else.

A compute kernel costs what its model says (GEMM, attention, element-wise), at least what power allows over a whole
prefill, and the gap the engine leaves before the next launch. A codec kernel is bound by memory: it costs the bytes it
reads and writes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.core.lookup import entry_of
from thinwire.reference.core.schedule import Work
from thinwire.sim.choices import Launch
from thinwire.sim.costs.elementwise import elementwise_bytes
from thinwire.sim.costs.heads import Cache
from thinwire.sim.costs.profile import CompiledCodec, FabricProfile, GpuProfile, Profile, Quantity
from thinwire.sim.shapes import (
    Attend,
    AttendChunks,
    CrossAttend,
    DecodeAttend,
    Elementwise,
    Gemm,
    Kernel,
    LatentDecode,
    Recurrent,
    RoutedExperts,
)
from thinwire.topologies.cluster import Gpu

if TYPE_CHECKING:
    from thinwire.sim.costs.shipped import Mixture

BF16_BYTES = 2

# Parts of a profile's spreads that say how far codec kernels are off, the first that it has: fused ones, others.
CODEC_SPREADS: Mapping[bool, tuple[str, ...]] = {True: ("codec fused", "codec"), False: ("codec",)}

GRAPH_GAP = Quantity(0.0, "measured: the kernel tables are timed in CUDA-graph replays, gaps included")


@dataclass(frozen=True, eq=False)
class CostModel:
    """Turns shapes into seconds for one GPU on one fabric."""

    profile: Profile
    gpu: Gpu
    launch: Launch = "eager"
    cache: Cache = "bf16"  # precision of the KV cache

    def __post_init__(self) -> None:
        if self.launch not in get_args(Launch):
            raise ValueError(f"launch must be one of {', '.join(get_args(Launch))}: launch={self.launch!r}")

    @property
    def gap_s(self) -> Quantity:
        """Idle time between two kernels: what the engine's host leaves, or next to nothing in a graph."""
        return self.profile.gpu.kernel_gap_s if self.launch == "eager" else GRAPH_GAP

    @cached_property
    def mixture(self) -> "Mixture":
        """What kernels cost that only mixtures, latent attention and layers with a state have: read when asked for."""
        from thinwire.sim.costs.shipped import mixture_of

        return mixture_of(self.gpu, self.profile.gpu)

    @property
    def fabric(self) -> FabricProfile:
        """The fabric's half of the profile."""
        return self.profile.fabric

    def kernel_s(self, kernel: Kernel) -> float:
        """Seconds from this kernel's start to the next one's."""
        return _kernel_alone_s(self, self.profile.gpu, kernel) + self.gap_s.value

    def is_sustained(self, product: Gemm) -> bool:
        """Is a product held to the rate that power allows over a whole prefill?"""
        gpu = self.profile.gpu
        return gpu.gemm[product.precision].time_s(product.m, product.n, product.k) < _sustained_s(gpu, product)

    def codec_s(self, work: Iterable[Work], ranks: int, fused: bool) -> NDArray[np.float64]:
        """Codec time of each rank in one step, (R,).

        Kernels of their own read or write the tensor and the encoded buffers, and leave a gap as all kernels do. Fused
        into the collective's kernel they cost the encoded buffers alone: reading the tensor and writing the result is
        what an uncompressed collective does as well, and so part of its protocol's efficiency, as is the reduction of
        raw values, which need no codec. What a codec's registration says its kernels move beside that, and how many
        they are, counts either way. Kernels that the profile has timed themselves cost what they took. Kernels of their
        own that it has priced from their instructions cost that, in steps where it has all of them.
        """
        codec = self.profile.gpu.codec
        timed_s_R = np.zeros(ranks)
        if codec.timed:
            lines = {(line.codec, line.kind): line for line in codec.timed}
            rest = []
            for w in work:
                line = lines.get((w.codec.spec, w.kind))
                if line is None:
                    rest.append(w)
                else:
                    copies = len(w.sources) if w.kind == "reduce" else 1
                    timed_s_R[w.rank] += line.call_s + line.value_s * copies * len(w.interval)
            work = rest
        if codec.compiled and not fused:
            work = list(work)
            compiled_s_R = compiled_seconds(work, ranks, codec.compiled)
            if compiled_s_R is not None:
                passes_R = codec_traffic(work, ranks).passes_R
                timed_s_R += compiled_s_R + passes_R * self.gap_s.value
                work = [w for w in work if w.codec.is_raw]  # what rides along: bytes, and no passes
        moved = codec_traffic(work, ranks)
        bandwidth = self.gpu.memory_bandwidth_bytes_per_s
        wire_s = moved.wire_bytes_R / (bandwidth * codec.wire_share.value)
        if fused:
            extra_s = moved.extra_bytes_R / (bandwidth * codec.local_share.value)
            return timed_s_R + wire_s + moved.passes_R * codec.fused_pass_s.value + extra_s
        local_s = moved.local_bytes_R / (bandwidth * codec.local_share.value)
        return timed_s_R + local_s + wire_s + moved.passes_R * (codec.separate_pass_s.value + self.gap_s.value)


def _sustained_s(costs: GpuProfile, product: Gemm) -> float:
    return 2.0 * product.m * product.n * product.k / costs.sustained_flops_per_s[product.precision].value


def _kernel_alone_s(cost: CostModel, costs: GpuProfile, kernel: Kernel) -> float:
    match kernel:
        case Gemm(m=m, n=n, k=k, precision=precision):
            return max(costs.gemm[precision].time_s(m, n, k), _sustained_s(costs, kernel))
        case Attend(value_dim=int(value_dim)):
            latent = cost.mixture.latent
            return latent.prefill_s(
                kernel.batch,
                kernel.query_tokens,
                kernel.key_tokens,
                kernel.heads,
                kernel.head_dim,
                value_dim,
                kernel.window,
            )
        case AttendChunks(chunks=chunks, heads=heads, head_dim=dim, window=window, value_dim=int(value_dim)):
            latent = cost.mixture.latent
            launch_s = latent.prefill_launch_s
            alone_s = (latent.prefill_s(1, tokens, keys, heads, dim, value_dim, window) for tokens, keys in chunks)
            return launch_s + sum(seconds - launch_s for seconds in alone_s)
        case Attend():
            attention = costs.attention_for(kernel.head_dim, _cutting(kernel.window, kernel.key_tokens), cost.cache)
            return attention.time_s(
                kernel.batch,
                kernel.query_tokens,
                kernel.key_tokens,
                kernel.heads,
                kernel.kv_heads,
                kernel.head_dim,
                kernel.window,
            )
        case CrossAttend():
            return costs.attention.cross_time_s(
                kernel.batch,
                kernel.query_tokens,
                kernel.key_tokens,
                kernel.heads,
                kernel.kv_heads,
                kernel.head_dim,
            )
        case AttendChunks(chunks=chunks, heads=heads, kv_heads=kv_heads, head_dim=dim, window=window):
            model = costs.attention_for(dim, _cutting(window, max(keys for _, keys in chunks)), cost.cache)
            alone_s = (model.time_s(1, tokens, keys, heads, kv_heads, dim, window) for tokens, keys in chunks)
            return model.floor_s + sum(max(seconds - model.floor_s, 0.0) for seconds in alone_s)
        case DecodeAttend():
            return costs.decode_attention_for(kernel.head_dim, kernel.window, cost.cache).time_s(
                kernel.sequences,
                kernel.context_tokens,
                kernel.heads,
                kernel.kv_heads,
                kernel.head_dim,
                kernel.window,
            )
        case Elementwise(op=op, tokens=tokens, width=width):
            return costs.elementwise.time_s(op, elementwise_bytes(op, tokens, width))
        case RoutedExperts():
            return cost.mixture.experts.time_s(
                kernel.rows,
                kernel.hit,
                kernel.experts,
                kernel.hidden,
                kernel.width,
                kernel.gated,
                kernel.precision,
            )
        case LatentDecode():
            return cost.mixture.latent.decode_s(
                kernel.sequences,
                kernel.context_tokens,
                kernel.heads,
                kernel.rank,
                kernel.rope_dim,
                2 if cost.cache == "bf16" else 1,
            )
        case Recurrent():
            return cost.mixture.recurrent.time_s(
                kernel.kind,
                kernel.tokens,
                kernel.sequences,
                kernel.heads,
                kernel.key_dim,
                kernel.value_dim,
                kernel.groups,
                kernel.conv,
            )


def _cutting(window: int | None, key_tokens: int) -> int | None:
    """A window, where it cuts any context."""
    return None if window is None or window >= key_tokens else window


@dataclass(frozen=True, eq=False, slots=True)
class CodecTraffic:
    """What the codec kernels of one step read and write on each rank, (R,): the tensor itself, encoded buffers, and
    in how many kernels. extra_bytes_R: those of the tensor beyond one pass, counted in local_bytes_R too.
    """

    local_bytes_R: NDArray[np.float64]
    wire_bytes_R: NDArray[np.float64]
    passes_R: NDArray[np.int64]
    extra_bytes_R: NDArray[np.float64]


def compiled_seconds(work: Iterable[Work], ranks: int, compiled: Iterable[CompiledCodec]) -> NDArray[np.float64] | None:
    """Seconds of each rank's compiled kernels in a step, (R,), gaps apart; None where a codec is not among them.

    Works of one kind on one rank are one launch, whose call is its longest's. A sum that is encoded in the same step
    stays in registers, as in `codec_traffic`.
    """
    by_spec = {line.codec: line for line in compiled}
    works = [w for w in work if len(w.interval) and not w.codec.is_raw]
    if any(w.codec.spec not in by_spec for w in works):
        return None
    summed = {place_of(w) for w in works if w.kind == "reduce"}
    encoded = {place_of(w) for w in works if w.kind == "encode"}
    seconds_R = np.zeros(ranks)
    calls_s: dict[tuple[int, str], float] = {}
    for w in works:
        line = by_spec[w.codec.spec]
        if w.kind == "reduce":
            copies, end = len(w.sources), (0.0, 0.0) if place_of(w) in encoded else line.total
            call_s, value_s = (copies * each + once for each, once in zip(line.copy, end, strict=True))
        elif w.kind == "encode":
            call_s, value_s = line.again if place_of(w) in summed else line.encode
        else:
            call_s, value_s = line.decode
        seconds_R[w.rank] += value_s * len(w.interval)
        calls_s[w.rank, w.kind] = max(calls_s.get((w.rank, w.kind), 0.0), call_s)
    for (rank, _), call_s in calls_s.items():
        seconds_R[rank] += call_s
    return seconds_R


def place_of(work: Work) -> tuple[int, int, int]:
    """Which values of which rank."""
    return work.rank, work.interval.start, work.interval.stop


def codec_traffic(work: Iterable[Work], ranks: int) -> CodecTraffic:
    """Count a step's work. A reduce and the encode of the sum that follows it are one pass: the sum stays in
    registers. Raw values are the library's business, but for those that ride with coded ones: the same kernels move
    them.
    """
    local, wire, extra = np.zeros(ranks), np.zeros(ranks), np.zeros(ranks)
    passes: dict[str, NDArray[np.int64]] = {
        kind: np.zeros(ranks, dtype=np.int64) for kind in ("encode", "reduce", "decode")
    }
    reduced: set[tuple[int, int, int]] = set()
    for w in work:
        values = len(w.interval)
        if (w.codec.is_raw and not w.rides) or not values:
            continue
        cost = entry_of(w.codec).cost
        copies = len(w.sources) if w.kind == "reduce" else 1
        wire[w.rank] += copies * w.codec.wire_bytes(values)
        each = cost.encode_bytes_per_value if w.kind == "encode" else cost.decode_bytes_per_value
        more = (each - BF16_BYTES) * values
        extra[w.rank] += more
        where = place_of(w)
        if w.kind == "encode" and where in reduced:
            local[w.rank] += more - BF16_BYTES * values
        else:
            local[w.rank] += more + BF16_BYTES * values
            if not w.rides:
                passes[w.kind][w.rank] = max(passes[w.kind][w.rank], cost.launches)
        if w.kind == "reduce":
            reduced.add(where)
    return CodecTraffic(local, wire, np.sum(list(passes.values()), axis=0, dtype=np.int64), extra)
