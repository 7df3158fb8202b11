"""`thinwire doctor`: what is installed, where things lie, which GPU there is, and whether it works here."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Json, envelope, print_answer
from thinwire.commands.reproduce import command_line
from thinwire.edge.words import cut

NAME = "thinwire"
FAILED = 1  # the status where a dependency lacks or a check fails; an extra that lacks is no fault
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
CONTRIBUTORS = ("test", "mutants", "dev", "docs")  # extras that nobody needs who only asks: --json has them
SMI_S, RANKS_S = 10.0, 60.0  # after which they are given up


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line of the package's metadata. extra: whose it is, "" of all. of_ours: extras of ours that it stands for."""

    name: str
    least: str
    extra: str = ""
    of_ours: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As pip takes it."""
        return f"{self.name}>={self.least}" if self.least else self.name


_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)\s*(\[(?P<extras>[^\]]*)\])?\s*(\(?>=\s*(?P<least>[0-9.]+)[^;]*)?(;(?P<marker>.*))?"
)
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_SYSTEM = re.compile(r"platform_system\s*==\s*['\"]([^'\"]+)['\"]")


def parsed(line: str, system: str) -> Requirement | None:
    """A line as `importlib.metadata` gives it; None: it is not for this system. ValueError: it is none."""
    found = _REQUIREMENT.fullmatch(line.strip())
    if found is None:
        raise ValueError(f"no requirement: {cut(line)}")
    marker = found["marker"] or ""
    for wanted in _SYSTEM.findall(marker):
        if wanted != system:
            return None
    extra = _EXTRA.search(marker)
    whose = tuple(part.strip() for part in (found["extras"] or "").split(",") if part.strip())
    ours = whose if found["name"].lower() == NAME else ()
    return Requirement(found["name"], found["least"] or "", extra[1] if extra else "", ours)


@dataclass(frozen=True, slots=True)
class Extra:
    """What an extra lacks here; "" is what thinwire needs anyway. install: the command that brings it."""

    name: str
    missing: tuple[str, ...]
    install: str = ""


def extras_of(
    lines: Sequence[str], version_of: Callable[[str], str | None], install: Callable[[str], str], system: str
) -> tuple[Extra, ...]:
    """What is installed of what a package's metadata asks, by extra in its order; the core, "", first.

    version_of: of an installed package, None of one that is not. install: the command for an extra.
    """
    found = [one for line in lines if (one := parsed(line, system)) is not None]
    names = dict.fromkeys(["", *(one.extra for one in found)])

    def lacking(extra: str, seen: tuple[str, ...] = ()) -> list[str]:
        lacks = []
        for one in found:
            if one.extra == extra and one.of_ours:
                for other in one.of_ours:
                    lacks += [] if other in seen else lacking(other, (*seen, extra))
            elif one.extra == extra and not _enough(version_of(one.name), one.least):
                lacks.append(one.text)
        return list(dict.fromkeys(lacks))

    return tuple(Extra(name, tuple(lacks := lacking(name)), install(name) if lacks else "") for name in names)


def _enough(version: str | None, least: str) -> bool:
    return version is not None and _release(version) >= _release(least)


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, without zeros behind: 2.6.0+cpu and 2.6 are alike."""
    head = re.match(r"[0-9]+(\.[0-9]+)*", version)
    numbers = [int(part) for part in head[0].split(".")] if head else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


@dataclass(frozen=True, slots=True)
class Check:
    """A thing tried. ok: None where it could not be, and need not."""

    name: str
    ok: bool | None
    said: str


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the run of two processes.")] = False,
    as_json: Json = False,
) -> None:
    """What is installed, which extras, where profiles lie, the GPU seen, and a self-check.

    Status 1: something that thinwire needs is not there, or a check failed.
    """
    with working("doctor") as work:
        work.update(0, at="looking at what is installed")
        core, *extras = _extras()
        checks = [_core(core)]
        if not core.missing:
            work.update(0, at="predicting")
            checks.append(_tried("a prediction keeps its sums", _prediction))
        if not quick:
            work.update(0, at="running two processes")
            checks.append(_two_ranks({extra.name: extra for extra in extras}))
        work.update(0, at="asking for GPUs")
        seen = gpus()
    ok = all(check.ok is not False for check in checks)
    document = {
        **envelope(command_line("doctor", ["--quick"] if quick else [])),
        "verdict": _verdict(ok, checks, extras),
        "ok": ok,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "places": _places(),
        "extras": [{**asdict(extra), "installed": not extra.missing} for extra in extras],
        "gpus": seen,
        "checks": [asdict(check) for check in checks],
    }
    print_answer(document, as_json, lambda: _show(document))
    if not ok:
        raise typer.Exit(FAILED)


def _extras() -> tuple[Extra, ...]:
    from importlib import metadata

    def version_of(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    try:
        lines = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:  # run from a folder, never installed
        lines = []
    return extras_of(lines, version_of, _install, platform.system()) or (Extra("", ()),)


def _install(extra: str) -> str:
    """Of a checkout, its own; else what an index has."""
    root = Path(__file__).resolve().parents[1]
    whose = f"[{extra}]" if extra else ""
    if (root / "pyproject.toml").is_file() and (root / "constraints.txt").is_file():
        words = ["-c", str(root / "constraints.txt"), "-e", f"{root}{whose}"]
    else:
        words = [f"{NAME}{whose}"]
    return shlex.join([sys.executable, "-m", "pip", "install", *words])


def _core(core: Extra) -> Check:
    said = f"missing: {', '.join(core.missing)}; {core.install}" if core.missing else "all there"
    return Check("packages that thinwire needs", not core.missing, said)


def _tried(name: str, check: Callable[[], str]) -> Check:
    """What breaks is said, whatever it is: finding that is what this is for."""
    try:
        return Check(name, True, check())
    except Exception as error:
        return Check(name, False, cut(f"{type(error).__name__}: {error}", 300))


def _prediction() -> str:
    """A prediction against what arithmetic alone says of it: its parts, and the bytes of a ring of two."""
    from thinwire.sim.api import answer
    from thinwire.sim.question import Question

    tokens, ranks = 64, 2
    p = answer(Question("llama-3-8b", "8xl40s-pcie", "bf16-ring", ranks, input_tokens=tokens))
    b = p.breakdown
    parts_s = b.compute_s + b.exposed_communication_s + b.waiting_s
    if abs(parts_s / p.ttft_s - 1) > 1e-9:
        raise ValueError(f"parts take {parts_s} s, all of it {p.ttft_s} s")
    # Two all-reduces a layer; each rank of a ring sends 2 (n - 1) / n of the values, two bytes each.
    nbytes = 2 * p.model.num_layers * (2 * (ranks - 1) * p.model.hidden_size * tokens // ranks) * 2
    if p.traffic.layer_bytes_per_gpu != nbytes:
        raise ValueError(f"{p.traffic.layer_bytes_per_gpu} bytes are sent, a ring sends {nbytes}")
    return f"llama-3-8b on two L40S, {tokens} tokens: {p.ttft_s * 1e3:.2f} ms, {nbytes} bytes a GPU"


_RANK = """
import sys
import torch
import torch.distributed as dist
from thinwire.reference.allreduce import all_reduce, all_reduce_local
rank, place = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", store=dist.FileStore(place, 2), rank=rank, world_size=2)
def partial(r):
    return torch.randn(4, 256, generator=torch.Generator().manual_seed(r)).to(torch.bfloat16)
found = all_reduce(partial(rank), "flash-int8")
alone = all_reduce_local([partial(0), partial(1)], "flash-int8")[rank]
assert torch.equal(found, alone), "two processes sum to other bits than one"
dist.barrier()
dist.destroy_process_group()
"""


def _two_ranks(extras: Mapping[str, Extra]) -> Check:
    """Two gloo processes on this machine sum a compressed tensor to the bits that one process does."""
    name = "two processes sum what is compressed to the same bits"
    reference = extras.get("reference")
    if reference is None or reference.missing:
        return Check(name, None, "not tried: torch is not installed" + (f"; {reference.install}" if reference else ""))

    def check() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = [place or os.getcwd() for place in sys.path]
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(path)}
            ranks = [
                subprocess.Popen(
                    [sys.executable, "-c", _RANK, str(rank), os.path.join(folder, "store")],
                    env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                )
                for rank in range(2)
            ]  # fmt: skip
            try:
                said = [process.communicate(timeout=RANKS_S)[1] for process in ranks]
            finally:
                for process in ranks:
                    process.kill()
                    process.wait()
            for process, err in zip(ranks, said, strict=True):
                if process.returncode:
                    raise RuntimeError((err.strip().splitlines() or ["a rank failed"])[-1])
        return "flash-int8 over gloo on loopback"

    return _tried(name, check)


def gpus(run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> list[dict[str, str]]:
    """What nvidia-smi says of GPUs here; [] where there is none, or none that answers."""
    try:
        done = run(GPU_QUERY, capture_output=True, text=True, timeout=SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [dict(zip(("name", "memory", "driver"), map(cut, row), strict=True)) for row in rows if len(row) == 3]


def _places() -> dict[str, str | None]:
    from thinwire.reference.quality.downloads import cache_folder

    root = Path(__file__).resolve().parents[1]
    try:
        cache: str | None = str(cache_folder())
    except ValueError:
        cache = None
    return {"thinwire": str(root), "profiles": str(root / "sim" / "profiles"), "downloads": cache}


def _verdict(ok: bool, checks: Sequence[Check], extras: Sequence[Extra]) -> str:
    lacking = [extra.name for extra in extras if extra.missing and extra.name not in CONTRIBUTORS]
    without = f"; extras not installed: {', '.join(lacking)}" if lacking else "; every extra is installed"
    failed = [check.name for check in checks if check.ok is False]
    return ("thinwire works here" if ok else f"thinwire does not work here: {'; '.join(failed)}") + without


_MARKS = {True: "ok", False: "FAILED", None: "-"}


def _show(document: Mapping[str, Any]) -> None:
    from thinwire.commands.tables.console import console, say
    from thinwire.commands.tables.fitting import Column, Fitted

    say(document["verdict"], "bold")
    facts = {"version": document["version"], "Python": f"{document['python']}, {document['executable']}"}
    facts |= {"platform": document["platform"]}
    facts |= {name: place or "nowhere" for name, place in document["places"].items()}
    seen = [f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}" for gpu in document["gpus"]]
    facts["GPUs"] = "\n".join(seen) or "none that nvidia-smi shows; none is needed"
    table = Fitted((Column("", left=True), Column("", left=True, wraps=True)))
    for name, fact in facts.items():
        table.add(name, fact)
    table.show()
    for check in document["checks"]:
        say(f"{_MARKS[check['ok']]:<7}{check['name']}: {check['said']}", indent=7)
    extras = [extra for extra in document["extras"] if extra["name"] not in CONTRIBUTORS]
    there = [extra["name"] for extra in extras if extra["installed"]]
    if there:
        say(f"ok     extras {', '.join(there)}", indent=7)
    lacking = [extra for extra in extras if not extra["installed"]]
    for extra in lacking:
        say(f"-      extra {extra['name']} lacks {', '.join(extra['missing'])}", indent=7)
    if lacking:
        first = lacking[0]
        say(f"       for {first['name']}, others likewise (--json has all):")
        console.print(f"       {first['install']}", markup=False, soft_wrap=True)
