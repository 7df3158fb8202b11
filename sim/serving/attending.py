"""Attention and recurrences in an engine's iteration: what a mixer's call costs beside its projections.

An iteration's chunks of prompts share a call, decoding sequences another. The kernels are those of
`sim.serving.workload`; here their seconds come apart into what a call costs at least, what each chunk adds, and a call
of decoding that is piecewise linear in the contexts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.mixers import Attention, Latent, Mixer
from thinwire.sim.choices import Weights
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.decode_attention import Piece
from thinwire.sim.layers import precision, product, recurrent
from thinwire.sim.shapes import Attend, AttendChunks, DecodeAttend, Kernel, LatentDecode

Chunk = tuple[int, int]
"""Tokens of a prompt in this iteration, and tokens of its context with them."""


class Call(Protocol):
    """A call of decoding of so many sequences, all but their contexts known."""

    @property
    def least_s(self) -> float:
        """What it takes at least, whatever the contexts."""
        ...

    def seconds(self, context_tokens: int, window: int | None = None) -> float:
        """With so many tokens of context in all."""
        ...

    def piece(self, context_tokens: int, window: int | None = None) -> Piece:
        """The same, with the slope there and how far it holds."""
        ...


@dataclass(frozen=True, slots=True)
class FlatCall:
    """A call that does not look at contexts: a recurrence's step."""

    least_s: float

    def seconds(self, context_tokens: int, window: int | None = None) -> float:
        """Always the same."""
        return self.least_s

    def piece(self, context_tokens: int, window: int | None = None) -> Piece:
        """Flat for ever."""
        return Piece(self.least_s, 0.0, math.inf)


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
            heads, seen = mixer.heads // tp, context_tokens
            return (LatentDecode("decode attention", sequences, seen, heads, mixer.rank, mixer.rope_dim),)
        case _:
            return (recurrent(mixer, tp, sequences, sequences),)


@dataclass(frozen=True, eq=False, slots=True)
class Attending:
    """A mixer's calls on the slowest rank: `call_s` that a call with chunks takes at least, `chunk_s` that one adds.
    The gaps before kernels are within, but for decoding's one.
    """

    mixer: Mixer
    call_s: float
    chunk_s: Callable[[int, int], float]
    decode: Callable[[int], Call]

    @property
    def reach(self) -> int | None:
        """Tokens that a query of its decoding sees at most."""
        return self.mixer.reach


def attending(model: ModelConfig, mixer: Mixer, tp: int, weights: Weights, cost: CostModel, gap_s: float) -> Attending:
    """A mixer's calls as `cost` prices them, on a rank as fast as the machine's. gap_s: before each kernel."""
    gpu = cost.profile.gpu
    together = isinstance(mixer, Attention | Latent)  # chunks share a kernel, whose floor is paid once
    floor_s = gpu.attention.floor_s if together else 0.0

    def chunk_s(tokens: int, context: int) -> float:
        kernels = chunk_kernels(model, mixer, tp, ((tokens, context),), weights)
        alone_s = sum([cost.kernel_s(kernel) - cost.gap_s.value for kernel in kernels])
        return alone_s - floor_s + (len(kernels) - together) * gap_s

    def decode(sequences: int) -> Call:
        match mixer:
            case Attention():
                heads, kv_heads = mixer.heads // tp, mixer.kv_heads_per_gpu(tp)
                return gpu.decode_attention.call(sequences, heads, kv_heads, mixer.head_dim)
            case Latent():
                raise ValueError(f"no cost of such kernels is known: decoding of {model.name}")
            case _:
                (step,) = decode_kernels(mixer, tp, sequences, sequences)
                return FlatCall(cost.kernel_s(step) - cost.gap_s.value)

    return Attending(mixer, floor_s + gap_s if together else 0.0, chunk_s, decode)
