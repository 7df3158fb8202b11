"""Predictions frozen in tests/golden/predictions.json: nothing may change them unseen.

A change of profiles or of the model is meant to show here. Look at what moved and by how much, then write the file anew
and commit it with the change that moved it:

    REWRITE_GOLDEN=1 python -m pytest tests/sim/test_golden.py
"""

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest

from thinwire.sim import api

Weights = Literal["bf16", "fp8"]
Case = tuple[str, str, int, str, int, int, Weights]

TOLERANCE = 1e-6  # relative: another machine's libm and BLAS, not another model
CASES: tuple[Case, ...] = (
    # model, machine, tp, scheme, batch, input tokens, weights
    ("llama-3-70b", "8xl40s-pcie", 4, "bf16", 8, 1024, "bf16"),
    ("llama-3-70b", "8xl40s-pcie", 4, "flash-int8", 8, 1024, "bf16"),
    ("llama-3-70b", "8xl40s-pcie", 4, "flash-int4", 8, 1024, "bf16"),
    ("llama-3-70b", "8xl40s-pcie", 8, "flash-int4", 1, 4096, "fp8"),
    ("llama-3-70b", "8xl40s-pcie", 8, "flash2-int4-hier", 1, 4096, "fp8"),
    ("llama-3-70b", "8xl40s-pcie", 8, "iso-int8", 1, 4096, "bf16"),
    ("llama-3-70b", "8xh100-nvlink", 8, "bf16", 1, 1024, "bf16"),
    ("llama-3-70b", "8xh100-nvlink", 8, "none", 1, 16384, "bf16"),
    ("llama-3-70b", "8xh100-nvlink", 8, "bf16-ring", 4, 2048, "fp8"),
    ("llama-3-70b", "8xh100-nvlink", 8, "spd-50", 1, 1024, "bf16"),
    ("llama-3-70b", "8xh200-nvlink", 4, "flash2-int5", 16, 512, "bf16"),
    ("llama-3-70b", "8xb200-nvlink", 2, "bf16", 1, 8192, "fp8"),
    ("llama-3-70b", "2x8xh100-ib", 16, "bf16", 1, 2048, "bf16"),
    ("llama-3-70b", "2x8xh100-ib", 16, "flash2-int4-hier", 1, 2048, "bf16"),
    ("llama-2-70b", "8xa100-nvlink", 8, "bf16", 1, 2048, "bf16"),
    ("llama-2-70b", "8xmi300x-xgmi", 8, "quickreduce-int4", 1, 8192, "bf16"),
    ("llama-2-70b", "8xmi300x-xgmi", 4, "quickreduce-fp8", 2, 1000, "bf16"),
    ("qwen2.5-72b", "8xmi300x-xgmi", 8, "bf16", 1, 4096, "bf16"),
    ("qwen2.5-72b", "8xrtx-pro-6000-pcie", 8, "flash-int6", 1, 4096, "fp8"),
    ("qwen2.5-72b", "8xrtx-pro-6000-pcie", 8, "iso", 1, 4096, "bf16"),
    ("gemma-2-27b", "8xb200-nvlink", 4, "mxfp4-two-step", 1, 8000, "bf16"),
    ("gemma-2-27b", "8xl40s-pcie", 4, "flash-int4+spd-50", 1, 6000, "bf16"),
    ("mistral-nemo-12b", "8xrtx4090-pcie", 4, "bf16", 1, 1024, "bf16"),
    ("mistral-nemo-12b", "8xrtx4090-pcie", 8, "flash-int3", 1, 1024, "bf16"),
    ("mistral-7b", "4xl4-pcie", 4, "mxfp4", 1, 512, "bf16"),
    ("mistral-7b", "4xl4-pcie", 2, "hybrid-4.2", 1, 1, "fp8"),
    ("llama-3-8b", "4xl4-pcie", 4, "bf16", 2, 333, "bf16"),
    ("llama-3-8b", "8xa100-nvlink", 2, "flash2-int2-sr", 32, 128, "bf16"),
    ("llama-3-8b", "8xh100-nvlink", 1, "bf16", 1, 1024, "fp8"),
    ("llama-2-7b", "8xa100-nvlink", 4, "two_step:int4-g32-min/int8@chunk=262144x2@fused", 1, 4096, "bf16"),
    ("llama-2-13b", "8xh100-nvlink", 8, "flash-int4+iso", 1, 2048, "bf16"),
)


def key(case: Case) -> str:
    model, machine, tp, scheme, batch, tokens, weights = case
    return f"{model} {weights}, {machine} tp {tp}, {scheme}, {batch} x {tokens}"


def predicted(case: Case) -> dict[str, float]:
    """Milliseconds, nine digits."""
    model, machine, tp, scheme, batch, tokens, weights = case
    found = api.predict(model, machine, scheme, tp, batch, tokens, weights).to_dict()
    values = {"ttft_ms": found["ttft_ms"], **found["breakdown_ms"]}
    return {name: float(f"{value:.9g}") for name, value in values.items()}


@pytest.fixture(scope="module")
def golden(root: Path) -> dict[str, Any]:
    path = root / "tests" / "golden" / "predictions.json"
    if os.environ.get("REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({key(case): predicted(case) for case in CASES}, indent=1) + "\n")
    known = json.loads(path.read_text())
    assert isinstance(known, dict)
    return known


@pytest.mark.parametrize("case", CASES, ids=key)
def test_a_prediction_has_not_moved(case: Case, golden: dict[str, Any]) -> None:
    found, known = predicted(case), golden[key(case)]
    assert found.keys() == known.keys()
    # codec and exposed time may be differences of larger numbers: their tolerance is the whole's
    moved = [
        f"{name}: {known[name]:.9g} -> {found[name]:.9g} ms"
        for name in known
        if abs(found[name] - known[name]) > TOLERANCE * (known[name] if name == "ttft_ms" else known["ttft_ms"])
    ]
    assert not moved, f"{key(case)}: {'; '.join(moved)} (meant? see the docstring of this file)"


def test_the_file_holds_these_predictions_and_no_others(golden: dict[str, Any]) -> None:
    assert list(golden) == [key(case) for case in CASES]
