"""The catalogs as rows of plain values: models, machines, GPUs and schemes, each with its source."""

from typing import Any

from thinwire.reference.catalog import schemes as catalog_schemes
from thinwire.reference.core.architecture import Experts, FeedForward, ModelConfig
from thinwire.reference.core.mixers import Attention, Latent
from thinwire.reference.core.scheme import Raw, Scheme
from thinwire.reference.families.config import load_model, model_aliases, model_names
from thinwire.sim.costs.transfer import RELATIONS, relation_to
from thinwire.topologies.cluster import Cluster, Gpu
from thinwire.topologies.load import cluster_names, gpu_names, load_cluster, load_gpu


def names(kind: str) -> tuple[str, ...]:
    """Catalog names of `models`, `clusters`, `gpus` or `schemes`."""
    found = {
        "models": model_names(), "clusters": cluster_names(), "gpus": gpu_names(), "schemes": tuple(catalog_schemes()),
    }  # fmt: skip
    return found[kind]


def catalog(kind: str) -> list[dict[str, Any]]:
    """A catalog as rows of plain values, each with its source."""
    match kind:
        case "models":
            return [_model_row(load_model(name)) for name in model_names()]
        case "clusters":
            return [_cluster_row(load_cluster(name)) for name in cluster_names()]
        case "gpus":
            return [_gpu_row(load_gpu(name)) for name in gpu_names()]
        case _:
            return [_scheme_row(s) for s in catalog_schemes().values()]


def _model_row(m: ModelConfig) -> dict[str, Any]:
    mixers = [layer.mixer for layer in m.layers if layer.mixer is not None]
    heads = next((mixer for mixer in mixers if isinstance(mixer, Attention | Latent)), None)
    dense = next((layer.feed for layer in m.layers if isinstance(layer.feed, FeedForward)), None)
    mixture = next((layer.feed for layer in m.layers if isinstance(layer.feed, Experts)), None)
    return {
        "name": m.name, "architecture": m.architecture, "parameters": m.parameters,
        "active_parameters": m.active_parameters, "hidden_size": m.hidden_size, "num_layers": m.num_layers,
        "num_heads": heads.heads if heads else None,
        "num_kv_heads": heads.kv_heads if isinstance(heads, Attention) else None,
        "head_dim": heads.head_dim if heads else None, "intermediate_size": dense.width if dense else None,
        "experts": mixture.count if mixture else None, "experts_per_token": mixture.top_k if mixture else None,
        "expert_size": mixture.width if mixture else None, "vocab_size": m.vocab_size,
        "kv_bytes_per_token": 2 * m.cache_values(1), "source": m.source,
        "ids": [alias.name for alias in model_aliases().values() if alias.model == m.name],
    }  # fmt: skip


def _cluster_row(c: Cluster) -> dict[str, Any]:
    return {
        "name": c.name, "title": c.title, "gpus": len(c.gpus), "gpu": c.gpu.name, "memory_gb": c.gpu.memory_bytes / 1e9,
        "islands": [len(island) for island in c.islands], "fabric": c.fabric,
        "sources": sorted(set(c.sources.values())),
    }  # fmt: skip


def _gpu_row(g: Gpu) -> dict[str, Any]:
    """What the GPU can do, and what predictions on it rest on."""
    known = "measured kernels"
    if g.relative is not None:
        relation = relation_to(g, g.relative)
        pooled = relation == RELATIONS[-1] or g.matmul_flops_per_s is not None
        products = "roofline of measured GPUs, attention of" if pooled else "kernels of"
        known = f"{products} {g.relative} ({relation})"
    return {
        "name": g.name, "title": g.title, "architecture": g.architecture, "chip": g.chip,
        "memory_gb": g.memory_bytes / 1e9, "memory_bandwidth_gb_per_s": g.memory_bandwidth_bytes_per_s / 1e9,
        "peak_tflops": {precision: peak / 1e12 for precision, peak in g.peak_flops_per_s.items()},
        "sm_count": g.sm_count, "l2_mb": None if g.l2_bytes is None else g.l2_bytes / 1e6,
        "matmul_tflops": None if g.matmul_flops_per_s is None else g.matmul_flops_per_s / 1e12,
        "relative": g.relative, "rests_on": known, "pci_ids": list(g.pci_ids), "product_names": list(g.product_names),
        "sources": dict(g.sources),
    }  # fmt: skip


def _scheme_row(s: Scheme) -> dict[str, Any]:
    from thinwire.sim.quality.published import rows_of

    return {
        "name": s.name, "reduce": s.reduce.spec, "gather": s.gather.spec, "collective": s.collective,
        "dispatch": (s.dispatch or Raw()).spec, "combine": (s.combine or Raw()).spec,
        "bits_per_value": {
            "reduce": s.reduce.bits_per_value, "gather": s.gather.bits_per_value,
            "dispatch": (s.dispatch or Raw()).bits_per_value, "combine": (s.combine or Raw()).bits_per_value,
        },
        "source": s.source,
        "published": [found.to_dict() for found in rows_of(s)],
    }  # fmt: skip
