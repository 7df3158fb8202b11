"""Asks GenZ, inside its own environment: JSON lines in, JSON lines out. peers.py starts it.

A script on its own: it imports nothing of thinwire, and GenZ by name, which thinwire does not depend on. Rows are asked
as a user would: `prefill_moddeling` with the package's own model and system and its default efficiency of one. GenZ has
one number format for weights, products and wire together, so fp8 weights make everything fp8 (`bits="fp8"`).

In: {"id", "kind": "prefill", "gpu", "model", "tp", "batch", "input_tokens", "weights", "exchanges"}, or {"id", "kind":
"all_reduce", "gpu", "ranks", "nodes", "nbytes"}. Out: {"id", "seconds", "took_s"} or {"id", "unsupported": why};
"took_s" is seconds of wall time by what was timed. The first line out is {"ready": true, "facts": {...}}.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

SYSTEMS = {"a100-sxm": "A100_80GB_GPU", "h100-sxm": "H100_GPU", "mi300x": "MI300X"}
# Its name meta-llama/meta-llama-3.1-70b, in small letters only, stands for Llama 2.
MODELS = {
    "llama-2-7b": "meta-llama/Llama-2-7B",
    "llama-2-70b": "meta-llama/Llama-2-70B",
    "llama-3-70b": "meta-llama/Llama-3.1-70B",
    "mistral-7b": "mistralai/Mistral-7B",
}
SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")


def module(name: str) -> Any:
    """A module of GenZ's."""
    return importlib.import_module(name)


def different(asked: dict[str, Any], config: Any) -> str:
    """Sizes in which its model is not the one asked for."""
    pairs = {name: (asked["config"][name], getattr(config, name)) for name in SIZES}
    pairs["num_hidden_layers"] = asked["config"]["num_hidden_layers"], config.num_decoder_layers
    return ", ".join(f"{name} {its} for {ours}" for name, (ours, its) in pairs.items() if ours != its)


def prefill(asked: dict[str, Any], system: str) -> dict[str, Any]:
    """Seconds of one prefill, with or without its all-reduces."""
    name, tp = MODELS.get(asked["model"]), asked["tp"]
    if name is None:
        return {"unsupported": f"it has no {asked['model']}"}
    if faults := different(asked, module("GenZ.Models").get_configs(name)):
        return {"unsupported": f"its {name} has {faults}"}
    begin = time.perf_counter()
    found = module("GenZ").prefill_moddeling(
        model=name, batch_size=asked["batch"], input_tokens=asked["input_tokens"], system_name=system,
        bits=asked["weights"], tensor_parallel=tp, parallelism_heirarchy=f"TP{{{tp}}}_EP{{1}}_PP{{1}}",
    )  # fmt: skip
    took = time.perf_counter() - begin
    exchanged_ms = 0.0 if asked["exchanges"] else found["Runtime_breakdown"].Collective
    return {"seconds": (found["Latency"] - exchanged_ms) * 1e-3, "took_s": {"call": took}}


def all_reduce(asked: dict[str, Any], system: str) -> dict[str, Any]:
    """Seconds of one all-reduce by its closed form, a ring over links that are all alike."""
    if asked["nodes"] > 1:
        return {"unsupported": "its closed form knows one kind of link, not nodes"}
    begin = time.perf_counter()
    described = module("GenZ.LLM_inference.utils").get_inference_system(system_name=system)
    milliseconds = module("GenZ.collective_times").get_AR_time(asked["nbytes"], asked["ranks"], described)
    return {"seconds": milliseconds * 1e-3, "took_s": {"call": time.perf_counter() - begin}}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Of one question."""
    system = SYSTEMS.get(asked["gpu"])
    if system is None:
        return {"id": asked["id"], "unsupported": f"it has no system with {asked['gpu']}"}
    try:
        found = prefill(asked, system) if asked["kind"] == "prefill" else all_reduce(asked, system)
    except Exception as error:  # whatever it raises is its answer
        return {"id": asked["id"], "unsupported": f"{type(error).__name__}: {error}"[:200]}
    return {"id": asked["id"], **found}


def main() -> None:
    """Answer until standard input ends. What the package prints goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module("GenZ")
    facts = {"version": importlib.metadata.version("genz-llm"), "python": sys.version.split()[0]}
    print(json.dumps({"ready": True, "facts": facts}), file=out)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out)


if __name__ == "__main__":
    main()
