"""`thinwire doctor`: what lacks is named with what brings it, and what is broken ends with a status that says so."""

import json
import subprocess
from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.commands import doctor as module
from thinwire.commands.doctor import Extra, Requirement, _release, extras_of, gpus, parsed

from ..command import Capture, run

LINES = (
    "numpy>=1.26", "typer>=0.29", 'torch>=2.6; extra == "reference"',
    "triton>=3.6; platform_system == \"Linux\" and extra == 'kernels'",
    'pyarrow>=17; extra == "sweep"', 'dask[distributed]>=2024.8; extra == "dask"', 'thinwire[sweep]; extra == "dask"',
    'thinwire[dask,sweep,self]; extra == "all"', 'thinwire[self]; extra == "self"',
)  # fmt: skip


def found(versions: dict[str, str], system: str = "Linux") -> dict[str, tuple[str, ...]]:
    extras = extras_of(LINES, versions.get, lambda extra: f"bring {extra}", system)
    assert all(extra.install == (f"bring {extra.name}" if extra.missing else "") for extra in extras)
    return {extra.name: extra.missing for extra in extras}


def test_what_lacks_is_named_by_extra_and_through_extras_of_extras() -> None:
    bare = found({"numpy": "2.0", "typer": "0.29.2"})
    assert bare == {
        "": (), "reference": ("torch>=2.6",), "kernels": ("triton>=3.6",), "sweep": ("pyarrow>=17",),
        "dask": ("dask>=2024.8", "pyarrow>=17"), "all": ("dask>=2024.8", "pyarrow>=17"), "self": (),
    }  # fmt: skip
    assert "kernels" not in found({}, "Darwin") and found({})[""] == ("numpy>=1.26", "typer>=0.29")


def test_what_is_too_old_lacks() -> None:
    assert found({"pyarrow": "16.9.9"})["sweep"] == ("pyarrow>=17",)
    assert found({"pyarrow": "17.0.0"})["sweep"] == found({"pyarrow": "17"})["sweep"] == ()
    assert found({"torch": "2.10.0+cpu"})["reference"] == () and found({"torch": "2.5"})["reference"] != ()


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_versions_compare_by_number(one: list[int], other: list[int]) -> None:
    def text(numbers: list[int]) -> str:
        return ".".join(map(str, numbers))

    def padded(numbers: list[int]) -> list[int]:
        return [*numbers, *[0] * (4 - len(numbers))]

    assert (_release(text(one)) >= _release(text(other))) == (padded(one) >= padded(other))


def test_every_line_of_our_own_metadata_is_understood() -> None:
    lines = metadata.requires("thinwire") or []
    read = [one for line in lines if (one := parsed(line, "Linux")) is not None]
    assert {one.extra for one in read} - {""} == {*(metadata.metadata("thinwire").get_all("Provides-Extra") or ())}
    assert all(one.least or one.of_ours for one in read), "a requirement without a least version"
    with pytest.raises(ValueError, match="no requirement"):
        parsed("numpy @ file:///tmp", "Linux")
    assert parsed("x; extra == 'y'", "Linux") == Requirement("x", "", "y")


def test_a_document_of_it(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an environment without extras, and in one that lacks what thinwire needs."""
    monkeypatch.setattr(module, "_extras", lambda: (Extra("", ()), Extra("reference", ("torch>=2.6",), "bring torch")))
    status, out, err = run(capsys, "doctor", "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["ok"] and document["verdict"] == "thinwire works here; extras not installed: reference"
    assert document["extras"] == [
        {"name": "reference", "missing": ["torch>=2.6"], "install": "bring torch", "installed": False}
    ]
    assert [check["ok"] for check in document["checks"]] == [True, True, None]
    assert document["places"]["profiles"].endswith("sim/profiles")
    status, out, _ = run(capsys, "doctor", "--quick")
    assert status == 0 and "extra reference lacks torch>=2.6\n" in out and "bring torch" in out
    few = ("plots", "ui", "test", "dev")
    monkeypatch.setattr(
        module, "_extras", lambda: (Extra("", ()), *(Extra(name, ("x>=1",), f"bring {name}") for name in few))
    )
    out = run(capsys, "doctor", "--quick")[1]
    assert out.count("bring ") == 1 and "bring plots" in out, "one command shows how"
    assert "extras not installed: plots, ui\n" in out and "extra dev" not in out, "contributors' are no reader's"
    assert [extra["name"] for extra in json.loads(run(capsys, "doctor", "--quick", "--json")[1])["extras"]] == [*few]
    monkeypatch.setattr(module, "_extras", lambda: (Extra("", ("simpy>=4.1",), "bring simpy"),))
    status, out, _ = run(capsys, "doctor", "--quick", "--json")
    assert status == 1 and json.loads(out)["verdict"].startswith("thinwire does not work here: packages")


def test_a_check_that_fails_is_a_status(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("bytes do not add up")

    monkeypatch.setattr(module, "_prediction", broken)
    status, out, _ = run(capsys, "doctor", "--quick")
    assert status == 1 and "FAILED" in out and "RuntimeError: bytes do not add up" in " ".join(out.split())


def test_the_prediction_is_held_against_arithmetic() -> None:
    """64 all-reduces of 64 x 4096 values on two ranks: half of them sent twice, two bytes each."""
    assert f"{64 * 64 * 4096 * 2} bytes" in module._prediction()


def test_two_processes_sum_to_the_same_bits() -> None:
    pytest.importorskip("torch", reason="pip install 'thinwire[reference]'")
    assert module._two_ranks({"reference": Extra("reference", ())}).ok is True


def test_gpus_are_what_nvidia_smi_says_and_none_where_it_does_not() -> None:
    def smi(stdout: str) -> list[dict[str, str]]:
        return gpus(lambda *a, **k: subprocess.CompletedProcess(a, 0, stdout, ""))

    assert smi("NVIDIA L40S, 46068 MiB, 550.54\n") == [
        {"name": "NVIDIA L40S", "memory": "46068 MiB", "driver": "550.54"}
    ]
    assert smi("") == smi("No devices were found\n") == []
    for error in (
        FileNotFoundError(),
        subprocess.TimeoutExpired("nvidia-smi", 10),
        subprocess.CalledProcessError(9, "x"),
    ):

        def fails(*a: object, error: Exception = error, **k: object) -> subprocess.CompletedProcess[str]:
            raise error

        assert gpus(fails) == []
