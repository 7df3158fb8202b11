"""Kernels by their shapes, and what is exchanged between them: what a rank launches, without a second.

`sim.layers` makes them of a model's layers, `sim.costs` prices them.
"""

from dataclasses import dataclass
from typing import Literal

from thinwire.reference.core.schedule import Schedule
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.core.tokens import Counts
from thinwire.sim.choices import Precision

FP8_ROWS = 4
"""Rows an engine pads an fp8 product to a multiple of: on Hopper others cost an extra copy (docs/decisions/003), and on
other GPUs three more rows cost next to nothing, so the rule is one for all."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """(m, k) @ (k, n)."""

    name: str
    m: int
    n: int
    k: int
    precision: Precision


@dataclass(frozen=True, slots=True)
class Attend:
    """Causal attention of the last `query_tokens` of `key_tokens`, per sequence."""

    name: str
    batch: int
    query_tokens: int
    key_tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    value_dim: int | None = None  # None: as head_dim


@dataclass(frozen=True, slots=True)
class CrossAttend:
    """Attention of `query_tokens` on all of `key_tokens` tokens of another sequence, per sequence."""

    name: str
    batch: int
    query_tokens: int
    key_tokens: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class AttendChunks:
    """Causal attention of chunks of several sequences in one call; each is (tokens, its context with them)."""

    name: str
    chunks: tuple[tuple[int, int], ...]
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    value_dim: int | None = None  # None: as head_dim


@dataclass(frozen=True, slots=True)
class DecodeAttend:
    """Attention of one new token of each of `sequences`, whose contexts are `context_tokens` in all, the new tokens
    counted.
    """

    name: str
    sequences: int
    context_tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A memory-bound kernel; `width` values wide over `tokens` rows."""

    name: str
    op: str  # one of sim.costs.elementwise.OPS
    tokens: int
    width: int


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """Sort `rows` (token, choice) pairs by expert, both products of the `hit` experts that get any of the `experts`
    held here, the activation between, and every token's rows added up. width: of an expert, on this rank.
    """

    name: str
    rows: int
    hit: int
    experts: int
    hidden: int
    width: int
    gated: bool
    precision: Precision
    passed: int = 0  # pairs of other ranks' experts, which are looked at and left


@dataclass(frozen=True, slots=True)
class LatentDecode:
    """Attention of one new token of each of `sequences` over MLA's latent cache, as `DecodeAttend` counts contexts;
    each cached token is `rank` + `rope_dim` values, which all heads read.
    """

    name: str
    sequences: int
    context_tokens: int
    heads: int
    rank: int
    rope_dim: int


Recurrence = Literal["delta", "mamba2", "lightning"]
STATE_BYTES = 4  # of a state's value: fp32, timed and held


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A linear-attention or state-space layer between its projections: convolution, scan and state. One token each of
    `sequences` is a decode step.
    """

    name: str
    kind: Recurrence
    tokens: int
    sequences: int
    heads: int
    key_dim: int
    value_dim: int
    groups: int
    conv: int


Kernel = (
    Gemm | Attend | AttendChunks | CrossAttend | DecodeAttend | Elementwise | RoutedExperts | LatentDecode | Recurrent
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of a part, and those that a scheme exempts: the first of their sequence, the last of their prompt."""

    tokens: int
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective over the whole group on `numel` bf16 values, of which the last `exact` travel raw.

    counts: of an all_to_all, rows from each rank to each (`reference.core.tokens`); numel is then what the rank that
    sends most sends, whole rows. None: each sends all the same. scheme: of an all_to_all of experts' tokens what
    `Scheme.for_experts` gives.
    """

    op: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
    numel: int
    scheme: Scheme | None  # None: uncompressed, by the engine's own choice
    exact: int = 0
    counts: Counts | None = None


@dataclass(frozen=True, slots=True)
class Passing:
    """Blocks handed on round the ring of ranks, as a schedule says."""

    schedule: Schedule
    op: Literal["passing"] = "passing"
