"""Real process groups for tests: cases, their tensors, and a launcher of gloo ranks on this machine."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.codecs.calibration import Calibration

FEATURES = 64
WORKER = Path(__file__).with_name("gloo_worker.py")


def partial(case: dict[str, Any], rank: int) -> Tensor:
    """Rank's partial sum of a case: normal values with some outliers, rows of FEATURES where that divides."""
    generator = torch.Generator().manual_seed(1000 * case.get("seed", 0) + rank)
    values = torch.randn(case["numel"], generator=generator)
    values[::97] *= 20
    shape = (-1, FEATURES) if case["numel"] % FEATURES == 0 and case["numel"] else (-1,)
    return values.reshape(shape).to(getattr(torch, case.get("dtype", "bfloat16")))


def calibrated(case: dict[str, Any], ranks: int) -> Calibration | None:
    """What a static hybrid needs: the reach of each feature in the very tensors of the case."""
    if "hybrid" not in case["scheme"] or case.get("uncalibrated"):
        return None
    rows = max(1, -(-case["numel"] // FEATURES))
    padded = torch.zeros(ranks, rows * FEATURES)
    for rank in range(ranks):
        padded[rank, : case["numel"]] = partial(case, rank).reshape(-1).float()
    by_feature = padded.reshape(ranks, rows, FEATURES)
    return Calibration(by_feature.abs().amax(1), by_feature.sum(0).abs().amax(0))


def digest(x: Tensor) -> str:
    """Hash of a tensor's bits."""
    return hashlib.sha256(x.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def run(
    folder: Path,
    ranks: int,
    cases: Sequence[dict[str, Any]],
    timeout_s: float = 60.0,
    members: Sequence[int] | None = None,
) -> list[list[dict[str, Any]]]:
    """Results of every rank, [rank][case]; [] for a rank that died."""
    (folder / "job.json").write_text(
        json.dumps({"ranks": ranks, "timeout_s": timeout_s, "cases": list(cases), "members": members})
    )
    processes = [subprocess.Popen([sys.executable, str(WORKER), str(folder), str(rank)]) for rank in range(ranks)]
    try:
        for process in processes:
            process.wait(timeout=600)
    finally:
        for process in processes:
            process.kill()
    files = [folder / f"rank{rank}.json" for rank in range(ranks)]
    return [json.loads(file.read_text()) if file.exists() else [] for file in files]


def on_two_ranks(folder: Path, module: ModuleType, function: str) -> list[Any]:
    """What `function(group)` of a module of these tests gives in each of two gloo processes, by rank."""
    return on_ranks(2, folder, module, function)


def on_ranks(ranks: int, folder: Path, module: ModuleType, function: str) -> list[Any]:
    """The same of more processes."""
    worker = str(Path(__file__).with_name("group_worker.py"))
    command = [sys.executable, worker, str(folder), str(ranks)]
    processes = [subprocess.Popen([*command, str(rank), str(module.__file__), function]) for rank in range(ranks)]
    assert [process.wait(timeout=120) for process in processes] == [0] * ranks
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]
