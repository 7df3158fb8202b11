"""The fits of other heads, windows and caches: tables whole, errors small, what was planted found again."""

import numpy as np
import pytest

from thinwire.sim.costs.heads import BASE, Heads, Variant
from thinwire.sim.costs.shipped import profile_of
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.precisions.attention import (
    DECODE,
    PREFILL,
    Rows,
    decode_rows,
    errors,
    fit_adjust,
    fit_decode_variant,
    prefill_seconds,
    read_rows,
)

TABLES = {table: read_rows(table) for table in (PREFILL, DECODE)}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("gpu", ["h200-sxm", "b200-sxm", "l40s"])
def test_shipped_variants_hold_their_rows(table: str, gpu: str) -> None:
    """Over all variants of a GPU: the median error at most half of what the base alone is off, and below 8 %."""
    profile = profile_of(load_gpu(gpu))
    before, after = (
        np.concatenate([errors(table, v, rows, profile, heads) for v, rows in TABLES[table][gpu].items()])
        for heads in (Heads(), profile.heads)
    )
    assert BASE not in TABLES[table][gpu]
    assert np.median(np.abs(after)) < min(0.08, 0.5 * np.median(np.abs(before)))


def grid() -> Rows:
    shapes = [(b, n, 8.0, kv) for b in (1.0, 4.0, 32.0) for n in (128.0, 1024.0, 8192.0, 16384.0) for kv in (1.0, 8.0)]
    return Rows(*np.array([(*shape, 1.0) for shape in shapes]).T)


def test_a_planted_factor_is_found() -> None:
    base, variant = profile_of(load_gpu("h200-sxm")).attention, Variant(64, 0, "bf16")
    rows = grid()
    planted = Rows(rows.batch, rows.tokens, rows.heads, rows.kv_heads, 1.3 * prefill_seconds(base, variant, rows))
    assert np.array(fit_adjust(base, variant, planted)) / 1000 == pytest.approx(np.log(1.3), abs=0.05)


@pytest.mark.parametrize("packed", [1, 0])
def test_units_are_told_apart(packed: int) -> None:
    """Rows of a kernel that runs query heads together, and of one that runs each alone: the fit says which."""
    model = profile_of(load_gpu("l40s")).decode_attention_for(128, 128 if not packed else None, "bf16")
    assert model.packed == packed
    variant = Variant(128, 0, "bf16")
    shapes = [
        (b, c, 32.0, kv) for b in (1.0, 4.0, 16.0, 64.0, 256.0) for c in (32.0, 512.0, 4096.0) for kv in (4.0, 8.0)
    ]
    rows = Rows(*np.array([(*shape, 1.0) for shape in shapes]).T)
    seconds = fit_decode.predict(model, decode_rows(variant, rows))
    planted = Rows(rows.batch, rows.tokens, rows.heads, rows.kv_heads, seconds)
    assert fit_decode_variant("l40s", variant, planted).packed == packed
