"""A state into the document of the page: a row a scheme, and of the chosen one what happens when, and where.

Ten schemes, the baseline among them, are a tenth of a second on a busy machine; the rest of the catalog, and the curves
(page/curves.py), are asked for afterwards.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from thinwire import __version__
from thinwire.commands.reproduce import command_line, python_line
from thinwire.edge.limits import BATCH, LOG_BYTES, TOKENS
from thinwire.page.desk import Desk
from thinwire.page.documents import (
    Answer,
    Detail,
    MachineOption,
    ModelOption,
    Options,
    Price,
    Row,
    SchemeOption,
    Slider,
)
from thinwire.page.drawing import drawing
from thinwire.page.state import DROP, LINK, OWN, State, asked, number, read
from thinwire.page.timeline import layer_of
from thinwire.reference.catalog import schemes as catalog_schemes
from thinwire.reference.core.architecture import ModelConfig
from thinwire.sim import api
from thinwire.sim.api import Comparison
from thinwire.sim.grounds import grounds
from thinwire.sim.report import Prediction
from thinwire.sim.verdict import Limit, best, reason, standing, verdict
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster

BASELINE = "bf16"
FLOOR = "none"
NAMED = (BASELINE, FLOOR, "flash-int8", "flash2-int6", "flash-int4", "flash2-int4-sr", "iso", "iso-int8")
EXPERTS = 4  # schemes for experts' traffic, where there is some
EXAMPLE_PRICES = {"8xl40s-pcie": 0.90, "8xrtx-pro-6000-pcie": 1.60, "8xh100-nvlink": 2.60}
EXAMPLE = "example, not a quotation: examples/plan.toml"


# ---- what may be chosen


@cache
def options() -> Options:
    """The catalogs, sliders and defaults."""
    start = read("")
    return {
        "models": [model_option(row) for row in api.catalog("models")],
        "machines": [machine_option(name, load_cluster(name)) for name in api.names("clusters")],
        "schemes": [
            SchemeOption(
                name=one.name,
                label=f"{one.name} ({one.reduce.bits_per_value:.3g} bits, {one.collective.replace('_', '-')})",
                bits=[one.reduce.bits_per_value, one.gather.bits_per_value],
                named=one.name in NAMED,
            )
            for one in catalog_schemes().values()
        ],
        "gpus": list(api.names("gpus")),
        "weights": list(asked()["weights"].choices),
        "kv": list(asked()["kv"].choices),
        "sliders": sliders(),
        "defaults": {**start.query(), **{k: number(d) for k, (_, d) in OWN.items() if d is not None}},
        "prices": [Price(name=name, per_gpu_hour=price, source=EXAMPLE) for name, price in EXAMPLE_PRICES.items()],
        "drop_bytes": LOG_BYTES.most,
    }


def options_with(desk: Desk, state: State) -> Options:
    """The same, and what the state has of dropped files, first in its list."""
    found, q = options().copy(), state.question
    if isinstance(q.model, str) and q.model.startswith(DROP):
        found["models"] = [dropped_model(q.model, desk.model(q.model)), *found["models"]]
    if isinstance(q.cluster, str) and q.cluster.startswith(DROP):
        found["machines"] = [machine_option(q.cluster, desk.machine(q.cluster)), *found["machines"]]
    return found


def dropped_model(key: str, model: ModelConfig) -> ModelOption:
    """A model that no catalog has."""
    label = f"{model.name} ({model.parameters / 1e9:.3g} B parameters, dropped)"
    return {"name": key, "label": label, "parameters": model.parameters, "ids": []}


def sliders() -> list[Slider]:
    """Numbers that may be moved, evenly in logarithms."""
    batch = [float(1 << power) for power in range(8)]
    tokens = [float(1 << power) for power in range(6, 18)]
    link = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]
    lookups = [1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0]
    limit = [1.0, 1.005, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0]
    return [
        _slider("batch", "Sequences in a batch", "sequences", batch, BATCH.least, BATCH.most, True),
        _slider("input_tokens", "Length of each prompt", "tokens", tokens, TOKENS.least, TOKENS.most, True),
        _slider("link", "Rate of every link", "x the machine's", link, LINK.least, LINK.most, False),
        _slider("max_perplexity", "Most that perplexity may rise to", "x uncompressed", limit, 1.0, 10.0, False),
        _slider("max_lookups_lost", "Most look-ups that may be lost", "of 100", lookups, 0.0, 100.0, False),
    ]


def _slider(key: str, label: str, unit: str, steps: list[float], least: float, most: float, whole: bool) -> Slider:
    return {
        "key": key, "label": label, "unit": unit, "least": least, "most": most, "steps": steps, "whole": whole,
    }  # fmt: skip


def model_option(row: dict[str, Any]) -> ModelOption:
    """A row of the catalog, or of a model of one's own."""
    size = row["parameters"] / 1e9
    return {
        "name": row["name"],
        "label": f"{row['name']} ({size:.3g} B parameters)",
        "parameters": row["parameters"],
        "ids": list(row["ids"]),
    }


def machine_option(name: str, cluster: Cluster) -> MachineOption:
    """A machine, by the name that asks for it."""
    gpus = len(cluster.gpus)
    return {
        "name": name,
        "label": f"{cluster.name}: {cluster.title}",
        "gpu": cluster.gpu.name,
        "gpus": gpus,
        "tp": degrees(gpus),
        "link_gb_per_s": link_bytes_per_s(cluster) / 1e9,
    }


def degrees(gpus: int) -> list[int]:
    """Powers of two up to all GPUs, and all."""
    return sorted({1 << power for power in range(gpus.bit_length()) if 1 << power <= gpus} | {gpus})


def link_bytes_per_s(cluster: Cluster) -> float:
    """Of the first GPU's fastest link, each way."""
    first = cluster.gpus[0]
    return max(link.bandwidth_bytes_per_s for link in cluster.links if link.source == first) if cluster.links else 0.0


# ---- the answer


def answer(desk: Desk, state: State, everything: bool = False) -> Answer:
    """Rows of the named schemes and the chosen one; of all that mean something here with `everything`.

    Raises:
        ValueError: what no scheme can do here: an unknown name, a model that does not fit.
    """
    return desk.answers.get(("answer", state, everything), lambda: _answer(desk, state, everything))


def compared(desk: Desk, state: State, names: Sequence[str]) -> tuple[Comparison, dict[str, str]]:
    """The schemes that run, soonest first, and why others do not. ValueError where the baseline does not."""
    baseline = desk.predicted(state, BASELINE)
    found, cannot = [], dict[str, str]()
    for name in names:
        try:
            found.append(baseline if name == BASELINE else desk.predicted(state, name))
        except ValueError as error:
            cannot[name] = desk.said(error)
    return Comparison(baseline, tuple(sorted(found, key=lambda p: (p.ttft_s, p.scheme.name)))), cannot


def named(desk: Desk, state: State, everything: bool = False) -> list[str]:
    """The schemes of an answer, the chosen one among them."""
    possible = api.schemes_for(desk.resolved(state.question))
    wanted = possible if everything else [name for name in NAMED if name in possible]
    catalog = catalog_schemes()
    if not everything:
        wanted += [name for name in possible if catalog[name].compresses_experts][:EXPERTS]
    wanted += [name for name in state.also if name in possible]
    return list(dict.fromkeys([*wanted, BASELINE, chosen(state)]))


def chosen(state: State) -> str:
    """The scheme asked for, by name."""
    assert isinstance(state.question.scheme, str)
    return state.question.scheme


def _answer(desk: Desk, state: State, everything: bool) -> Answer:
    names = named(desk, state, everything)
    return {**_head(desk, state, names, *compared(desk, state, names)), "detail": detail(desk, state)}


def without_detail(desk: Desk, state: State, names: Sequence[str]) -> Answer:
    """Rows of these schemes alone: what a report has at every point of its grid."""
    return _head(desk, state, names, *compared(desk, state, names))


def _head(desk: Desk, state: State, names: Sequence[str], c: Comparison, cannot: dict[str, str]) -> Answer:
    limit = Limit(state.max_perplexity, state.max_lookups_lost)
    first, soonest = c.baseline, best(c, limit)
    if chosen(state) in cannot and chosen(state) not in catalog_schemes():
        raise ValueError(cannot[chosen(state)])  # a slip in a name, rather than a row
    rows = [row(c, one, limit, one is soonest, one.scheme.name == chosen(state)) for one in c.rows]
    rows += [cannot_row(name, why, name == chosen(state)) for name, why in cannot.items()]
    q, able = state.question, [name for name in names if name not in cannot]
    return {
        "version": __version__,
        "state": state.query(),
        "title": f"{first.model.name} on {first.cluster.name}, TP {first.tp}, {q.batch} x {q.input_tokens} tokens",
        "verdict": f"{verdict(c, limit)} {among(desk, state, names)}",
        "model": first.model.name,
        "machine": first.cluster.name,
        "tp": first.tp,
        "baseline": first.scheme.name,
        "limit": limit.words,
        "notes": notes(first.model, q.input_tokens),
        "link_gb_per_s": link_bytes_per_s(first.cluster) / 1e9,
        "rows": rows,
        "command": command("compare", state, desk, able),
        "python": python("compare", state, desk, able),
    }


def among(desk: Desk, state: State, names: Sequence[str]) -> str:
    """Of how many schemes a verdict is: the whole catalog may have a better one."""
    every = {*api.schemes_for(desk.resolved(state.question)), *names}
    share = f"{len(names)} of the" if len(names) < len(every) else "all"
    return f"Compared: {share} {len(every)} schemes that apply here."


def row(c: Comparison, one: Prediction, limit: Limit, is_best: bool, is_chosen: bool) -> Row:
    """A prediction as a row."""
    parts, known, lookup, bits = one.breakdown, c.accuracy(one), c.lookup(one), one.bits_per_value
    both_s = parts.codec_s + parts.communication_s
    codec_s = parts.exposed_communication_s * (parts.codec_s / both_s if both_s else 0.0)
    return {
        "scheme": one.scheme.name,
        "ttft_ms": one.ttft_s * 1e3,
        "interval_ms": [one.interval.low_s * 1e3, one.interval.high_s * 1e3],
        "compute_ms": parts.compute_s * 1e3,
        "codec_ms": codec_s * 1e3,
        "wire_ms": (parts.exposed_communication_s - codec_s) * 1e3,
        "waiting_ms": parts.waiting_s * 1e3,
        "speedup": c.speedup(one),
        "bits": [bits["reduce"], bits["gather"]],
        "wire_mb": one.traffic.layer_bytes_per_gpu / 1e6,
        "perplexity": None if known is None else known.perplexity_ratio,
        "perplexity_interval": _pair(None if known is None else known.to_dict()["perplexity_ratio_interval"]),
        "lookups_lost": None if lookup is None else -100 * lookup.lost,
        "measured_on": None if known is None else known.to_dict()["measured_on"],
        "standing": standing(c, one, limit),
        "best": is_best,
        "chosen": is_chosen,
        "why": reason(c, one, limit),
    }


def _pair(found: Any) -> list[float] | None:
    return None if found is None else list(found)


def cannot_row(name: str, why: str, is_chosen: bool) -> Row:
    """A scheme that does not run here."""
    return {
        "scheme": name, "ttft_ms": None, "interval_ms": [], "compute_ms": 0.0, "codec_ms": 0.0, "wire_ms": 0.0,
        "waiting_ms": 0.0, "speedup": None, "bits": [], "wire_mb": 0.0, "perplexity": None,
        "perplexity_interval": None, "lookups_lost": None, "measured_on": None, "standing": "cannot", "best": False,
        "chosen": is_chosen, "why": why,
    }  # fmt: skip


def detail(desk: Desk, state: State) -> Detail:
    """What the chosen scheme does; of the baseline where it cannot run."""
    try:
        found = desk.predicted(state, chosen(state))
    except ValueError:
        found = desk.predicted(state, BASELINE)
    at = replace(state, question=replace(state.question, scheme=found.scheme.name))
    return {
        "scheme": found.scheme.name,
        "at": at.query(),
        "timeline": layer_of(found),
        "drawing": drawing(found),
        "rests_on": [{"text": desk.said(g.text), "kind": g.kind, "share": g.share} for g in grounds(found)],
        "command": command("predict", at, desk),
        "python": python("predict", at, desk),
    }


def notes(model: ModelConfig, tokens: float) -> list[str]:
    """Warnings that go with a model."""
    found = []
    if tokens > model.max_positions:
        found.append(
            f"{tokens:.10g} tokens of a sequence are beyond the {model.max_positions} positions of {model.name}: this "
            "is what they would take, but the model was not made for them"
        )
    return found


# ---- the same elsewhere


def command(which: str, state: State, desk: Desk, names: Sequence[str] = ()) -> str:
    """The command line that gives the same: of these schemes (`compare`), or of the chosen one (`predict`)."""
    question = replace(state.asking(), **files_of(state, desk))
    if which == "compare":
        more = ("--schemes", ",".join(names), *_limit(state))
        return command_line(which, question, *more, without=("scheme",))
    return command_line(which, question)


def _limit(state: State) -> tuple[str, ...]:
    usual = Limit()
    perplexity = () if state.max_perplexity == usual.perplexity else ("--max-perplexity", number(state.max_perplexity))
    lookups = state.max_lookups_lost
    return (*perplexity, *(() if lookups == usual.lookups else ("--max-lookups-lost", number(lookups))))


def python(which: str, state: State, desk: Desk, names: Sequence[str] = ()) -> str:
    """The Python that gives the same."""
    question = replace(state.asking(), **files_of(state, desk))
    return python_line(question, which, *([list(names)] if which == "compare" else ()))


def files_of(state: State, desk: Desk) -> dict[str, Any]:
    """Names of files for what was dropped: those that whoever dropped them has."""
    q, found = state.question, dict[str, Any]()
    if isinstance(q.model, str) and q.model.startswith(DROP):
        found["model"] = "config.json"
    if isinstance(q.cluster, str) and q.cluster.startswith(DROP):
        found["cluster"] = file_of(desk, q.cluster)
    if isinstance(q.profile, str) and q.profile.startswith(DROP):
        found["profile"] = "fabric.json"
    return found


def file_of(desk: Desk, machine: str) -> str:
    """The name of a machine's file, where it was dropped; its own otherwise."""
    return f"{desk.machine(machine).name}.toml" if machine.startswith(DROP) else machine
