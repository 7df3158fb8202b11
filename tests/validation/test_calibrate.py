"""`make calibrate` writes what is shipped: the same tables, the same bytes."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from thinwire.sim.costs.profile import (
    FabricProfile,
    fabric_profile,
    fabric_profile_dict,
    gpu_profile,
    gpu_profile_dict,
)
from thinwire.sim.costs.shipped import PROFILES, transfer_spreads
from thinwire.sim.costs.spread import CONFIDENCE, find
from thinwire.topologies.load import cluster_names, gpu_names, load_cluster, load_gpu
from thinwire.validation import calibrate
from thinwire.validation.fits import attention as fit_attention
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.fits import spreads, spreads_fabric
from thinwire.validation.fits.gpus import NEAREST_KERNELS

GPUS = sorted(path.stem.removeprefix("gpu-") for path in PROFILES.glob("gpu-*.json"))
FABRICS = sorted(path.stem.removeprefix("fabric-") for path in PROFILES.glob("fabric-*.json"))


@cache
def fabrics() -> dict[str, FabricProfile]:
    return calibrate.fabrics()


def shipped(kind: str, name: str) -> Any:
    return json.loads((PROFILES / f"{kind}-{name}.json").read_text("utf-8"))


def test_every_machine_has_its_profiles_and_no_profile_is_left_over() -> None:
    assert list(fabrics()) == FABRICS == sorted({load_cluster(name).fabric for name in cluster_names()})
    assert sorted(calibrate.GPUS) == GPUS
    with_relative = {name for name in gpu_names() if load_gpu(name).relative is not None}
    assert {load_cluster(name).gpu.name for name in cluster_names()} <= {*GPUS, *with_relative}
    assert set(GPUS) <= set(gpu_names())


@pytest.mark.parametrize("name", FABRICS)
def test_fabrics_are_shipped_byte_for_byte(name: str, tmp_path: Any) -> None:
    """If this fails after a change of the fit or the tables, run `make calibrate` and commit sim/profiles/."""
    calibrate.write(tmp_path / "again.json", fabric_profile_dict(fabrics()[name]))
    assert (tmp_path / "again.json").read_bytes() == (PROFILES / f"fabric-{name}.json").read_bytes()


def test_elementwise_costs_are_shipped() -> None:
    """As above. GEMM and ceilings take longer to fit; tests/validation/targets/test_compare.py holds their accuracy."""
    found = calibrate.elementwises()
    for gpu in GPUS:
        again = json.loads(json.dumps(found[gpu].to_dict()))
        assert again == shipped("gpu", gpu)["elementwise"], gpu


@pytest.mark.parametrize(
    ("kind", "fit", "kernel"),
    [
        ("attention", calibrate.attentions, fit_attention),
        ("decode_attention", calibrate.decode_attentions, fit_decode),
    ],
)
def test_attention_is_shipped(kind: str, fit: Callable[[], Mapping[str, Any]], kernel: Any) -> None:
    """As above, by what is predicted of every row of the tables: parameters that hang together move by 2 %, and times
    by less than a thousandth, where another CPU's LAPACK rounds otherwise.
    """
    again, tables = fit(), kernel.read_rows()
    for gpu in GPUS:
        known = getattr(gpu_profile(shipped("gpu", gpu)), kind)
        assert again[gpu].source == known.source
        for rows in tables.values():
            assert kernel.predict(again[gpu], rows) == pytest.approx(kernel.predict(known, rows), rel=2e-3), gpu


def quantities(value: Any) -> list[str]:
    """Every source named anywhere in a document."""
    if isinstance(value, dict):
        own = [value["source"]] if isinstance(value.get("source"), str) else []
        return own + [said for child in value.values() for said in quantities(child)]
    return [said for child in value for said in quantities(child)] if isinstance(value, list) else []


@pytest.mark.parametrize(("kind", "name"), [("gpu", n) for n in GPUS] + [("fabric", n) for n in FABRICS])
def test_every_source_says_how_it_is_known(kind: str, name: str) -> None:
    found = quantities(shipped(kind, name))
    assert found and all(said.startswith(("measured: ", "assumed: ", "datasheet: ")) for said in found)


@pytest.mark.parametrize("gpu", GPUS)
def test_what_is_borrowed_is_assumed(gpu: str) -> None:
    """A GPU nobody measured has no measured kernels, and says whose it took."""
    profile = gpu_profile(shipped("gpu", gpu))
    borrowed = NEAREST_KERNELS.get(gpu)
    for model in profile.gemm.values():
        assert model.source.startswith("assumed: " if borrowed else "measured: ")
        assert model.gpu.sm_count == load_gpu(gpu).sm_count
    for attention in (profile.attention, profile.decode_attention):
        assert attention.gpu == gpu
        assert attention.sm_count == load_gpu(gpu).sm_count
        assert attention.memory_bandwidth_bytes_per_s == load_gpu(gpu).memory_bandwidth_bytes_per_s
        assert attention.source.startswith("assumed: " if borrowed else "measured: ")
    assert any(borrowed in said for said in profile.assumptions) if borrowed else not profile.assumptions
    assert set(profile.gemm) <= set(load_gpu(gpu).peak_flops_per_s)


@pytest.mark.parametrize("gpu", GPUS)
def test_ceilings_lie_below_the_peak(gpu: str) -> None:
    """What power allows over a prefill is more than half of the fastest product and less than the datasheet."""
    profile = gpu_profile(shipped("gpu", gpu))
    for precision, ceiling in profile.sustained_flops_per_s.items():
        assert (
            0.3 * load_gpu(gpu).peak_flops_per_s[precision] < ceiling.value < load_gpu(gpu).peak_flops_per_s[precision]
        )
    assert 0 <= profile.kernel_gap_s.value < 1e-5


@pytest.mark.parametrize("name", FABRICS)
def test_fabrics_borrow_openly(name: str) -> None:
    profile = fabric_profile(shipped("fabric", name))
    lender = calibrate.BORROWED.get(name)
    measured = [p for p in profile.protocols if p.source.startswith("measured: ")]
    assert bool(profile.assumptions) == (lender is not None)
    assert all(f"as on {lender}" in p.source for p in profile.protocols if p not in measured)
    assert measured or name == "l4-pcie"
    assert profile.baseline["all_reduce"]


def test_calibrate_writes_where_it_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file a fabric and one a GPU, in the form the loader reads, and one of what is off on GPUs without. The GPUs
    are stubbed, and what is off: they take seconds.
    """
    monkeypatch.setattr(calibrate, "PROFILES", tmp_path / "profiles")
    l40s = gpu_profile(shipped("gpu", "l40s"))
    monkeypatch.setattr(calibrate, "gpus", lambda _fabrics: {"l40s": l40s})
    monkeypatch.setattr(calibrate, "transferred", lambda _gpus: transfer_spreads())
    for of_mixtures in ("write_mixtures", "write_served_mixtures"):
        monkeypatch.setattr(calibrate, of_mixtures, lambda: None)
    for of_gpus in ("write_products", "write_attention"):
        monkeypatch.setattr(calibrate, of_gpus, lambda _gpus: None)
    monkeypatch.setattr(calibrate.log_spreads, "FILE", tmp_path / "spreads.json")
    monkeypatch.setattr(calibrate.log_spreads, "measure", lambda: {"second": []})
    calibrate.main()
    assert json.loads((tmp_path / "spreads.json").read_text("utf-8")) == {"second": []}
    written = sorted(path.name for path in (tmp_path / "profiles").iterdir())
    assert written == sorted(["gpu-l40s.json", "transferred.json", *(f"fabric-{name}.json" for name in FABRICS)])
    off, told = ((folder / "transferred.json").read_text("utf-8") for folder in (tmp_path / "profiles", PROFILES))
    assert json.loads(off) == json.loads(told)
    again = gpu_profile(json.loads((tmp_path / "profiles" / "gpu-l40s.json").read_text("utf-8")))
    assert gpu_profile_dict(again) == gpu_profile_dict(l40s)


# --- spreads ---


@pytest.mark.parametrize("rows", [8, 12, 18, 19, 40, 200])
def test_a_spread_holds_one_more_row_nine_times_in_ten(rows: int) -> None:
    """4,000 tables of normal errors: Student's t is exact, order statistics at least 90 % and at most 2 / (rows + 1)
    more. Three standard errors are 1.4 %.
    """
    rng, tables = np.random.default_rng(rows), 4000
    logs, next_one = 0.02 + 0.05 * rng.standard_normal((tables, rows)), 0.02 + 0.05 * rng.standard_normal(tables)
    found = [spreads.spread("x", own, "measured: drawn") for own in logs]
    inside = float(np.mean([s.low <= one <= s.high for s, one in zip(found, next_one, strict=True)]))
    above = 2 / (rows + 1) if rows >= spreads.ENOUGH else 0.0
    assert CONFIDENCE - 0.015 <= inside <= CONFIDENCE + above + 0.015


def test_a_spread_keeps_sign_and_bias() -> None:
    """Measured longer than predicted is above nought; of a stand-in the bias is dropped, the quantiles are not."""
    found = spreads.spread("x", np.linspace(0.1, 0.3, 41), "measured: made up")
    assert (found.low, found.bias, found.high, found.rows) == (0.0, 0.2, 0.295, 41)
    mirrored = spreads.spread("x", -np.linspace(0.1, 0.3, 41), "measured: made up", centred=True)
    assert (mirrored.low, mirrored.bias, mirrored.high) == (-0.295, 0.0, 0.0)
    with pytest.raises(ValueError, match="a spread needs rows: x, 1"):
        spreads.spread("x", [0.1], "measured: made up")


def test_a_regime_of_few_rows_joins_the_next() -> None:
    sizes, logs = [1.0] * 7 + [20.0] * 3 + [300.0] * 9, [0.1] * 7 + [-0.2] * 3 + [0.3] * 9
    found = spreads.by_regime("x", sizes, logs, (10, 100, None), "measured: made up")
    assert [(s.up_to, s.rows) for s in found] == [(100, 10), (None, 9)]
    with pytest.raises(ValueError, match="needs 8 rows in one regime"):
        spreads.by_regime("x", sizes[:5], logs[:5], (10, 100, None), "measured: made up")


def test_libraries_take_their_own_rows_first_then_other_fabrics() -> None:
    """Ten rows of one's own in the smallest regime; two in the next, where other fabrics have thirty."""

    def rows(fabric: str, count: int, nbytes: float, log: float) -> list[spreads_fabric.Timed]:
        return [
            spreads_fabric.Timed((fabric, "lib", "all_reduce", 8), nbytes, log + 1e-3 * (i % 2)) for i in range(count)
        ]

    timed = [*rows("a", 10, 1e3, 0.1), *rows("a", 2, 5e4, 0.1), *rows("b", 30, 5e4, 0.4), *rows("b", 30, 1e3, 0.4)]
    found = list(spreads_fabric.libraries("a", timed))
    assert [(s.up_to, s.rows, s.is_assumed) for s in found[:2]] == [(2**13, 10, False), (2**16, 32, True)]
    assert found[0].bias == pytest.approx(0.1005) and found[1].high == pytest.approx(0.401)
    assert all(s.rows == 12 and not s.is_assumed for s in found[2:]), "no rows there: its own of all sizes"
    assert not list(spreads_fabric.libraries("a", timed, "other"))


def test_spreads_of_fabrics_are_of_rows_left_out() -> None:
    """A series published three times slower leaves its rows' residuals at log 3 or so only where it is interpolated
    from others: no row is predicted by itself.
    """
    timed = spreads_fabric.fabric_left_out()
    assert len(timed) == 1680
    series = {row.series for row in timed}
    longer = {spreads_fabric.series_key(s) for s in calibrate.calibration() if len(s.nbytes) > 2}  # ends always stay
    assert series == longer
    mean_error = np.mean([abs(row.log) for row in timed])
    assert mean_error > 0.03, "in-sample they are 0.01"


def test_prefills_are_the_same_rows_as_the_fits() -> None:
    """The shipped spread of whole prefills is that of 18 rows, and of 17 without one of them."""
    from thinwire.validation.targets.kernels import prefill_spreads

    whole = prefill_spreads()
    assert len(whole.keys) == len(set(whole.keys)) == len(whole.left_out) == 18
    ours = gpu_profile(shipped("gpu", "h100-sxm")).spreads
    told, again = find(ours, 0, "prefill"), whole.spread()
    assert (told.low, told.bias, told.high) == pytest.approx((again.low, again.bias, again.high), abs=2e-3)
    assert whole.spread(whole.keys[0]).rows == 17
    assert np.abs(whole.stand_in).mean() > 2 * np.abs(whole.left_out).mean()
