"""What is asked of serving: a deployment in SI units, and a service as the command line and sweeps write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from thinwire.edge.limits import (
    DECODE_REPLICAS,
    DURATION,
    HOST,
    ITERATION,
    KV_TOKENS,
    RATE,
    REPLICAS,
    SEED,
    SLO,
    SPEED,
    TOKENS,
    TRANSFER,
    USERS,
    WARM_UP,
)
from thinwire.sim.question import Inquiry, Placement, option, placement_of

LARGEST_ITERATION = ITERATION.most  # tokens; as many, where whole prompts are not cut
NIC_BYTES_PER_S = 50e9

Policy = Literal["round-robin", "least-tokens", "shared-queue"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

LENGTHS = "fixed, lognormal[:VARIATION] or geometric"
SOURCES = ("rate", "users", "trace")  # of requests: a service has one of them
_DRAWN = ("rate", "users")
WHOSE: Mapping[str, tuple[str, ...]] = {
    "burstiness": ("rate",), "speed": ("trace",), "input_tokens": _DRAWN, "output_tokens": _DRAWN, "lengths": _DRAWN,
}  # fmt: skip
"""Options that say more of some sources of requests, and nothing of the others."""


@dataclass(frozen=True, kw_only=True)
class Deployment(Placement):
    """What serves.

    Args:
        model, cluster, scheme, tp, gpus, nodes, weights, profile: as `thinwire.predict` takes them; each replica takes
            these GPUs of a cluster of its own, and auto:+1% is chosen for a prompt of token_budget tokens.
        replicas: that do both prompts and decoding; those for prompts alone where decode_replicas are given.
        token_budget, max_sequences, chunked_prefill: limits of an iteration (`sim.serving.replica.Batching`).
        memory_share: of the GPU's memory that weights, activations, states and KV cache may take.
        kv_tokens: tokens the KV cache holds; None: what the memory has room for.
        policy: of the router.
        transfer_bytes_per_s: rate of one GPU's keys and values from one pool to the other.
        host_s: what the engine's host adds to an iteration.
        gated: all-reduces go uncompressed at sizes at which the scheme would take longer: those of decoding, mostly.
        scaled_links, slow_ranks: as in `predict`, on every replica from the start.
    """

    replicas: int = 1
    token_budget: int = 2048
    max_sequences: int = 256
    chunked_prefill: bool = True
    memory_share: float = 0.9
    kv_tokens: int | None = None
    policy: Policy = "least-tokens"
    decode_replicas: int = 0
    transfer_bytes_per_s: float = NIC_BYTES_PER_S
    host_s: float = 0.0
    gated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("memory_share", "transfer_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive: {name}={getattr(self, name)}")
        if self.memory_share > 1:
            raise ValueError(f"memory_share is a share: memory_share={self.memory_share}")
        if not HOST.holds(self.host_s * 1e3):
            raise ValueError(f"host_s must lie in 0..{HOST.most / 1e3:g}: host_s={self.host_s}")
        ITERATION.check("token_budget", self.token_budget)
        ITERATION.check("max_sequences", self.max_sequences)
        REPLICAS.check("replicas", self.replicas)
        DECODE_REPLICAS.check("decode_replicas", self.decode_replicas)


@dataclass(frozen=True, kw_only=True)
class Service(Inquiry):
    """A deployment under a load, in the words and units of `thinwire serve`; sweeps have its fields as axes.

    What the durations of iterations depend on comes first: in a sweep, neighbours share them.
    """

    token_budget: int = field(
        default=Deployment.token_budget, metadata=option("length", "Tokens of an iteration.", limit=ITERATION)
    )
    max_sequences: int = field(
        default=Deployment.max_sequences, metadata=option("count", "Requests in a replica's batch.", limit=ITERATION)
    )
    whole_prompts: bool = field(
        default=not Deployment.chunked_prefill,
        metadata=option("flag", "No chunked prefill: prompts in iterations of their own."),
    )
    kv_tokens: int | None = field(
        default=Deployment.kv_tokens,
        metadata=option("length", "Tokens a replica's KV cache holds; what fits.", limit=KV_TOKENS),
    )
    host_ms: float = field(
        default=Deployment.host_s * 1e3,
        metadata=option("amount", "What the engine's host adds to an iteration.", limit=HOST),
    )
    gate: bool = field(
        default=Deployment.gated,
        metadata=option("flag", "Small all-reduces uncompressed where that is faster."),
    )
    replicas: int = field(
        default=Deployment.replicas,
        metadata=option("count", "Replicas; those for prompts alone with --decode-replicas.", limit=REPLICAS),
    )
    decode_replicas: int = field(
        default=Deployment.decode_replicas,
        metadata=option("whole", "Replicas that decode only, fed by the others.", limit=DECODE_REPLICAS),
    )
    transfer_gb_per_s: float = field(
        default=Deployment.transfer_bytes_per_s / 1e9,
        metadata=option("positive", "Rate of one GPU's keys and values between the pools.", limit=TRANSFER),
    )
    policy: Policy = field(
        default=Deployment.policy, metadata=option("choice", "How the router chooses a replica.", choices=POLICIES)
    )
    fault: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "faults",
            "What-if: AT[-UNTIL]:REPLICA:down, ...:link:PATTERN=FACTOR or ...:slow:RANK=FACTOR; repeatable. REPLICA "
            "counts from 0, those that decode only last.",
        ),
    )
    input_tokens: float = field(default=1024.0, metadata=option("tokens", "Mean tokens of a prompt.", limit=TOKENS))
    output_tokens: float = field(default=128.0, metadata=option("tokens", "Mean tokens of an answer.", limit=TOKENS))
    lengths: str = field(default="lognormal", metadata=option("lengths", f"Distribution of both: {LENGTHS}."))
    burstiness: float = field(
        default=1.0, metadata=option("positive", "Squared variation of the gaps between requests; 1: Poisson.")
    )
    rate: float | None = field(default=None, metadata=option("positive", "Requests a second.", limit=RATE))
    users: int | None = field(
        default=None, metadata=option("count", "A closed loop of so many users instead of a rate.", limit=USERS)
    )
    trace: str | None = field(
        default=None, metadata=option("trace", "CSV with TIMESTAMP,ContextTokens,GeneratedTokens instead.")
    )
    speed: float = field(
        default=1.0, metadata=option("positive", "How much faster than recorded the trace is played.", limit=SPEED)
    )
    duration: float | None = field(
        default=None,
        metadata=option("positive", "Seconds of arrivals: ten minutes, or all of the trace.", limit=DURATION),
    )
    warm_up: float | None = field(
        default=None, metadata=option("amount", "Seconds not counted: a tenth of the duration.", limit=WARM_UP)
    )
    slo_ttft_ms: float | None = field(
        default=None, metadata=option("positive", "Milliseconds to the first token that are good.", limit=SLO)
    )
    slo_tpot_ms: float | None = field(
        default=None, metadata=option("positive", "Milliseconds a further token that are good.", limit=SLO)
    )
    seed: int = field(default=0, metadata=option("whole", "Of everything drawn.", limit=SEED))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fault", tuple(self.fault or ()))

    def deployment(self) -> Deployment:
        """What serves, in SI units. ValueError as `Deployment`."""
        return Deployment(
            **placement_of(self),
            replicas=self.replicas,
            token_budget=self.token_budget,
            max_sequences=self.max_sequences,
            chunked_prefill=not self.whole_prompts,
            kv_tokens=self.kv_tokens,
            policy=self.policy,
            decode_replicas=self.decode_replicas,
            transfer_bytes_per_s=self.transfer_gb_per_s * 1e9,
            host_s=self.host_ms / 1e3,
            gated=self.gate,
        )

    def source(self) -> str:
        """Where requests come from, one of `SOURCES`. ValueError where there is none, or several."""
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a service needs one of {', '.join(SOURCES)}; given {' and '.join(given) or 'none'}")
        return given[0]
