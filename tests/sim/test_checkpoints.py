"""Precision of weights and cache: as a checkpoint has them, as asked, and what a GPU lacks."""

import json
from pathlib import Path

import pytest

import thinwire
from thinwire.reference.core.precision import BITS, KV_BITS
from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.layers import precisions, said_of, weight_bytes
from thinwire.sim.serving.question import Deployment
from thinwire.sim.serving.serve import Paces
from thinwire.sim.shapes import Gemm, RoutedExperts
from thinwire.sim.workload import Prompt, build, memory_bytes

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def folder(path: Path, source: str, **changes: object) -> str:
    """A folder with a catalog model's config.json, some keys changed."""
    root = Path(api.__file__).parents[1] / "reference" / "models"
    config = json.loads((root / f"{source}.json").read_text("utf-8")) | changes
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_an_fp8_folder_is_priced_as_what_it_is(tmp_path: Path) -> None:
    mine = folder(tmp_path, "qwen3-32b", quantization_config=FP8)
    read = thinwire.predict(mine, "8xh200-nvlink", "bf16", 4)
    asked = thinwire.predict("qwen3-32b", "8xh200-nvlink", "bf16", 4, weights="fp8-block")
    plain = thinwire.predict("qwen3-32b", "8xh200-nvlink", "bf16", 4)
    assert read.ttft_s == asked.ttft_s < plain.ttft_s
    assert (read.to_dict()["weights"], plain.to_dict()["weights"]) == ("fp8-block", "bf16")
    over = thinwire.predict(mine, "8xh200-nvlink", "bf16", 4, weights="bf16")
    assert over.ttft_s == plain.ttft_s


def test_a_file_beside_says_the_cache_too(tmp_path: Path) -> None:
    mine = folder(tmp_path, "llama-3-8b")
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}})
    )
    found = thinwire.predict(mine, "8xl40s-pcie", "bf16", 4)
    assert (found.to_dict()["weights"], found.to_dict()["kv"]) == ("fp8", "fp8")
    assert any("keys and values are kept in fp8, as the checkpoint says" in said for said in found.assumptions)
    bf16 = thinwire.predict(mine, "8xl40s-pcie", "bf16", 4, kv="bf16").to_dict()
    assert bf16["kv"] == "bf16"


def test_parts_have_their_own_precision() -> None:
    model = load_model("openai/gpt-oss-120b")
    assert precisions(model, "auto") == {"attention": "bf16", "experts": "mxfp4"}
    assert said_of(model, "auto") == "bf16 (attention), mxfp4 (experts)" and said_of(model, "int4") == "int4"
    work = build(model, thinwire.reference.catalog.scheme("bf16"), Prompt(1, 64, "auto"), 4)
    kernels = [kernel for op in work.layers[0] for kernel in op.kernels]
    assert {k.precision for k in kernels if isinstance(k, RoutedExperts)} == {"mxfp4"}
    assert {k.precision for k in kernels if isinstance(k, Gemm)} == {"bf16"}
    held = model.values(4)
    bits = {"experts": BITS["mxfp4"]}
    assert weight_bytes(model, "auto", 4) == sum(n * bits.get(part, 16) / 8 for part, n in held.items())


@pytest.mark.parametrize("kv", ["bf16", "fp8", "int8"])
def test_the_cache_takes_its_bits(kv: str) -> None:
    model = load_model("llama-3-70b")
    need = memory_bytes(model, Prompt(4, 1000, "bf16", kv), 4)  # type: ignore[arg-type]
    assert need["kv_cache"] == 4000 * 80 * 2 * 2 * 128 * KV_BITS[kv] / 8  # type: ignore[index]


def test_states_take_four_bytes_a_value_whatever_the_cache_is_in() -> None:
    model = load_model("qwen3-next-80b-a3b")
    states, cached = 3 * 4 * model.state_values(2), 3 * model.cache_values(2, 1000)
    for kv in ("bf16", "fp8"):
        need = memory_bytes(model, Prompt(3, 1000, "bf16", kv), 2)  # type: ignore[arg-type]
        assert need["kv_cache"] == states + cached * KV_BITS[kv] / 8  # type: ignore[index]


def test_a_smaller_cache_serves_more_and_decodes_sooner() -> None:
    wide, narrow = (
        Paces(Deployment("llama-3-70b", "8xh100-nvlink", "bf16", 2, weights="fp8", kv=kv)) for kv in ("bf16", "fp8")
    )
    assert 1.9 < narrow.limits.kv_tokens / wide.limits.kv_tokens < 2.1
    slow, fast = (known.pace().line(64, 64 * 5000) for known in (wide, narrow))
    assert fast.first_s < slow.first_s and fast.per_token_s < 0.8 * slow.per_token_s


@pytest.mark.parametrize(
    ("cluster", "weights", "said"),
    [
        ("8xa100-nvlink", "fp8", "a100-sxm has no fp8 arithmetic: weights=fp8, it runs bf16, int8, int4, mxfp4"),
        ("8xh100-nvlink", "nvfp4", "h100-sxm has no nvfp4 arithmetic"),
        ("8xl40s-pcie", "int3", "weights must be one of bf16, fp8"),
    ],
)
def test_what_a_gpu_lacks_is_refused(cluster: str, weights: str, said: str) -> None:
    for model in ("qwen3-32b", "qwen3-30b-a3b"):
        with pytest.raises(ValueError, match=said):
            thinwire.predict(model, cluster, "bf16", 4, weights=weights)  # type: ignore[arg-type]


def test_a_checkpoint_that_is_not_understood_refuses_who_asks_for_it(tmp_path: Path) -> None:
    mine = folder(tmp_path, "llama-3-8b", quantization_config={"quant_method": "unheard-of"})
    with pytest.raises(ValueError, match="quant_method 'unheard-of' is unknown"):
        thinwire.predict(mine, "8xl40s-pcie", "bf16", 4)
    assert thinwire.predict(mine, "8xl40s-pcie", "bf16", 4, weights="bf16").ttft_s > 0


def test_every_precision_is_priced_where_it_runs() -> None:
    """On Blackwell all of them; narrower weights never make decoding slower."""
    pace = {}
    for weights in BITS:
        known = Paces(Deployment("llama-3-8b", "8xb200-nvlink", "bf16", 1, weights=weights))
        pace[weights] = known.pace().line(8, 8000).first_s
        found = thinwire.predict("llama-3-8b", "8xb200-nvlink", "bf16", 1, weights=weights)
        assert found.interval.low_s < found.ttft_s < found.interval.high_s
    assert pace["nvfp4"] < pace["fp8"] < pace["bf16"] and pace["int4"] < pace["bf16"]
