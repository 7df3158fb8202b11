"""Mixtures head to head: what is asked, how wholes are put together, and the report's words and sums."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from thinwire.validation.peers import mixture_report, mixture_rows, mixtures
from thinwire.validation.peers.mixture_rows import Head, Pass
from thinwire.validation.peers.peers import text_of
from thinwire.validation.targets import mixtures as ours
from thinwire.validation.targets.mixtures import Setup

SETUP = Setup("deepseek-v3", "8xh200-nvlink", 8, 4, "fp8-block")


@cache
def raw() -> dict[str, Any]:
    return mixtures.read(mixtures.FILE)


def some_row(metric: str, **changed: str) -> dict[str, str]:
    plain = {"model": "Mixtral-8x7B", "gpu": "A100", "engine": "vLLM", "tp": "2", "ep": "1", "weights": "bf16",
             "batch": "70", "input_tokens": "1000", "output_tokens": "51", "metric": metric, "value": "1000",
             "source": "x", "note": ""}  # fmt: skip
    return plain | changed


def test_a_question_is_a_users() -> None:
    asked = Pass(SETUP, "prefill", 1, 4096, "vllm").question()
    assert (asked["tp"], asked["moe_tp"], asked["moe_ep"], asked["gpu"]) == (8, 2, 4, "h200-sxm")
    assert asked["path"] == "deepseek-ai/DeepSeek-V3" and asked["config"] is None
    asked = Pass(Setup("mixtral-8x7b", "8xh100-nvlink", 2), "decode", 8, 100, "vllm").question()
    assert asked["path"] is None and asked["config"]["num_local_experts"] == 8
    asked = Pass(SETUP, "prefill", 1, 4096, "vllm", 8).question()
    assert (asked["tp"], asked["attention_dp"]) == (1, 8)


def test_rows_are_their_passes() -> None:
    """As ours are: 32 prompts fill a pass of 32,768 tokens, 6 are left over; steps go at the mean context."""
    setup = Setup("mixtral-8x7b", "8xa100-nvlink", 2)
    assert mixture_rows.passes(some_row("whole_ms")) == [
        (Pass(setup, "prefill", 32, 1000, "vllm"), 2), (Pass(setup, "prefill", 6, 1000, "vllm"), 1),
        (Pass(setup, "decode", 70, 1025, "vllm"), 50),
    ]  # fmt: skip
    (step,) = mixture_rows.passes(some_row("itl_ms", input_tokens=""))
    assert step == (Pass(setup, "decode", 70, ours.CHAT_PROMPT + 51, "vllm"), 1)
    assert mixture_rows.passes(some_row("prompt_tokens_per_s", batch="4")) == [
        (Pass(setup, "prefill", 4, 1000, "vllm"), 1)
    ]


def test_every_pass_is_answered_by_parts() -> None:
    """Parts of an answer are the whole of it; every operator has a part of ours."""
    for one in mixture_rows.asked():
        found = raw()["answers"][one.id]
        if "seconds" in found:
            assert sum(found["parts"].values()) == pytest.approx(found["seconds"], rel=2e-3), one.id
            assert {mixture_report.part_of(name) for name in found["parts"]} <= set(mixture_report.PARTS)
        else:
            assert found["unsupported"], one.id
    assert sum("seconds" in found for found in raw()["answers"].values()) > 0.8 * len(raw()["answers"])


def test_the_raw_file_is_as_written_and_refused_without_a_pass(tmp_path: Path) -> None:
    assert mixtures.FILE.read_text("utf-8") == text_of(raw())
    path = tmp_path / "raw.json"
    answers = dict(list(raw()["answers"].items())[1:])
    for spoiled, said in (({**raw(), "answers": answers}, "lacks 1 answers"), ({**raw(), "kind": "x"}, "kind='x'")):
        path.write_text(text_of(spoiled), "utf-8")
        with pytest.raises(ValueError, match=said):
            mixtures.read(path)
    with pytest.raises(ValueError, match="cannot read"):
        mixtures.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("mine", "theirs", "closer"), [(1.1, 1.2, True), (1.1, 0.95, False), (1.1, 1.1, False), (1.1, "no data", None)]
)
def test_closer_than_the_peer(mine: float, theirs: float | str, closer: bool | None) -> None:
    head = Head(some_row("whole_ms"), 1.0, mine, theirs)
    assert head.closer is closer
    assert head.errors[0] == pytest.approx(0.1)


def test_figures_are_medians_and_nine_of_ten() -> None:
    heads = [Head(some_row("itl_ms"), 1.0, 1 + i / 100, 0.9) for i in range(1, 11)]
    assert mixture_report.figures(heads) == ("10", "5.5%, 10.0% (+5.5%)", "10.0%, 10.0% (-10.0%)", "9 of 10")


def test_what_is_not_answered_is_said_once() -> None:
    heads = [Head(some_row("itl_ms"), 1.0, 1.0, "no table at /tmp/x")] * 3
    assert mixture_report.unanswered(heads) == ["no answer to 3 rows of Mixtral-8x7B on A100: no table"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("moe", "experts"), ("moe_overlap", "experts"), ("moe_pre_dispatch", "exchanges"),
        ("embedding_ar", "exchanges"),
        ("tp_allreduce", "exchanges"), ("mla_block", "attention and its products"),
        ("qkv_gemm", "attention and its products"),
        ("shared_ffn2_gemm", "other products"), ("router_gemm", "other products"), ("add_norm_1", "rest"),
    ],
)  # fmt: skip
def test_operators_have_their_part(name: str, part: str) -> None:
    assert mixture_report.part_of(name) == part


def test_reasons_are_in_the_raw_file() -> None:
    """What the report says of the peer: EP slower than TP, twice our exchanges, fp8 products as launches."""
    parts = {one: raw()["answers"][one.id]["parts"] for one in mixture_rows.distances() if one.tokens == 8192}
    for one, found in parts.items():
        if one.setup.ep > 1 and "b200" not in one.setup.machine:
            cut = next(p for o, p in parts.items() if o.setup == replace(one.setup, ep=1))
            assert found["moe"] > 1.2 * cut["moe"], one.id
        if one.setup.model == "deepseek-v3":
            sent = sum(seconds for name, seconds in found.items() if mixture_report.part_of(name) == "exchanges")
            assert sent == pytest.approx(2 * ours.prompt(one.setup, 1, 8192).parts["exchanges"], rel=0.15)
    for machine, ranks, least, most in (("8xh100-nvlink", 8, 55e-6, 100e-6), ("8xb200-nvlink", 2, 160e-6, 200e-6)):
        wanted = ("qwen3-235b-a22b", "fp8-block", machine, ranks, ranks)
        for one in mixture_rows.asked():
            s = one.setup
            if (s.model, s.weights, s.machine, s.ranks, s.ep) == wanted:
                assert least < raw()["answers"][one.id]["parts"]["qkv_gemm"] / 94 < 1.2 * most, one.id
