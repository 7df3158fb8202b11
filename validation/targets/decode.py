"""Decode against the published rows: attention of one call, and time between tokens of whole serving runs.

Attention in-sample is the shipped profile; left out, fitted again by the functions that calibration uses. Nothing is
fitted to the serving runs. They say the model, the GPUs, the lengths and the number of users; how long they ran, how
the engine was limited and what its host does are not said, so their errors hold all that as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.choices import Weights
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.decode_attention import DecodeAttentionModel
from thinwire.sim.costs.spread import Spread, sum_interval
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.predict import run, timeline_of
from thinwire.sim.serving.arrivals import ClosedLoop, Fixed
from thinwire.sim.serving.question import Deployment
from thinwire.sim.serving.serve import Paces, serve
from thinwire.sim.serving.workload import Iteration, Share, build
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.fits.attention import HEAD_DIM
from thinwire.validation.fits.published_tables import Row, rows
from thinwire.validation.targets import kernels
from thinwire.validation.targets.kernels import profile, regime, shipped_gpu
from thinwire.validation.targets.targets import Entry, Limits, Point, Section

ATTENTION_LIMITS = Limits(median=0.06)  # what the issue asks of prefill's: a yardstick here
TPOT_LIMITS = Limits(median=0.10)  # what it asks of an engine's first token: a yardstick here
KIND = {"pair": "one (heads, kv heads) out", "length": "one context out", "batch": "one batch out"}
QUICK_KINDS, FULL_KINDS = ("pair", "length"), ("pair", "length", "batch")

TABLE = "nim_serving"
CLUSTERS = {"A100 SXM 80GB": "8xa100-nvlink", "H100 SXM 80GB": "8xh100-nvlink"}
TOKEN_BUDGET = 8192  # TensorRT-LLM's max_num_tokens, unless told otherwise
ROUNDS = 3  # answers of each user
FEW, MANY = 10, 100  # users

Floats = NDArray[np.float64]


# --- attention ---


def decode_attention(full: bool = False, only: str | None = None) -> Section:
    """Every row of attention_decode_bf16.csv in-sample and left out. only: of one GPU."""
    entries = []
    for system, found in sorted(fit_decode.read_rows().items()):
        gpu = fit_decode.FACTS[system][0]
        if only not in (None, gpu):
            continue
        shipped = shipped_gpu(gpu).decode_attention
        columns = [("in-sample", "in-sample", fit_decode.predict(shipped, found))]
        for kind in FULL_KINDS if full else QUICK_KINDS:
            columns.append((kind, KIND[kind], fit_decode.left_out(found, fit_decode.FACTS[system], kind)))
        for key, how, seconds in columns:
            points = _attention_points(gpu, found, shipped, seconds, attention_spreads(gpu, found, key))
            entries.append(Entry(f"decode_attention.{gpu}.{key}", gpu, how, points, ATTENTION_LIMITS, gated=False))
    return Section(
        "decode_attention",
        "Decode attention",
        "",
        f"""
        Rows: attention_decode_bf16.csv, equal contexts of 2 to 131,072 tokens, batches of 1 to 2,048, head_dim 128.
        In-sample: the shipped profile. The benchmark replays one call, so what fits the L2 is read from there; it is
        predicted as that (`replayed_s`). What an engine is charged, all of it from memory, is the same model without
        its L2: on rows larger than that the two agree.

        Left out: fitted again without all rows of one (heads, kv heads) or of one context;
        {"and of one batch." if full else "with `--full` also of one batch."} The limit is the one that the issue sets
        for prefill's attention.
        """,
        tuple(entries),
    )


def attention_spreads(gpu: str, found: fit_decode.Rows, kind: str) -> list[Spread | None]:
    """The shipped spread for each row but those that it comes from, and in-sample for none."""
    return kernels.attention_spreads(gpu, found, kind, fit_decode.PART)


def _attention_points(
    gpu: str, found: fit_decode.Rows, shipped: DecodeAttentionModel, predicted: Floats, known: Sequence[Spread | None]
) -> tuple[Point, ...]:
    points = []
    for i in range(len(found)):
        batch, context, heads, kv = (int(c[i]) for c in (found.batch, found.context, found.heads, found.kv_heads))
        seconds, spread = float(predicted[i]), known[i]
        cold_s = shipped.time_s(batch, batch * context, heads, kv, HEAD_DIM)
        points.append(
            Point(
                gpu,
                regime("context", context),
                f"{gpu} batch={batch} context={context} heads={heads}/{kv}",
                float(found.time_s[i]),
                seconds,
                f"from memory {cold_s * 1e6:.1f} us, {found.read_bytes[i] / 1e6:.2f} MB of keys and values",
                None if spread is None else sum_interval(seconds, [(seconds, spread)]),
            )
        )
    return tuple(points)


# --- time between tokens ---


@dataclass(frozen=True, slots=True)
class Compared:
    """A published serving run and thinwire's beside it, seconds."""

    row: Row
    machine: str
    ttft_s: float
    tpot_s: float

    @property
    def users(self) -> int:
        """Of the closed loop."""
        return int(self.row["concurrency"])

    @property
    def deployed(self) -> str:
        """Model, weights and GPUs."""
        return f"{self.row['model']} {self.row['weights']}, {self.row['tp']} of {self.machine}"

    @property
    def lengths(self) -> str:
        """Tokens in and out."""
        return f"{self.row['input_tokens']}/{self.row['output_tokens']}"


@cache
def compared(most_users: int | None = None) -> tuple[Compared, ...]:
    """Every row of nim_serving.csv, or those with few users, beside a run of as many users."""
    return tuple(_compared(most_users))


def _compared(most_users: int | None) -> Iterator[Compared]:
    for (model, gpu, tp, weights), mine in groupby(
        rows(TABLE), lambda r: (r["model"], r["gpu"], r["tp"], r["weights"])
    ):
        deployment = Deployment(
            model=model, cluster=CLUSTERS[gpu], tp=int(tp), weights=_weights(weights), token_budget=TOKEN_BUDGET
        )
        paces = Paces(deployment)
        for row in mine:
            users, prompt, output = (int(row[name]) for name in ("concurrency", "input_tokens", "output_tokens"))
            if most_users is not None and users > most_users:
                continue
            seconds = ROUNDS * (float(row["ttft_ms"]) + output * float(row["itl_ms"])) / 1e3
            load = ClosedLoop(users, Fixed(prompt), Fixed(output))
            found = serve(deployment, load, seconds, warm_up_s=0.0, paces=paces).run
            yield Compared(row, CLUSTERS[gpu], found.ttft.mean.value, found.tpot.mean.value)


def _weights(named: str) -> Weights:
    return "fp8" if named == "fp8" else "bf16"


@cache
def step_parts(model: str, machine: str, tp: int, weights: Weights, users: int, context: int) -> dict[str, float]:
    """Seconds of one iteration of decoding alone, by part: attention, products, exchanges, the rest."""
    cluster = load_cluster(machine).take(tp)
    cost = CostModel(profile(machine), cluster.gpu, "graph")
    work = build(load_model(model), scheme("bf16"), Iteration(Share((), users, users * context)), tp, weights)
    timeline = timeline_of(*run(work, Exchanger(cluster, cost, slowdown(tp, {})), cost, True))
    products = {kernel.name for ops in (*work.layers, work.after) for op in ops for kernel in op.kernels
                if hasattr(kernel, "precision")}  # fmt: skip
    parts = dict.fromkeys(("attention", "products", "exchanges", "rest"), 0.0)
    exchanged_s = timeline.breakdown().exposed_communication_s
    for name, seconds in timeline.by_name().items():
        if name == "decode attention":
            parts["attention"] += seconds
        elif name in products:
            parts["products"] += seconds
    parts["exchanges"] = exchanged_s
    parts["rest"] = timeline.ttft_s - sum(parts.values())
    return parts


def _tpot_point(found: Compared) -> Point:
    row = found.row
    context = int(row["input_tokens"]) + int(row["output_tokens"]) // 2
    parts = step_parts(row["model"], found.machine, int(row["tp"]), _weights(row["weights"]), found.users, context)
    told = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in parts.items())
    return Point(
        f"{found.deployed}, {found.lengths}",
        f"1-{FEW} users" if found.users <= FEW else f"{FEW + 1}-{MANY} users" if found.users <= MANY else "more users",
        f"{found.deployed}, users={found.users} {found.lengths}",
        float(row["itl_ms"]) / 1e3,
        found.tpot_s,
        f"a step of all users at {context} tokens, ms: {told}",
    )


def _ttft_point(found: Compared) -> Point:
    return Point(
        f"{found.deployed}, {found.lengths}",
        "one user",
        f"{found.deployed}, first token of one user {found.lengths}",
        float(found.row["ttft_ms"]) / 1e3,
        found.ttft_s,
        f"{found.row['input_tokens']} tokens of prompt",
    )


def tpot() -> Section:
    """The 72 published closed loops: time between tokens by deployment, and the first token of single users."""
    entries = []
    for number, (deployed, mine) in enumerate(groupby(compared(), lambda c: c.deployed)):
        several = list(mine)
        key, points = f"tpot.{number}", tuple(map(_tpot_point, several))
        entries.append(Entry(f"{key}.between", deployed, "held out", points, TPOT_LIMITS, gated=False))
        alone = tuple(_ttft_point(c) for c in several if c.users == 1)
        if alone:
            what = f"{deployed}: first token of one user"
            entries.append(Entry(f"{key}.first", what, "held out", alone, TPOT_LIMITS, gated=False))
    return Section(
        "tpot",
        "Time between tokens",
        "",
        """
        Rows: nim_serving.csv, closed loops of 1 to 250 users of NVIDIA's NIM: A100 in 2024, H100 in 2025. Nothing is
        fitted to them, and no time of a host is assumed. What the runs do not say (their length, how they began, how
        the engine was limited, its host) is in the errors. The limit is the one that the issue sets for the first token
        of an engine.

        First tokens are compared for single users only: those of many hang on how the run began, which is not said.
        """,
        tuple(entries),
        ("First tokens of 64 runs with several users: tenfold apart or more, see docs/decisions/015-serving.md.",),
    )
