"""Leave one GPU out: what each measured GPU's kernels would be predicted at, had nobody measured it.

Done to each GPU as the simulator does it to one without a profile (`GpuProfile.moved_to`): from its nearest relative of
each kind there is (docs/decisions/027-gpus.md), never looking at a row of its own. What is left is how far off a
transferred profile is, and the source of the spreads that all transferred profiles share.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from thinwire.sim.costs.gemm import GemmModel, Roofline
from thinwire.sim.costs.spread import Spread
from thinwire.sim.costs.transfer import LONGEST, RELATIONS, Relation
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits import attention as fit_attention
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.fits import gemm as fit_gemm
from thinwire.validation.fits import spreads
from thinwire.validation.fits.gpus import SYSTEMS

Floats = NDArray[np.float64]

CHIP, ARCHITECTURE, FAR = RELATIONS
# Whom each would name, by the rule of the decision record: of the same memory, on the same chip; of the same
# architecture, on the same kind of board; of the next architecture, which is the newer one where there is one.
NEAREST: Mapping[str, Mapping[Relation, str]] = {
    "a100-sxm": {FAR: "h100-sxm"},
    "h100-sxm": {CHIP: "h200-sxm", FAR: "b200-sxm"},
    "h200-sxm": {CHIP: "h100-sxm", FAR: "b200-sxm"},
    "b200-sxm": {CHIP: "gb200", ARCHITECTURE: "b300-sxm", FAR: "h200-sxm"},
    "gb200": {CHIP: "b200-sxm", ARCHITECTURE: "gb300", FAR: "h200-sxm"},
    "b300-sxm": {CHIP: "gb300", ARCHITECTURE: "b200-sxm", FAR: "h200-sxm"},
    "gb300": {CHIP: "b300-sxm", ARCHITECTURE: "gb200", FAR: "h200-sxm"},
    "l40s": {FAR: "rtx-pro-6000"},
    "rtx-pro-6000": {FAR: "l40s"},
}
THIN = 4  # every so-manieth row
POOLED_THIN = 8  # of each table, in the roofline of the others
FEW = 2  # chips whose errors count both ways


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows of one part of one GPU beside what its relative says of them, (R,)."""

    gpu: str
    lender: str
    relation: Relation
    part: str  # of a profile
    labels: tuple[str, ...]
    sizes: Floats
    measured_s: Floats
    predicted_s: Floats

    @property
    def logs(self) -> Floats:
        """log(measured / predicted)."""
        return np.log(self.measured_s / self.predicted_s)


@cache
def rows() -> tuple[LeftOut, ...]:
    """All parts of all GPUs."""
    return (*_products(), *_attention(), *_decode())


def _pairs() -> Iterator[tuple[str, Relation, str]]:
    for gpu, lenders in NEAREST.items():
        for relation, lender in lenders.items():
            yield gpu, relation, lender


@cache
def _moved() -> Mapping[tuple[str, Relation, str], GemmModel]:
    """(GPU, relation, precision) -> what its products would be taken for."""
    tables = fit_gemm.read_rows()
    models = {key: fit_gemm.fit_gemm(found, fit_gemm.facts(*key), key[1]) for key, found in tables.items()}
    found: dict[tuple[str, Relation, str], GemmModel] = {}
    for (gpu, relation, lender), dtype in product(_pairs(), fit_gemm.DTYPES.values()):
        if (gpu, dtype) not in tables or (relation != FAR and (lender, dtype) not in tables):
            continue
        facts = fit_gemm.facts(gpu, dtype)
        if relation == FAR:
            pooled = _pooled(load_gpu(gpu).architecture, dtype)
            found[gpu, relation, dtype] = GemmModel(facts, dtype, pooled, None, "assumed: pooled")
        else:
            found[gpu, relation, dtype] = models[lender, dtype].transferred(facts)
    return found


def _products() -> Iterator[LeftOut]:
    tables = fit_gemm.read_rows()
    for (gpu, relation, dtype), model in _moved().items():
        kept = tables[gpu, dtype][::THIN]
        measured = np.array([row.time_s for row in kept])
        yield LeftOut(
            gpu, "all others" if relation == FAR else NEAREST[gpu][relation], relation, f"gemm {dtype}",
            tuple(f"m={row.m} n={row.n} k={row.k}" for row in kept),
            np.array([row.m for row in kept], dtype=float), measured,
            measured / np.exp(fit_gemm.residuals(model, kept)),
        )  # fmt: skip


def longest_products(relation: Relation) -> Spread:
    """How far off the longest-running product is in bf16, which ceilings are a share of: one row a GPU."""
    tables, logs = fit_gemm.read_rows(), list[float]()
    for (gpu, its, dtype), model in _moved().items():
        if its == relation and dtype == "bf16":
            (row,) = (row for row in tables[gpu, dtype] if (row.m, row.n, row.k) == LONGEST)
            logs.append(float(np.log(row.time_s / model.time_s(*LONGEST))))
    source = f"assumed: as {len(logs)} measured GPUs are off, each moved from its nearest ({relation})"
    return spreads.spread("longest product", logs, source, centred=True)


@cache
def _pooled(but: str | None, dtype: str) -> Roofline:
    """One roofline of the GPUs of all architectures but one."""
    tables = fit_gemm.read_rows().items()
    others = [
        (found[::POOLED_THIN], fit_gemm.facts(gpu, dtype))
        for (gpu, its), found in tables
        if its == dtype and load_gpu(gpu).architecture != but
    ]
    return fit_gemm.fit_roofline(others, dtype)


def _attention() -> Iterator[LeftOut]:
    tables, models = fit_attention.read_rows(), fit_attention.fit_all()
    system = {ours: theirs for theirs, ours in SYSTEMS.items()}
    for gpu, relation, lender in _pairs():
        moved, found = models[system[lender]].moved_to(*fit_attention.facts(gpu)), tables[system[gpu]]
        yield _attended(gpu, lender, relation, fit_attention.PART, found, fit_attention.predict(moved, found))


def _decode() -> Iterator[LeftOut]:
    tables, models = fit_decode.read_rows(), fit_decode.fit_all()
    system = {ours: theirs for theirs, ours in SYSTEMS.items()}
    for gpu, relation, lender in _pairs():
        moved, found = models[system[lender]].moved_to(*fit_decode.facts(gpu)), tables[system[gpu]]
        yield _attended(gpu, lender, relation, fit_decode.PART, found, fit_decode.predict(moved, found))


def _attended(
    gpu: str,
    lender: str,
    relation: Relation,
    part: str,
    found: fit_attention.Rows | fit_decode.Rows,
    predicted_s: Floats,
) -> LeftOut:
    labels = tuple(
        f"batch={batch:.0f} tokens={tokens:.0f} heads={heads:.0f}/{kv:.0f}"
        for batch, tokens, heads, kv in zip(found.batch, found.attended, found.heads, found.kv_heads, strict=True)
    )
    return LeftOut(
        gpu, lender, relation, part, labels[::THIN], found.attended[::THIN], found.time_s[::THIN], predicted_s[::THIN]
    )


# --- spreads of transferred profiles ---


def kernel_spreads(relation: Relation, part: str, but: str | None = None) -> list[Spread]:
    """How far off a part is where it is moved from a relative of this kind: in each regime as far as the worst of the
    GPUs, for which of them a new one will be like is not known. Errors of a few chips count both ways: had they been
    lender and borrower the other way round, they would have had the other sign.

    but: without this GPU and the others of its chip; none where that leaves nobody.
    """
    own = None if but is None else load_gpu(but).chip
    found = [
        left for left in rows() if (left.relation, left.part) == (relation, part) and load_gpu(left.gpu).chip != own
    ]
    if not found:
        return []
    regimes = spreads.M_REGIMES if part.startswith("gemm") else spreads.KEY_REGIMES
    source = f"assumed: as the worst of {len(found)} measured GPUs, each moved from its nearest ({relation})"
    each = [spreads.by_regime(part, left.sizes, left.logs, regimes, source, centred=True) for left in found]
    both_ways = len({load_gpu(left.gpu).chip for left in found}) <= FEW
    widest = []
    for some in zip(*each, strict=True):
        low, high = min(s.low for s in some), max(s.high for s in some)
        if both_ways:
            low, high = min(low, -high), max(high, -low)
        widest.append(Spread(part, some[0].up_to, low, 0.0, high, sum(s.rows for s in some), source))
    return widest


def parts() -> tuple[str, ...]:
    """Of a profile, that have been left out."""
    return tuple(dict.fromkeys(left.part for left in rows()))
