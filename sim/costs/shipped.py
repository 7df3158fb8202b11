"""Profiles as files: those shipped in `sim/profiles/`, by the names that a machine gives, and a user's own by path.

`gpu-<name>.json`, `fabric-<name>.json`, and `transferred.json`: how far off profiles are that a relative lent. What a
dense model never asks for lies apart and is read when it is asked for: `mixture-<gpu>.json`, and beside it
`transferred-mixtures.json` and `served-mixtures.json`. With a GPU goes `attention-<name>.json`, its attention with
other heads, windows and caches, or the relative's.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from thinwire.edge.reading import from_json
from thinwire.edge.words import place
from thinwire.reference.core.precision import Precision
from thinwire.sim.costs.heads import heads_of
from thinwire.sim.costs.products import with_precisions
from thinwire.sim.costs.profile import (
    MIXTURE,
    FabricProfile,
    FitRecord,
    GpuProfile,
    Profile,
    fabric_profile,
    gpu_profile,
    mixture_models,
)
from thinwire.sim.costs.spread import Spread
from thinwire.sim.costs.transfer import Relation, relation_to
from thinwire.topologies.cluster import Cluster, Gpu
from thinwire.topologies.load import load_gpu

if TYPE_CHECKING:
    from thinwire.sim.costs.experts import ExpertsModel
    from thinwire.sim.costs.latent import LatentModel
    from thinwire.sim.costs.recurrent import RecurrentModel

PROFILES = Path(__file__).parents[1] / "profiles"
STAND_IN = "l40s"  # memory-bound codec kernels, as nearly all GPUs' are assumed to be


def load_profile(
    cluster: Cluster, path: str | None = None, kernels: bool = True, precisions: Iterable[Precision] = ()
) -> Profile:
    """The shipped profile of the cluster's GPU and fabric; `path`, a JSON file with a `gpu` and/or a `fabric`
    profile, or one of these alone as it is shipped, replaces either. A `within` is the fabric of one node of several.

    Without `kernels` only codecs run on the GPU: one with neither profile nor relative is taken for another's
    (`STAND_IN`), and says so. `precisions`: of weights, beyond the profile's own (products.py). ValueError for what is
    no profile, or one of another GPU, and for a precision that the GPU lacks.
    """
    given = {} if path is None else _parts(from_json(path, "profile"), path)
    known = _known_by(cluster.gpu, kernels)
    gpu = with_heads(gpu_profile(given["gpu"]), cluster.gpu) if "gpu" in given else profile_of(known)
    fabric = shipped_fabric(cluster)
    own = [fabric_profile(given[key]) for key in ("fabric", "within") if key in given]
    if own:
        alone = len(cluster.hosts) == 1
        fabric = _fitting(own[0] if "fabric" in given else None, own[-1] if "within" in given else None, fabric, alone)
    if gpu.gpu != cluster.gpu.name:
        raise ValueError(f"profile {gpu.name} is of {gpu.gpu}, but cluster {cluster.name} has {cluster.gpu.name}")
    return Profile(with_precisions(gpu, cluster.gpu, precisions), fabric)


def _parts(given: Any, path: str) -> Mapping[str, Any]:
    """What a profile file holds: parts by their names, or one part as `sim/profiles/` has it."""
    if isinstance(given, dict) and given:
        if not set(given) - {"gpu", "fabric", "within"}:
            return given
        for key, telling in (("gpu", "gemm"), ("fabric", "protocols")):
            if telling in given:
                return {key: given}
    raise ValueError(
        f"a profile file is an object with the keys gpu and/or fabric, or one of these parts by itself: {place(path)}"
    )


def _fitting(
    fabric: FabricProfile | None, within: FabricProfile | None, shipped: FabricProfile, alone: bool
) -> FabricProfile:
    """The one of the user's fabrics that a group takes. alone: it lies on one host. Another fabric's is used with a
    word.
    """
    inside = alone and (within is not None or fabric is None or fabric.within == shipped.name)
    found = within if inside else fabric
    if found is None:
        return shipped
    of = found.name.partition("+")[0]
    known = {p.stem.removeprefix("fabric-") for p in PROFILES.glob("fabric-*.json")}
    if of == shipped.name or of not in known:
        return found
    word = f"the profile given is of {found.name}; this machine's fabric is {shipped.name}"
    return replace(found, assumptions=(*found.assumptions, word))


def shipped_fabric(cluster: Cluster) -> FabricProfile:
    """The shipped profile of a group's fabric: inside one host of several, the host's."""
    fabric = _shipped_fabric(cluster.fabric)
    return _shipped_fabric(fabric.within) if fabric.within is not None and len(cluster.hosts) == 1 else fabric


def profile_of(gpu: Gpu) -> GpuProfile:
    """The shipped profile of a GPU; of one without, its relative's moved to it. ValueError where it names none."""
    if gpu.relative is None or _file("gpu", gpu.name).exists():
        return _whole(gpu)
    return _derived(gpu, gpu.relative)


@dataclass(frozen=True, slots=True)
class Mixture:
    """What the kernels cost that only mixtures of experts, latent attention and layers with a state have."""

    experts: "ExpertsModel"
    latent: "LatentModel"
    recurrent: "RecurrentModel"
    spreads: tuple[Spread, ...] = ()  # of experts by precision (rows of an expert), latent (keys), recurrent (tokens)
    fits: tuple[FitRecord, ...] = ()


def mixture_of(gpu: Gpu, own: GpuProfile | None = None) -> Mixture:
    """The shipped costs of a GPU's kernels for mixtures; of one without, its relative's moved to it, or a roofline's
    where it is like none. own: a profile whose models go before.
    """
    found = _mixture(gpu)
    found = replace(found, spreads=(*found.spreads, *_served_mixtures()))
    given = {} if own is None else {name: its for name in MIXTURE if (its := getattr(own, name)) is not None}
    return replace(found, **given) if given else found


@lru_cache
def _mixture(gpu: Gpu) -> Mixture:
    if _file("mixture", gpu.name).exists():
        table = json.loads(_file("mixture", gpu.name).read_text("utf-8"))
        models = mixture_models({name: table[name] for name in MIXTURE})
        return Mixture(**models, spreads=_spreads(table["spreads"]), fits=_fits(table["fits"]))
    peaks, memory = gpu.peak_flops_per_s, gpu.memory_bandwidth_bytes_per_s
    if gpu.relative is None:
        from thinwire.sim.costs.experts import ExpertsModel
        from thinwire.sim.costs.latent import LatentModel
        from thinwire.sim.costs.recurrent import RecurrentModel

        return Mixture(
            ExpertsModel.roofline(gpu.name, peaks, memory),
            LatentModel.roofline(gpu.name, peaks["bf16"], memory, gpu.sm_count),
            RecurrentModel.roofline(gpu.name, memory, gpu.sm_count),
        )
    lender = _mixture(load_gpu(gpu.relative))
    return Mixture(
        lender.experts.moved_to(gpu.name, peaks, memory),
        lender.latent.moved_to(gpu.name, peaks["bf16"], memory, gpu.sm_count),
        lender.recurrent.moved_to(gpu.name, memory, gpu.sm_count),
        _mixture_transfers()[relation_to(gpu, gpu.relative)],
    )


@lru_cache
def _served_mixtures() -> tuple[Spread, ...]:
    """How far off whole prefills of mixtures are, whatever the GPU."""
    return _spreads(json.loads((PROFILES / "served-mixtures.json").read_text("utf-8")))


@lru_cache
def _mixture_transfers() -> Mapping[Relation, tuple[Spread, ...]]:
    """How far off costs of mixtures are that a relative lent, by how near that is."""
    table = TypeAdapter(dict[Relation, tuple[Spread, ...]])
    return table.validate_python(json.loads((PROFILES / "transferred-mixtures.json").read_text("utf-8")))


def _spreads(given: Any) -> tuple[Spread, ...]:
    return TypeAdapter(tuple[Spread, ...]).validate_python(given)


def _fits(given: Any) -> tuple[FitRecord, ...]:
    return TypeAdapter(tuple[FitRecord, ...]).validate_python(given)


@lru_cache
def _whole(gpu: Gpu) -> GpuProfile:
    return with_heads(_shipped_gpu(gpu.name), gpu)


def with_heads(profile: GpuProfile, gpu: Gpu) -> GpuProfile:
    """The profile with its GPU's attention of other heads, windows and caches: its own, a relative's, or none."""
    own, lender = _file("attention", gpu.name), gpu
    while not own.exists():
        if lender.relative is None:
            return profile
        lender = load_gpu(lender.relative)
        own = _file("attention", lender.name)
    found = heads_of(json.loads(own.read_text("utf-8")))
    if lender is gpu:
        told = {spread.part for spread in found.spreads}
        spreads = (*(spread for spread in profile.spreads if spread.part not in told), *found.spreads)
        return replace(profile, heads=found, spreads=spreads)
    said = f"assumed: as on {lender.name}"
    return replace(profile, heads=found.moved_to(gpu.name, gpu.memory_bandwidth_bytes_per_s, gpu.sm_count, said))


@lru_cache
def transfer_spreads() -> Mapping[Relation, tuple[Spread, ...]]:
    """How far off the parts of a profile are that was moved from a relative, by how near that is."""
    table = TypeAdapter(dict[Relation, tuple[Spread, ...]])
    return table.validate_python(json.loads((PROFILES / "transferred.json").read_text("utf-8")))


def _known_by(gpu: Gpu, kernels: bool) -> Gpu:
    if kernels or gpu.relative is not None or _file("gpu", gpu.name).exists():
        return gpu
    return replace(gpu, relative=STAND_IN)


@lru_cache
def _derived(gpu: Gpu, relative: str) -> GpuProfile:
    relation, lender = relation_to(gpu, relative), load_gpu(relative)
    return profile_of(lender).moved_to(gpu, lender, relation, transfer_spreads()[relation])


@lru_cache
def _shipped_gpu(name: str) -> GpuProfile:
    return gpu_profile(_read("gpu", name))


@lru_cache
def _shipped_fabric(name: str) -> FabricProfile:
    return fabric_profile(_read("fabric", name))


def _file(kind: str, name: str) -> Path:
    return PROFILES / f"{kind}-{name}.json"


def _known(kind: str) -> str:
    return ", ".join(sorted(p.stem.removeprefix(f"{kind}-") for p in PROFILES.glob(f"{kind}-*.json")))


def _read(kind: str, name: str) -> Any:
    path = _file(kind, name)
    if not path.exists():
        more = ", or `relative` in the GPU's file names one of these" if kind == "gpu" else ""
        raise ValueError(
            f"no {kind} profile named {name}; shipped are {_known(kind)}; `--profile FILE` gives your own{more}"
        )
    return json.loads(path.read_text())
