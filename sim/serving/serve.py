"""The serving face: a deployment, a load and faults in, percentiles out. Look-ups around `sim.serving.run`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from thinwire.edge.limits import KV_TOKENS
from thinwire.edge.words import shown
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.precision import kv_of
from thinwire.reference.mixed import AnyScheme, MixedScheme
from thinwire.sim.api import Placed, group, place, scheme_of
from thinwire.sim.choices import Compress
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import Profile
from thinwire.sim.events.exchange import Exchanger, left_uncompressed, slowdown
from thinwire.sim.layers import said_of
from thinwire.sim.predict import check_precisions
from thinwire.sim.report import shared_out
from thinwire.sim.serving.arrivals import ClosedLoop, Drawn, Load, Trace, lengths_from
from thinwire.sim.serving.headroom import capacity, rate_of
from thinwire.sim.serving.iteration import IterationModel
from thinwire.sim.serving.question import LARGEST_ITERATION, Deployment, Service
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Change, Run, Setup, Simulation, Window
from thinwire.sim.serving.statistics import NO_SLO, Estimate, Slo
from thinwire.sim.serving.table import BOUND
from thinwire.sim.serving.workload import kv_bytes_per_token
from thinwire.sim.shapes import STATE_BYTES
from thinwire.sim.sharing import Sharing
from thinwire.sim.workload import Prompt, memory_bytes, state_bytes
from thinwire.topologies.choose import named
from thinwire.topologies.cluster import Cluster

Watch = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """From `at_s` (to `until_s`) a replica is down, has slower links, or a rank that is slower; None: for good."""

    at_s: float
    replica: int
    until_s: float | None = None
    down: bool = False
    links: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.until_s is not None and not self.until_s > self.at_s:
            raise ValueError(f"a fault ends after it begins: at_s={self.at_s}, until_s={self.until_s}")
        if not (self.down or self.links or self.ranks):
            raise ValueError("a fault is down, links or ranks: nothing given")


class Paces:
    """Durations for one deployment, healthy or not; make one and pass it to many `serve` of the same engine, that is
    with the same model, machine, scheme and batching.
    """

    def __init__(self, deployment: Deployment, bound: float = BOUND) -> None:
        self.deployment, self.bound = deployment, bound
        self._known: dict[tuple[Any, ...], IterationModel] = {}

    @cached_property
    def healthy(self) -> Placed:
        """One replica's GPUs with no link scaled, the model and the machine's costs."""
        return place(replace(self.deployment, scaled_links=()))

    @property
    def cluster(self) -> Cluster:
        """One replica's GPUs."""
        return self.healthy.cluster

    @property
    def model(self) -> ModelConfig:
        """The model."""
        return self.healthy.model

    @property
    def profile(self) -> Profile:
        """The machine's costs."""
        return self.healthy.profile

    @cached_property
    def scheme(self) -> AnyScheme:
        """The scheme. One that is chosen (`auto:+1%`) is chosen for a prompt that fills an iteration, without faults;
        it stays as it is while they last, and decoding uses it too.
        """
        d = self.deployment
        scaled = replace(self.healthy, cluster=group(self.cluster, None, dict(d.scaled_links)))
        compress: Compress = "prompt" if d.gated else "all"  # the gate is for decode's messages
        return scheme_of(d, scaled, Prompt(1, d.token_budget, d.weights, d.kv), compress)

    @cached_property
    def limits(self) -> Batching:
        """Limits of an iteration, the KV cache's among them. ValueError where the model leaves no room for it."""
        d, gpus = self.deployment, len(self.cluster.gpus)
        check_precisions(self.model, self.cluster, d.weights, self.profile)
        need = memory_bytes(self.model, Prompt(1, d.token_budget, d.weights, d.kv), self.healthy.sharing)
        memory = self.cluster.gpu.memory_bytes * d.memory_share
        left = memory - need["weights"] - need["activations"] - self.states_bytes
        token_bytes = self.kv_bytes_per_token
        endless = KV_TOKENS.most if left >= 0 else 0  # of recurrences alone no context is too long
        fit = int(left // token_bytes) if token_bytes else endless
        if fit < 1:
            states = (
                f" + states of {d.max_sequences} sequences {self.states_bytes / 1e9:.1f}" if self.states_bytes else ""
            )
            raise ValueError(
                f"{self.model.name} ({said_of(self.model, d.weights)}) leaves no room for a KV cache on {gpus} x "
                f"{self.cluster.gpu.name}: weights {need['weights'] / 1e9:.1f} + activations "
                f"{need['activations'] / 1e9:.1f}{states} GB of {memory / 1e9:.1f} GB a GPU"
            )
        kv_tokens = fit if d.kv_tokens is None else d.kv_tokens
        if kv_tokens > fit:
            raise ValueError(f"kv_tokens must lie in 1..{fit}, for which there is room: kv_tokens={kv_tokens}")
        copies = self.healthy.sharing.ranks // self.healthy.sharing.dense_ranks  # schedulers, each with its own limits
        budget, sequences = d.token_budget * copies, d.max_sequences * copies
        chunk_tokens = d.token_budget if copies > 1 else None
        return Batching(budget, sequences, kv_tokens, d.chunked_prefill, chunk_tokens=chunk_tokens)

    def pace(
        self, links: Mapping[str, float] | None = None, ranks: Mapping[int, float] | None = None
    ) -> IterationModel:
        """With these links scaled and these ranks slowed, besides the deployment's own."""
        d = self.deployment
        scaled = dict(d.scaled_links)
        for pattern, factor in (links or {}).items():
            scaled[pattern] = scaled.get(pattern, 1.0) * factor
        slow = dict(d.slow_ranks)
        for rank, factor in (ranks or {}).items():
            slow[rank] = slow.get(rank, 1.0) * factor
        key = (tuple(sorted(scaled.items())), tuple(sorted(slow.items())))
        if key not in self._known:
            cluster = group(self.cluster, None, scaled)
            slowed = slowdown(len(cluster.gpus), slow)
            kv = kv_of(self.model.checkpoint, d.kv)
            eager = CostModel(self.profile, cluster.gpu, "eager", kv)
            graph = CostModel(self.profile, cluster.gpu, "graph", kv)
            limits, uncompressed = self.limits, left_uncompressed(self.scheme)
            largest = limits.token_budget if d.chunked_prefill else LARGEST_ITERATION
            self._known[key] = IterationModel(
                self.model,
                self.scheme,
                d.weights,
                Exchanger(cluster, eager, slowed, uncompressed),
                Exchanger(cluster, graph, slowed, uncompressed),
                largest,
                limits.max_sequences,
                d.host_s,
                self.bound,
                d.gated,
                self.healthy.sharing,
            )
        return self._known[key]

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Of keys and values on one GPU, for a token of the replica's."""
        return kv_bytes_per_token(self.model, self.healthy.sharing, kv_of(self.model.checkpoint, self.deployment.kv))

    @cached_property
    def states_bytes(self) -> int:
        """Of states on one GPU: room for all that may be admitted, as engines that keep them in slots set it aside."""
        return self.deployment.max_sequences * state_bytes(self.model, self.healthy.sharing)

    def kept_bytes(self, tokens: int) -> float:
        """Of a request of so many tokens on one GPU, shared out as `kv_bytes_per_token`."""
        sharing = self.healthy.sharing
        state = state_bytes(self.model, sharing) * sharing.dense_ranks / sharing.ranks
        return tokens * self.kv_bytes_per_token + state

    def changes(self, faults: Sequence[Fault]) -> tuple[Change, ...]:
        """Faults as changes of pace, those that overlap taken together."""
        found = []
        for number in sorted({fault.replica for fault in faults}):
            mine = [fault for fault in faults if fault.replica == number]
            moments = sorted({f.at_s for f in mine} | {f.until_s for f in mine if f.until_s is not None})
            for moment in moments:
                active = [f for f in mine if f.at_s <= moment and (f.until_s is None or moment < f.until_s)]
                if any(f.down for f in active):
                    found.append(Change(moment, number, None))
                    continue
                links: dict[str, float] = {}
                ranks: dict[int, float] = {}
                for f in active:
                    links |= {k: links.get(k, 1.0) * v for k, v in f.links.items()}
                    ranks |= {k: ranks.get(k, 1.0) * v for k, v in f.ranks.items()}
                found.append(Change(moment, number, self.pace(links, ranks)))
        return tuple(found)


@dataclass(frozen=True)
class ServingResult:
    """A run, and what it rests on."""

    deployment: Deployment
    load: Load
    window: Window
    seed: int
    faults: tuple[Fault, ...]
    limits: Batching
    run: Run
    model: str
    cluster: str
    scheme: str
    tp: int
    replica_gpus: tuple[int, ...]  # of its machine, by number
    profile: str
    assumptions: tuple[str, ...]
    weights: str  # in words
    kv: str
    sharing: Sharing | None = None  # of a mixture's experts
    capacity_per_s: Estimate | None = None  # the most requests that can be served, where it was asked for

    @property
    def headroom(self) -> Estimate | None:
        """How many times the load's rate could be served; None where nobody asked, and of a load that has no rate."""
        rate, most = rate_of(self.load), self.capacity_per_s
        if rate is None or most is None:
            return None
        return Estimate(most.value / rate, None if most.half_width is None else most.half_width / rate)

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        return self.tp * (self.deployment.replicas + self.deployment.decode_replicas)

    def to_dict(self) -> dict[str, Any]:
        """The document of `thinwire serve --json`."""
        d = self.deployment
        return {
            "model": self.model,
            "cluster": self.cluster,
            "scheme": self.scheme,
            "tp": self.tp,
            "replica_gpus": list(self.replica_gpus),
            "replicas": d.replicas,
            "decode_replicas": d.decode_replicas,
            "gpus": self.gpus,
            "weights": self.weights,
            "kv": self.kv,
            **({} if self.sharing is None else shared_out(self.sharing)),
            "policy": d.policy,
            "gated": d.gated,
            "batching": asdict(self.limits),
            "load": {"kind": type(self.load).__name__, **asdict(self.load)},
            "duration_s": self.window.duration_s,
            "warm_up_s": self.window.warm_up_s,
            "seed": self.seed,
            "faults": [asdict(fault) for fault in self.faults],
            **self.run.to_dict(),
            **({} if self.capacity_per_s is None else {"capacity_requests_per_s": self.capacity_per_s.to_dict()}),
            **({} if self.headroom is None else {"headroom": self.headroom.to_dict()}),
            "profile": self.profile,
            "assumptions": list(self.assumptions),
        }


def serve(
    deployment: Deployment,
    load: Load,
    duration_s: float | None = None,
    slo: Slo = NO_SLO,
    faults: Sequence[Fault] = (),
    *,
    seed: int = 0,
    warm_up_s: float | None = None,
    batches: int = 20,
    paces: Paces | None = None,
    headroom: bool = False,
    watch: Watch = lambda at_s, until_s: None,
) -> ServingResult:
    """Simulate a deployment under a load.

    Args:
        duration_s: how long requests arrive; ten minutes, or the whole of a trace, when left out.
        warm_up_s: arrivals before it are served and not counted; a tenth of the duration when left out.
        batches: that confidence intervals are made of.
        seed: of everything drawn. The same arguments give the same result, byte for byte.
        paces: of an earlier call for the same engine, to spare its set-up.
        headroom: find the most requests a second that can be served, too (`sim.serving.headroom`): a run of its own.
        watch: is told how many seconds of how many are simulated, a few times a run.

    Raises:
        ValueError: what `predict` raises, a model that leaves no room for a KV cache, a fault of a replica that is not
        there.
    """
    if duration_s is None:
        duration_s = max(load.seconds * (1 + 1e-9), 1e-3) if isinstance(load, Trace) else 600.0
    known = Paces(deployment) if paces is None else paces
    if paces is not None and _engine(paces.deployment) != _engine(deployment):
        raise ValueError("paces are of another engine: model, cluster, tp, scheme or batching differ")
    window = Window(duration_s, duration_s / 10 if warm_up_s is None else warm_up_s, batches)
    pace = known.pace()
    limits = known.limits
    setup = Setup(
        pace=pace,
        limits=limits,
        replicas=deployment.replicas,
        policy=deployment.policy,
        decode_replicas=deployment.decode_replicas,
        transfer_s=lambda tokens: known.kept_bytes(tokens) / deployment.transfer_bytes_per_s,
        changes=known.changes(faults),
    )
    run = Simulation(setup, load, window, slo, seed, lambda at_s: watch(at_s, duration_s)).run()
    most = capacity(setup, load, seed) if headroom and run.finished else None
    return ServingResult(
        deployment=deployment,
        load=load,
        window=window,
        seed=seed,
        faults=tuple(faults),
        limits=limits,
        run=run,
        model=known.model.name,
        cluster=known.cluster.name,
        scheme=pace.scheme.name,
        tp=len(known.cluster.gpus),
        replica_gpus=known.cluster.indices,
        profile=known.profile.name,
        assumptions=tuple(dict.fromkeys([*_sentences(deployment, load, known), *pace.sentences()])),
        weights=said_of(known.model, deployment.weights),
        kv=kv_of(known.model.checkpoint, deployment.kv),
        sharing=known.healthy.sharing if known.model.is_mixture else None,
        capacity_per_s=most,
    )


def _engine(deployment: Deployment) -> Deployment:
    """The deployment as far as durations go."""
    return replace(deployment, replicas=1, decode_replicas=0, policy="least-tokens", transfer_bytes_per_s=1.0)


def _sentences(deployment: Deployment, load: Load, known: Paces) -> list[str]:
    scheme, whose = known.scheme, named(known.cluster.indices) or "the first GPUs"
    said = [
        f"replicas share nothing: each has {whose} of a machine of its own; the router and the network before it take "
        "no time",
        "a request is admitted when KV-cache memory for its prompt and all its output is free: nothing is evicted, and "
        "engines that hand memory out as it is needed admit more",
        "no prefix of a prompt is found in the cache",
        "requests of a replica that goes down are sent again at once, with the tokens they had; it comes back empty",
    ]
    if known.states_bytes:
        said.append(
            f"{known.states_bytes / 1e9:.3g} GB a GPU are set aside for the states of {deployment.max_sequences} "
            f"sequences, admitted or not, in {STATE_BYTES} bytes a value whatever the KV cache's precision"
        )
    if deployment.policy == "least-tokens":
        said.append(
            "the router counts the prompt tokens still to be processed and, for each request under way, the load's "
            "mean output: it does not know how long an answer will be"
        )
    if deployment.decode_replicas:
        what = "keys, values and states" if known.states_bytes else "keys and values"
        said.append(
            f"{what} go from the prompts' pool to the other at {deployment.transfer_bytes_per_s / 1e9:g} GB/s "
            "a GPU (assumed), after the prompt and beside everything else; where they wait for room they take none"
        )
    if isinstance(scheme, MixedScheme) and scheme.source:
        said.append(f"{scheme.name}, {scheme.source}, is used whatever an iteration holds, decoding alone too")
    if isinstance(load, ClosedLoop):
        said.append("the users of the closed loop all begin at once and ask again without a pause")
    elif isinstance(load, Drawn):
        said.append("prompt and output lengths are drawn independently")
    return said


def answer(
    service: Service,
    paces: Paces | None = None,
    headroom: bool = False,
    watch: Watch = lambda at_s, until_s: None,
) -> ServingResult:
    """Simulate what `thinwire serve` was asked. paces, headroom, watch: as in `serve`. ValueError as `serve`,
    and for no load or two.
    """
    service.source()
    limits = {"ttft_s": service.slo_ttft_ms, "tpot_s": service.slo_tpot_ms}
    return serve(
        service.deployment(),
        _load(service),
        service.duration,
        Slo(**{name: ms / 1e3 for name, ms in limits.items() if ms is not None}),
        [parse_fault(text) for text in service.fault],
        seed=service.seed,
        warm_up_s=service.warm_up,
        paces=paces,
        headroom=headroom,
        watch=watch,
    )


def _load(service: Service) -> Load:
    prompt, output = (lengths_from(service.lengths, mean) for mean in (service.input_tokens, service.output_tokens))
    if service.trace is not None:
        return Trace(service.trace, service.speed)
    if service.users is not None:
        return ClosedLoop(service.users, prompt, output)
    assert service.rate is not None  # one of the three is given
    return Drawn(service.rate, prompt, output, service.burstiness)


_FAULT = re.compile(r"(?P<at>[^-:]+)(-(?P<until>[^:]+))?:(?P<replica>[^:]+):(?P<what>down|link|slow)(:(?P<how>.*))?")


def parse_fault(text: str) -> Fault:
    """`AT[-UNTIL]:REPLICA:down`, `...:link:PATTERN=FACTOR` or `...:slow:RANK=FACTOR`, times in seconds."""
    match = _FAULT.fullmatch(text)
    try:
        if match is None or (match["what"] == "down") != (match["how"] is None):
            raise ValueError
        at_s, place = float(match["at"]), int(match["replica"])
        until_s = None if match["until"] is None else float(match["until"])
        key, _, factor = (match["how"] or "").rpartition("=")
        links = {key: float(factor)} if match["what"] == "link" else {}
        ranks = {int(key): float(factor)} if match["what"] == "slow" else {}
    except ValueError:
        raise ValueError(
            f"a fault is AT[-UNTIL]:REPLICA:down, ...:link:PATTERN=FACTOR or ...:slow:RANK=FACTOR: {shown(text)}"
        ) from None
    return Fault(at_s, place, until_s, match["what"] == "down", links, ranks)
