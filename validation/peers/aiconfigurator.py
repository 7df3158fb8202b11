"""Asks AIConfigurator, inside its own environment: JSON lines in, JSON lines out. peers.py starts it.

A script on its own: it imports nothing of thinwire, and AIConfigurator by name, which thinwire does not depend on. Rows
are asked as a user would: `cli_estimate` in mode static_ctx (one prefill, nothing around it), database mode SILICON and
the current version of the backend, which are its defaults. One all-reduce is one of its communication operators,
evaluated by its engine.

In: {"id", "kind": "prefill", "gpu", "model", "config", "tp", "batch", "input_tokens", "weights", "backend", "preset",
"exchanges"}; {"id", "kind": "all_reduce", "gpu", "ranks", "nbytes", "library", "backend"}; or of a mixture, a prefill
of so many tokens or a decoding step at such a context: {"id", "kind": "mixture", "phase", "gpu", "path", "model",
"config", "tp", "attention_dp", "moe_tp", "moe_ep", "batch", "tokens", "backend"}, answered with "parts" too, seconds by
operator. "timed": true asks for more times. Out: {"id", "seconds", "took_s"} or {"id", "unsupported": why}; "took_s" is
seconds of wall time by what was timed. The first line out is {"ready": true, "facts": {...}}.
"""

import atexit
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

SYSTEMS = {
    "a100-sxm": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200-sxm": "b200_sxm",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
SHIPPED = {"llama-3-70b": "meta-llama/Meta-Llama-3.1-70B"}  # its own file; Llama 3.3 has the same sizes
AS_LLAMA = {"MistralForCausalLM": "LlamaForCausalLM"}  # the same layers up to the window, 4096 tokens
PRESETS: dict[str, dict[str, str]] = {  # quantisation of prefills with fp8 weights, beside what it infers by itself
    "": {"gemm_quant_mode": "fp8"},
    # What it infers from nvidia/Llama-3.1-70B-Instruct-FP8: static scales, cache and attention in fp8 as well.
    "checkpoint": {"gemm_quant_mode": "fp8_static", "kvcache_quant_mode": "fp8", "fmha_quant_mode": "fp8"},
}
WIDTH = 8192
COMMUNICATION = ("context_ar_1", "context_ar_2", "context_embedding_ar")


def module(name: str) -> Any:
    """A module of AIConfigurator's."""
    return importlib.import_module(f"aiconfigurator.{name}")


@cache
def model_path(name: str, config: str) -> str:
    """Its own name of a model, or a folder with the config.json (Mistral's it refuses, so as a Llama)."""
    if name in SHIPPED:
        return SHIPPED[name]
    for theirs, ours in AS_LLAMA.items():
        config = config.replace(theirs, ours)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "config.json").write_text(config, "utf-8")
    return str(folder)


@cache
def version(system: str, backend: str) -> str:
    """The backend's version that it takes by default."""
    return str(module("sdk.perf_database").get_latest_database_version(system=system, backend=backend))


@cache
def compiled(path: str, system: str, backend: str, tp: int, quantised: tuple[tuple[str, str], ...]) -> Any:
    """Its engine for one model on one machine, made ready beforehand."""
    return module("sdk.engine").EngineHandle.compile(path, system, backend, tp_size=tp, **dict(quantised))


def prefill(asked: dict[str, Any], system: str) -> dict[str, Any]:
    """Seconds of one prefill, with or without its all-reduces."""
    path = model_path(asked["model"], json.dumps(asked["config"]))
    quantised = PRESETS[asked["preset"]] if asked["weights"] == "fp8" else {}
    backend, tp = asked["backend"], asked["tp"]
    settings = {
        "mode": "static_ctx", "backend_name": backend, "batch_size": asked["batch"], "isl": asked["input_tokens"],
        "osl": 1, "tp_size": tp, **quantised,
    }  # fmt: skip
    estimate, took = module("cli.api").cli_estimate, {}
    begin = time.perf_counter()
    found = estimate(path, system, **settings)
    took["call"] = time.perf_counter() - begin
    if asked.get("timed"):
        begin = time.perf_counter()
        estimate(path, system, backend_version=version(system, backend), **settings)
        took["call, version named"] = time.perf_counter() - begin
        engine = compiled(path, system, backend, tp, tuple(quantised.items()))
        begin = time.perf_counter()
        engine.predict_prefill_latency(asked["batch"], asked["input_tokens"])
        took["engine, made ready"] = time.perf_counter() - begin
    parts_ms = found.summary.get_context_latency_dict()
    exchanged_ms = 0.0 if asked["exchanges"] else sum(parts_ms[name] for name in COMMUNICATION)
    return {"seconds": (found.ttft - exchanged_ms) * 1e-3, "took_s": took, "version": found.backend_version}


def mixture(asked: dict[str, Any], system: str) -> dict[str, Any]:
    """Seconds of one prefill, or of one step of decoding, of a mixture of experts, and of its operators."""
    path = asked["path"] or model_path(asked["model"], json.dumps(asked["config"]))
    decoding = asked["phase"] == "decode"
    found = module("cli.api").cli_estimate(
        path, system, mode="static_gen" if decoding else "static_ctx", backend_name=asked["backend"],
        batch_size=asked["batch"], isl=asked["tokens"], osl=2 if decoding else 1, tp_size=asked["tp"],
        attention_dp_size=asked["attention_dp"], moe_tp_size=asked["moe_tp"], moe_ep_size=asked["moe_ep"],
    )  # fmt: skip
    summary = found.summary
    parts_ms = summary.get_generation_latency_dict() if decoding else summary.get_context_latency_dict()
    parts = {name.partition("_")[2]: round(ms * 1e-3, 9) for name, ms in parts_ms.items() if ms}
    seconds = (found.tpot if decoding else found.ttft) * 1e-3
    return {"seconds": seconds, "parts": parts, "version": found.backend_version}


def all_reduce(asked: dict[str, Any], system: str) -> dict[str, Any]:
    """Seconds of one all-reduce of half-precision values."""
    backend, numel = asked["backend"], asked["nbytes"] // 2
    wide = WIDTH if numel % WIDTH == 0 else 1  # values a token: it counts tokens, in 32 bits
    communication, engine = module("sdk.operations.communication"), module("sdk.engine")
    if asked["library"] == "nccl":
        half = module("sdk.common").CommQuantMode.half
        operator = communication.NCCL("all_reduce", 1.0, "all_reduce", wide, asked["ranks"], half)
    else:
        operator = communication.CustomAllReduce("all_reduce", 1.0, wide, asked["ranks"])
    handle = tables(system, backend)
    begin = time.perf_counter()
    operators, tokens = engine.build_ops_json([operator]), numel // wide
    found = handle.evaluate_ops_json(operators, is_context=True, batch_size=1, s=1, x=tokens)
    return {"seconds": found[0][1] * 1e-3, "took_s": {"call": time.perf_counter() - begin}}


@cache
def tables(system: str, backend: str) -> Any:
    """Its engine on one machine's tables, without a model."""
    database = module("sdk.perf_database").get_database(system, backend, version(system, backend))
    return module("sdk.engine").EngineHandle.for_database(database)


KINDS = {"prefill": prefill, "mixture": mixture, "all_reduce": all_reduce}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Of one question."""
    system = SYSTEMS.get(asked["gpu"])
    if system is None:
        return {"id": asked["id"], "unsupported": f"it has no data of {asked['gpu']}"}
    try:
        found = KINDS[asked["kind"]](asked, system)
    except Exception as error:  # whatever it raises is its answer
        return {"id": asked["id"], "unsupported": f"{type(error).__name__}: {error}"[:200]}
    if not found["seconds"] > 0:
        return {"id": asked["id"], "unsupported": f"it answers {found['seconds']:g} s"}
    return {"id": asked["id"], **found}


def main() -> None:
    """Answer until standard input ends. What the package prints goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module("cli.api")
    facts = {"version": importlib.import_module("aiconfigurator").__version__, "python": sys.version.split()[0]}
    print(json.dumps({"ready": True, "facts": facts}), file=out)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out)


if __name__ == "__main__":
    main()
