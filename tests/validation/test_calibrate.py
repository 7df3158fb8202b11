"""`make calibrate` writes what is shipped: the same tables, the same bytes."""

import json
from functools import cache
from typing import Any

import pytest

from thinwire.sim.profile import (
    PROFILES,
    FabricProfile,
    fabric_profile,
    fabric_profile_dict,
    gpu_profile,
    gpu_profile_dict,
)
from thinwire.topologies.load import cluster_names, gpu_names, load_cluster, load_gpu
from thinwire.validation import calibrate
from thinwire.validation.gpus import NEAREST_KERNELS

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
    assert {load_cluster(name).gpu.name for name in cluster_names()} <= set(GPUS) <= set(gpu_names())


@pytest.mark.parametrize("name", FABRICS)
def test_fabrics_are_shipped_byte_for_byte(name: str, tmp_path: Any) -> None:
    """If this fails after a change of the fit or the tables, run `make calibrate` and commit sim/profiles/."""
    calibrate.write(tmp_path / "again.json", fabric_profile_dict(fabrics()[name]))
    assert (tmp_path / "again.json").read_bytes() == (PROFILES / f"fabric-{name}.json").read_bytes()


@pytest.mark.parametrize("kind", ["attention", "elementwise"])
def test_the_quick_parts_of_gpu_profiles_are_shipped(kind: str) -> None:
    """As above. GEMM and ceilings take longer to fit; tests/validation/test_compare.py holds their accuracy."""
    found = calibrate.attentions() if kind == "attention" else calibrate.elementwises()
    for gpu in GPUS:
        again = json.loads(json.dumps(found[gpu].to_dict()))
        assert again == shipped("gpu", gpu)[kind], gpu


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
    assert profile.attention.source.startswith("assumed: " if borrowed else "measured: ")
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
    """One file a fabric and one a GPU, in the form the loader reads. The GPUs are stubbed: they take seconds."""
    monkeypatch.setattr(calibrate, "PROFILES", tmp_path / "profiles")
    l40s = gpu_profile(shipped("gpu", "l40s"))
    monkeypatch.setattr(calibrate, "gpus", lambda _fabrics: {"l40s": l40s})
    calibrate.main()
    written = sorted(path.name for path in (tmp_path / "profiles").iterdir())
    assert written == sorted(["gpu-l40s.json", *(f"fabric-{name}.json" for name in FABRICS)])
    again = gpu_profile(json.loads((tmp_path / "profiles" / "gpu-l40s.json").read_text("utf-8")))
    assert gpu_profile_dict(again) == gpu_profile_dict(l40s)
