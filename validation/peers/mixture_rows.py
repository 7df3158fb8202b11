"""Mixtures head to head: what the peer is asked of rows that somebody measured, and of parts where nobody did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from thinwire.sim.choices import Precision
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits.published_tables import Row
from thinwire.validation.peers.rows import model_config
from thinwire.validation.targets import mixtures as ours
from thinwire.validation.targets.mixtures import Setup

PATHS: Mapping[tuple[str, str], str] = {  # its own names; other models it reads from the catalog's config.json
    ("deepseek-v3", "fp8-block"): "deepseek-ai/DeepSeek-V3",
    ("deepseek-v3", "nvfp4"): "nvidia/DeepSeek-V3.1-NVFP4",
    ("qwen3-235b-a22b", "fp8-block"): "Qwen/Qwen3-235B-A22B-FP8",
    ("qwen3-235b-a22b", "bf16"): "Qwen/Qwen3-235B-A22B",
    ("qwen3-30b-a3b", "bf16"): "Qwen/Qwen3-30B-A3B",
    ("gpt-oss-120b", "mxfp4"): "openai/gpt-oss-120b",
    ("gpt-oss-20b", "mxfp4"): "openai/gpt-oss-20b",
}
BACKENDS = {"vLLM": "vllm", "SGLang": "sglang", "TensorRT-LLM": "trtllm"}  # by how an engine's name begins
PHASES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Pass:
    """One prefill of `batch` prompts of `tokens`, or one step of decoding of `batch` sequences at such a context."""

    setup: Setup
    phase: str
    batch: int
    tokens: int
    backend: str
    attention_dp: int = 1

    @property
    def id(self) -> str:
        """Its name in the raw file."""
        spread = f" dp{self.attention_dp}" if self.attention_dp > 1 else ""
        return f"{self.setup}{spread}: {self.phase} {self.batch} x {self.tokens}, {self.backend}"

    def question(self) -> dict[str, Any]:
        """For the worker. Its batch is that of one rank where ranks have sequences of their own."""
        s = self.setup
        path = PATHS.get((s.model, s.weights))
        return {
            "id": self.id,
            "kind": "mixture",
            "phase": self.phase,
            "gpu": s.gpu or load_cluster(s.machine).gpu.name,
            "path": path,
            "model": s.model,
            "config": None if path else model_config(s.model),
            "tp": s.ranks // self.attention_dp,
            "attention_dp": self.attention_dp,
            "moe_tp": s.ranks // s.ep,
            "moe_ep": s.ep,
            "batch": self.batch,
            "tokens": self.tokens,
            "backend": self.backend,
        }


# --- rows that somebody measured ---


def backend(row: Row) -> str:
    """Whose tables: those of the engine that ran."""
    return next(name for start, name in BACKENDS.items() if row["engine"].startswith(start))


def compared() -> Iterator[Row]:
    """Rows on GPUs that the peer has."""
    for source in ours.SOURCES:
        yield from (row for row in ours.kept(source) if row["gpu"] != "H20")


def passes(row: Row) -> list[tuple[Pass, int]]:
    """What a row is made of, and how often each."""
    setup, batch, engine = Setup.of(row), round(float(row["batch"])), backend(row)
    found: list[tuple[Pass, int]] = []
    metric = row["metric"]
    if metric != "itl_ms":
        tokens, whole = int(row["input_tokens"]), ours.WHOLE_PASS if metric == "whole_ms" else ours.PASS_TOKENS
        together = max(min(whole // tokens, batch), 1)
        for count, times in ((together, batch // together), (batch % together, 1)):
            if count:
                found.append((Pass(setup, "prefill", count, tokens, engine), times))
    if metric in ("itl_ms", "whole_ms"):
        steps = 1 if metric == "itl_ms" else int(row["output_tokens"]) - 1
        context = ours.context_of(row) if metric == "itl_ms" else int(row["input_tokens"]) + steps // 2
        found.append((Pass(setup, "decode", batch, context, engine), steps))
    return found


# --- parts where nobody measured ---


def distances() -> Iterator[Pass]:
    """Prefills of its own mixtures under TP and EP, then DeepSeek-V3 with attention data-parallel."""
    for gpu in ("H100", "H200", "B200"):
        machine = ours.MACHINES[gpu]
        asked: list[tuple[str, Precision, int, int]]
        asked = [("qwen3-30b-a3b", "bf16", 1, 1), ("qwen3-30b-a3b", "bf16", 4, 1), ("qwen3-30b-a3b", "bf16", 4, 4),
                 ("mixtral-8x7b", "bf16", 2, 1), ("mixtral-8x7b", "bf16", 2, 2)]  # fmt: skip
        if gpu != "H100":  # where it fits
            asked += [("deepseek-v3", "fp8-block", 8, 1), ("deepseek-v3", "fp8-block", 8, 8)]
        for model, weights, ranks, ep in asked:
            for tokens in (1024, 4096, 8192):
                yield Pass(Setup(model, machine, ranks, ep, weights), "prefill", 1, tokens, "vllm")


# --- all of it ---


def asked() -> list[Pass]:
    """Every pass, once."""
    of_rows = [one for row in compared() for one, _ in passes(row)]
    return list(dict.fromkeys([*of_rows, *distances()]))


# --- answers ---


@dataclass(frozen=True)
class Head:
    """A row with both predictions, seconds; the peer's is why there is none where it has none."""

    row: Row
    measured: float
    ours: float
    theirs: float | str

    @property
    def errors(self) -> tuple[float, float | None]:
        """Predicted over measured, less one: ours, theirs."""
        theirs = None if isinstance(self.theirs, str) else self.theirs / self.measured - 1
        return self.ours / self.measured - 1, theirs

    @property
    def closer(self) -> bool | None:
        """Are we? None: it says nothing."""
        mine, theirs = self.errors
        return None if theirs is None else abs(mine) < abs(theirs)


def heads(raw: Mapping[str, Any]) -> list[Head]:
    """Rows with both; a whole is the sum of its passes. KeyError for a pass that was not asked."""
    found = []
    for row in compared():
        measured, predicted = ours.METRICS[row["metric"]][1](row)
        seconds, missing = 0.0, ""
        for one, times in passes(row):
            answer = raw["answers"][one.id]
            seconds += times * answer.get("seconds", 0.0)
            missing = missing or answer.get("unsupported", "")
        found.append(Head(row, measured, predicted.value, missing or seconds))
    return found
