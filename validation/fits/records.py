"""What each part of a profile was fitted to: row numbers and residuals, kept in the profile itself (`FitRecord`)."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from thinwire.sim.costs.attention import AttentionModel
from thinwire.sim.costs.decode_attention import DecodeAttentionModel
from thinwire.sim.costs.elementwise import ElementwiseModel
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.profile import FitRecord
from thinwire.validation.fits import attention as fit_attention
from thinwire.validation.fits import codec as fit_codec
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.fits import elementwise as fit_elementwise
from thinwire.validation.fits import gemm as fit_gemm
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import select


def record(what: str, table: str, rows: Iterable[int], errors: ArrayLike) -> FitRecord:
    """From relative errors, one for each row used."""
    size = np.abs(np.asarray(errors, dtype=float))
    figures = (np.median(size), np.quantile(size, 0.9), size.max())
    return FitRecord(what, table, ranges(rows), *(round(float(figure), 4) for figure in figures))


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as runs: 1, 2, 3, 7 -> "1-3,7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def numbers(text: str) -> list[int]:
    """The numbers that `ranges` wrote."""
    found: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def of_gemm(gpu: str, dtype: str, model: GemmModel) -> FitRecord:
    """A fitted GEMM model on its own rows."""
    system = next(s for s, name in SYSTEMS.items() if name == gpu)
    column = next(c for c, name in fit_gemm.DTYPES.items() if name == dtype)
    found = list(select("gemm", system=system, gemm_dtype=column))
    errors = [
        model.time_s(int(r["m"]), int(r["n"]), int(r["k"])) / (float(r["latency_us"]) * 1e-6) - 1 for _, r in found
    ]
    return record(f"gemm {dtype}", "gemm", (number for number, _ in found), errors)


def of_attention(gpu: str, model: AttentionModel) -> FitRecord:
    """A fitted attention model on its own rows."""
    system = next(s for s, name in SYSTEMS.items() if name == gpu)
    used = (number for number, _ in select(fit_attention.TABLE, system=system))
    errors = fit_attention.errors(model, fit_attention.read_rows()[system])
    return record(fit_attention.PART, fit_attention.TABLE, used, errors)


def of_decode_attention(gpu: str, model: DecodeAttentionModel) -> FitRecord:
    """A fitted decode attention model on its own rows, replayed as they were."""
    system = next(s for s, name in SYSTEMS.items() if name == gpu)
    used = (number for number, _ in select(fit_decode.TABLE, system=system))
    errors = fit_decode.errors(model, fit_decode.read_rows()[system])
    return record(fit_decode.PART, fit_decode.TABLE, used, errors)


def of_elementwise(gpu: str, model: ElementwiseModel) -> list[FitRecord]:
    """The operators whose costs come from tables: the fused norm from TokenWeave, the rest from vidur."""
    found = []
    if gpu == "h100-sxm":
        sample, table = fit_elementwise.read_tokenweave(), "tokenweave_kernels_8xh100"
        errors = [
            model.time_s("add_rms_norm", b) / t - 1 for b, t in zip(sample.moved_bytes, sample.time_s, strict=True)
        ]
        found.append(record("add_rms_norm", table, range(len(errors)), errors))
    vidur, table = fit_elementwise.read_vidur(), "dense_ops_by_tp"
    name = next((key for key, ours in fit_elementwise.VIDUR_GPUS.items() if ours == gpu), None)
    for op in ("rope", "embedding", "residual_add") if name else ():
        sample = vidur[gpu, op]
        errors = [model.time_s(op, b) / t - 1 for b, t in zip(sample.moved_bytes, sample.time_s, strict=True)]
        found.append(record(op, table, (number for number, _ in select(table, gpu=name or "")), errors))
    return found


def of_codec(fit: fit_codec.CodecFit, rows: Sequence[fit_codec.Row]) -> FitRecord:
    """The codec kernels of the MI300X."""
    errors = fit.seconds(rows) / np.array([row.seconds for row in rows]) - 1
    return record("codec", fit_codec.TABLE, (row.number for row in rows), errors)
