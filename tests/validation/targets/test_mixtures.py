"""Mixtures beside published rows: how rows are asked, and as near as the section says."""

from dataclasses import replace
from functools import cache

import pytest

from thinwire.reference.families.config import load_model
from thinwire.sim.choices import Precision
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.published_tables import Row, rows
from thinwire.validation.targets import mixtures
from thinwire.validation.targets.mixtures import Setup
from thinwire.validation.targets.targets import Section

QWEN = Setup("qwen3-30b-a3b", "8xh100-nvlink", 2, 2)


@cache
def section() -> Section:
    return mixtures.mixtures()


def row(**changed: str) -> Row:
    """A row of the table's form."""
    plain = {"model": "Qwen3-30B-A3B", "gpu": "H100", "engine": "vLLM", "tp": "2", "ep": "2", "weights": "bf16",
             "batch": "4", "input_tokens": "3000", "output_tokens": "50", "metric": "whole_ms", "value": "1000",
             "source": "x", "note": ""}  # fmt: skip
    return plain | changed


def test_every_row_is_whole_and_of_one_source() -> None:
    found = rows(mixtures.TABLE)
    assert len(found) == 243 and len({tuple(each.values()) for each in found}) == 243
    for each in found:
        assert float(each["value"]) > 0 and float(each["batch"]) >= 1 and each["metric"] in mixtures.METRICS
        assert sum(each["source"].startswith(source.start) for source in mixtures.SOURCES) == 1
        assert each["gpu"] in mixtures.MACHINES and each["weights"] in Precision.__args__  # type: ignore[attr-defined]
        load_model(mixtures.MODELS[each["model"]])
        assert int(each["tp"] or 1) % int(each["ep"]) == 0
    kept = sum(len(list(mixtures.kept(source))) for source in mixtures.SOURCES)
    assert kept + sum(mixtures.left_out(each) is not None for each in found) == 243 == kept + 18


def test_prompts_go_in_passes() -> None:
    """Of whole prompts while they fit, and cut where one does not."""
    once, twice = (mixtures.iteration(QWEN, ((3000, 3000),) * n, 0, 0, "eager") for n in (1, 2))
    assert mixtures.prompt(QWEN, 5, 3000).value == pytest.approx(2 * twice.value + once.value, rel=1e-12)
    cut = [mixtures.iteration(QWEN, ((more, seen),), 0, 0, "eager") for more, seen in
           ((8192, 8192), (8192, 16384), (3616, 20000))]  # fmt: skip
    found = mixtures.prompt(QWEN, 1, 20000)
    assert found.value == pytest.approx(sum(each.value for each in cut), rel=1e-12)
    assert found.high == pytest.approx(sum(each.high for each in cut), rel=1e-12)


def test_wholes_are_their_passes_and_steps() -> None:
    measured, found = mixtures.whole(row())
    prompts, step = mixtures.prompt(QWEN, 4, 3000, mixtures.WHOLE_PASS), mixtures.step(QWEN, 4, 3024)
    assert (measured, found.value) == (1.0, pytest.approx(prompts.value + 49 * step.value, rel=1e-12))
    measured, found = mixtures.all_tokens(row(batch="1", value="305", metric="all_tokens_per_s"))
    alone = mixtures.prompt(QWEN, 1, 3000).value + 49 * mixtures.step(QWEN, 1, 3025).value
    assert (measured, found.value) == (10.0, pytest.approx(alone, rel=1e-12))
    assert mixtures.prompts(row(value="12000"))[0] == 1.0


def test_parts_add_up() -> None:
    for found in (mixtures.step(QWEN, 8, 1000), mixtures.prompt(QWEN, 1, 3000)):
        assert sum(found.parts.values()) == pytest.approx(found.value, rel=1e-9)
        assert min(found.parts.values()) > 0 and found.low < found.value < found.high
    assert mixtures.step(replace(QWEN, ep=1), 8, 1000).parts["experts"] != mixtures.step(QWEN, 8, 1000).parts["experts"]


def test_what_was_assumed_of_prompts_matters_little() -> None:
    """Twice the tokens of chat prompts that ML.ENERGY does not state."""
    for sequences, most in ((8, 0.04), (64, 0.09), (256, 0.16)):
        said = mixtures.step(QWEN, sequences, mixtures.CHAT_PROMPT + 900).value
        more = mixtures.step(QWEN, sequences, 2 * mixtures.CHAT_PROMPT + 900).value
        assert 1 <= more / said < 1 + most


def test_first_tokens_left_out_were_faster_than_one_gpu_can() -> None:
    """Products of the parameters at work and causal attention at an A100's peak."""
    peak, model = load_gpu("a100-sxm").peak_flops_per_s["bf16"], load_model("qwen3-30b-a3b")
    pairs = 2 * model.attention.heads * model.attention.head_dim * model.num_layers  # FLOP of a token with another
    quick = []
    for each in rows(mixtures.TABLE):
        if each["metric"] == "ttft_ms" and not each["tp"]:
            tokens = int(each["input_tokens"])
            flops = 2 * model.active_parameters * tokens + pairs * tokens**2
            quick += [tokens] if flops / peak > float(each["value"]) / 1e3 else []
    assert quick == [4096, 8192]
