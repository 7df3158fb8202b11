"""How far the costs of mixtures' kernels are off on rows that their fits did not see, and what each was fitted to.

As in fits/spreads.py: rows left out a group at a time where a GPU has its own, and where something stands in, the same
done to one whose rows are known. Rows of skewed routing count besides those of balanced routing from `SKEWED` rows of
an expert on: what a model's router really does lies between (docs/decisions/032-mixture-kernels.md).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.sim.costs.experts import EIGHT_BITS, STAND_INS, ExpertsModel
from thinwire.sim.costs.latent import LatentModel
from thinwire.sim.costs.profile import FitRecord
from thinwire.sim.costs.recurrent import RecurrentModel
from thinwire.sim.costs.shipped import Mixture
from thinwire.sim.costs.spread import Spread
from thinwire.sim.costs.transfer import RELATIONS, Relation, relation_of
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits import records
from thinwire.validation.fits.spreads import FEWEST, KEY_REGIMES, Regimes, by_regime
from thinwire.validation.mixtures import experts as fit_experts
from thinwire.validation.mixtures import latent as fit_latent
from thinwire.validation.mixtures import recurrent as fit_recurrent

Floats = NDArray[np.float64]
Logs = tuple[Floats, Floats]  # sizes, log(measured / predicted)

ROW_REGIMES: Regimes = (8, 128, None)  # rows of an expert
LENGTH_REGIMES: Regimes = (1, None)  # tokens of a sequence: a step of decoding, a prompt
SKEWED, CHOICES = 128, 4  # rows of an expert, choices of a token: with fewer, one expert gets half of all rows
FOLDS = slice(1, None, 2)  # of models' shapes, as many as tell
THIN = 40  # every so-manieth row is enough where something stands in
FACTOR_TWO = 0.6931


@cache
def skewed() -> Logs:
    """Rows of skewed routing at one rank, by fits to balanced ones. All experts are hit."""
    sizes, logs = list[float](), list[float]()
    for distribution in ("power_law_1.01", "power_law_1.2"):
        for (gpu, precision), rows in fit_experts.read_rows(distribution).items():
            chosen = (rows.rows / rows.hit >= SKEWED) & (rows.rows / rows.tokens >= CHOICES)
            left = rows.only((rows.ep == 1) & chosen)
            model = fit_experts.fit(fit_experts.read_rows()[gpu, precision], gpu, precision)
            sizes += (left.rows / left.hit).tolist()
            logs += np.log(left.time_s / fit_experts.predict(model, left)).tolist()
    return np.array(sizes), np.array(logs)


def experts_left_out(gpu: str, precision: str) -> list[Spread]:
    """A model's shape out, of every second; skewed rows besides. Of what is lent, as the lender's own is off."""
    if (gpu, precision) in fit_experts.LENT:
        lender = fit_experts.LENT[gpu, precision]
        its = experts_left_out(lender, precision)
        return [replace(s, source=f"assumed: as on {lender} ({s.source.removeprefix('measured: ')})") for s in its]
    rows = fit_experts.read_rows()[gpu, precision]
    logs, left = fit_experts.left_out(rows, gpu, precision, FOLDS)
    more_sizes, more = skewed()
    what = "model's shape" if len(rows.shapes) >= fit_experts.FEWEST_SHAPES else "width"
    source = (
        f"measured: experts.csv, {len(logs)} rows, each fitted without its {what}, and {len(more)} of skewed routing"
    )
    sizes = np.concatenate([left.rows / left.hit, more_sizes])
    return by_regime(f"experts {precision}", sizes, np.concatenate([logs, more]), ROW_REGIMES, source)


def experts_standing_in(models: Mapping[str, ExpertsModel]) -> list[Spread]:
    """Every measured precision by the kernels that would stand in for it, those of eight and of four bits apart."""
    found: dict[str, tuple[list[float], list[float]]] = {"8 bits": ([], []), "4 bits": ([], [])}
    for gpu, model in models.items():
        for precision, own in model.kernels.items():
            lender = next((each for each in STAND_INS[precision] if each in model.kernels), None)
            rows = fit_experts.read_rows().get((gpu, precision))
            if lender is None or rows is None:
                continue
            thin = rows.only(np.arange(len(rows)) % THIN == 0)
            moved = model.kernels[lender].standing_in(precision, own.peak_flops_per_s)
            sizes, logs = found["8 bits" if precision in EIGHT_BITS else "4 bits"]
            sizes += (thin.rows / thin.hit).tolist()
            logs += np.log(thin.time_s / fit_experts.predict(moved, thin)).tolist()
    source = "assumed: as measured precisions are off by the kernels that would stand in for them"
    return [
        spread
        for bits, (sizes, logs) in found.items()
        for spread in by_regime(f"experts {bits}", sizes, logs, ROW_REGIMES, source, centred=True)
    ]


def latent_left_out(gpu: str) -> list[Spread]:
    """A number of heads out; of modules that attention is half of at least."""
    found = list[Spread]()
    for phase, part in ((fit_latent.PREFILL, "latent prefill"), (fit_latent.DECODE, "latent decode")):
        sizes, logs = list[float](), list[float]()
        for kv, rows in fit_latent.fitted_rows(phase, gpu).items():
            told = fit_latent.told(rows)
            sizes += rows.tokens[told].tolist()
            logs += fit_latent.left_out(gpu, rows, phase, kv)[told].tolist()
        if logs:
            source = f"measured: {phase}.csv, {len(logs)} rows, each fitted without its number of heads"
            found += by_regime(part, sizes, logs, KEY_REGIMES, source)
    return found


def recurrent_left_out(gpu: str) -> list[Spread]:
    """A shape of the delta net out; what stands in for other kinds is off by a factor of two at most, we assume."""
    sizes, logs = list[float](), list[float]()
    for key, rows in fit_recurrent.read_rows().items():
        if key[:2] == (gpu, "delta"):
            sizes += rows.length.tolist()
            logs += fit_recurrent.left_out(key, rows).tolist()
    source = f"measured: recurrent.csv, {len(logs)} rows, each fitted without its heads"
    word = "assumed: a factor of two either way: no scan but the delta net's was published"
    other = Spread("recurrent", None, -FACTOR_TWO, 0.0, FACTOR_TWO, 0, word)
    return [*by_regime("recurrent delta", sizes, logs, LENGTH_REGIMES, source), other]


# --- from a relative ---


def _pairs(relation: Relation, gpus: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(GPU, lender) so near."""
    for gpu, lender in permutations(sorted(gpus), 2):
        if relation_of(load_gpu(gpu), load_gpu(lender)) == relation:
            yield gpu, lender


def _moved_experts(relation: Relation, models: Mapping[str, ExpertsModel]) -> Iterator[Spread]:
    source = f"assumed: as measured GPUs are off by each other's kernels ({relation})"
    whole: dict[str, tuple[list[float], list[float]]] = {}
    for gpu, lender in _pairs(relation, models):
        for precision, own in models[gpu].kernels.items():
            kernels = models[lender].kernels.get(precision)
            rows = fit_experts.read_rows().get((gpu, precision))
            if kernels is None or rows is None:
                continue
            moved = kernels.moved_to(lender, own.peak_flops_per_s, own.memory_bandwidth_bytes_per_s)
            thin = rows.only(np.arange(len(rows)) % THIN == 0)
            sizes, logs = whole.setdefault(precision, ([], []))
            sizes += (thin.rows / thin.hit).tolist()
            logs += np.log(thin.time_s / fit_experts.predict(moved, thin)).tolist()
    for precision, (sizes, logs) in sorted(whole.items()):
        if len(logs) >= FEWEST:
            yield from by_regime(f"experts {precision}", sizes, logs, ROW_REGIMES, source, centred=True)
    for bits in ("8 bits", "4 bits"):
        its = [both for precision, both in whole.items() if (precision in EIGHT_BITS) == (bits == "8 bits")]
        sizes, logs = [x for both in its for x in both[0]], [x for both in its for x in both[1]]
        yield from by_regime(f"experts {bits}", sizes, logs, ROW_REGIMES, source, centred=True)


def _moved_latent(relation: Relation, models: Mapping[str, LatentModel]) -> Iterator[Spread]:
    source = f"assumed: as measured GPUs are off by each other's kernels, alone ({relation})"
    for phase, part in ((fit_latent.PREFILL, "latent prefill"), (fit_latent.DECODE, "latent decode")):
        sizes, logs = list[float](), list[float]()
        tables = fit_latent.read_rows(phase)
        for gpu, lender in _pairs(relation, models):
            rows = tables.get((gpu, "bf16"))
            if rows is None:
                continue
            thin = rows.only(rows.alone & (np.arange(len(rows)) % THIN == 0))
            moved = models[lender].moved_to(gpu, *fit_latent.facts(gpu))
            sizes += thin.tokens.tolist()
            logs += np.log(
                fit_latent.predict(models[gpu], thin, phase) / fit_latent.predict(moved, thin, phase)
            ).tolist()
        yield from by_regime(part, sizes, logs, KEY_REGIMES, source, centred=True)


def _moved_recurrent(relation: Relation, models: Mapping[str, RecurrentModel]) -> Iterator[Spread]:
    source = f"assumed: as measured GPUs are off by each other's kernels ({relation})"
    sizes, logs = list[float](), list[float]()
    for gpu, lender in _pairs(relation, models):
        moved = models[lender].moved_to(gpu, *fit_recurrent.facts(gpu))
        for key, rows in fit_recurrent.read_rows().items():
            if key[:2] == (gpu, "delta"):
                thin = rows.only(np.arange(len(rows)) % THIN == 0)
                sizes += thin.length.tolist()
                logs += np.log(thin.time_s / fit_recurrent.predict(moved, key, thin)).tolist()
    yield from by_regime("recurrent delta", sizes, logs, LENGTH_REGIMES, source, centred=True)
    yield Spread("recurrent", None, -FACTOR_TWO, 0.0, FACTOR_TWO, 0, "assumed: a factor of two either way")


def transferred(
    experts: Mapping[str, ExpertsModel], latent: Mapping[str, LatentModel], recurrent: Mapping[str, RecurrentModel]
) -> dict[Relation, list[Spread]]:
    """The spreads of costs that a relative lent, by how near it is."""
    return {
        relation: [
            *_moved_experts(relation, experts),
            *_moved_latent(relation, latent),
            *_moved_recurrent(relation, recurrent),
        ]
        for relation in RELATIONS
    }


# --- records ---


def fits(gpu: str, mixture: Mapping[str, Any]) -> Iterator[FitRecord]:
    """What a GPU's costs were fitted to, and the errors left."""
    for precision, kernels in mixture["experts"].kernels.items():
        if (gpu, precision) in fit_experts.LENT:
            continue
        rows = fit_experts.read_rows()[gpu, precision]
        lines = np.unique(rows.line).tolist()
        yield records.record(f"experts {precision}", fit_experts.TABLE, lines, fit_experts.errors(kernels, rows))
    for phase in (fit_latent.PREFILL, fit_latent.DECODE):
        for kv, its in fit_latent.fitted_rows(phase, gpu).items():
            errors = fit_latent.seconds(gpu, its, phase, kv, its) / its.time_s - 1
            what = phase.replace("_", " ") + (f" {kv}" if phase == fit_latent.DECODE else "")
            yield records.record(what, phase, np.unique(its.line).tolist(), errors)
    for key, each in fit_recurrent.read_rows().items():
        if key[0] == gpu:
            errors = fit_recurrent.predict(mixture["recurrent"], key, each) / each.time_s - 1
            yield records.record(" ".join(key[1:]), fit_recurrent.TABLE, np.unique(each.line).tolist(), errors)


def mixtures(
    experts: Mapping[str, ExpertsModel], latent: Mapping[str, LatentModel], recurrent: Mapping[str, RecurrentModel]
) -> dict[str, Mixture]:
    """Each measured GPU's costs with their spreads and records."""
    found, standing_in = {}, experts_standing_in(experts)
    for gpu, model in experts.items():
        parts = {"experts": model, "latent": latent[gpu], "recurrent": recurrent[gpu]}
        spreads: Sequence[Spread] = [
            *(s for precision in model.kernels for s in experts_left_out(gpu, precision)),
            *standing_in,
            *latent_left_out(gpu),
            *recurrent_left_out(gpu),
        ]
        found[gpu] = Mixture(model, latent[gpu], recurrent[gpu], tuple(spreads), tuple(fits(gpu, parts)))
    return found
