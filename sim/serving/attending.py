"""Attention and recurrences in an engine's iteration: what a mixer's call costs beside its projections.

An iteration's chunks of prompts share a call, decoding sequences another. The kernels are those of
`sim.serving.workload`; here their seconds come apart into what a call costs at least, what each chunk adds, and a call
of decoding that is piecewise linear in the contexts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.mixers import Attention, Latent, Mixer
from thinwire.sim.choices import Weights
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.decode_attention import DecodeCall, Piece
from thinwire.sim.layers import precision, product, recurrent
from thinwire.sim.shapes import Attend, AttendChunks, DecodeAttend, Kernel, LatentDecode

Chunk = tuple[int, int]
"""Tokens of a prompt in this iteration, and tokens of its context with them."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of decoding of so many sequences, one after the other, all but their contexts known: each reads what its
    window leaves of them. fixed_s: of kernels that do not look at contexts.
    """

    reading: tuple[tuple[DecodeCall, int | None], ...] = ()
    fixed_s: float = 0.0

    @property
    def least_s(self) -> float:
        """What they take at least, without what each token of context adds."""
        return self.fixed_s + sum(call.least_s for call, _ in self.reading)

    def seconds(self, context_tokens: int) -> float:
        """With so many tokens of context in all."""
        return self.fixed_s + sum(call.seconds(context_tokens, window) for call, window in self.reading)

    def piece(self, context_tokens: int) -> Piece:
        """The same, with the slope there and how far it holds."""
        found = [call.piece(context_tokens, window) for call, window in self.reading]
        until = min((piece.until for piece in found), default=math.inf)
        return Piece(self.seconds(context_tokens), sum(piece.per_token_s for piece in found), until)


def chunk_kernels(
    model: ModelConfig, mixer: Mixer, tp: int, chunks: tuple[Chunk, ...], weights: Weights
) -> tuple[Kernel, ...]:
    """What chunks of prompts run between a mixer's projections on one of `tp` ranks."""
    if not chunks:
        return ()
    match mixer:
        case Attention():
            heads, kv_heads, reach = mixer.heads // tp, mixer.kv_heads_per_gpu(tp), mixer.reach
            return (AttendChunks("attention", chunks, heads, kv_heads, mixer.head_dim, reach, mixer.value_dim),)
        case Latent():
            heads, wide = mixer.heads // tp, mixer.nope_dim + mixer.value_dim
            fmt = precision(model, weights, "attention")
            found: list[Kernel] = [product("kv_b", keys, heads * wide, mixer.rank, fmt) for _, keys in chunks]
            if (index := mixer.indexer) is not None and not index.shared:
                found += [
                    Attend("index scores", 1, tokens, keys, index.heads, 1, index.head_dim // 2, None)
                    for tokens, keys in chunks
                    if keys > index.top_k
                ]
            seen = AttendChunks("attention", chunks, heads, heads, mixer.head_dim, mixer.reach, mixer.value_dim)
            return (*found, seen)
        case _:
            return tuple(recurrent(mixer, tp, tokens, 1) for tokens, _ in chunks)


def decode_kernels(mixer: Mixer, tp: int, sequences: int, context_tokens: int) -> tuple[Kernel, ...]:
    """What sequences that decode run between a mixer's projections."""
    if not sequences:
        return ()
    match mixer:
        case Attention():
            heads, kv_heads, reach = mixer.heads // tp, mixer.kv_heads_per_gpu(tp), mixer.reach
            shape = heads, kv_heads, mixer.head_dim, reach
            return (DecodeAttend("decode attention", sequences, context_tokens, *shape),)
        case Latent():
            heads, index = mixer.heads // tp, mixer.indexer
            seen = context_tokens if index is None else min(context_tokens, sequences * index.top_k)
            found = LatentDecode("decode attention", sequences, seen, heads, mixer.rank, mixer.rope_dim)
            if index is None or index.shared:
                return (found,)
            # Scores read keys alone: as many values as keys and values of heads half as wide.
            shape = index.heads, 1, index.head_dim // 2, None
            return DecodeAttend("index scores", sequences, context_tokens, *shape), found
        case _:
            return (recurrent(mixer, tp, sequences, sequences),)


@dataclass(frozen=True, eq=False, slots=True)
class Attending:
    """A mixer's calls on a rank as fast as the machine's: `call_s` that a call with chunks takes at least, `chunk_s`
    that one adds, gaps before kernels with them; decoding's calls, and how many kernels they are, gaps apart.
    """

    mixer: Mixer
    call_s: float
    chunk_s: Callable[[int, int], float]
    decode: Callable[[int], Calls]
    decode_kernels: int


def attending(model: ModelConfig, mixer: Mixer, tp: int, weights: Weights, cost: CostModel, gap_s: float) -> Attending:
    """A mixer's calls as `cost` prices them, on a rank as fast as the machine's. gap_s: before each kernel."""
    gpu = cost.profile.gpu
    match mixer:  # chunks share a kernel, whose floor is paid once
        case Attention():
            floor_s = gpu.attention.floor_s  # of whatever heads and windows: adjustments leave it
        case Latent():
            floor_s = cost.mixture.latent.prefill_launch_s
        case _:
            floor_s = 0.0
    together = floor_s > 0

    def chunk_s(tokens: int, context: int) -> float:
        kernels = chunk_kernels(model, mixer, tp, ((tokens, context),), weights)
        alone_s = sum([cost.kernel_s(kernel) - cost.gap_s.value for kernel in kernels])
        return alone_s - floor_s + (len(kernels) - together) * gap_s

    def decode(sequences: int) -> Calls:
        match mixer:
            case Attention():
                heads, kv_heads = mixer.heads // tp, mixer.kv_heads_per_gpu(tp)
                known = gpu.decode_attention_for(mixer.head_dim, mixer.reach, cost.cache)
                call = known.call(sequences, heads, kv_heads, mixer.head_dim)
                return Calls(((call, mixer.reach),))
            case Latent():
                kv_bytes = 2 if cost.cache == "bf16" else 1
                call = cost.mixture.latent.call(sequences, mixer.heads // tp, mixer.rank, mixer.rope_dim, kv_bytes)
                index = mixer.indexer
                if index is None or index.shared:
                    return Calls(((call, mixer.reach),))
                dim = index.head_dim // 2
                scores = gpu.decode_attention_for(dim, None, cost.cache).call(sequences, index.heads, 1, dim)
                return Calls(((scores, None), (call, mixer.reach)))
            case _:
                (step,) = decode_kernels(mixer, tp, sequences, sequences)
                return Calls(fixed_s=cost.kernel_s(step) - cost.gap_s.value)

    count = len(decode_kernels(mixer, tp, 1, 1))
    return Attending(mixer, floor_s + gap_s if together else 0.0, chunk_s, decode, count)
