"""Asks thinwire what peer_aiconfigurator.py and peer_genz.py ask the peers, by the same lines, for the same timing.

In: {"id", "kind": "prefill", "machine", "model", "tp", "batch", "input_tokens", "weights", "exchanges"}. Out: {"id",
"seconds", "took_s"}; "took_s" is seconds of wall time by what was timed. The first line out is {"ready": true,
"facts": {...}}. Run as a module: `python -m thinwire.validation.peers.ours`.
"""

import json
import sys
import time
from typing import Any

import thinwire

predict = thinwire.predict  # now: `import thinwire` alone loads nothing


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Of one question about a prefill, as a user asks: names in."""
    begin = time.perf_counter()
    found = predict(
        model=asked["model"], cluster=asked["machine"], scheme="bf16" if asked["exchanges"] else "none",
        tp=asked["tp"], batch=asked["batch"], input_tokens=asked["input_tokens"], weights=asked["weights"],
    )  # fmt: skip
    took_s = {"call": time.perf_counter() - begin}
    return {"id": asked["id"], "seconds": found.ttft_s, "took_s": took_s}


def main() -> None:
    """Answer until standard input ends."""
    facts = {"version": thinwire.__version__, "python": sys.version.split()[0]}
    print(json.dumps({"ready": True, "facts": facts}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
