"""The element-wise cost model: bytes by hand, seconds by hand, growth, refusals, JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.costs.elementwise import OPS, ElementwiseModel, OpCost, elementwise_bytes

MODEL = ElementwiseModel(
    "test", 2e12, {op: OpCost(1e-6 * (i + 1), 0.5 + 0.05 * i, f"test {op}") for i, op in enumerate(OPS)}
)


def test_an_operator_may_be_free_of_a_floor_and_reach_the_datasheet() -> None:
    assert OpCost(0.0, 1.0, "assumed: ideal")
    for floor_s, efficiency in ((-1e-9, 0.5), (0.0, 0.0), (0.0, 1.0001)):
        with pytest.raises(ValueError, match="need floor_s >= 0"):
            OpCost(floor_s, efficiency, "assumed: none")


def test_bytes_by_hand() -> None:
    """Llama-3-70B at TP 8, 4096 tokens, bf16: hidden 8192, 8 + 1 heads of 128, 3584 of the intermediate."""
    expected = {
        ("rms_norm", 8192): 4096 * 8192 * 4 + 8192 * 2,
        ("add_rms_norm", 8192): 4096 * 8192 * 8 + 8192 * 2,
        ("residual_add", 8192): 4096 * 8192 * 6,
        ("rope", 9 * 128): 4096 * 9 * 128 * 4,
        ("silu_mul", 3584): 4096 * 3584 * 6,
        ("gelu_mul", 3584): 4096 * 3584 * 6,
        ("embedding", 8192): 4096 * 8192 * 4,
        ("copy", 8192): 4096 * 8192 * 4,
    }
    assert {op for op, _ in expected} == set(OPS)
    for (op, width), moved in expected.items():
        assert elementwise_bytes(op, 4096, width) == moved
        assert elementwise_bytes(op, 4096, width, element_bytes=4) == 2 * moved


def test_time_is_floor_plus_bytes_over_the_share_of_the_bandwidth() -> None:
    for i, op in enumerate(OPS):
        expected = 1e-6 * (i + 1) + 3e8 / (2e12 * (0.5 + 0.05 * i))
        assert MODEL.time_s(op, 3e8) == pytest.approx(expected, rel=1e-12)
        assert MODEL.time_s(op, 0) == 0.0


@given(st.sampled_from(OPS), st.integers(0, 1 << 20), st.integers(1, 1 << 15), st.integers(1, 1 << 15))
def test_more_tokens_or_width_never_take_less(op: str, tokens: int, width: int, more: int) -> None:
    def seconds(tokens: int, width: int) -> float:
        return MODEL.time_s(op, elementwise_bytes(op, tokens, width))

    assert seconds(tokens + more, width) >= seconds(tokens, width)
    assert seconds(tokens, width + more) >= seconds(tokens, width)


@given(st.sampled_from(OPS), st.integers(1, 1 << 18), st.integers(1, 1 << 18), st.integers(1, 1 << 14))
def test_splitting_the_tokens_costs_exactly_one_more_floor_and_the_weights(
    op: str, first: int, second: int, width: int
) -> None:
    parts = sum(MODEL.time_s(op, elementwise_bytes(op, n, width)) for n in (first, second))
    whole = MODEL.time_s(op, elementwise_bytes(op, first + second, width))
    weights = 2 * width if op in ("rms_norm", "add_rms_norm") else 0
    cost = MODEL.costs[op]
    assert parts - whole == pytest.approx(cost.floor_s + weights / (2e12 * cost.efficiency), rel=1e-6)


def test_fusing_the_add_into_the_norm_saves_a_pass() -> None:
    apart = elementwise_bytes("residual_add", 512, 4096) + elementwise_bytes("rms_norm", 512, 4096)
    assert elementwise_bytes("add_rms_norm", 512, 4096) == apart - 512 * 4096 * 2


def test_json_round_trip_is_exact() -> None:
    assert ElementwiseModel.from_dict(json.loads(json.dumps(MODEL.to_dict()))) == MODEL


def test_moved_to_another_gpu_keeps_shares_and_says_assumed() -> None:
    moved = MODEL.moved_to("other", 1e12)
    for op in OPS:
        assert moved.costs[op].source == f"assumed: as on test (test {op})"
        slow, fast = (m.time_s(op, 1e9) - m.costs[op].floor_s for m in (moved, MODEL))
        assert slow == pytest.approx(2 * fast)


def test_refusals_name_the_value() -> None:
    with pytest.raises(ValueError, match="unknown element-wise operator 'norm'; known: rms_norm"):
        elementwise_bytes("norm", 1, 1)
    with pytest.raises(ValueError, match="unknown element-wise operator 'norm'"):
        MODEL.time_s("norm", 1.0)
    with pytest.raises(ValueError, match="tokens=-1"):
        elementwise_bytes("copy", -1, 1)
    with pytest.raises(ValueError, match="bytes_moved must not be negative, got -1"):
        MODEL.time_s("copy", -1)
    with pytest.raises(ValueError, match=r"efficiency=1\.5"):
        OpCost(0.0, 1.5, "test")
    with pytest.raises(ValueError, match="needs a source"):
        OpCost(0.0, 0.5, "")
    with pytest.raises(ValueError, match=r"missing \['copy'\], unknown \['cpoy'\]"):
        ElementwiseModel("test", 1e12, {("cpoy" if op == "copy" else op): cost for op, cost in MODEL.costs.items()})
    data = MODEL.to_dict()
    data["costs"]["rope"]["eficiency"] = data["costs"]["rope"].pop("efficiency")
    with pytest.raises(ValueError, match="element-wise model: rope: missing"):
        ElementwiseModel.from_dict(data)
