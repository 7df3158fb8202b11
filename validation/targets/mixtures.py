"""Mixtures of experts as others measured them: first tokens, and times between tokens, beside thinwire's.

Nothing is fitted to these rows. A time between tokens is one iteration of decoding at the batch and the context that
the source says or that follow from its lengths; a first token is one prefill. What hosts, schedulers and other
requests add is in the errors. Models without experts of the same sources say how much of an error is the source's.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import log
from typing import cast

from thinwire.reference.catalog import scheme
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.precision import PARTS as PARTS_OF
from thinwire.reference.core.precision import Checkpoint, Part
from thinwire.reference.families.config import load_model
from thinwire.sim.api import Placed, place
from thinwire.sim.choices import Launch, Precision, Weights
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.interval import interval_of, kernels_of
from thinwire.sim.predict import run, timeline_of
from thinwire.sim.question import Question
from thinwire.sim.serving.workload import Iteration, Share, build
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster, load_gpu
from thinwire.validation.fits.published_tables import Row, rows
from thinwire.validation.targets.targets import Entry, Point, Section

TABLE = "mixtures_2026"
MODELS: Mapping[str, str] = {
    "Qwen3-235B-A22B": "qwen3-235b-a22b", "Qwen3-235B-A22B-Instruct-2507": "qwen3-235b-a22b",
    "Qwen3-235B-A22B-Thinking-2507": "qwen3-235b-a22b", "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b", "DeepSeek-V3.1": "deepseek-v3", "DeepSeek-R1": "deepseek-v3",
    "DeepSeek-R1-0528": "deepseek-v3", "Llama-4-Scout-17B-16E-Instruct": "llama-4-scout",
    "gpt-oss-120b": "gpt-oss-120b", "gpt-oss-20b": "gpt-oss-20b", "Mixtral-8x7B": "mixtral-8x7b",
    "Mixtral-8x7B-Instruct-v0.1": "mixtral-8x7b", "Qwen3-8B": "qwen3-8b", "Qwen3-32B": "qwen3-32b",
    "Llama-3-8B": "llama-3-8b", "Llama-3-70B": "llama-3-70b",
}  # fmt: skip
MACHINES: Mapping[str, str] = {
    "A100": "8xa100-nvlink", "H100": "8xh100-nvlink", "H200": "8xh200-nvlink", "B200": "8xb200-nvlink",
    "2x8 H100": "2x8xh100-ib", "H20": "8xh200-nvlink",
}  # fmt: skip
OTHER_GPU = {"H20": "h20"}  # in the place of the machine's
SIZES = {"one sequence": 1, "2-16 sequences": 16, "17-64 sequences": 64, "65-512 sequences": 512}
PASS_TOKENS = 8192  # of prompts together: ML.ENERGY's and SGLang's setting, TensorRT-LLM's default
WHOLE_PASS = 32768  # vLLM before it cut prompts: as many tokens as Mixtral has positions
CHAT_PROMPT, EXAM_PROMPT = 512, 256  # tokens, assumed: ML.ENERGY does not say them
PARTS: Mapping[str, frozenset[str]] = {  # kernels by name; what is in none is the rest
    "attention": frozenset({"attention", "decode attention", "index scores"}),
    "around it": frozenset({
        "qkv", "qk norm", "rope", "head gate", "output gate", "o", "q", "kv_a", "qkv_a", "q norm", "q_b", "kv norm",
        "kv_b", "index q", "index k",
    }),
    "experts": frozenset({"experts"}),
    "other products": frozenset({
        "router", "gate_up", "up", "down", "shared gate_up", "shared up", "shared down", "lm head",
    }),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from, and one sentence on what they are."""

    key: str
    what: str
    start: str  # of its column
    sentence: str


SOURCES = (
    Source(
        "mlenergy",
        "ML.ENERGY, vLLM",
        "ml-energy/leaderboard",
        "The ML.ENERGY leaderboard keeps vLLM 0.11 full at a set number of sequences and states the median time "
        "between two tokens as a client sees it, attention under TP and experts spread (EP) but for gpt-oss.",
    ),
    Source(
        "sglang-235b",
        "a report on SGLang",
        "read_file id 36931282907",
        "A report of SGLang's own test of Qwen3-235B in fp8 on eight H200 and eight B200 (TP 8, experts in two "
        "groups): rates of prompts of 4,096 tokens and times between tokens, 1 to 64 sequences.",
    ),
    Source(
        "qwen",
        "Qwen's page",
        "QwenLM/Qwen2.5",
        "Qwen's page of speeds: one sequence by SGLang on H20, all tokens over the whole time; H20 has no kernels "
        "of its own here.",
    ),
    Source(
        "trtllm",
        "TensorRT-LLM, a user's run",
        "NVIDIA/TensorRT-LLM#5929",
        "A user's medians of DeepSeek-R1 by TensorRT-LLM, in fp8 on eight H200 and nvfp4 on eight B200, experts cut, "
        "in four groups or spread.",
    ),
    Source(
        "tt-a100",
        "tt-inference-server, A100",
        "tenstorrent/tt-inference-server#340",
        "Qwen3-30B-A3B by vLLM on A100, one user, two to eight requests a row; how many GPUs is not said "
        "(asked as one).",
    ),
    Source(
        "tt-16xh100",
        "tt-inference-server, 2x8 H100",
        "tenstorrent/tt-inference-server#356",
        "DeepSeek-R1 by SGLang over two nodes of eight H100 with InfiniBand, TP 16, one user, two to eight requests "
        "a row.",
    ),
    Source(
        "inferencex",
        "InferenceX, SGLang",
        "SemiAnalysisAI/InferenceX#870",
        "One trial of InferenceX: DeepSeek-R1 by SGLang on eight H200, four users; the three rows ran on three hosts.",
    ),
    Source(
        "vllm",
        "vLLM's latency test",
        "vllm-project/vllm#3240",
        "vLLM of March 2024, Mixtral on two A100: whole batches of 1,000 tokens in and 50 out, whole prompts.",
    ),
    Source(
        "vllm-ci",
        "vLLM's nightly latency test",
        "buildkite.com/vllm",
        "vLLM's nightly test of 2024 on A100, eight sequences, 32 tokens in and 128 out.",
    ),
)


# --- asking ---


@dataclass(frozen=True, slots=True)
class Setup:
    """A model as it is served: catalog names, and how GPUs share it. gpu: in place of the machine's."""

    model: str
    machine: str
    ranks: int
    ep: int = 1
    weights: Precision = "bf16"
    gpu: str | None = None

    @classmethod
    def of(cls, row: Row) -> "Setup":
        """Of a published row; GPUs that it does not count are one."""
        gpu = row["gpu"]
        ranks = int(row["tp"] or 1)
        return cls(
            MODELS[row["model"]],
            MACHINES[gpu],
            ranks,
            int(row["ep"]),
            cast(Precision, row["weights"]),
            OTHER_GPU.get(gpu),
        )

    @property
    def cluster(self) -> Cluster:
        """Its GPUs."""
        found = load_cluster(self.machine)
        return (found if self.gpu is None else replace(found, gpu=load_gpu(self.gpu))).take(self.ranks)

    def __str__(self) -> str:
        spread = f" EP {self.ep}" if self.ep > 1 else ""
        return f"{self.model} {self.weights}, {self.ranks} of {self.gpu or self.machine}{spread}"


@dataclass(frozen=True, slots=True)
class Seconds:
    """A predicted time with its 90 % interval, and where it goes."""

    value: float
    low: float
    high: float
    parts: Mapping[str, float]

    def plus(self, other: "Seconds", times: int = 1) -> "Seconds":
        """One after the other: kernels are the same, so they err together."""
        names = {**self.parts, **other.parts}
        parts = {name: self.parts.get(name, 0.0) + times * other.parts.get(name, 0.0) for name in names}
        low, high = self.low + times * other.low, self.high + times * other.high
        return Seconds(self.value + times * other.value, low, high, parts)

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in self.parts.items())


NOTHING = Seconds(0.0, 0.0, 0.0, {})


@cache
def placed(setup: Setup) -> Placed:
    """The model on its GPUs, as a question about it is placed."""
    model, weights = model_of(setup)
    return place(Question(model, setup.cluster, weights=weights, ep=setup.ep))


@cache
def costs(setup: Setup, launch: Launch) -> tuple[CostModel, Exchanger]:
    """What its kernels and exchanges cost."""
    found = placed(setup)
    cost = CostModel(found.profile, found.cluster.gpu, launch)
    return cost, Exchanger(found.cluster, cost, slowdown(setup.ranks, {}))


@cache
def iteration(
    setup: Setup, chunks: tuple[tuple[int, int], ...], sequences: int, context: int, launch: Launch
) -> Seconds:
    """One pass of an engine: chunks of prompts (tokens, context with them), and sequences that decode."""
    cost, exchanger = costs(setup, launch)
    share = Share(chunks, sequences, sequences * context)
    model, weights = model_of(setup)
    work = build(model, scheme("bf16"), Iteration(share, len(chunks)), placed(setup).sharing, weights)
    timeline = timeline_of(*run(work, exchanger, cost, True))
    interval = interval_of(timeline, kernels_of(work), cost)
    by_name = timeline.by_name()
    parts = {part: sum(by_name.get(name, 0.0) for name in names) for part, names in PARTS.items()}
    parts["exchanges"] = timeline.breakdown().exposed_communication_s
    parts["rest"] = timeline.ttft_s - sum(parts.values())
    return Seconds(timeline.ttft_s, interval.low_s, interval.high_s, parts)


def model_of(setup: Setup) -> tuple[ModelConfig, Weights]:
    """What the simulator is asked: checkpoints that keep some parts in bf16 as they have it."""
    model = load_model(setup.model)
    if setup.weights == "mxfp4":
        return model, "auto"
    if setup.weights == "nvfp4":  # nvidia/DeepSeek-R1-FP4 and its like: all but attention
        kept: tuple[tuple[Part, Precision], ...] = tuple((p, "bf16" if p == "attention" else "nvfp4") for p in PARTS_OF)
        return replace(model, checkpoint=Checkpoint(kept)), "auto"
    return model, setup.weights


def prompt(setup: Setup, batch: int, tokens: int, pass_tokens: int = PASS_TOKENS) -> Seconds:
    """Prefill of `batch` prompts, in passes of at most so many tokens; longer prompts are cut."""
    found = NOTHING
    if tokens > pass_tokens:
        for end in range(pass_tokens, tokens + pass_tokens, pass_tokens):
            done = end - pass_tokens
            more = min(pass_tokens, tokens - done)
            found = found.plus(iteration(setup, ((more, done + more),), 0, 0, "eager"), batch)
        return found
    together = min(pass_tokens // tokens, batch)
    for count, times in ((together, batch // together), (batch % together, 1)):
        if count:
            found = found.plus(iteration(setup, ((tokens, tokens),) * count, 0, 0, "eager"), times)
    return found


def step(setup: Setup, sequences: int, context: int) -> Seconds:
    """One token of each of so many sequences."""
    return iteration(setup, (), sequences, context, "graph")


# --- rows ---


def context_of(row: Row) -> int:
    """Mean context of a token between the first and the last."""
    output = int(row["output_tokens"])
    if row["input_tokens"]:
        return int(row["input_tokens"]) + output // 2
    # of answers as different as people's, the long ones have most of the tokens: their mean stands for the half
    return (EXAM_PROMPT if "gpqa" in row["source"] else CHAT_PROMPT) + output


def between(row: Row) -> tuple[float, Seconds]:
    """Time between two tokens: measured, predicted."""
    return float(row["value"]) / 1e3, step(Setup.of(row), round(float(row["batch"])), context_of(row))


def first(row: Row) -> tuple[float, Seconds]:
    """First token of as many prompts as the row has sequences."""
    return float(row["value"]) / 1e3, prompt(Setup.of(row), int(row["batch"]), int(row["input_tokens"]))


def prompts(row: Row) -> tuple[float, Seconds]:
    """A rate of prompt tokens as the time of all prompts of the row."""
    batch, tokens = int(row["batch"]), int(row["input_tokens"])
    return batch * tokens / float(row["value"]), prompt(Setup.of(row), batch, tokens)


def whole(row: Row) -> tuple[float, Seconds]:
    """Prompts and answers of a batch: whole prompts, then a step a token."""
    setup, batch, tokens = Setup.of(row), int(row["batch"]), int(row["input_tokens"])
    steps = int(row["output_tokens"]) - 1
    found = prompt(setup, batch, tokens, WHOLE_PASS).plus(step(setup, batch, tokens + steps // 2), steps)
    return float(row["value"]) / 1e3, found


def all_tokens(row: Row) -> tuple[float, Seconds]:
    """A rate of all tokens of one sequence as the whole time."""
    setup, tokens, output = Setup.of(row), int(row["input_tokens"]), int(row["output_tokens"])
    found = prompt(setup, 1, tokens).plus(step(setup, 1, tokens + output // 2), output - 1)
    return (tokens + output) / float(row["value"]), found


METRICS: Mapping[str, tuple[str, Callable[[Row], tuple[float, Seconds]]]] = {
    "ttft_ms": ("first token", first),
    "prompt_tokens_per_s": ("prompts", prompts),
    "itl_ms": ("between tokens", between),
    "whole_ms": ("whole batches", whole),
    "all_tokens_per_s": ("whole answers", all_tokens),
}


def left_out(row: Row) -> str | None:
    """Why a row is not compared."""
    if row["metric"] == "ttft_ms" and not row["tp"]:
        return "first tokens on A100, how many is not said: 4,096 and 8,192 tokens took less than one's peak allows"
    if row["metric"] == "ttft_ms" and int(row["batch"]) > 1:
        return "first tokens of several users, which hang on how a run began"
    if row["weights"] == "int4" and "GPTQ" in row["note"]:
        return "GPTQ by Marlin on H20, of which the page says that its speed needs work"
    return None


def kept(source: Source) -> Iterator[Row]:
    """Rows of a source that are compared."""
    return (row for row in rows(TABLE) if row["source"].startswith(source.start) and left_out(row) is None)


def point(row: Row) -> Point:
    """A row beside its prediction."""
    setup, batch = Setup.of(row), round(float(row["batch"]))
    what, ask = METRICS[row["metric"]]
    measured, found = ask(row)
    size = next(name for name, most in SIZES.items() if batch <= most)
    lengths = f"{row['input_tokens'] or '?'}/{row['output_tokens']}"
    return Point(
        str(setup),
        size,
        f"{setup}: {what}, {batch} x {lengths}",
        measured,
        found.value,
        f"ms: {found}",
        (found.low, found.high),
    )


PROMPTS = ("ttft_ms", "prompt_tokens_per_s")


def as_served() -> dict[str, list[tuple[int, float]]]:
    """What whole runs of mixtures are off by, of every row that is compared: rows of its products, and
    log(measured / predicted); by part of the interval: `prefill`, `step` of decoding.
    """
    found = dict[str, list[tuple[int, float]]](prefill=[], step=[])
    for source in SOURCES:
        for row in kept(source):
            if load_model(MODELS[row["model"]]).is_mixture:
                measured, predicted = METRICS[row["metric"]][1](row)
                batch, prompt = round(float(row["batch"])), row["metric"] in PROMPTS
                rows = batch * int(row["input_tokens"]) if prompt else batch
                found["prefill" if prompt else "step"].append((rows, log(measured / predicted.value)))
    return found


def mixtures() -> Section:
    """Every row, by source and what was measured; models without experts apart."""
    entries, missing = [], dict[str, int]()
    for source in SOURCES:
        of_kind: dict[tuple[str, bool], list[Point]] = {}
        for row in kept(source):
            mixture = load_model(MODELS[row["model"]]).is_mixture
            of_kind.setdefault((row["metric"], mixture), []).append(point(row))
        for (metric, mixture), points in of_kind.items():
            key = f"mixtures.{source.key}.{metric}{'' if mixture else '.dense'}"
            what = f"{source.what}: {METRICS[metric][0]}{'' if mixture else ', dense models'}"
            entries.append(Entry(key, what, "held out", tuple(points), gated=False))
    for row in rows(TABLE):
        if why := left_out(row):
            missing[why] = missing.get(why, 0) + 1
    return Section(
        "mixtures",
        "Mixtures of experts",
        "",
        PROSE + "\n\n" + " ".join(source.sentence for source in SOURCES),
        tuple(entries),
        tuple(f"{count} rows: {why}." for why, count in missing.items()),
    )


PROSE = """
    Rows: mixtures_2026.csv. Nothing is fitted to them; kernels are those of tables of newer engines than most rows
    (vLLM 0.24), and no time of a host, of sampling or of other requests is assumed. A time between tokens is one
    iteration of decoding. ML.ENERGY does not say the lengths of prompts, taken as 512 tokens of chat and 256 of an
    exam's question, beside a mean answer; twice as much changes a step of 8 sequences by less than 4 %, of 256 by less
    than 16 %.

    What is missed, and why as far as rows tell. With many sequences ML.ENERGY's dense models miss as the mixtures do:
    what a sequence costs beside kernels (top-p sampling of all logits, streaming) is in no prediction. In fp8 its vLLM
    0.11 took longer on eight H100 than in bf16 up to 16 sequences, 24.7 against 20.2 ms at 8; by tables its kernels
    take less. Of Llama 4 Scout a third is missing, and no reason was found. First tokens of single users are 40 to 130
    ms longer than their kernels whatever the prompt, 180 ms at 128 tokens over two nodes: a host that launches kernels
    one by one. SGLang's prompts on B200 ran hardly faster than on H200, without deep_gemm. TensorRT-LLM in nvfp4 fuses
    kernels that vLLM's tables have apart. One sequence in bf16 on H20 comes out up to 30 % slow: experts are priced at
    H100's share of the peak at one row an expert, where H20's peak, a seventh of H100's, is not the limit.
    The intervals carry what these rows themselves are off by (served-mixtures.json), so how many of them lie inside
    says that it is carried along, not that another engine's run will be.
"""
