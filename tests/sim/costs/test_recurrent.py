"""Layers with a state: closed forms, what grows with what for every shipped profile, and stand-ins that say so."""

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sim.costs.recurrent import Convolution, RecurrentModel, Scan
from thinwire.sim.costs.shipped import PROFILES, mixture_of
from thinwire.topologies.load import load_gpu

GPUS = sorted(path.stem.removeprefix("mixture-") for path in PROFILES.glob("mixture-*.json"))
CONV = Convolution(2e-6, 1e-10, 0.5, 1e3, 4.0, 1e-6, 0.25, "measured: by hand")
SCAN = Scan(5e-6, 1e-6, 1e-8, 2e-6, 2e-8, 1.0, 0.5, 1e3, 4.0, 4e-6, 0.8, 1e6, 2.0, "measured: by hand")
IDEAL = RecurrentModel("by hand", 1e12, 100, {"delta": CONV}, {"delta": SCAN})
KINDS = ("delta", "mamba2", "lightning")


@cache
def shipped(gpu: str) -> RecurrentModel:
    return mixture_of(load_gpu(gpu)).recurrent


def test_a_prompt_is_the_closed_form() -> None:
    """By hand: 2 sequences of 500 tokens, 8 heads of 128 x 128 on 4 groups; far beyond the cache's 1,000 bytes."""
    channels = 2 * 4 * 128 + 8 * 128
    moved_s = 2 * 2 * 1000 * channels / 1e12
    conv_s = 2e-6 + 2 * channels * 1e-10 + moved_s / 0.5
    chain_s, work_s = 1e-6 + 500 * 1e-8, 2 * 8 / 100 * (2e-6 + 500 * 2e-8)
    scan_s = 5e-6 + chain_s + work_s + 0.5 * moved_s
    assert IDEAL.time_s("delta", 1000, 2, 8, 128, 128, 4, 4) == pytest.approx(conv_s + scan_s, rel=1e-6)
    assert IDEAL.time_s("delta", 1000, 2, 8, 128, 128, 4, 0) == pytest.approx(scan_s, rel=1e-6)


def test_a_step_is_the_closed_form() -> None:
    """States of fp32 are read and written; replayed, small ones come from the cache at half the time."""
    conv_s = 1e-6 + 2 * 2 * 2 * (2 * 4 * 128 + 8 * 128) / 1e12 / 0.25
    moving_s = 2 * 4 * 2 * 8 * 128 * 128 / 0.8e12
    assert IDEAL.time_s("delta", 2, 2, 8, 128, 128, 4, 4) == pytest.approx(conv_s + 4e-6 + moving_s, rel=1e-12)
    assert IDEAL.scan_s("delta", 1, 1, 1, 128, 128, 1, replayed=True) == pytest.approx(
        4e-6 + 2 * 4 * 128 * 128 / 0.8e12 / 2, rel=1e-3
    )


def test_other_kinds_take_the_delta_nets_numbers_and_say_so() -> None:
    """A state of half the size takes half a chain's time."""
    assert IDEAL.scan("mamba2").source.startswith("assumed: mamba2 as the delta net")
    assert IDEAL.convolution("lightning").source.startswith("assumed: lightning")
    whole, half = (IDEAL.scan_s("lightning", 8000, 1, 1, dim, 128, 1) for dim in (128, 64))
    free = 5e-6, 0.5 * 2 * 2 * 8000 * (3 * 128) / 1e12, 0.5 * 2 * 2 * 8000 * (2 * 64 + 128) / 1e12
    assert half - free[0] - free[2] == pytest.approx((whole - free[0] - free[1]) / 2, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    gpu=st.sampled_from(GPUS), kind=st.sampled_from(KINDS), sequences=st.integers(1, 200), length=st.integers(2, 5000),
    heads=st.sampled_from([2, 8, 32, 128]), state=st.sampled_from([64, 128, 256]), more=st.integers(1, 500),
)  # fmt: skip
def test_more_tokens_or_sequences_never_take_less(
    gpu: str, kind: str, sequences: int, length: int, heads: int, state: int, more: int
) -> None:
    """Of prompts: longer ones at the same number, more at the same length, more heads. Of steps: more sequences."""
    model = shipped(gpu)

    def prompt(n: int, tokens: int, h: int) -> float:
        return model.time_s(kind, n * tokens, n, h, state, 128, 2, 4)

    least = prompt(sequences, length, heads) * (1 - 1e-12)
    assert prompt(sequences, length + more, heads) >= least
    assert prompt(sequences + more, length, heads) >= least
    assert prompt(sequences, length, heads + more) >= least
    steps = [model.time_s(kind, n, n, heads, state, 128, 2, 4) for n in (sequences, sequences + more)]
    assert steps[0] <= steps[1]


@pytest.mark.parametrize("gpu", GPUS)
def test_states_are_no_faster_than_memory(gpu: str) -> None:
    model, moved = shipped(gpu), 2 * 4 * 512 * 32 * 128 * 128
    assert model.scan_s("delta", 512, 512, 32, 128, 128, 16) >= moved / model.memory_bandwidth_bytes_per_s


def test_nothing_takes_no_time_and_nonsense_is_refused() -> None:
    assert IDEAL.time_s("delta", 0, 0, 8, 128, 128, 4, 4) == 0.0
    with pytest.raises(ValueError, match="delta, mamba2, lightning: 'rwkv'"):
        IDEAL.time_s("rwkv", 8, 1, 8, 128, 128, 4, 4)
    with pytest.raises(ValueError, match="tokens=3, sequences=4"):
        IDEAL.time_s("delta", 3, 4, 8, 128, 128, 4, 4)
    with pytest.raises(ValueError, match="groups=0"):
        IDEAL.time_s("delta", 8, 4, 8, 128, 128, 0, 4)
    with pytest.raises(ValueError, match="delta among"):
        replace(IDEAL, scans={"mamba2": SCAN})
    with pytest.raises(ValueError, match="sharpness"):
        replace(SCAN, sharpness=0.0)


@pytest.mark.parametrize("gpu", GPUS)
def test_a_model_survives_its_file(gpu: str) -> None:
    assert RecurrentModel.from_dict(json.loads(json.dumps(shipped(gpu).to_dict()))) == shipped(gpu)


def test_a_file_with_a_bad_number_is_refused_by_name() -> None:
    table = IDEAL.to_dict()
    table["scans"]["delta"]["step_s"] = -1.0
    with pytest.raises(ValueError, match="recurrent model: 'delta': step_s"):
        RecurrentModel.from_dict(table)
