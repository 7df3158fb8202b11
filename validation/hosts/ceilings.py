"""How far whole prefills are off on another host: ceilings rest on one host each, and engines and coolers differ.

Hosts here are pairs of a host and an engine whose prefills calibrated nothing (ttft_2026.csv); the estimate is that of
exchanges (`between`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.profile import FabricProfile, GpuProfile, Profile
from thinwire.sim.costs.spread import find
from thinwire.sim.predict import predict
from thinwire.sim.workload import Prompt
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits.published_tables import select
from thinwire.validation.hosts.between import Off, prefill_spread

TABLE = "ttft_2026"
KIND = "whole prefills"
MACHINES = {"A100 40GB SXM": "8xa100-nvlink", "H100": "8xh100-nvlink"}  # the A100 of 40 GB computes as that of 80 does
ENGINES = ("vLLM", "TensorRT-LLM")
LEFT_OUT = (
    "DeepSpeed-MII and one MI300X by a vLLM of 2024: engines far from today's (published/README.md)",
    "GH200: no catalog machine when the table was read",
)


def prefills(gpus: Mapping[str, GpuProfile], fabrics: Mapping[str, FabricProfile]) -> Iterator[Off]:
    """16 prompts of 1,024 tokens at TP1, by the shipped ceilings."""
    for gpu, machine in MACHINES.items():
        cluster = load_cluster(machine).take(1)
        profile = Profile(gpus[cluster.gpu.name], fabrics[cluster.fabric])
        own = find(profile.gpu.spreads, 0.0, "prefill")
        for engine in ENGINES:
            for number, row in select(TABLE, gpu=gpu, engine=engine):
                prompt = Prompt(int(row["batch"]), int(row["input_tokens"]))
                ours = predict(load_model(row["model"]), cluster, scheme("bf16"), prompt, profile)
                yield Off(
                    f"{row['machine']}, {engine}", KIND, gpu, row["model"], f"{TABLE} row {number + 1}",
                    float(prompt.batch * prompt.input_tokens), float(row["ttft_ms"]) * 1e-3, ours.ttft_s, own,
                )  # fmt: skip


def with_hosts(gpus: Mapping[str, GpuProfile], fabrics: Mapping[str, FabricProfile]) -> dict[str, GpuProfile]:
    """The GPU profiles, each with what prefills differ by between hosts among its spreads."""
    found = prefill_spread(list(prefills(gpus, fabrics)))
    measured = {load_cluster(machine).gpu.name for machine in MACHINES.values()}
    assumed = replace(found, source=f"assumed: as on {' and '.join(sorted(measured))}, {found.source}")
    return {
        name: replace(gpu, spreads=(*gpu.spreads, found if name in measured else assumed)) for name, gpu in gpus.items()
    }
