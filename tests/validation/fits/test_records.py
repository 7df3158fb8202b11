"""Profiles say which rows they were fitted to, and what is left of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.costs.shipped import PROFILES
from thinwire.validation.calibrate import RAW
from thinwire.validation.campaign import campaign
from thinwire.validation.fits import records
from thinwire.validation.fits.engine import predicted_s, tokenweave
from thinwire.validation.fits.published_tables import rows, select

FILES = sorted(path.name for path in [*PROFILES.glob("gpu-*.json"), *PROFILES.glob("fabric-*.json")])


@given(st.sets(st.integers(0, 500)))
def test_ranges_come_back(numbers: set[int]) -> None:
    assert records.numbers(records.ranges(numbers)) == sorted(numbers)


def test_figures_of_a_record() -> None:
    found = records.record("x", "gemm", [3, 1, 2], [0.1, -0.2, 0.3])
    assert (found.rows, found.median, found.worst) == ("1-3", 0.2, 0.3)


@pytest.mark.parametrize("name", FILES)
def test_every_row_a_profile_names_exists(name: str) -> None:
    for fit in json.loads((PROFILES / name).read_text())["fits"]:
        used = records.numbers(fit["rows"])
        campaigned = RAW / f"{fit['table']}.json"  # of `make gpu`: a part's rows are those of the step by its name
        table = campaign.load(campaigned)["steps"][fit["what"]]["rows"] if campaigned.exists() else rows(fit["table"])
        assert used and used[-1] < len(table), fit
        assert 0 <= fit["median"] <= fit["percentile_90"] <= fit["worst"], fit


def test_gemm_fits_name_all_rows_of_their_gpu() -> None:
    fits = json.loads((PROFILES / "gpu-l40s.json").read_text())["fits"]
    fp8 = next(fit for fit in fits if fit["what"] == "gemm fp8")
    assert records.numbers(fp8["rows"]) == [n for n, _ in select("gemm", system="l40s", gemm_dtype="fp8")]


def test_the_recorded_prefill_errors_are_those_of_the_shipped_profile() -> None:
    from thinwire.sim.costs.shipped import load_profile
    from thinwire.topologies.load import load_cluster

    profile = load_profile(load_cluster("8xh100-nvlink"))
    fit = next(f for f in profile.gpu.fits if f.what == "prefill bf16")
    errors = [predicted_s(p, profile.gpu, profile.fabric) / p.seconds - 1 for p in tokenweave("no_ar")]
    assert max(map(abs, errors)) == pytest.approx(fit.worst, abs=2e-3)
