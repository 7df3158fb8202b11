"""The decode attention fit against the published rows: gates a change may not make worse."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from thinwire.reference.families.config import load_model
from thinwire.sim.costs.decode_attention import SHARE_NODES
from thinwire.validation.fits import decode
from thinwire.validation.fits.published_tables import rows as published

# Median, 90th percentile in per cent: what docs/decisions/004 says, and a tenth more.
IN_SAMPLE = {
    "a100_sxm": (4.3, 13.2),
    "b200_sxm": (2.7, 8.8),
    "h100_sxm": (3.2, 10.2),
    "h200_sxm": (3.1, 9.0),
    "l40s": (5.4, 13.3),
    "rtx_pro_6000_server": (3.9, 15.8),
    "b300_sxm": (2.4, 8.6),
    "gb200": (3.0, 10.0),
    "gb300": (2.7, 7.9),
}


@cache
def rows() -> dict[str, decode.Rows]:
    return decode.read_rows()


@cache
def model(system: str) -> decode.DecodeAttentionModel:
    return decode.fit(rows()[system], *decode.FACTS[system])


def test_every_published_row_is_read() -> None:
    found = {system: len(r) for system, r in rows().items()}
    assert found == {**dict.fromkeys(decode.FACTS, 1522), "a100_sxm": 1593}
    for r in rows().values():
        assert r.time_s.min() > 5e-6 and r.time_s.max() < 0.01
        assert set(np.unique(r.context)) <= {2.0, 32.0, *(2.0**n for n in range(7, 18))}


def test_the_rows_have_the_heads_of_the_catalog() -> None:
    """Every (heads, kv heads) that a catalog model with head_dim 128 has on a rank at TP 1 to 8 and somebody measured.
    Who adds a model: choose its rows from the source too, or name its heads here.
    """
    unmeasured = {(32, 16), (20, 20), (10, 10), (5, 5)}
    wanted = set()
    for name in ("llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b", "llama-3-70b", "qwen2.5-72b",
                 "mistral-7b", "mistral-nemo-12b", "gemma-2-27b"):  # fmt: skip
        config = load_model(name)
        wanted |= {(config.attention.heads // tp, config.attention.kv_heads_per_gpu(tp)) for tp in (1, 2, 4, 8)}
    found = {(int(r["num_heads"]), int(r["num_kv_heads"])) for r in published(decode.TABLE)}
    assert found == wanted - unmeasured


@pytest.mark.parametrize("system", sorted(decode.FACTS))
def test_array_form_of_the_formula_is_the_model(system: str) -> None:
    """The fit's array formula and the model's scalar one agree on every row, whatever the numbers."""
    facts = decode.FACTS[system]
    generator = np.random.default_rng(7)
    share = np.log(0.3 + 0.3 * generator.random(SHARE_NODES))
    for values in (decode.fit_values(rows()[system], *facts[1:]), np.concatenate([decode.START[:-SHARE_NODES], share])):
        found = decode.build("test", facts[1:], values, "test")
        rounded = np.log([*(getattr(found, name) for name in decode.NAMES), *found.shares])
        r = rows()[system]
        expected = decode.seconds(rounded, r, *facts[1:], decode.hats(r.batch * r.kv_heads))
        np.testing.assert_allclose(decode.predict(found, r), expected, rtol=1e-9)


@pytest.mark.parametrize("system", sorted(decode.FACTS))
def test_in_sample_as_near_as_said(system: str) -> None:
    """Median within the 6 % that the issue asks of prefill's. If a change of the model breaks this, it fits worse: see
    the decision's table before loosening."""
    error = decode.errors(model(system), rows()[system])
    median, tail = IN_SAMPLE[system]
    assert 100 * np.median(error) < 1.1 * median and median < 6
    assert 100 * np.quantile(error, 0.9) < 1.1 * tail


@pytest.mark.parametrize("system", sorted(decode.FACTS))
def test_what_an_engine_is_charged_holds_beyond_the_cache(system: str) -> None:
    """Rows that no L2 holds, at serving sizes, by `time_s`, which knows no L2."""
    r, found = rows()[system], model(system)
    keep = (r.read_bytes > 1.5 * found.cache_bytes) & (r.batch <= 256)
    large = r.only(keep)
    columns = zip(large.batch, large.context, large.heads, large.kv_heads, strict=True)
    cold = [found.time_s(int(b), int(b * c), int(h), int(kv), decode.HEAD_DIM) for b, c, h, kv in columns]
    assert keep.sum() > 200
    assert np.median(np.abs(np.array(cold) / large.time_s - 1)) < 0.065


@pytest.mark.parametrize("kind", ["pair", "length"])
def test_left_out_shapes_are_predicted(kind: str) -> None:
    """H100, whole (heads, kv_heads) pairs and whole contexts left out, every one of them."""
    r = rows()["h100_sxm"]
    error = np.abs(decode.left_out(r, decode.FACTS["h100_sxm"], kind) / r.time_s - 1)
    assert np.median(error) < 0.045
    assert np.quantile(error, 0.9) < 0.15


def test_fit_notices_its_rows() -> None:
    """Times half as long again from memory on: the shares fall by as much, the floor stays."""
    r, facts = rows()["h100_sxm"], decode.FACTS["h100_sxm"]
    slow = decode.Rows(r.batch, r.context, r.heads, r.kv_heads, r.time_s * np.where(r.read_bytes > 1e8, 1.5, 1.0))
    found = decode.fit(slow, *facts)
    assert found.shares[6] == pytest.approx(model("h100_sxm").shares[6] / 1.5, rel=0.15)
    assert found.floor_s == pytest.approx(model("h100_sxm").floor_s, rel=0.1)


def test_efficiencies_carry_over_within_a_chip() -> None:
    """What a GPU without rows may expect at best: H100 and H200 with each other's numbers."""
    for target, donor in (("h100_sxm", "h200_sxm"), ("h200_sxm", "h100_sxm")):
        moved = model(donor).moved_to(*decode.FACTS[target])
        assert np.median(decode.errors(moved, rows()[target])) < 0.06, (target, donor)


def test_fit_is_deterministic() -> None:
    r, facts = rows()["l40s"], decode.FACTS["l40s"]
    assert decode.fit(r, *facts) == decode.fit(r, *facts)


def test_unknown_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="pair, length, batch, got 'gpu'"):
        list(decode.folds(rows()["l40s"], "gpu"))
