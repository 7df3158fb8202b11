"""What thinwire says to a claim: the figure with its interval, the commands that give it, and the same figure with one
parameter changed, for the inverse question.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import Profile, Quantity
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.cross.predict import BF16_WIRE, CrossPrediction, predict_cross
from thinwire.sim.cross.workload import LAYERS_SHARE, CrossModel, CrossPrompt, Method, build
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.interval import interval_of, interval_of_exchange, kernels_of
from thinwire.sim.layers import precision
from thinwire.sim.question import Question
from thinwire.topologies.cluster import Cluster
from thinwire.validation.papers.headlines import OF_BITS, Headline, file_of, shown_file
from thinwire.validation.papers.ratios import Estimate, Time, best, ratio, time_of

BITS = 16.0  # of an uncompressed value


@dataclass(frozen=True)
class Knobs:
    """Factors on one parameter each. wire: the rate of all links and pools. codec: the time of codec kernels.
    kernels: the time of every kernel, codec kernels among them, so that the wire's share of the time moves.
    """

    wire: float = 1.0
    codec: float = 1.0
    kernels: float = 1.0


PLAIN = Knobs()


@dataclass(frozen=True)
class Answer:
    """The figure in the claim's unit, and what it comes from. base, other: seconds. share: of the baseline's time, that
    waits for the wire. bus_gb_per_s: of the baseline's all-reduce, None where the claim has none.
    """

    ours: Estimate
    scheme: str
    base_s: float = 0.0
    other_s: float = 0.0
    share: float | None = None
    bus_gb_per_s: float | None = None
    has_codec: bool = False
    commands: tuple[str, ...] = field(default=())


def answer(headline: Headline, knobs: Knobs = PLAIN) -> Answer:
    """Our figure for a claim, with the best of its schemes."""
    return _ANSWERS[headline.kind](headline, knobs)


def figure(headline: Headline, knobs: Knobs) -> float:
    """The figure alone."""
    return answer(headline, knobs).ours.value


def in_unit(headline: Headline, speed_up: Estimate) -> Estimate:
    """A ratio of times as the claim counts it."""
    if not headline.percent:
        return speed_up
    return Estimate(*(100 * (1 - 1 / x) for x in (speed_up.value, speed_up.low, speed_up.high)))


# --- machines with a knob turned ---


def machine(headline: Headline, knobs: Knobs) -> tuple[Cluster, Profile]:
    """The claim's GPUs and their costs.

    Codec kernels are memory-bound: they alone look up the memory's bandwidth in the cluster (all other kernels have it
    in their fits), so a slower memory and longer passes are slower codec kernels and nothing else.
    """
    assert headline.cluster is not None
    cluster = api.group(file_of(headline.cluster), headline.tp, {"*": headline.scale_link * knobs.wire})
    profile = load_profile(cluster)
    if knobs.codec != 1:
        bandwidth = cluster.gpu.memory_bandwidth_bytes_per_s / knobs.codec
        cluster = replace(cluster, gpu=replace(cluster.gpu, memory_bandwidth_bytes_per_s=bandwidth))
        codec = profile.gpu.codec
        slower = replace(
            codec,
            fused_pass_s=_times(codec.fused_pass_s, knobs.codec),
            separate_pass_s=_times(codec.separate_pass_s, knobs.codec),
            timed=tuple(
                replace(line, call_s=line.call_s * knobs.codec, value_s=line.value_s * knobs.codec)
                for line in codec.timed
            ),
            compiled=tuple(line.scaled(knobs.codec) for line in codec.compiled),
        )
        profile = replace(profile, gpu=replace(profile.gpu, codec=slower))
    return cluster, profile


def _times(quantity: Quantity, factor: float) -> Quantity:
    return replace(quantity, value=quantity.value * factor)


def _slow(ranks: int, knobs: Knobs) -> Mapping[int, float]:
    return {} if knobs.kernels == 1 else dict.fromkeys(range(ranks), knobs.kernels)


# --- one kind after the other ---


def _prefill(headline: Headline, knobs: Knobs) -> Answer:
    cluster, profile = machine(headline, knobs)
    assert headline.model is not None and headline.batch is not None and headline.input_tokens is not None
    question = Question(
        file_of(headline.model),
        cluster,
        headline.baseline or "bf16",
        batch=headline.batch,
        input_tokens=headline.input_tokens,
        weights=headline.weights,
        profile=profile,
        slow_ranks=_slow(len(cluster.gpus), knobs),
    )
    base = api.answer(question)
    others = [api.answer(replace(question, scheme=name)) for name in headline.schemes]
    base_time = time_of(base.ttft_s, base.interval)
    ratios = [ratio(base_time, time_of(other.ttft_s, other.interval)) for other in others]
    at = best(ratios)
    bits = others[at].bits_per_value
    nbytes = headline.batch * headline.input_tokens * base.model.hidden_size * 2
    timed = api.collective(cluster, headline.baseline or "bf16", nbytes, profile=profile)
    command = [
        "thinwire", "compare", "--model", shown_file(headline.model), *_machine_options(headline),
        "--batch", str(headline.batch), "--input-tokens", str(headline.input_tokens),
        *([] if headline.weights == "bf16" else ["--weights", headline.weights]),
        "--schemes", f"{headline.baseline},{headline.schemes[at]}",
    ]  # fmt: skip
    return Answer(
        in_unit(headline, ratios[at]),
        headline.schemes[at],
        base.ttft_s,
        others[at].ttft_s,
        base.breakdown.exposed_communication_s / base.ttft_s,
        timed["busbw_gb_per_s"],
        0 < bits["reduce"] < BITS,
        (shlex.join(command),),
    )


def _collective(headline: Headline, knobs: Knobs) -> Answer:
    cluster, profile = machine(headline, knobs)
    assert headline.bytes is not None and headline.baseline is not None
    exchanger = Exchanger(cluster, CostModel(profile, cluster.gpu), slowdown(len(cluster.gpus), {}))
    base = _exchange(exchanger, headline, headline.baseline)
    others = [_exchange(exchanger, headline, name) for name in headline.schemes]
    ratios = [ratio(base, other) for other in others]
    at = best(ratios)
    bus = api.collective(cluster, headline.baseline, headline.bytes, op=headline.op, profile=profile)["busbw_gb_per_s"]
    shared = [
        "thinwire", "collective", *_machine_options(headline),
        *([] if headline.op == "all_reduce" else ["--op", headline.op]), "--bytes", str(headline.bytes),
    ]  # fmt: skip
    commands = tuple(shlex.join([*shared, "--scheme", name]) for name in (headline.baseline, headline.schemes[at]))
    has_codec = find_scheme(headline.schemes[at]).reduce.bits_per_value < BITS
    ours = in_unit(headline, ratios[at])
    return Answer(ours, headline.schemes[at], base.seconds, others[at].seconds, None, bus, has_codec, commands)


def _exchange(exchanger: Exchanger, headline: Headline, name: str) -> Time:
    """One collective: codec kernels and transport err apart, as in a prefill."""
    assert headline.bytes is not None
    timed = exchanger.time(headline.op, headline.bytes // 2, find_scheme(name))
    alone = exchanger.alone(timed)
    codec_s = min(float(alone.codec_s_R.max()), alone.seconds)
    fused = find_scheme(name).codec_launch == "fused"
    found = interval_of_exchange(alone.seconds, codec_s, timed.carried, exchanger.cost, fused)
    return time_of(alone.seconds, found)


def _cross(headline: Headline, knobs: Knobs) -> Answer:
    cluster, profile = machine(headline, knobs)
    assert headline.model is not None and headline.batch is not None and headline.baseline is not None
    assert headline.text_tokens is not None and headline.visual_tokens is not None
    config = load_model(file_of(headline.model))
    model = CrossModel(config, max(1, config.num_layers // LAYERS_SHARE))
    fmt = precision(config, headline.weights, "attention")
    prompt = CrossPrompt(headline.batch, headline.text_tokens, headline.visual_tokens, fmt)
    base, *others = (
        predict_cross(model, cluster, cast(Method, name), prompt, profile)
        for name in (headline.baseline, *headline.schemes)
    )
    ratios = [ratio(_crossing(base, profile), _crossing(other, profile)) for other in others]
    at = best(ratios)
    command = [
        "thinwire", "compare", "--workload", "cross-attention", "--model", shown_file(headline.model),
        *_machine_options(headline), "--batch", str(headline.batch),
        "--text-tokens", str(headline.text_tokens), "--visual-tokens", str(headline.visual_tokens),
        "--schemes", f"{headline.baseline},{headline.schemes[at]}",
    ]  # fmt: skip
    return Answer(
        in_unit(headline, ratios[at]),
        headline.schemes[at],
        base.time_s,
        others[at].time_s,
        base.breakdown.exposed_communication_s / base.time_s,
        commands=(shlex.join(command),),
    )


def _crossing(found: CrossPrediction, profile: Profile) -> Time:
    workload = build(found.model, found.method, found.prompt, found.tp, BF16_WIRE)
    cost = CostModel(profile, found.cluster.gpu)
    return time_of(found.time_s, interval_of(found.timeline, kernels_of(workload), cost))


def _bits(headline: Headline, knobs: Knobs) -> Answer:
    scheme = find_scheme(headline.schemes[0])
    bits = (scheme.reduce.bits_per_value + scheme.gather.bits_per_value) / 2
    value = bits if headline.kind == "bits" else BITS / bits
    return Answer(Estimate(value, value, value), scheme.name, commands=("thinwire schemes --json",))


def _machine_options(headline: Headline) -> list[str]:
    scaled = [] if headline.scale_link == 1 else ["--scale-link", f"*={headline.scale_link:g}"]
    return ["--cluster", shown_file(headline.cluster or ""), "--tp", str(headline.tp), *scaled]


_ANSWERS: Mapping[str, Callable[[Headline, Knobs], Answer]] = {
    "ttft": _prefill, "saving": _prefill, "share": _prefill, "collective": _collective, "cross": _cross,
    **dict.fromkeys(OF_BITS, _bits),
}  # fmt: skip
