"""Mixtures of experts, head to head with AIConfigurator: rows that somebody measured, and parts where nobody did.

    python -m thinwire.validation.peers.mixtures            # install the peer, ask it, write raw/peers-mixtures.json
    python -m thinwire.validation.peers.mixtures --report   # the report alone, without the peer

Rows: mixtures_2026.csv on GPUs that it has. It is asked as a user would: `cli_estimate`, modes static_ctx and
static_gen, its own model files where it has them, the tables of the engine that ran, in the version it takes by
default. Whole batches are put together of its passes and steps as thinwire's are of ours (targets/mixtures.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from thinwire.validation.peers.mixture_report import markdown
from thinwire.validation.peers.mixture_rows import asked
from thinwire.validation.peers.peers import HERE, RAW, Worker, environment, program

PEER = "aiconfigurator"
FILE = RAW.with_name("peers-mixtures.json")
REPORT = "peers-mixtures.md"
KIND = "thinwire peers, mixtures 1"


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

    def report(raw: Path, reports: Path) -> str:
        (reports / REPORT).write_text(markdown(read(raw)), "utf-8")
        return str(reports / REPORT)

    return program(__doc__, FILE, measure, report, arguments)


if __name__ == "__main__":
    sys.exit(main())
