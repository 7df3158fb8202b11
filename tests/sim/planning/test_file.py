"""What a plan's file means: its defaults, its units, and the ends of its ranges."""

import math
from pathlib import Path

import pytest

from thinwire.sim.planning.bounds import Targets
from thinwire.sim.planning.file import Asked, read, targets_of
from thinwire.sim.planning.plan import Candidate, WhatIf
from thinwire.sim.serving.arrivals import Drawn, Fixed, Geometric, LogNormal
from thinwire.sim.serving.run import Window

LEAST = """
model = "llama-3-8b"
[load]
rate_per_s = 6.0
prompt = { mean = 300 }
output = { kind = "fixed", mean = 20 }
[targets]
ttft = { percentile = 90, seconds = 0.6 }
[prices]
8xl40s-pcie = { per_gpu_hour = 1.5, source = "example" }
[search]
tp = [1, 2]
schemes = ["bf16", "flash-int4"]
"""


def asked(folder: Path, *changes: tuple[str, str]) -> Asked:
    text = LEAST
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "plan.toml").write_text(text)
    return read(folder / "plan.toml")


def test_what_is_left_out_does_not_change_between_releases(tmp_path: Path) -> None:
    """Files that leave a key out would ask something else: say so in the changelog."""
    found = asked(tmp_path)
    problem = found.problem
    assert problem.load == Drawn(6.0, LogNormal(300, 1.0, 32768), Fixed(20), 1.0)
    assert problem.targets == Targets(0.9, 0.6, 0.95, math.inf, math.inf)
    assert (problem.window, problem.seed, problem.max_replicas) == (Window(300.0, 30.0), 0, 64)
    assert (problem.allow_unmeasured, problem.frontier, problem.prices) == (False, True, {"8xl40s-pcie": 1.5})
    assert (found.file.currency, found.file.search.change, found.file.search.gated) == ("USD", 0.1, False)
    limits = (2048, 256)
    assert set(problem.candidates) == {
        Candidate("8xl40s-pcie", 1, "bf16", *limits),
        Candidate("8xl40s-pcie", 2, "bf16", *limits),
        Candidate("8xl40s-pcie", 2, "flash-int4", *limits),
    }, "nothing is sent on one GPU: one scheme there"
    assert [w.load for w in found.changes()][:2] == [0.9, 1.1]


def test_what_is_given_is_meant(tmp_path: Path) -> None:
    found = asked(
        tmp_path,
        ("rate_per_s = 6.0", "rate_per_s = 2.5\nburstiness = 4.0"),
        ("mean = 300 }", "mean = 300, variation = 0.5, most = 900 }"),
        ('kind = "fixed", mean = 20', 'kind = "geometric", mean = 20.5'),
        ("seconds = 0.6 }", "seconds = 0.6 }\ntpot = { percentile = 99, seconds = 0.05 }\nperplexity_ratio = 1.25"),
        ("tp = [1, 2]", "tp = [2, 2]\ntoken_budgets = [64, 64, 32]\nmax_sequences = [8]\nseconds = 50.0\nseed = 3"),
        ("[search]", "[search]\nmax_replicas = 9\nallow_unmeasured = true\nfrontier = false\ngated = true"),
    )
    problem = found.problem
    assert problem.load == Drawn(2.5, LogNormal(300, 0.5, 900), Geometric(20.5), 4.0)
    assert problem.targets == Targets(0.9, 0.6, 0.99, 0.05, 1.25)
    assert (problem.window, problem.seed, problem.max_replicas) == (Window(50.0, 5.0), 3, 9)
    assert (problem.allow_unmeasured, problem.frontier) == (True, False)
    assert {(c.token_budget, c.max_sequences) for c in problem.candidates} == {(64, 8), (32, 8)}
    assert len(problem.candidates) == 4, "what is listed twice is one"
    engine = problem.engines(problem.candidates[0], ())
    assert (engine.limits.token_budget, engine.limits.max_sequences) == (64, 8)
    assert any("uncompressed at sizes" in sentence for sentence in engine.pace.sentences())  # type: ignore[attr-defined]


def test_published_figures_keep_a_share_that_is_not_negative(tmp_path: Path) -> None:
    def ratio(value: float, source: str) -> Asked:
        more = f'perplexity_ratio = {value}\naccuracy_from = "{source}"'
        return asked(tmp_path, ("seconds = 0.6 }", f"seconds = 0.6 }}\n{more}"))

    assert ratio(2.0, "published").problem.targets.perplexity_ratio == 2.0
    assert ratio(3.0, "measured").problem.targets.perplexity_ratio == 3.0
    with pytest.raises(
        ValueError, match=r"perplexity_ratio must lie in 1\.\.2 where .*: perplexity_ratio=3;"
    ) as caught:
        ratio(3.0, "published")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"must lie in 1\.\.2"):  # a sweep's target, on a file that was read
        targets_of(ratio(2.0, "published").file.targets.model_copy(update={"perplexity_ratio": 2.5}))


@pytest.mark.parametrize("percentile", [50, 90, 95, 99])
def test_percentiles_are_shares(tmp_path: Path, percentile: int) -> None:
    targets = asked(tmp_path, ("percentile = 90", f"percentile = {percentile}")).problem.targets
    assert targets.ttft_quantile == percentile / 100


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("max_replicas", ("1", "4096"), ("0", "4097")),
        ("change", ("0.001", "0.999"), ("0.0009", "0.9995")),
        ("seed", ("0", str(2**31 - 1)), ("-1", str(2**31))),
        ("seconds", ("1e-3",), ("0.0", "-1.0")),
    ],
)
def test_ranges_hold_their_ends(tmp_path: Path, key: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    for value in inside:
        assert getattr(asked(tmp_path, ("[search]", f"[search]\n{key} = {value}")).file.search, key) == float(value)
    for value in outside:
        with pytest.raises(ValueError, match=f"search.{key}"):
            asked(tmp_path, ("[search]", f"[search]\n{key} = {value}"))


@pytest.mark.parametrize(("most", "allowed"), [(1, True), (1 << 24, True), (0, False), ((1 << 24) + 1, False)])
def test_lengths_hold_their_ends(tmp_path: Path, most: int, allowed: bool) -> None:
    change = ("mean = 300 }", f"mean = {max(1, min(most, 1 << 24))}, most = {most} }}")
    if allowed:
        assert asked(tmp_path, change).problem.load.prompt == LogNormal(most, 1.0, most)
    else:
        with pytest.raises(ValueError, match=r"load\.prompt\.most"):
            asked(tmp_path, change)


def test_a_ratio_of_one_is_a_target_and_less_is_none(tmp_path: Path) -> None:
    ratio = ("[targets]", "[targets]\nperplexity_ratio = 1.0")
    assert asked(tmp_path, ratio).problem.targets.perplexity_ratio == 1.0
    with pytest.raises(ValueError, match="perplexity_ratio"):
        asked(tmp_path, ("[targets]", "[targets]\nperplexity_ratio = 0.99"))


def test_factors_hold_their_ends_and_multiply(tmp_path: Path) -> None:
    found = asked(tmp_path)
    assert found.what_if("load x0.001") == WhatIf(0.001) and found.what_if("load x1000") == WhatIf(1000.0)
    assert found.what_if("load x2, load x3, link x0.5, link x0.5, price l40s x3, price l40s x2") == WhatIf(
        6.0, (("*", 0.25),), (("8xl40s-pcie", 6.0),)
    )
    for beyond in ("load x0.0009", "load x1001", "link x1001", "price l40s x1001"):
        with pytest.raises(ValueError, match="taken together"):
            found.what_if(beyond)


def test_links_count_each_as_often_as_it_is_named(tmp_path: Path) -> None:
    """Half the rate twice is a quarter, and it is the candidate's machine that has it."""
    found = asked(tmp_path)
    candidate = Candidate("8xl40s-pcie", 2, "bf16", 2048, 256)
    plain, half, quarter = (
        found.problem.engines(candidate, links).pace.mixed_s([(2000, 2000)], 1, 0, 0)
        for links in ((), (("*", 0.5),), (("gpu*->*", 0.5), ("*", 0.5)))
    )
    assert plain < half < quarter
    with pytest.raises(ValueError, match="no machine of the search has a link"):
        found.what_if("link nowhere->* x2")


def test_gpus_are_searched_as_they_are_asked_for(tmp_path: Path) -> None:
    """Each way to place a replica once; the first GPUs are the first GPUs however they are written."""
    found = asked(
        tmp_path, ("tp = [1, 2]", 'tp = [2, 4]\ngpus = ["0,1,6,7", "0-3", "0,1,6-7", "0,8"]'), ('"bf16", ', "")
    )
    limits = (2048, 256)
    assert found.problem.candidates == (
        Candidate("8xl40s-pcie", 2, "flash-int4", *limits),
        Candidate("8xl40s-pcie", 4, "flash-int4", *limits),
        Candidate("8xl40s-pcie", 4, "flash-int4", *limits, gpus=(0, 1, 6, 7)),
        Candidate("8xl40s-pcie", 2, "flash-int4", *limits, gpus=(0, 8)),
    )
    first, spread = (found.problem.engines(c, ()).pace for c in found.problem.candidates[1:3])
    assert first.mixed_s([(512, 512)], 1, 0, 0) < spread.mixed_s([(512, 512)], 1, 0, 0)
    assert str(found.problem.candidates[2]).startswith("8xl40s-pcie TP 4 on GPUs 0,1,6,7 flash-int4 (2048 tokens")
    nowhere = found.problem.candidates[3]
    with pytest.raises(ValueError, match="no GPU 8 on 8xl40s-pcie"):
        found.problem.engines(nowhere, ())
    assert found.inputs.measured(nowhere) is not None  # what is said of it is that it does not fit


def test_nodes_are_searched_with_degrees(tmp_path: Path) -> None:
    found = asked(
        tmp_path,
        ("8xl40s-pcie", "2x8xh100-ib"),
        ("tp = [1, 2]", "tp = [2, 16]\nnodes = [1, 2]"),
        ('"bf16", ', ""),
    )
    told = [(c.tp, c.gpus, c.nodes) for c in found.problem.candidates]
    assert told == [(2, (), 1), (2, (0, 8), 2), (16, (), 1), (16, (), 2)]
    beyond = found.problem.candidates[2]
    with pytest.raises(ValueError, match="tp=16 takes 16 GPUs of each of 1 nodes"):
        found.problem.engines(beyond, ())
    assert "on 2 nodes" in str(found.problem.candidates[3]) and " on GPUs 0,8 " in str(found.problem.candidates[1])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "search: tp is missing"),
        ("nodes = [2]", "search: tp is missing: degrees to try, such as [2, 4] with nodes"),
        ('gpus = ["0,1"]\nnodes = [2]', "search: tp is missing"),
        ('gpus = ["0,0"]', "search.gpus.0: gpus lists each GPU once"),
        ("gpus = [0, 1]", 'search.gpus.0: must be text, such as "0,1,6,7"'),
        ("gpus = []", "search.gpus: "),
        ("tp = [2]\nnodes = [0]", "search.nodes.0: "),
    ],
)
def test_a_search_that_takes_nothing_is_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        asked(tmp_path, ("tp = [1, 2]", line))
    assert said in str(refused.value)


def test_gpus_alone_are_enough(tmp_path: Path) -> None:
    found = asked(tmp_path, ("tp = [1, 2]", 'gpus = ["2,3"]'), ('"bf16", ', ""))
    assert [(c.tp, c.gpus) for c in found.problem.candidates] == [(2, (2, 3))]
