"""Predictions as points of a sweep: what `thinwire predict` takes and says."""

from collections.abc import Mapping
from dataclasses import replace

from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.question import Question
from thinwire.sim.sweeps.kinds import (
    BASELINE,
    BF16,
    Column,
    Key,
    Once,
    Row,
    Values,
    kind_of,
    names,
    perplexity_ratio,
    with_values,
)
from thinwire.topologies.choose import text_of

# What was predicted; null where that failed. dispatch and combine: null but where experts' tokens travel. speedup: the
# TTFT of the file's baseline over this. perplexity_ratio: null where nobody measured it.
RESULTS: Mapping[str, Column] = {
    **dict.fromkeys(
        ("ttft_ms", "ttft_ms_low", "ttft_ms_high", "compute_ms", "codec_ms", "communication_ms",
         "exposed_communication_ms", "waiting_ms"), "float64",
    ),
    "wire_bytes_per_gpu": "int64", "all_reduce_count": "int64",
    **dict.fromkeys(
        ("reduce_bits_per_value", "gather_bits_per_value", "dispatch_bits_per_value", "combine_bits_per_value",
         "speedup", "perplexity_ratio"), "float64",
    ),
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
    predicted = api.answer(placed)
    found = predicted.to_dict()

    def baseline_s() -> float:
        return api.answer(replace(placed, scheme=values[BASELINE].found if BASELINE in values else BF16)).ttft_s

    plain = replace(point, scheme=BF16)
    reference_s = once(("baseline", plain, tuple(values.get(key) for key in (*names(plain), BASELINE))), baseline_s)
    return {
        "tp": found["tp"],
        "gpus": text_of(found["gpus"]),
        "ttft_ms": found["ttft_ms"],
        "ttft_ms_low": found["ttft_ms_interval"][0],
        "ttft_ms_high": found["ttft_ms_interval"][1],
        **{f"{name}_ms": value for name, value in found["breakdown_ms"].items()},
        "wire_bytes_per_gpu": found["wire_bytes_per_gpu"],
        "all_reduce_count": found["all_reduce_count"],
        **{f"{phase}_bits_per_value": bits for phase, bits in found["bits_per_value"].items()},
        "speedup": reference_s / predicted.ttft_s,
        "perplexity_ratio": perplexity_ratio(predicted.acting, predicted.tp, len(predicted.cluster.islands), "prompt"),
        "profile_name": found["profile"],
    }


def _names(point: Question) -> tuple[Key, ...]:
    return (*names(point), BASELINE)


PREDICT = kind_of(
    Question,
    what="predict",
    inner=("batch", "input_tokens", "scheme"),  # neighbours share a machine
    results=RESULTS,
    required=("scheme",),
    names=_names,
    mark={},  # the only kind there was when its ids were made
    found=_found,
    most=25,  # some 0.1 s of work: a hundred times what a task costs to send, and little to lose
    least=40,
)
