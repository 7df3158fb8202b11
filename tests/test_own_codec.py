"""A codec of one's own, from its page to the command line: docs/own-codec.md is what these tests run."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import thinwire
from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.catalog import Cost, parse_codec, scheme
from thinwire.reference.codecs.error import bound
from thinwire.reference.core import registry
from thinwire.reference.core.schedule import Interval, Work, build
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.quantize import encode_flat
from thinwire.sim.costs.cost import codec_traffic

from .command import Capture, run

torch.set_num_threads(1)
WHERE = {"model": "llama-3-8b", "cluster": "8xl40s-pcie", "tp": 4}


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "own-codec.md").read_text("utf-8")


def blocks(text: str, kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for of, block in found if of == kind]


# ---- the page


def test_the_page_shows_the_files(page: str, root: Path) -> None:
    """To the letter: change examples/, then the page."""
    shown = blocks(page, "python")
    assert shown[:2] == [(root / "examples" / name).read_text("utf-8") for name in ("log4.py", "log4_torch.py")]
    for link in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (root / "docs" / link).exists(), link


def test_what_the_page_does_runs(page: str, root: Path, tmp_path: Path) -> None:
    """Its check in Python and its commands, in processes that find the codec as it says; `accuracy` runs elsewhere."""
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}examples"}
    check = blocks(page, "python")[2]
    (commands,) = blocks(page, "")
    exported, *lines = commands.splitlines()
    for word in shlex.split(exported)[1:]:
        name, _, value = word.partition("=")
        environment[name] = f"{root / 'src'}{os.pathsep}{value}" if name == "PYTHONPATH" else value
    done = subprocess.run([sys.executable, "-c", check], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "thinwire" and "log4" in line
        if words[1] != "accuracy":
            command = [sys.executable, "-m", *words]
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), line
            assert "log4-g32" in done.stdout or words[1] == "collective"


# ---- its place


def test_it_is_compared_without_torch(log4: str, root: Path) -> None:
    program = (
        "import sys, thinwire\n"
        f"found = thinwire.compare(**{WHERE!r}, schemes=['bf16', 'two_step:{log4}', 'two_step:{log4}/int8+iso'])\n"
        "assert [row.scheme.name for row in found.rows].count('bf16') == 1, found.rows\n"
        "assert 'torch' not in sys.modules and 'log4' in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root / "examples")])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_compare_shows_it_beside_the_others(log4: str, capsys: Capture) -> None:
    words = [word for name, value in WHERE.items() for word in (f"--{name}", str(value))]
    status, out, err = run(capsys, "compare", *words, "--schemes", f"bf16,flash-int4,two_step:{log4}", "--json")
    assert (status, err) == (0, "")
    rows = {row["scheme"]: row for row in json.loads(out)["rows"]}
    mine = rows[f"two_step:{log4}"]
    assert mine["bits_per_value"] == {"reduce": 4.5, "gather": 4.5} and mine["speedup"] > 1
    assert rows["flash-int4"]["wire_bytes_per_gpu"] < mine["wire_bytes_per_gpu"] < rows["bf16"]["wire_bytes_per_gpu"]
    assert mine["breakdown_ms"]["codec"] > rows["flash-int4"]["breakdown_ms"]["codec"]
    (said,) = (sentence for sentence in mine["assumptions"] if "log4" in sentence)
    assert said == (
        "codec log4-g32 is log4.Log4's, not thinwire's: one kernel a pass, 4 bytes of the tensor moved a value to "
        "encode and 2 to decode (assumed: reads a group twice, for its scale and for its codes)"
    )


def test_without_its_module_it_is_refused_in_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THINWIRE_CODECS", raising=False)
    for command in (("predict", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie"), ("accuracy",)):
        status, out, err = run(capsys, *command, "--scheme", "two_step:log4")
        assert (status, out) == (2, "") and err.count("\n") == 1 and "unknown codec spec 'log4'; allowed: bf16" in err


# ---- its cost


@contextmanager
def priced(cost: Cost) -> Iterator[None]:
    """The same codec at another cost."""
    codec = parse_codec("log4-g32")
    entry = replace(registry.entry_of(codec), cost=cost)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._ENTRIES, type(codec), entry)
        yield


def work(kind: Any, sources: tuple[int, ...] = ()) -> Work:
    return Work(0, kind, Interval(0, 320), parse_codec("log4-g32"), sources)


def test_the_simulator_takes_the_registered_cost(log4: str) -> None:
    wire = parse_codec(log4).wire_bytes(320)
    steps = [[work("encode")], [work("reduce", (0, 1, 2)), work("encode")], [work("decode", (0,))]]

    def counted() -> list[tuple[float, float, int, float]]:
        found = [codec_traffic(step, 1) for step in steps]
        return [(t.local_bytes_R[0], t.wire_bytes_R[0], t.passes_R[0], t.extra_bytes_R[0]) for t in found]

    with priced(Cost()):
        assert counted() == [(640, wire, 1, 0), (0, 4 * wire, 1, 0), (640, wire, 1, 0)]
    with priced(Cost(6.0, 3.0, 4)):
        assert counted() == [
            (6 * 320, wire, 4, 4 * 320),
            ((3 - 2 + 6 - 2) * 320, 4 * wire, 4, (1 + 4) * 320),
            (3 * 320, wire, 4, 320),
        ]


@pytest.mark.parametrize("launch", ["", "@fused"])
def test_a_dearer_kernel_takes_longer(log4: str, launch: str) -> None:
    name = f"two_step:{parse_codec(log4).spec}{launch}"
    seconds = []
    for cost in (Cost(), Cost(4.0), Cost(4.0, 4.0), Cost(4.0, 4.0, 5)):
        with priced(cost):
            seconds.append(thinwire.predict(**WHERE, scheme=name).breakdown.codec_s)  # type: ignore[arg-type]
    assert seconds == sorted(set(seconds))


# ---- its numbers


@pytest.mark.parametrize("collective", ["two_step", "ring", "tree", "all_gather", "hierarchical"])
def test_an_all_reduce_runs_it(log4: str, collective: str) -> None:
    """Same bits on every rank, bytes as its schedule says, and in one step no error beyond its bounds'."""
    ranks, numel = 4, 500
    chosen = scheme(f"{collective}:{log4}")
    group = LocalGroup(ranks)
    partials = [torch.randn(numel, generator=torch.Generator().manual_seed(rank)) for rank in range(ranks)]
    found = all_reduce_local(partials, chosen, group=group, islands=((0, 1), (2, 3)))
    assert all(torch.equal(found[0], each) for each in found)
    schedule = build(chosen, ranks, numel, ((0, 1), (2, 3)))
    assert sum(group.sent_bytes.values()) == sum(schedule.sent_bytes().values())
    if collective == "all_gather":
        limit = torch.stack([bound(x, chosen.reduce) for x in partials]).sum(0)
        exact = torch.stack(partials).double().sum(0)
        assert bool(((found[0].double() - exact).abs() <= limit + 1e-6 * exact.abs()).all())
    assert encode_flat(partials[0], chosen.reduce).numel() == chosen.reduce.wire_bytes(numel)
