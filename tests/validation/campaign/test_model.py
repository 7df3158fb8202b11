"""What is timed: the shapes are the simulator's, and the layer, its operators and products compute what they should."""

from typing import Any

import pytest
import torch

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.elementwise import OPS
from thinwire.sim.costs.elementwise import elementwise_bytes as simulated_bytes
from thinwire.sim.shapes import Attend, Gemm
from thinwire.sim.shapes import Elementwise as SimulatedElementwise
from thinwire.sim.workload import Prompt, build
from thinwire.validation.campaign import campaign, shapes
from thinwire.validation.campaign import gpu as measure_gpu
from thinwire.validation.campaign import model as measure_model
from thinwire.validation.campaign.gpu import Arena
from thinwire.validation.fits.calibrate_raw import layer_kernels

from ..campaigns import rig

PLAN = shapes.full()


# --- shapes are those of the simulator ---


@pytest.mark.parametrize("one", PLAN.shards, ids=lambda one: f"{one.model}-tp{one.tp}")
def test_shards_are_the_simulator_s(one: shapes.Shard) -> None:
    """The same products, heads and widths as sim/workload.py makes of the same model."""
    kernels = layer_kernels(one.model, one.tp, 100)
    assert len(kernels) == 9
    products = {kernel.name: (kernel.n, kernel.k) for kernel in kernels if isinstance(kernel, Gemm)}
    work = build(load_model(one.model), scheme("none"), Prompt(1, 100), one.tp)
    (head,) = [kernel for op in work.after for kernel in op.kernels if isinstance(kernel, Gemm)]
    assert one.products() == products | {"lm_head": (head.n, head.k)}
    (attend,) = [kernel for kernel in kernels if isinstance(kernel, Attend)]
    assert (attend.heads, attend.kv_heads, attend.head_dim) == (one.heads, one.kv_heads, one.head_dim)
    widths = {kernel.op: kernel.width for kernel in kernels if isinstance(kernel, SimulatedElementwise)}
    assert widths == {"add_rms_norm": one.hidden, "rope": one.rotated, "silu_mul": one.intermediate}
    weights = sum(kernel.n * kernel.k for kernel in kernels if isinstance(kernel, Gemm))
    assert one.layer_weights() == weights


@pytest.mark.parametrize("op", OPS)
def test_bytes_are_those_the_simulator_charges(op: str) -> None:
    cases = [case for case in PLAN.elementwises() if case.op == op]
    assert cases
    for case in cases:
        assert measure_model.elementwise_bytes(case) == simulated_bytes(op, case.tokens, case.width)


def test_the_plan_covers_the_issue() -> None:
    assert {(one.model, one.tp) for one in PLAN.shards} == {
        (model, tp) for model in ("llama-3-8b", "llama-3-70b") for tp in (1, 2, 4, 8)
    }
    assert min(PLAN.rows) == 1 and max(PLAN.rows) == 16384
    assert min(PLAN.lengths) == 128 and max(PLAN.lengths) == 16384 and set(PLAN.batches) == {1, 2, 4, 8}
    assert max(PLAN.copies) == 2**30 and min(PLAN.copies) == 64 * 2**10
    products = PLAN.products("bf16")
    assert len({(case.m, case.n, case.k) for case in products}) == len(products)
    assert {name for case in products for name in [case.name]} == {"qkv", "o", "gate_up", "down", "lm_head"}
    assert not [case for case in PLAN.products("fp8") if case.name == "lm_head"]


def test_the_plan_fits_an_80_gb_gpu() -> None:
    """No tensor is larger than what is set aside, and a layer's two sets of weights are two."""
    largest = max(max(c.m * c.n, c.n * c.k, c.m * c.k) for c in PLAN.products("bf16"))
    assert 2 * largest <= measure_gpu.ARENA_BYTES
    assert 2 * 2 * max(one.layer_weights() for one in PLAN.shards) <= measure_gpu.ARENA_BYTES
    assert max(2 * case.tokens * 2 * case.width for case in PLAN.elementwises()) <= measure_gpu.ARENA_BYTES


def test_a_shard_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="llama-3-8b does not divide over tp=16"):
        shapes.shard("llama-3-8b", 16)


# --- what is timed computes what it should ---


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert not found.isnan().any()
    return float((found.double() - wanted).norm() / wanted.norm())


def exact_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """fp64 causal attention of one sequence, (N, H, D) and (N, V, D)."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("nhd,mhd->hnm", q.double(), k) / q.shape[2] ** 0.5
    scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)


BF16 = 2.0**-8  # half the spacing of bf16, relative: what one rounding may cost


@pytest.mark.parametrize("how", ["compiled", "eager"])  # compiled is eager here; on a GPU both are measured
def test_operators(how: str) -> None:
    """Against fp64, within the roundings each makes: the result's, and one for each step kept in bf16."""
    one, exact = rig(), torch.float64
    x, r, w = one.inputs.take(8, 64), one.inputs.take(8, 64), one.inputs.take(64)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + measure_model.EPSILON).sqrt() * w.to(exact)

    def call(op: str, *inputs: torch.Tensor) -> Any:
        return measure_model.operator(one, op, how, 64)(*inputs)

    xe, re = x.to(exact), r.to(exact)
    assert relative(call("rms_norm", x, w), norm(xe)) < 2 * BF16
    normed, total = call("add_rms_norm", x, r, w)
    assert relative(total, xe + re) < BF16 and relative(normed, norm(xe + re)) < 4 * BF16
    gate, up = xe.chunk(2, -1)
    assert relative(call("silu_mul", x), torch.nn.functional.silu(gate) * up) < 2 * BF16
    assert relative(call("gelu_mul", x), torch.nn.functional.gelu(gate, approximate="tanh") * up) < 2 * BF16
    assert relative(call("residual_add", x, r), xe + re) < BF16
    heads = x.view(8, 4, 16)
    turned = call("rope", heads, *measure_model.angles(one, 8, 16))
    planes = torch.view_as_complex(torch.stack(heads.to(exact).chunk(2, -1), -1).contiguous())
    steps = 500000.0 ** -(torch.arange(0, 16, 2, dtype=exact) / 16)
    wanted = planes * torch.polar(torch.ones((), dtype=exact), torch.arange(8)[:, None] * steps)[:, None]
    assert relative(turned, torch.cat((wanted.real, wanted.imag), -1)) < 2 * BF16


def test_attention_is_causal_and_fills_the_cache() -> None:
    one = rig()
    q, k, v = one.inputs.take(1, 32, 4, 16), one.inputs.take(1, 32, 2, 16), one.inputs.take(1, 32, 2, 16)
    found = measure_model.attend(q, k, v).transpose(1, 2)[0]
    assert relative(found, exact_attention(q[0], k[0], v[0])) < 8 * BF16
    cache = measure_model.Cache(one, 32, 32)
    for held in cache.held:
        held.fill_(torch.nan)
    cache.write(k, v)
    assert sorted(cache.slots_T.tolist()) == list(range(32))
    assert torch.equal(cache.held[0][cache.slots_T], k.reshape(32, 32))
    assert torch.equal(cache.held[1][cache.slots_T], v.reshape(32, 32))


@pytest.mark.parametrize("stand_in", ["none", "copy"])
def test_a_layer_is_a_layer(stand_in: str) -> None:
    """Against the same layer in fp64, written apart. bf16 rounds about ten times on the way."""
    one = rig()
    shard = one.plan.shards[0]
    call = measure_model.layer_call(one, shard, 16, stand_in)
    found = call()
    assert isinstance(found, torch.Tensor)
    again = rig()  # the same arena from the same seed: the same inputs in the same order
    weights = measure_model.LayerWeights.random(again, shard)
    x, r = (again.inputs.take(16, shard.hidden).double() for _ in range(2))
    w = {name: getattr(weights, name).double() for name in ("qkv", "o", "gate_up", "down", "norm_E")}

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + measure_model.EPSILON).sqrt() * w["norm_E"]

    total = x + r
    qkv = (norm(total) @ w["qkv"].t()).view(16, -1, shard.head_dim)
    q, k, v = qkv.split((shard.heads, shard.kv_heads, shard.kv_heads), 1)
    cos, sin = (angle.double()[:, None] for angle in measure_model.angles(again, 16, shard.head_dim))

    def turn(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    total = total + exact_attention(turn(q), turn(k), v).reshape(16, -1) @ w["o"].t()
    gate, up = (norm(total) @ w["gate_up"].t()).chunk(2, -1)
    assert relative(found, (torch.nn.functional.silu(gate) * up) @ w["down"].t()) < 12 * BF16


def test_no_two_sets_of_a_rotation_are_alike() -> None:
    """Sets that share their inputs would be found in the cache: rows of an embedding, slots of a cache as well."""
    for case in rig().plan.elementwises():
        one = rig()
        first, second = (measure_model.elementwise_inputs(one, case) for _ in range(2))
        moving = 1 if case.op != "copy" else 2  # a copy's first is what it writes, and holds whatever was there
        assert not torch.equal(first[moving - 1], second[moving - 1]), case
        assert case.op == "embedding" or all(
            a.data_ptr() != b.data_ptr() for a, b in zip(first[:moving], second[:moving], strict=True)
        )


def test_products() -> None:
    """bf16 within its rounding; e4m3 operands (3 bits of mantissa: 1/16 each at worst, random) on top in fp8."""
    for dtype, limit in (("bf16", BF16), ("fp8", 0.06)):
        one, again = rig(), rig()
        found = measure_gpu.product_call(one, dtype, 8, 32, 64)()
        a, w = again.inputs.take(8, 64).double(), again.inputs.take(32, 64).double()
        assert isinstance(found, torch.Tensor) and found.dtype == torch.bfloat16
        assert relative(found, a @ w.t()) < limit


def test_inputs_are_random_repeatable_and_apart() -> None:
    first, second = Arena(2**20, "cpu", 3), Arena(2**20, "cpu", 3)
    a, b = first.take(100), first.take(100)
    assert torch.equal(a, second.take(100)) and not torch.equal(a, b)
    assert a.data_ptr() + 200 <= b.data_ptr() and b.data_ptr() % 256 == a.data_ptr() % 256
    assert 0.9 < float(first.values.float().std()) < 1.1
    for _ in range(100):
        first.take(2**18)  # half of it: goes round
    with pytest.raises(campaign.DoesNotFit, match="memory: 2097152 bytes asked for, 1048576"):
        first.take(2**20)
