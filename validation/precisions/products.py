"""Fit products beyond bf16 and fp8, and say how far off they are: `sim/profiles/gemm-*.json`, by `make calibrate`.

Each GPU's rows of `gemm_quantised.csv` are fitted as those of `gemm.csv` are (validation/fits/gemm.py). How far off
products are that a relative lends, GPUs of one chip or architecture show from each other; how far off ones derived from
another precision's roofline, every GPU on which both are measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import product

from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.products import Products, derived, nearest
from thinwire.sim.costs.profile import FitRecord
from thinwire.sim.costs.spread import Spread
from thinwire.sim.costs.transfer import relation_of
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits import gemm as fit_gemm
from thinwire.validation.fits import records
from thinwire.validation.fits.gemm import Row
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import select
from thinwire.validation.fits.spreads import by_regime

FOLD = 1  # of every five (n, k), left out here
REGIMES = (64, 512, 4096, None)  # rows of a product: decode's are few
Key = tuple[str, str]  # GPU and precision


def fitted() -> dict[Key, GemmModel]:
    """The models of all GPUs and precisions with rows."""
    tables = fit_gemm.read_quantised()
    return {key: fit_gemm.fit_gemm(rows, fit_gemm.facts(*key), key[1]) for key, rows in tables.items()}


def left_out(gpu: str, precision: str, rows: Sequence[Row]) -> list[Spread]:
    """How far off rows are whose (n, k) the fit did not see."""
    logs = left_out_logs(gpu, precision, rows)
    source = f"measured: {fit_gemm.QUANTISED}.csv, {len(logs)} rows of {gpu}, each fitted without its (n, k)"
    return by_regime(f"gemm {precision}", [row.m for row in logs], list(logs.values()), REGIMES, source)


def left_out_logs(gpu: str, precision: str, rows: Sequence[Row]) -> dict[Row, float]:
    """Log of measured over predicted by row: one (n, k) out, one of every five."""
    folds = [fold for i, fold in enumerate(fit_gemm.shape_folds(rows)) if i % 5 == FOLD]
    return fit_gemm.leave_one_out(rows, fit_gemm.facts(gpu, precision), precision, folds)


def fit_record(gpu: str, precision: str, model: GemmModel) -> FitRecord:
    """A model on its own rows."""
    system = next(s for s, name in SYSTEMS.items() if name == gpu)
    found = list(select(fit_gemm.QUANTISED, system=system, gemm_dtype=precision))
    errors = [
        model.time_s(int(r["m"]), int(r["n"]), int(r["k"])) / (float(r["latency_us"]) * 1e-6) - 1 for _, r in found
    ]
    return records.record(f"gemm {precision}", fit_gemm.QUANTISED, (number for number, _ in found), errors)


def products() -> dict[str, dict[str, Products]]:
    """What is measured, by GPU and precision."""
    tables, models = fit_gemm.read_quantised(), fitted()
    found: dict[str, dict[str, Products]] = {}
    for (gpu, precision), model in models.items():
        spreads = left_out(gpu, precision, tables[gpu, precision])
        record = fit_record(gpu, precision, model)
        found.setdefault(gpu, {})[precision] = Products(model, tuple(spreads), (record,))
    return found


def lent(models: Mapping[Key, GemmModel], own: Mapping[str, Mapping[str, GemmModel]]) -> dict[str, list[Spread]]:
    """How far off products are that a GPU of the same chip or architecture lent, or that were derived.

    own: every GPU's models in bf16 and fp8.
    """
    tables = fit_gemm.read_quantised()
    precisions = sorted({precision for _, precision in models})
    found: dict[str, list[Spread]] = {"same chip": [], "same architecture": [], "derived": []}
    for precision in precisions:
        gpus = [gpu for gpu, its in models if its == precision]
        moved: dict[str, list[tuple[GemmModel, Sequence[Row]]]] = {name: [] for name in found}
        for gpu, lender in product(gpus, gpus):
            relation = relation_of(load_gpu(gpu), load_gpu(lender))
            if gpu != lender and relation in found:
                model = models[lender, precision].transferred(fit_gemm.facts(gpu, precision))
                moved[relation].append((model, tables[gpu, precision]))
        for gpu in gpus:
            near = own[gpu][nearest(precision, own[gpu])]
            moved["derived"].append((derived(near, load_gpu(gpu), precision), tables[gpu, precision]))
        for name, pairs in moved.items():
            if pairs:
                found[name] += _spreads(precision, name, pairs)
    return found


def _spreads(precision: str, name: str, pairs: Iterable[tuple[GemmModel, Sequence[Row]]]) -> list[Spread]:
    sizes, logs, count = list[int](), list[float](), 0
    for model, rows in pairs:
        sizes += [row.m for row in rows]
        logs += fit_gemm.residuals(model, rows).tolist()
        count += 1
    how = "derived from another precision's roofline" if name == "derived" else f"moved within the {name}"
    models = "one model is off that was" if count == 1 else f"{count} models are off that were"
    source = f"assumed: as {models} {how}"
    return by_regime(f"gemm {precision}", sizes, logs, REGIMES, source, centred=True)


def documents(own: Mapping[str, Mapping[str, GemmModel]]) -> dict[str, object]:
    """Name of a file in `sim/profiles/`: its contents."""
    found = products()
    models = {(gpu, precision): its.model for gpu, each in found.items() for precision, its in each.items()}
    files: dict[str, object] = {
        f"gemm-{gpu}.json": {precision: its.to_dict() for precision, its in each.items()} for gpu, each in found.items()
    }
    files["gemm-lent.json"] = {name: [asdict(s) for s in spreads] for name, spreads in lent(models, own).items()}
    return files
