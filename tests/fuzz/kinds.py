"""The kinds of files that thinwire reads: valid ones, and the commands that read them; command lines; cases."""

import json
import random
import runpy
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mutations import MARK, SPACED, Raw, Tree, as_json, as_toml, change, spoil, tree_of

from thinwire.reference.families.config import parse_config

ROOT = Path(__file__).resolve().parents[2]

# ---- kinds of files


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: valid ones, how they are written, and the command lines that read FILE.

    beside: files that the valid ones name.
    """

    name: str
    valid: Callable[[random.Random], Any]  # a tree, or a text where the file is none
    text: Callable[[Tree], str]
    commands: tuple[str, ...]
    beside: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ".toml"


PLACE = "--cluster 8xl40s-pcie --tp 4"
ROOMY = "--cluster 8xb200-nvlink --tp 1"  # no count of heads is odd to it, and half the catalog fits
PREDICT = f"predict --model llama-3-8b {PLACE} --scheme flash-int4 --json"
SERVE = f"serve --model llama-3-8b {PLACE} --scheme bf16 --duration 10 --json"


def _toml_file(*paths: str) -> Callable[[random.Random], Tree]:
    return lambda r: tree_of(tomllib.loads((ROOT / r.choice(paths)).read_text("utf-8")))


def _json_file(*paths: str) -> Callable[[random.Random], Tree]:
    return lambda r: tree_of(json.loads((ROOT / r.choice(paths)).read_text("utf-8")))


def _globbed(pattern: str) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)))


@lru_cache(maxsize=1)
def _models() -> list[Any]:
    rows = json.loads((ROOT / "tests/reference/families/configs.json").read_text("utf-8"))
    found = [json.loads((ROOT / path).read_text("utf-8")) for path in _globbed("reference/models/*.json")]
    found += [row["config"] for row in rows]
    return [content for content in found if parse_config(content, "x").parameters < 80e9]


def _model(r: random.Random) -> Tree:
    """A config of the catalog, or of the tests of families, whose weights one GPU of `ROOMY` holds."""
    return tree_of(r.choice(_models()))


def _profile(r: random.Random) -> Tree:
    parts = {kind: json.loads((ROOT / f"sim/profiles/{kind}-{name}.json").read_text("utf-8"))
             for kind, name in (("gpu", "l40s"), ("fabric", "l40s-pcie"))}  # fmt: skip
    return tree_of({kind: parts[kind] for kind in r.choice((("gpu",), ("fabric",), ("gpu", "fabric")))})


def _scheme(r: random.Random) -> Tree:
    names = [[r.choice(("bf16", "flash-int8", "flash-int4", "drop")) for _ in range(32)] for _ in range(2)]
    return tree_of({"name": "mine", "attention": names[0], "mlp": [*names[1][:31], "bf16"], "source": "fuzz"})


def _sensitivities(_: random.Random) -> Tree:
    return tree_of(json.loads((ROOT / "sim/profiles/sensitivity-smollm2-135m.json").read_text("utf-8")))


def _trace(r: random.Random) -> Tree:
    rows = [
        [f"2023-11-16 18:15:{i:02d}.6805900", str(r.randrange(1, 4000)), str(r.randrange(1, 90))] for i in range(40)
    ]
    return [["TIMESTAMP", "ContextTokens", "GeneratedTokens"], *rows]


def _csv(tree: Tree) -> str:
    rows = tree if isinstance(tree, list) else [tree]
    cells = ([_cell(cell) for cell in row] if isinstance(row, list) else [_cell(row)] for row in rows)
    return "\n".join(",".join(row) for row in cells) + "\n"


def _cell(value: Any) -> str:
    return value.text if isinstance(value, Raw) else "1" + "0" * 400 if value == 10**400 else str(value)


SWEEP: Mapping[str, Any] = {
    "model": "llama-3-8b", "cluster": ["8xl40s-pcie", "machine.toml"], "scheme": ["bf16", "flash-int4"],
    "tp": [2, "all"], "batch": [1, 4], "input_tokens": 128, "scaled_links": {"*": 0.5}, "slow_ranks": {"0": 1.5},
}  # fmt: skip
SERVING: Mapping[str, Any] = {
    "what": "serve", "model": "llama-3-8b", "cluster": "8xl40s-pcie", "tp": 4, "duration": 5.0, "warm_up": 0.0,
    "grid": [{"rate": [0.5, 1.0], "gpus": ["0-3", "0,1,4,5"]}, {"trace": "trace.csv", "speed": 2.0},
             {"users": 2, "fault": [[], "1-2:0:down"]}],
}  # fmt: skip
PLANS: Mapping[str, Any] = {"what": "plan", "plan": "plan.toml", "load": [1.0, 2.0], "links": [{}, {"*": 0.5}]}
PLAN: Mapping[str, Any] = {
    "model": "llama-3-8b", "weights": "bf16", "currency": "USD",
    "load": {"rate_per_s": 0.5, "prompt": {"kind": "fixed", "mean": 512}, "output": {"kind": "geometric", "mean": 16}},
    "targets": {"ttft": {"percentile": 95, "seconds": 2.0}, "tpot": {"percentile": 90, "seconds": 0.2}},
    "prices": {"8xl40s-pcie": {"per_gpu_hour": 0.9, "source": "none"}},
    "search": {"tp": [2], "schemes": ["bf16"], "max_replicas": 2, "seconds": 20.0, "allow_unmeasured": True},
}  # fmt: skip
BESIDE = {
    "machine.toml": (ROOT / "examples/my-machine.toml").read_text("utf-8"),
    "trace.csv": _csv(_trace(random.Random(0))),
    "plan.toml": as_toml(tree_of(PLAN)),
    "sweep.toml": as_toml(tree_of(SWEEP)),
}


def _sweep(r: random.Random) -> Tree:
    return tree_of(r.choice((SWEEP, SWEEP, SERVING, SERVING, PLANS)))


def _raw(r: random.Random) -> Tree:
    """What `make gpu` writes, with one step of rows enough to be fitted: whole campaigns take seconds."""
    sizes = [
        (m, n, k) for m in (1, 64, 512, 4096, 16384) for n in (768, 4096, 14336) for k in (512, 1024, 2048, 4096, 8192)
    ]
    calls = [
        (batch, length, heads)
        for batch in (1, 2, 4, 8)
        for length in (128, 512, 1024, 4096)
        for heads in (8, 16, 32, 64)
    ]
    steps: dict[str, list[dict[str, Any]]] = {
        "gemm-bf16": [
            {"name": "qkv", "dtype": "bf16", "m": m, "n": n, "k": k, "seconds_graph": 7e-6 + 2 * m * n * k / 7e14}
            for m, n, k in sizes
        ],
        "sustained-bf16": [{"dtype": "bf16", "at_s": i / 4, "flops_per_s": 7.7e14} for i in range(33)],
        "attention": [
            {"backend": "flash", "batch": batch, "length": length, "heads": heads, "kv_heads": 8, "head_dim": 128,
             "seconds": 3e-5, "seconds_graph": 2e-5 + batch * heads * length**2 * 256 / 4e14}
            for batch, length, heads in calls
        ],
        "elementwise": [
            {"op": op, "how": "compiled", "tokens": tokens, "width": 4096, "heads": 0, "kv_heads": 0, "head_dim": 0,
             "bytes": 32768 * tokens, "seconds_graph": 3e-6 + tokens * 1e-8}
            for op in ("add_rms_norm", "rms_norm", "silu_mul", "rope") for tokens in (16, 128, 1024, 4096)
        ],
        "codec": [
            {"kernel": kernel, "codec": "int8-g128-zp", "dtype": "bf16", "numel": numel, "ranks": 4,
             "bytes_read": 2 * numel, "bytes_written": numel, "seconds_graph": 3e-6 + numel * 1e-12}
            for kernel in ("encode", "decode", "reduce") for numel in (65536, 1 << 20, 1 << 22, 1 << 24)
        ],
        "layer": [
            {"model": "llama-3-8b", "tp": tp, "tokens": tokens, "stand_in": "none", "seconds": tokens * 6e-7 / tp,
             "seconds_graph": tokens * 6e-7 / tp, "host_seconds": 1.5e-4, "burst_seconds": tokens * 6e-7 / tp}
            for tp in (1, 2, 4) for tokens in (1024, 4096)
        ],
    }  # fmt: skip
    chosen = r.choice([*steps])
    few = {name: {"state": "done", "rows": rows if name == chosen else rows[:3]} for name, rows in steps.items()}
    machine = {"gpu": "NVIDIA H200", "sm_count": 132, "driver": "580.1", "utc": "2026-11-22T00:00:00Z", "seed": 0}
    return tree_of({"form": 1, "rehearsal": False, "machine": machine, "steps": few})


TWINS: Mapping[str, str] = runpy.run_path(str(ROOT / "tests/topologies/dumps/twins.py"))["ALL"]
"""What machines print of themselves, small, by a name that begins with its format."""
IMPORTS = (
    "cluster import FILE --gpu l40s --json", "cluster import FILE --gpu mi300x --out m.toml",
    "cluster import FILE --gpu a100-sxm",
)  # fmt: skip


def _dump(*formats: str) -> Callable[[random.Random], Tree]:
    texts = [text for name, text in TWINS.items() if name.startswith(formats)]
    return lambda r: [[line] for line in r.choice(texts).split("\n")]


def _printed(tree: Tree) -> str:
    rows = tree if isinstance(tree, list) else [tree]
    return "\n".join("  ".join(map(_cell, row)) if isinstance(row, list) else _cell(row) for row in rows) + "\n"


def _log(r: random.Random) -> Tree:
    """What nccl-tests prints, a list of words a line."""
    ranks, two = r.choice((4, 8)), r.random() < 0.5
    lines = [
        f"# Rank {rank} Group 0 Pid {50 + rank} on host device {rank} [0x0{rank}] NVIDIA L40S" for rank in range(ranks)
    ]
    found = [line.split() for line in ("# nThread 1 nGpus 8 minBytes 8", "# Using devices", *lines,
                                       "# size count type redop root time algbw busbw #wrong")]  # fmt: skip
    for power in range(10, 30, r.choice((1, 2, 3))):
        us = 20 + 2**power / r.uniform(14e3, 16e3)
        algbw = 2**power / us / 1e3
        group = [f"{us:.2f}", f"{algbw:.2f}", f"{algbw * 2 * (ranks - 1) / ranks:.2f}", "0"]
        found.append([str(2**power), str(2**power // 4), "float", "sum", "-1", *group, *(group if two else [])])
    return tree_of([*found, ["#", "Avg", "bus", "bandwidth", ":", "9.5"]])


KINDS = (
    Kind("machine", _toml_file("examples/my-machine.toml", *_globbed("topologies/machines/*.toml"),
                               *_globbed("examples/*machine*.toml")), as_toml,
         ("predict --model llama-3-8b --cluster FILE --tp 2 --scheme flash-int4 --json", "cluster show FILE",
          "cluster show FILE --json", "collective --cluster FILE --scheme bf16 --bytes 65536 --json")),
    Kind("gpu", _toml_file(*_globbed("topologies/gpus/*.toml")), as_toml,
         (f"{PREDICT} --cluster mine.toml", "cluster show mine.toml --json"),
         {"mine.toml": BESIDE["machine.toml"].replace('"l40s"', '"FILE"')}),
    Kind("model", _model, as_json,
         (f"predict --model FILE {ROOMY} --scheme bf16 --json",
          f"compare --model FILE {ROOMY} --schemes bf16,flash-int4 --json",
          f"serve --model FILE {ROOMY} --scheme bf16 --rate 1 --duration 5 --json"), suffix=".json"),
    Kind("scheme", _scheme, as_toml, (f"{PREDICT} --scheme FILE", f"{SERVE} --rate 1 --scheme FILE")),
    Kind("profile", _profile, as_json, (f"{PREDICT} --profile FILE", f"{SERVE} --rate 1 --profile FILE",
         f"collective {PLACE} --scheme flash-int4 --bytes 65536 --profile FILE --json"), suffix=".json"),
    Kind("sensitivities", _sensitivities, as_json,
         ("auto +1% --model smollm2-135m --cluster 4xl4-pcie --tp 3 --sensitivities FILE --json",), suffix=".json"),
    Kind("trace", _trace, _csv,
         (f"{SERVE.replace(' --duration 10', '')} --trace FILE", f"{SERVE} --trace FILE --speed 3"), suffix=".csv"),
    Kind("sweep", _sweep, as_toml, ("sweep FILE --workers 1 --out o.parquet --json",), BESIDE),
    Kind("plan", lambda _: tree_of(PLAN), as_toml,
         ("plan FILE --no-changes --json", "plan FILE --what-if load\\ x2 --json")),
    Kind("raw", _raw, as_json, ("calibrate --from FILE --json",), suffix=".json"),
    Kind("nccl", _dump("nccl"), _printed, IMPORTS, suffix=".xml"),
    Kind("smi", _dump("smi"), _printed, IMPORTS, suffix=".txt"),
    Kind("rocm", _dump("rocm"), _printed, IMPORTS, suffix=".txt"),
    Kind("rates", _dump("sample", "nvbandwidth"), _printed, IMPORTS, suffix=".txt"),
    Kind("counts", lambda r: tree_of([r.sample((8, 4, 4, 16), 4) for _ in range(4)]), _csv,
         (f"collective {PLACE} --scheme a2a-int4 --op all_to_all --bytes 65536 --counts FILE --json",), suffix=".csv"),
    Kind("log", _log, _printed, ("calibrate --logs FILE --cluster 8xl40s-pcie --out own.json --json",), suffix=".log"),
)  # fmt: skip

# ---- command lines

VALID = (
    PREDICT,
    "predict --model llama-3-8b --cluster 8xl40s-pcie --scheme bf16 --gpus 0,1,6-7 --json",
    "predict --model llama-3-8b --cluster 2x8xh100-ib --scheme bf16 --tp 4 --nodes 2 --json",
    f"{PREDICT} --explain --slow-rank 0=1.5 --scale-link *=0.5 --launch graph --weights fp8 --trace t.json",
    f"compare --model llama-3-8b {PLACE} --schemes bf16,flash-int8 --json --batch 2 --input-tokens 128",
    "compare --workload cross-attention --cluster 2x8xh100-ib --text-tokens 64 --visual-tokens 4096 --heads 32 --json",
    f"collective {PLACE} --scheme two_step:int4-g32-min/int8-g128-sym@chunk=65536x2 --bytes 1048576 --json",
    f"collective {PLACE} --scheme bf16 --bytes 1048576 --op all_gather --json",
    f"collective {PLACE} --scheme deepep-fp8 --bytes 1048576 --op all_to_all --counts 1,1,2,4 --phase combine --json",
    f"{SERVE} --rate 1 --replicas 2 --policy round-robin --token-budget 512 --max-sequences 8 --fault 1-3:0:down",
    f"{SERVE} --users 4 --decode-replicas 1 --transfer-gb-per-s 20 --host-ms 0.1 --lengths fixed --input-tokens 64",
    f"{SERVE} --trace trace.csv --speed 2 --warm-up 1 --slo-ttft-ms 500 --slo-tpot-ms 50 --kv-tokens 9000 --seed 3",
    "auto +1% --model smollm2-135m --cluster 4xl4-pcie --tp 3 --batch 2 --out mine.toml --json",
    "sweep sweep.toml --workers 1 --out o.parquet --engine local --json",
    "plan plan.toml --no-changes --what-if link\\ x0.5 --json",
    "cluster show machine.toml --json",
    "cluster show machine.toml --json --svg machine.svg",
    "schemes --json",
    "models --json",
    "clusters --json",
    "calibrate --from raw.json --out p.json",
)
ANSWERED = tuple(line for line in VALID if "raw.json" not in line)  # which is not there
WORDS = (
    "", " ", "0", "-1", "1", "3", "1e20", "100000000000000000000", "nan", "inf", "-inf", "1e400", "1.5", "null",
    MARK, SPACED, "a" * 300, "a" * 300 + ".toml", "x/" * 3000, "/dev/zero", "/dev/null", "/", ".", "é", "\udcff", "=",
    "a=b", "0=1", "*=1e9", "*->*=0", "0=nan", "--help", "--json", "auto:+1%", "auto:+1e5%", f"auto:+{'9' * 400}%",
    "two_step:int4-g32-min", "spd-50", "two_step:int4-g999999999999-min", "two_step:int4@chunk=1", "bf16+spd-100",
    "two_step:int4@chunk=99999999x9999", "exempt-9", "flash-int4+exempt-99999999", "ring:mx-e2m1-b8-h1048576", "none",
    "%", "999999999", "16777216", "65536", "o.parquet", "machine.toml", "plan.toml", "trace.csv", "1-2:0:down", "all",
    "dispatch:int4", "a2a-int4", "1,2,3", "1,-2,3,4",
    "5:0:slow:0=1e9", "0-3", "0-999999", "7,0", "0,0", f"{'9' * 400}:0:down", "lognormal:1e3",
)  # fmt: skip


def command_line(r: random.Random) -> tuple[list[str], str]:
    """A valid command line with some of its words changed, and what was done."""
    words, done = shlex.split(r.choice(VALID)), []
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        at = r.randrange(len(words))
        match r.randrange(8):
            case 0 | 1 | 2 | 3:
                values = [i for i in range(1, len(words)) if not words[i].startswith("--")]
                at = r.choice(values) if values else at
                words[at] = r.choice(WORDS)
                done.append(f"word {at}")
            case 4:
                del words[at]
                done.append(f"without word {at}")
                if not words:
                    break
            case 5:
                words.insert(at, r.choice(WORDS))
                done.append(f"a word more at {at}")
            case 6:
                other = shlex.split(r.choice(VALID))
                start = r.randrange(len(other))
                words += other[start : start + 2]
                done.append("words of another command")
            case _:
                words.insert(at, words[at])
                done.append(f"word {at} twice")
    return words, ", ".join(done)


# ---- cases


@dataclass(frozen=True, slots=True)
class Case:
    """What is run, and in a folder with which files."""

    number: int
    kind: str
    words: tuple[str, ...]
    files: Mapping[str, bytes]
    what: str  # was done
    valid: bool = False  # nothing was: it must be answered

    @property
    def line(self) -> str:
        """For people."""
        shown = shlex.join(word if len(word) < 200 else f"{word[:60]}...({len(word)})" for word in self.words)
        return ascii(f"thinwire {shown}").strip("'")


def kind_of(number: int) -> str:
    """The kind of the case of a number, whatever the seed."""
    turn = number % (len(KINDS) + 4)
    return "command" if turn >= len(KINDS) else KINDS[turn].name


def case(seed: int, number: int) -> Case:
    """The case of a seed and a number; kinds take turns, and command lines come as often as all files in three."""
    r = random.Random(f"{seed}:{number}")
    beside = {name: text.encode() for name, text in BESIDE.items()}
    turn = number % (len(KINDS) + 4)
    valid = number < len(KINDS) + 4  # all of the first round
    if turn >= len(KINDS):
        words, what = (shlex.split(r.choice(ANSWERED)), "") if valid else command_line(r)
        return Case(number, "command", tuple(words), beside, what, valid)
    kind = KINDS[turn]
    tree, done = kind.valid(r), []
    changes = 0 if valid else r.choice((0, 1, 1, 1, 2, 3))
    for _ in range(changes):
        done.append(change(tree, r))
    content = kind.text(tree).encode("utf-8", "surrogatepass")
    if not valid and (not changes or r.random() < 0.2):
        content = spoil(content, r)
        done.append("bytes spoilt")
    name = f"given{kind.suffix}"
    files = {other: text.replace("FILE", name).encode() for other, text in kind.beside.items()}
    words = [name if word == "FILE" else word for word in shlex.split(r.choice(kind.commands))]
    return Case(number, kind.name, tuple(words), {**files, name: content}, ", ".join(done), valid)
