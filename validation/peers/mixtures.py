"""Mixtures of experts, head to head with AIConfigurator: rows that somebody measured, and parts where nobody did.

    python -m thinwire.validation.peers.mixtures            # install the peer, ask it, write raw/peers-mixtures.json
    python -m thinwire.validation.peers.mixtures --report   # the report alone, without the peer

Rows: mixtures_2026.csv on GPUs that it has. It is asked as a user would: `cli_estimate`, modes static_ctx and
static_gen, its own model files where it has them, the tables of the engine that ran, in the version it takes by
default. Whole batches are put together of its passes and steps as thinwire's are of ours (targets/mixtures.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinwire.reference.quality.downloads import cache_folder
from thinwire.sim.choices import Precision
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits.published_tables import Row
from thinwire.validation.peers.peers import HERE, RAW, REPORTS, Worker, environment, text_of
from thinwire.validation.peers.rows import model_config
from thinwire.validation.targets import mixtures as ours
from thinwire.validation.targets.mixtures import Setup

PEER = "aiconfigurator"
FILE = RAW.with_name("peers-mixtures.json")
REPORT = "peers-mixtures.md"
KIND = "thinwire peers, mixtures 1"
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


# --- asking ---


def asked() -> list[Pass]:
    """Every pass, once."""
    of_rows = [one for row in compared() for one, _ in passes(row)]
    return list(dict.fromkeys([*of_rows, *distances()]))


def measure(folder: Path) -> dict[str, Any]:
    """The raw file: ask the peer everything. ValueError where it cannot be installed or started."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(environment(PEER, folder)), "-I", str(HERE / f"{PEER}.py")]
    answers = {}
    with closing(Worker.start(PEER, command, folder / "mixtures.log")) as worker:
        for each in asked():
            found = worker.ask(each.question())
            kept = {name: found[name] for name in ("seconds", "parts", "version", "unsupported") if name in found}
            answers[each.id] = kept
            print(f"{each.id}: {kept.get('seconds', kept.get('unsupported'))}", file=sys.stderr)
        facts = dict(worker.facts)
    how = "python -m thinwire.validation.peers.mixtures"
    return {"kind": KIND, "how": how, "facts": facts, "answers": answers}


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


def read(path: Path) -> dict[str, Any]:
    """The raw file; ValueError for one that is none, or that lacks a pass of today."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the peer's answers in {path}: {error}") from None
    if raw.get("kind") != KIND:
        raise ValueError(f"{path} holds no answers on mixtures: kind={raw.get('kind')!r}, expected {KIND!r}")
    missing = [one.id for one in asked() if one.id not in raw["answers"]]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} answers, {missing[0]} first; ask again")
    return raw


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 where the peer cannot be installed or started."""
    from thinwire.validation.peers.mixture_report import markdown

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="from the raw file, without asking the peer")
    parser.add_argument("--raw", type=Path, default=FILE, help="the raw file")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="folder of the report")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "peers", help="of the environment")
    given = parser.parse_args(arguments)
    try:
        if not given.report:
            given.raw.write_text(text_of(measure(given.folder)), "utf-8")
        raw = read(given.raw)
    except ValueError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    (given.reports / REPORT).write_text(markdown(raw), "utf-8")
    print(f"written: {given.reports / REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
