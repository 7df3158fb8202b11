"""The fits of products beyond bf16 and fp8: the table, what is left out, and what was planted found again."""

from dataclasses import replace
from math import inf

import pytest

from thinwire.sim.costs.gemm import PEAK, ROW_STEP, Roofline
from thinwire.sim.costs.products import measured_products
from thinwire.sim.costs.shipped import profile_of
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.gemm import Row, Summary, facts, fit_gemm, fit_roofline, read_quantised, residuals
from thinwire.validation.precisions.products import left_out, left_out_logs, lent

TABLES = read_quantised()


def test_the_published_table_is_whole() -> None:
    assert len(TABLES) == 15
    for (gpu, precision), rows in TABLES.items():
        assert len({(row.m, row.n, row.k) for row in rows}) == len(rows) == (756 if gpu == "a100-sxm" else 1240)
        fastest = max(2 * row.m * row.n * row.k / row.time_s for row in rows)
        assert 0.25 < fastest / facts(gpu, precision).peak_flops_per_s < 1.05  # microseconds and peaks belong together
        assert PEAK[precision] in load_gpu(gpu).peak_flops_per_s


def test_shipped_fits_hold_their_rows() -> None:
    for (gpu, precision), rows in TABLES.items():
        found = Summary.of(residuals(measured_products(gpu)[precision].model, rows))
        assert found.median < 0.02 and found.percentile_90 < 0.13 and abs(found.bias) < 0.005


def test_an_int4_roofline_is_recovered() -> None:
    """From times without noise: weights at their bits, A in bf16, few rows by sixteen."""
    known = facts("a100-sxm", "int4")
    true = Roofline(4e-6, 1e-6, 0.7, (0.4, 0.45, 0.5, 0.8, 0.75, 0.6), 2e-6, row_step=ROW_STEP["int4"])
    rows = [
        Row(m, n, k, true.time_s(known, "int4", m, n, k))
        for m in (1, 16, 32, 64, 128, 512, 2048, 8192)
        for n in (1024, 4096, 8192)
        for k in (1024, 4096, 8192)
    ]
    found = fit_roofline([(rows, known)], "int4")
    assert found.launch_s == pytest.approx(4e-6, rel=0.1) and found.bandwidth_efficiency == pytest.approx(0.7, rel=0.05)
    assert (
        found.row_step == 16
        and Summary.of(residuals(replace(fit_gemm(rows, known, "int4"), correction=None), rows)).median < 0.02
    )


def test_spreads_of_rows_left_out_are_those_shipped() -> None:
    """Of the smallest table, fitted again as `make calibrate` does. An end hangs on a few rows of one shape, whose fit
    stops in another minimum with another CPU's LAPACK (high 0.35 where it was shipped, 0.43 seen here). So it is held
    to the rows: at most one in ten lies beyond it, and it is no wider than all of them.
    """
    again = left_out("a100-sxm", "int8", TABLES["a100-sxm", "int8"])
    logs = left_out_logs("a100-sxm", "int8", TABLES["a100-sxm", "int8"])
    least = 0.0
    for one, shipped in zip(again, measured_products("a100-sxm")["int8"].spreads, strict=True):
        assert (one.part, one.up_to, one.rows) == (shipped.part, shipped.up_to, shipped.rows)
        assert one.low == pytest.approx(shipped.low, abs=0.05)
        errors = [log for row, log in logs.items() if least < row.m <= (shipped.up_to or inf)]
        assert len(errors) == shipped.rows
        for beyond in (sum(log < shipped.low for log in errors), sum(log > shipped.high for log in errors)):
            assert beyond <= 0.1 * len(errors)
        assert min(errors) - 0.01 <= shipped.low and shipped.high <= max(errors) + 0.01
        least = shipped.up_to or inf


def test_what_is_lent_is_wider_than_what_is_measured() -> None:
    models = {("a100-sxm", "int4"): measured_products("a100-sxm")["int4"].model}
    found = lent(models, {"a100-sxm": profile_of(load_gpu("a100-sxm")).gemm})
    assert not found["same chip"] and not found["same architecture"]
    own = measured_products("a100-sxm")["int4"].spreads
    assert all(spread.is_assumed for spread in found["derived"])
    assert sum(s.high - s.low for s in found["derived"]) > 1.2 * sum(s.high - s.low for s in own)
