"""The gallery: pages say what their scripts find now, commands and snippets on them run, and answers hold.

A script has `answer()`, what it finds, and `said(answer)`, sentences of that, one a printed line. A page quotes such
sentences, each a `>` paragraph, and takes its figures from nowhere else.
"""

import contextlib
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import thinwire
from thinwire.sim import api
from thinwire.sim.planning.plan import Planner, WhatIf
from thinwire.sim.serving.serve import Paces

from .command import Capture, run

ROOT = Path(__file__).resolve().parent.parent
STEMS = (
    "buy-l40s-or-rtx-pro-6000",
    "int4-on-my-4090s",
    "ttft-slo-at-3-requests",
    "a-slow-socket-link",
    "deepseek-on-pcie",
    "my-own-codec",
)
NUMBER, GPUS = r"\d[\d,.]*\d|\d", r"RTX PRO 6000|\b4090s?\b"
CODEC = "my-own-codec"
# One worker looks for an answer, once.
EACH = pytest.mark.parametrize("stem", [pytest.param(stem, marks=pytest.mark.xdist_group(stem)) for stem in STEMS])


@pytest.fixture
def forgotten(request: pytest.FixtureRequest, stem: str) -> None:
    """The codec that one of them registers is forgotten when its test ends."""
    if stem == CODEC:
        pytest.importorskip("torch", reason="a codec's error is measured on tensors")
        request.getfixturevalue("log4")


@cache
def script(stem: str) -> dict[str, Any]:
    """Its names."""
    return runpy.run_path(str(ROOT / "examples" / "gallery" / f"{stem.replace('-', '_')}.py"))


@cache
def found(stem: str) -> Any:
    """Its answer, looked for once."""
    return script(stem)["answer"]()


@cache
def lines(stem: str) -> tuple[str, ...]:
    """What it prints."""
    return tuple(script(stem)["said"](found(stem)))


def page(stem: str) -> str:
    return (ROOT / "docs" / "examples" / f"{stem}.md").read_text("utf-8")


def joined(text: str) -> str:
    return " ".join(text.split())


def quoted(text: str) -> list[str]:
    """The `>` paragraphs of a page, each in one line."""
    return [joined(re.sub(r"^> ?", "", each, flags=re.MULTILINE)) for each in re.findall(r"(?:^>.*\n)+", text, re.M)]


def prose(text: str) -> str:
    """A page less its quotations, fenced blocks, code spans and targets of links."""
    for other in (r"^```.*?^```$", r"^>.*$", r"`[^`\n]*`", r"\]\([^)]*\)", r"^<!--.*?-->$"):
        text = re.sub(other, " ", text, flags=re.MULTILINE | re.DOTALL if "```" in other else re.MULTILINE)
    return text


def test_every_script_is_a_page_and_every_page_a_script() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "examples").glob("*.md")} - {"index"}
    scripts = {path.stem for path in (ROOT / "examples" / "gallery").glob("*.py")}
    assert pages == {*STEMS} and scripts == {stem.replace("-", "_") for stem in STEMS}


@EACH
@pytest.mark.usefixtures("forgotten")
def test_a_page_says_what_its_script_prints(stem: str) -> None:
    """The answer comes first. A figure that is out of date: paste what the script prints now."""
    text, printed = page(stem), lines(stem)
    said = quoted(text)
    assert said[0] == printed[0], f"the answer is now: {printed[0]}"
    for each in said:
        assert each in printed, f"{stem}.md quotes what the script no longer prints; it prints:\n" + "\n".join(printed)
    assert {*printed} <= {*said}, "a figure worth printing is worth a place on the page"
    assert all(joined(line) == line for line in printed)
    # Numbers in the page's own words are the script's, too: of quantities, not of names such as INT4 or RTX PRO 6000.
    known = {*re.findall(NUMBER, " ".join(printed))}
    own = re.findall(rf"(?<![\w.,-])({NUMBER})(?![\w-])", re.sub(GPUS, "", prose(text)))
    assert {*own} <= known, f"{stem}.md: numbers that its script does not print: {sorted({*own} - known)}"


@EACH
def test_a_page_is_short_and_its_links_lead_somewhere(stem: str) -> None:
    text = page(stem)
    assert len(text.splitlines()) <= 80 and max(map(len, text.splitlines())) <= 120
    for heading in ("How it was found", "What it rests on", "What would flip it"):
        assert text.count(f"\n## {heading}\n") == 1
    targets = re.findall(r"\]\(([^)#:]+)[^)]*\)", text)
    assert f"../../examples/gallery/{stem.replace('-', '_')}.py" in targets
    for target in targets:
        assert (ROOT / "docs" / "examples" / target).exists(), target


def asks_the_same(words: list[str], document: Any, printed: str) -> None:
    """A command's times are the script's: its percentile, or those of two of its rows, the baseline counted."""
    if words[2] == "compare":
        milliseconds = [row["ttft_ms"] for row in (document["baseline"], *document["rows"])]
    elif words[2] == "serve":
        milliseconds = [document["ttft_ms"]["p90"]["value"]]
    else:
        return
    shown = {f"{each / 1e3:.2f}" for each in milliseconds}
    assert len({each for each in shown if f"{each} " in printed}) >= min(2, len(milliseconds)), (words, shown)


@EACH
@pytest.mark.usefixtures("forgotten")
def test_commands_and_snippets_of_a_page_run(
    stem: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page; what a snippet prints is on the page. A plan's file was solved for the answer."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for kind, block in re.findall(r"^```(console|python)\n(.*?)^```$", page(stem), re.MULTILINE | re.DOTALL):
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block, f"{stem}.md", "exec"), {"__name__": "snippet"})
            first = out.getvalue().splitlines()[0]
            assert first in lines(stem), f"the snippet prints {first!r}, which the script does not"
        for line in block.replace("\\\n", "").splitlines() if kind == "console" else ():
            words = shlex.split(line)
            assert words[:2] == ["$", "thinwire"], line
            if words[2] == "plan":
                assert (tmp_path / words[3]).samefile(script(stem)["FILE"])
                continue
            status, out, err = run(capsys, *words[2:], "--json")
            assert status == 0, (words, err)
            asks_the_same(words, json.loads(out), " ".join(lines(stem)))
        ran += 1
    assert ran >= 2


def test_a_script_runs_from_any_folder(tmp_path: Path) -> None:
    """As its first lines say; one of them, for all have the same main."""
    path = ROOT / "examples" / "gallery" / "int4_on_my_4090s.py"
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.splitlines()) == lines("int4-on-my-4090s")


# --- do the answers hold?


def soonest(c: thinwire.Comparison, limit: thinwire.Limit) -> str:
    """Of what is usable, without overlap, which is no codec."""
    rows = tuple(row for row in c.rows if not re.match("(.*[+])?iso", row.scheme.name))
    best = thinwire.best(replace(c, rows=rows), limit)
    assert best is not None
    return best.scheme.name


@pytest.mark.xdist_group("buy-l40s-or-rtx-pro-6000")
def test_what_to_buy_is_the_cheapest_of_all_and_turns_with_the_price() -> None:
    a, names = found("buy-l40s-or-rtx-pro-6000"), script("buy-l40s-or-rtx-pro-6000")
    old, new, gpus = names["OLD"], names["NEW"], names["gpus"]
    planner = Planner(a.asked.problem)
    every = planner.exhaustive().cheapest  # all candidates and numbers of replicas, no bounds
    assert every is not None and every.candidate.cluster == a.winner
    assert (every.cost, every.replicas) == (a.best[a.winner].cost, a.best[a.winner].replicas)
    prices = a.asked.problem.prices
    even = gpus(a.best[old]) / gpus(a.best[new])
    for factor, machine in ((0.99, new), (1.01, old)):
        dearer = WhatIf(prices=((new, even * prices[old] / prices[new] * factor),))
        bought = planner.exhaustive(dearer).cheapest
        assert bought is not None and bought.candidate.cluster == machine


@pytest.mark.xdist_group("int4-on-my-4090s")
def test_the_right_int4_is_the_soonest_usable_scheme_of_the_catalog() -> None:
    a, g = found("int4-on-my-4090s"), script("int4-on-my-4090s")
    stock, patched = g["machine"](g["TOPOLOGY"]), g["machine"](g["TOPOLOGY"], g["PATCHED"])
    for box, asked in ((stock, a.stock), (patched, a.patched)):
        c = thinwire.compare(api.names("schemes"), g["MODEL"], box, batch=g["PROMPTS"], input_tokens=g["TOKENS"])
        for limit in (g["USUAL"], g["STRICT"]):
            assert g["best"](asked, limit).scheme.name == soonest(c, limit)
    strict = g["best"](a.stock, g["STRICT"])
    assert a.overlapped.ttft_s < strict.ttft_s and strict.scheme != g["best"](a.stock).scheme
    name = g["best"](a.stock).scheme.name
    assert g["pays"](name, stock, a.pays_from) and not g["pays"](name, stock, a.pays_from // 2)


def test_the_boxes_of_the_4090s_are_what_the_page_says(root: Path) -> None:
    """The text on the page is the file, and the drivers differ in whether copies bounce through host memory."""
    g = script("int4-on-my-4090s")
    assert g["TOPOLOGY"].read_text("utf-8") in page("int4-on-my-4090s")
    stock, patched = (g["machine"](*dumps) for dumps in ((g["TOPOLOGY"],), (g["TOPOLOGY"], g["PATCHED"])))
    assert (stock.fabric, patched.fabric) == ("rtx4090-pcie", "rtx4090-p2p")
    assert {*stock.links} != {*patched.links}


@pytest.mark.xdist_group("ttft-slo-at-3-requests")
@pytest.mark.parametrize("seed", [1, 2])
def test_the_target_is_kept_under_other_draws_of_the_load(seed: int) -> None:
    """By the replicas recommended; not by one less uncompressed."""
    a, g = found("ttft-slo-at-3-requests"), script("ttft-slo-at-3-requests")
    top = g["best"](a.asked)
    for scheme, fewer, kept in ((top, 0, True), ("bf16", 1, False)):
        replicas = g["need"](a.asked[scheme]) - fewer
        service = replace(g["SERVICE"], scheme=scheme, seed=seed)
        p90 = g["percentiles"](service, g["RATE"], paces(scheme), (replicas,))[replicas]
        assert (p90.value <= g["SLO_S"]) is kept, (scheme, replicas, p90)


@cache
def paces(scheme: str) -> Paces:
    return Paces(replace(script("ttft-slo-at-3-requests")["SERVICE"], scheme=scheme).deployment())


@pytest.mark.xdist_group("ttft-slo-at-3-requests")
def test_a_busier_service_and_a_tighter_target_need_more() -> None:
    a, g = found("ttft-slo-at-3-requests"), script("ttft-slo-at-3-requests")
    need, top = g["need"], g["best"](a.asked)
    assert need(a.busier[top]) > need(a.asked[top])
    assert need(a.asked[top], g["TIGHTER_S"]) > need(a.asked[top])
    assert a.slower.value + a.slower.half_width > g["SLO_S"], "the page says that slower kernels make it unsure"
    for each in (*a.asked.values(), *a.busier.values()):
        assert [p.value for p in each.values()] == sorted((p.value for p in each.values()), reverse=True)


@pytest.mark.xdist_group("a-slow-socket-link")
def test_one_socket_is_sooner_than_both_under_every_usable_scheme() -> None:
    a, g = found("a-slow-socket-link"), script("a-slow-socket-link")
    socket = a.slow[g["FLAT"], g["SOCKET"]]

    def rows(gpus: str) -> thinwire.Comparison:
        return thinwire.compare(
            [*api.names("schemes"), g["ISLANDS"]], g["MODEL"], g["MACHINE"], weights="fp8", gpus=gpus,
            batch=g["PROMPTS"], input_tokens=g["TOKENS"], scaled_links={"bridge*->bridge*": g["SLOW"]},
        )  # fmt: skip

    assert soonest(rows(g["SOCKET"]), thinwire.Limit(lookups=5.0)) == g["FLAT"]
    for gpus in (g["ALL"], g["TWO_EACH"], g["ZIGZAG"], "0,1,2,4"):
        best = thinwire.best(rows(gpus))
        assert best is not None and best.ttft_s > socket
        assert g["ttft_s"](g["ISLANDS"], gpus) > socket
    assert g["ttft_s"](g["FLAT"], "4-7") == pytest.approx(socket)
    for share, sooner in ((a.even_share + 0.02, True), (a.even_share - 0.02, False)):
        assert (g["ttft_s"](g["ISLANDS"], g["ALL"], share) < g["ttft_s"](g["FLAT"], g["SOCKET"], share)) is sooner


@pytest.mark.xdist_group("deepseek-on-pcie")
def test_own_sequences_are_sooner_for_all_schemes_and_skews_and_not_for_few_prompts() -> None:
    a, g = found("deepseek-on-pcie"), script("deepseek-on-pcie")
    asked = {"batch": g["PROMPTS"], "input_tokens": g["TOKENS"]}
    reduced = ("flash-int8", "flash2-int6", "flash2-int4-sr", "flash-int4", "flash2-int4-hier")
    for way in (g["CUT"], g["WHOLE"], {"expert_exchange": "all-to-all"}):
        rows = thinwire.compare(reduced, g["MODEL"], g["MACHINE"], **asked, **way).rows
        assert all(row.ttft_s > a.own["bf16"] for row in rows)
    for skew in (0.5, 1.0):
        seconds = [
            thinwire.predict(g["MODEL"], g["MACHINE"], "bf16", expert_skew=skew, **asked, **way).ttft_s
            for way in (g["WHOLE"], g["OWN"])
        ]
        assert seconds[1] < 0.5 * seconds[0]
    sooner = [own < whole for whole, own in a.by_prompts.values()]
    assert sooner == sorted(sooner) and {*sooner} == {False, True}  # one turn, and no way back
    assert not a.own_serves and a.cache_tokens > 0
    assert a.two_switches["flash-int8"] > a.two_switches["bf16"] > a.two_switches["flash2-int6"]


@pytest.mark.xdist_group(CODEC)
def test_whose_error_is_less_turns_with_the_tails_of_the_values(log4: str) -> None:
    """Of one tensor, encoded and decoded, no collective: values of no outliers, of few, and of heavy tails."""
    torch = pytest.importorskip("torch", reason="a codec's error is measured on tensors")
    from thinwire.reference.catalog import parse_codec
    from thinwire.reference.quantize import decode_flat, encode_flat

    draw = torch.Generator().manual_seed(7)
    normal = torch.randn(1 << 16, generator=draw)
    shapes = {"flat": torch.rand(1 << 16, generator=draw) - 0.5, "normal": normal, "heavy": normal**5}
    errors = {}
    for name, values in shapes.items():
        for spec in (log4, "int4"):
            codec = parse_codec(spec)
            back = decode_flat(encode_flat(values, codec), len(values), codec)
            errors[name, spec] = float((back - values).norm() / values.norm())
    assert errors["flat", log4] > errors["flat", "int4"] and errors["normal", log4] > errors["normal", "int4"]
    assert errors["heavy", log4] < errors["heavy", "int4"]
    a, g = found(CODEC), script(CODEC)
    assert a.spiky[g["MINE"]] < a.spiky[g["INT4"]] and a.even[g["MINE"]] > a.even[g["INT4"]]
    assert not a.measured[g["MINE"]] and a.measured[g["INT4"]]
