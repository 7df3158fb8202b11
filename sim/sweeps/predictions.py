"""Predictions as points of a sweep: what `thinwire predict` takes and says."""

from collections.abc import Mapping
from dataclasses import replace

from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.question import Question
from thinwire.sim.sweeps.kinds import Column, Once, Row, Values, kind_of, names, with_values
from thinwire.sim.views import prediction_row

# What was predicted; null where that failed.
RESULTS: Mapping[str, Column] = {
    **dict.fromkeys(
        ("ttft_ms", "ttft_ms_low", "ttft_ms_high", "compute_ms", "codec_ms", "communication_ms",
         "exposed_communication_ms", "waiting_ms"), "float64",
    ),
    "wire_bytes_per_gpu": "int64", "all_reduce_count": "int64",
    "reduce_bits_per_value": "float64", "gather_bits_per_value": "float64",
}  # fmt: skip


def _found(point: Question, values: Values, once: Once) -> Row:
    own = with_values(point, values)
    model = own.model
    if isinstance(model, str):
        model = once(("model", model), lambda: load_model(str(point.model)))
    chosen = (point.tp, point.gpus, point.nodes)
    place = (point.cluster, values.get(("cluster", str(point.cluster))), chosen, point.scaled_links)
    gpus = once(
        place,
        lambda: api.group(own.cluster, point.tp, dict(point.scaled_links), gpus=point.gpus, nodes=point.nodes),
    )
    profile = own.profile or once(("profile", place), lambda: load_profile(gpus))
    placed = replace(own, model=model, cluster=gpus, profile=profile, tp=None, gpus=None, nodes=None, scaled_links=())
    found = prediction_row(api.answer(placed).to_dict())
    return {name: found[name] for name in ("tp", "gpus", *RESULTS, "profile_name")}


PREDICT = kind_of(
    Question,
    what="predict",
    inner=("batch", "input_tokens", "scheme"),  # neighbours share a machine
    results=RESULTS,
    required=("scheme",),
    names=names,
    mark={},  # the only kind there was when its ids were made
    found=_found,
    most=25,  # some 0.1 s of work: a hundred times what a task costs to send, and little to lose
    least=40,
)
