"""What a transformer's kernels take: products, attention, element-wise operators, and a whole layer of them.

Shapes and suffixes: T tokens, B sequences, N tokens of a sequence, H heads, V key-value heads, D head size, E hidden
size, F intermediate size, W width of an element-wise operator.

The element-wise operators are written as plain torch and fused by torch.compile: an engine's fused kernels move as many
bytes (sim/costs/elementwise.py counts those), plain torch moves more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from thinwire.kernels.timing import Call
from thinwire.validation.campaign.campaign import DoesNotFit, Row, Task, each
from thinwire.validation.campaign.gpu import Rig, has_fp8, product_call
from thinwire.validation.campaign.shapes import FUSED, Attention, Elementwise, Layer, Product, Shard

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
FASTEST_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
ABSENT = ("No available kernel", "No viable backend")
"""How torch says that a backend of its attention cannot run a shape."""
EPSILON = 1e-5
BURST_LAYERS = 8
MOST_SETS = 512


# --- products ---


def products(rig: Rig, dtype: str, task: Task) -> Iterator[Row]:
    """Every product of the plan's shards in bf16 or fp8."""
    if dtype == "fp8" and not has_fp8(rig.device):
        return iter([{"dtype": dtype, "left_out": "this GPU has no fp8 products"}])
    return each(rig.plan.products(dtype), lambda case: _product(rig, case), task)


def _product(rig: Rig, case: Product) -> Row:
    m, n, k = case.m, case.n, case.k
    operand = {"bf16": 2, "fp8": 1}[case.dtype]
    nbytes = operand * (m * k + n * k) + 2 * m * n
    row = rig.timed(lambda: product_call(rig, case.dtype, m, n, k), nbytes, MOST_SETS)
    return row | {"flops": 2 * m * n * k, "bytes": nbytes}


# --- attention ---


def attentions(rig: Rig, task: Task) -> Iterator[Row]:
    """Every attention of the plan's shards, by each of torch's fused backends."""
    return each(rig.plan.attentions(tuple(BACKENDS)), lambda case: _attention(rig, case), task)


def _attention(rig: Rig, case: Attention) -> Row:
    tokens, heads, kv_heads, dim = case.batch * case.length, case.heads, case.kv_heads, case.head_dim
    nbytes = 2 * tokens * dim * (2 * heads + 6 * kv_heads)
    try:
        with sdpa_kernel(BACKENDS[case.backend]):
            row = rig.timed(lambda: attention_call(rig, case), nbytes, MOST_SETS)
    except RuntimeError as error:
        if any(words in str(error) for words in ABSENT):
            raise DoesNotFit(f"torch's {case.backend} attention does not run this shape here") from None
        raise
    pairs = case.length * (case.length + 1) // 2
    return row | {"flops": 4 * case.batch * heads * dim * pairs, "bytes": nbytes}


def attention_call(rig: Rig, case: Attention) -> Call:
    """Write the new keys and values into a cache, token by token, then attend: one call of sim/costs/attention.py."""
    tokens = case.batch * case.length
    q_BNHD = rig.inputs.take(case.batch, case.length, case.heads, case.head_dim)
    kv_BNVD = [rig.inputs.take(case.batch, case.length, case.kv_heads, case.head_dim) for _ in range(2)]
    cache = Cache(rig, tokens, case.kv_heads * case.head_dim)

    def call() -> Tensor:
        cache.write(*kv_BNVD)
        return attend(q_BNHD, *kv_BNVD)

    return call


class Cache:
    """Keys and values by slot; the slots of consecutive tokens are scattered, as in a paged cache."""

    def __init__(self, rig: Rig, tokens: int, width: int) -> None:
        self.held = [rig.scratch.take(tokens, width) for _ in range(2)]
        order = torch.randperm(-(-tokens // 16), generator=rig.random)  # pages of 16 tokens, vLLM's block size
        slots = (order[:, None] * 16 + torch.arange(16)).reshape(-1)
        self.slots_T = slots[slots < tokens].to(rig.device)

    def write(self, *new: Tensor) -> None:
        """Put keys and values, (..., V, D) of all tokens, into their slots."""
        for held, values in zip(self.held, new, strict=True):
            held.index_copy_(0, self.slots_T, values.reshape(held.shape))


def attend(q_BNHD: Tensor, k_BNVD: Tensor, v_BNVD: Tensor) -> Tensor:
    """Causal attention with grouped key-value heads."""
    q, k, v = (x.transpose(1, 2) for x in (q_BNHD, k_BNVD, v_BNVD))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


# --- element-wise ---


def rms_norm(x_TW: Tensor, weight_W: Tensor) -> Tensor:
    """x / rms(x) * weight."""
    return F.rms_norm(x_TW, weight_W.shape, weight_W, EPSILON)


def add_rms_norm(x_TW: Tensor, residual_TW: Tensor, weight_W: Tensor) -> tuple[Tensor, Tensor]:
    """The new residual x + residual, and its norm."""
    total_TW = x_TW + residual_TW
    return rms_norm(total_TW, weight_W), total_TW


def rope(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotary embedding of queries and keys together, halves rotated against each other."""
    first, second = x_THD.float().chunk(2, dim=-1)
    cos, sin = cos_TD[:, None], sin_TD[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_THD.dtype)


def silu_mul(gate_up_TF2: Tensor) -> Tensor:
    """silu(gate) * up."""
    gate, up = gate_up_TF2.chunk(2, dim=-1)
    return F.silu(gate) * up


def gelu_mul(gate_up_TF2: Tensor) -> Tensor:
    """gelu(gate) * up, tanh form."""
    gate, up = gate_up_TF2.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "rope": rope,
    "silu_mul": silu_mul,
    "gelu_mul": gelu_mul,
    "residual_add": torch.add,
    "embedding": lambda ids_T, table_VW: F.embedding(ids_T, table_VW),
    "copy": lambda out_TW, x_TW: out_TW.copy_(x_TW),
}


def operator(rig: Rig, op: str, how: str, width: int) -> Callable[..., Any]:
    """The operator as a function; compiled, for any number of tokens, as few times as do.

    A norm adds up `width` values and is compiled for each width: with a width known only at run time its kernel would
    be another one. The rest handle values one by one and are compiled once for all sizes.
    """
    function = OPERATORS[op]
    if how == "eager" or rig.device == "cpu":  # a rehearsal compiles nothing: that takes minutes on a CPU
        return function
    is_norm = op in ("rms_norm", "add_rms_norm")
    key = (op, width if is_norm else 0)
    if key not in rig.compiled:
        if is_norm:  # a code object of its own: torch makes dynamic what changes between calls of one code object
            own = function.__code__.replace(co_name=f"{op}_{width}")
            rig.compiled[key] = torch.compile(FunctionType(own, function.__globals__))
        else:
            rig.compiled[key] = torch.compile(function, dynamic=True)
    return rig.compiled[key]


def elementwises(rig: Rig, task: Task) -> Iterator[Row]:
    """Every operator of the plan."""
    return each(rig.plan.elementwises(), lambda case: _elementwise(rig, case), task)


def _elementwise(rig: Rig, case: Elementwise) -> Row:
    function = operator(rig, case.op, case.how, case.width)
    moved = elementwise_bytes(case)

    def build() -> Call:
        inputs = elementwise_inputs(rig, case)
        return lambda: function(*inputs)

    return rig.timed(build, moved, MOST_SETS) | {"bytes": moved}


def elementwise_bytes(case: Elementwise) -> int:
    """Bytes of one call; tests hold it to sim/costs/elementwise.py, which the GPU machine cannot import."""
    passes = {"add_rms_norm": 4, "silu_mul": 3, "gelu_mul": 3, "residual_add": 3}.get(case.op, 2)
    return 2 * case.width * (passes * case.tokens + (case.op in ("rms_norm", "add_rms_norm")))


def elementwise_inputs(rig: Rig, case: Elementwise) -> Sequence[Tensor]:
    """Fresh inputs of one call. Their first dimension, tokens, is marked as one that changes."""
    tokens, width, take = case.tokens, case.width, rig.inputs.take
    found: list[Tensor]
    if case.op in ("rms_norm", "add_rms_norm"):
        rows = [take(tokens, width) for _ in range(1 + (case.op == "add_rms_norm"))]
        found, moving = [*rows, take(width)], len(rows)
    elif case.op == "rope":
        found, moving = (
            [take(tokens, case.heads + case.kv_heads, case.head_dim), *angles(rig, tokens, case.head_dim)],
            3,
        )
    elif case.op in ("silu_mul", "gelu_mul"):
        found, moving = [take(tokens, 2 * width)], 1
    elif case.op == "embedding":
        rows_held = min(128256, len(rig.inputs.values) // width)  # Llama 3's vocabulary, where it fits
        ids = torch.randint(rows_held, (tokens,), generator=rig.random).to(rig.device)
        found, moving = [ids, rig.inputs.values[: rows_held * width].view(rows_held, width)], 1
    else:
        found, moving = [take(tokens, width), take(tokens, width)], 2
        if case.op == "copy":
            found[0] = rig.scratch.take(tokens, width)
    if case.how == "compiled" and rig.device != "cpu":
        for one in found[:moving]:
            torch._dynamo.maybe_mark_dynamic(one, 0)
    return found


def angles(rig: Rig, tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary embedding, fp32 (T, D / 2), base 500,000 (Llama 3)."""
    steps = torch.arange(0, head_dim, 2, device=rig.device, dtype=torch.float32)
    angle_TD = torch.arange(tokens, device=rig.device)[:, None] / 500000.0 ** (steps / head_dim)
    return angle_TD.cos(), angle_TD.sin()


# --- a layer ---


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer of one rank, each (out, in)."""

    qkv: Tensor
    o: Tensor
    gate_up: Tensor
    down: Tensor
    norm_E: Tensor

    @classmethod
    def random(cls, rig: Rig, shard: Shard) -> "LayerWeights":
        """Values of unit variance behind a norm that makes products come out near one."""
        shapes = shard.products()
        matrices = {name: rig.inputs.take(*shapes[name]) for name in ("qkv", "o", "gate_up", "down")}
        norm_E = torch.full((shard.hidden,), shard.hidden**-0.5, dtype=torch.bfloat16, device=rig.device)
        return cls(**matrices, norm_E=norm_E)


def layers(rig: Rig, task: Task) -> Iterator[Row]:
    """A decoder layer end to end, by shard, tokens and what stands in for its all-reduces."""
    return each(rig.plan.layers(), lambda case: _layer(rig, case), task)


def _layer(rig: Rig, case: Layer) -> Row:
    shard = rig.plan.shard(case.model, case.tp)
    nbytes = 2 * shard.layer_weights()
    with sdpa_kernel(FASTEST_FIRST, set_priority=True):
        calls: list[Call] = []

        def build() -> Call:
            calls.append(layer_call(rig, shard, case.tokens, case.stand_in))
            return calls[-1]

        row = rig.timed(build, nbytes, most=8)
        burst = [calls[i % len(calls)] for i in range(BURST_LAYERS)]
        rig.watch.burst(burst)
        host_s, device_s = min((rig.watch.burst(burst) for _ in range(3)), key=lambda pair: pair[1])
    return row | {"host_seconds": host_s / len(burst), "burst_seconds": device_s / len(burst)}


def layer_call(rig: Rig, shard: Shard, tokens: int, stand_in: str) -> Call:
    """One rank's layer on one sequence: norm, qkv, rope, cache and attention, o, norm, gate and up, their product,
    down. The nine kernels that sim/workload.py counts, if the element-wise ones are fused.
    """
    run = {op: operator(rig, op, "compiled", shard.hidden) for op in FUSED}
    weights, cache = LayerWeights.random(rig, shard), Cache(rig, tokens, shard.kv_heads * shard.head_dim)
    x_TE, residual_TE = (rig.inputs.take(tokens, shard.hidden) for _ in range(2))
    cos_TD, sin_TD = angles(rig, tokens, shard.head_dim)
    reduced_TE = rig.scratch.take(tokens, shard.hidden)
    rotated, dim = shard.heads + shard.kv_heads, shard.head_dim

    def all_reduce(partial_TE: Tensor) -> Tensor:
        return partial_TE if stand_in == "none" else reduced_TE.copy_(partial_TE)

    def call() -> Tensor:
        normed_TE, total_TE = run["add_rms_norm"](x_TE, residual_TE, weights.norm_E)
        qkv_THD = F.linear(normed_TE, weights.qkv).view(1, tokens, rotated + shard.kv_heads, dim)
        turned_THD = run["rope"](qkv_THD[0, :, :rotated], cos_TD, sin_TD)[None]
        k, v = turned_THD[:, :, shard.heads :], qkv_THD[:, :, rotated:]
        cache.write(k, v)
        mixed = attend(turned_THD[:, :, : shard.heads], k, v).transpose(1, 2).reshape(tokens, -1)
        attention_TE = all_reduce(F.linear(mixed, weights.o))
        normed_TE, total_TE = run["add_rms_norm"](attention_TE, total_TE, weights.norm_E)
        return all_reduce(F.linear(run["silu_mul"](F.linear(normed_TE, weights.gate_up)), weights.down))

    return call
