"""What families say that no count shows: windows, rotations, scales, order, routing."""

import math
import re

import pytest

from thinwire.reference.core.architecture import Experts
from thinwire.reference.core.mixers import Latent, Rope, RopeScaling
from thinwire.reference.families.config import load_model, parse_config
from thinwire.reference.families.table import FAMILIES, TEXT_OF

from .models import ROOT, attention, mixture, rope, row, shipped, windows


def test_facts_that_no_count_shows() -> None:
    """Windows, rotations, scales and order: of each kind one model, as its paper or its modelling has it."""
    gemma = load_model("gemma-3-27b")
    assert windows(gemma)[:7] == [*[1024] * 5, None, 1024] and gemma.attention.scale == pytest.approx(168**-0.5)
    near, far = attention(gemma, 0), attention(gemma, 5)
    assert near.rope == Rope(128, 10000.0) and far.rope == Rope(128, 1e6, scaling=RopeScaling("linear", 8.0))
    four = load_model("gemma-4-26b-a4b")
    assert attention(four, 0).rope == Rope(256, 10000.0) and attention(four, 0).scale == 1.0
    assert attention(four, 5).rope == Rope(128, 1e6, scaling=RopeScaling("proportional"))
    assert attention(four, 5).keys_are_values and attention(four, 5).head_dim == 512
    command = row("command-a")
    assert command.layers[0].parallel and command.layers[0].one_norm and command.layers[0].sites == ("mlp",)
    assert windows(command)[:5] == [4096, 4096, 4096, None, 4096] and command.logit_scale == 0.0625
    assert attention(command, 0).rope == Rope(128, 10000.0, interleaved=True) and attention(command, 3).rope is None
    assert row("falcon-7b").layers[0].one_norm and not row("falcon-40b").layers[0].one_norm
    assert not row("falcon-rw-1b").layers[0].parallel and row("falcon-rw-1b").attention.rope is None
    granite = row("granite-3.3-8b")
    assert (granite.attention.scale, granite.embedding_scale, granite.residual_scale) == (0.0078125, 12.0, 0.22)
    assert granite.logit_scale == 1 / 16
    assert row("minicpm-2b").residual_scale == pytest.approx(1.4 / 40**0.5)
    assert row("minicpm-2b").logit_scale == pytest.approx(256 / 2304)
    assert row("olmo-2-7b").layers[0].norms == "after" and row("olmo-2-7b").attention.qk_norm == "row"
    exaone = row("exaone-4.0-32b")
    assert [attention(exaone, layer).rope is None for layer in range(4)] == [False, False, False, True]
    assert all(attention(row("exaone-4.0-1.2b"), layer).rope for layer in range(30))
    smol = row("smollm3-3b")
    assert [attention(smol, layer).rope is None for layer in range(8)] == [False, False, False, True] * 2
    assert rope(row("phi-4-mini")) == Rope(
        96, 10000.0, scaling=RopeScaling("longrope", 32.0, original_max_positions=4096, short=(1.0,) * 48,
                                         long=(1.5,) * 48)
    )  # fmt: skip
    assert rope(row("glm-4-9b-chat")) == rope(row("glm-4-9b-hf")) == Rope(64, 10000.0, interleaved=True)
    scout = load_model("llama-4-scout")
    assert [attention(scout, layer).chunk for layer in range(4)] == [8192, 8192, 8192, None]
    assert attention(scout, 0).qk_norm == "l2" and attention(scout, 3).qk_norm == "none"
    assert attention(load_model("llama-4-maverick"), 0).qk_norm == "none"
    oss = load_model("gpt-oss-20b")
    assert windows(oss)[:3] == [128, None, 128] and oss.attention.sinks and mixture(oss).activation == "swigluoai"
    assert rope(oss).scaling == RopeScaling("yarn", 32.0, original_max_positions=4096, truncate=False)
    mimo = row("mimo-v2-flash")
    assert [attention(mimo, layer).sinks for layer in range(6)] == [False, True, True, True, True, False]
    assert (attention(mimo, 0).kv_heads, attention(mimo, 1).kv_heads, rope(mimo).dims) == (4, 8, 64)
    assert row("qwen3.5-35b-a3b").attention.gated and rope(row("qwen3.5-35b-a3b")).dims == 64
    step = row("step-3.5-flash")
    assert (attention(step, 0).heads, attention(step, 1).heads, step.attention.head_gate) == (64, 96, True)
    assert row("nemotron-h-8b").attention.rope is None


def test_latent_attention() -> None:
    model = load_model("deepseek-v3")
    latent = model.layers[0].mixer
    assert isinstance(latent, Latent) and latent.rope.interleaved and latent.rope.dims == 64
    # 192 ** -0.5 times the square of yarn's mscale, 0.1 ln 40 + 1: DeepSeek-V3's inference/model.py.
    assert latent.scale == pytest.approx(192**-0.5 * (0.1 * math.log(40) + 1) ** 2)
    lite = row("deepseek-v2-lite").layers[0].mixer
    assert isinstance(lite, Latent) and lite.q_rank is None and lite.scale == pytest.approx(192**-0.5)
    shared = [layer.mixer.indexer.shared for layer in row("glm-5.2").layers if isinstance(layer.mixer, Latent)
              and layer.mixer.indexer is not None]  # fmt: skip
    assert shared[:8] == [False, False, False, True, True, True, False, True] and len(shared) == 78


def test_mixtures() -> None:
    deep = load_model("deepseek-v3")
    assert [isinstance(layer.feed, Experts) for layer in deep.layers[:5]] == [False, False, False, True, True]
    found = mixture(deep)
    assert (found.scoring, found.groups, found.top_groups, found.scale, found.correction) == (
        "sigmoid",
        8,
        4,
        2.5,
        True,
    )
    assert found.normalise and found.shared is not None and found.shared.width == 2048
    two = mixture(row("deepseek-v2"))
    assert (two.scoring, two.normalise, two.groups, two.top_groups, two.scale) == ("softmax", False, 8, 3, 16.0)
    assert mixture(row("deepseek-v2-lite")).groups == 1
    assert not mixture(row("qwen1.5-moe-a2.7b")).normalise and mixture(row("qwen1.5-moe-a2.7b")).shared_gate
    assert mixture(load_model("qwen3-30b-a3b")).normalise and mixture(load_model("qwen3-30b-a3b")).shared is None
    assert mixture(load_model("llama-4-scout")).input_scaled and not mixture(load_model("llama-4-scout")).normalise
    maverick = load_model("llama-4-maverick")
    assert [isinstance(layer.feed, Experts) for layer in maverick.layers[:4]] == [False, True] * 2
    assert mixture(load_model("gpt-oss-120b")).scoring == "softmax-of-chosen"
    assert mixture(load_model("nemotron-3-super-120b-a12b")).latent == 1024
    assert mixture(row("phi-3.5-moe")).scoring == "sparse-mixer"
    mixed = row("qwen3-moe-with-dense-layers")
    assert [isinstance(layer.feed, Experts) for layer in mixed.layers] == [False, True, False, True, False, False]


def test_hybrids() -> None:
    next80 = load_model("qwen3-next-80b-a3b")
    assert [type(layer.mixer).__name__ for layer in next80.layers[:5]] == [*["DeltaNet"] * 3, "Attention", "DeltaNet"]
    assert [type(layer.mixer).__name__ for layer in row("minimax-text-01").layers[6:9]] == [
        "Lightning", "Attention", "Lightning",
    ]  # fmt: skip
    nemotron = row("nemotron-h-8b")
    assert [(layer.mixer is None, layer.feed is None) for layer in nemotron.layers[:2]] == [
        (False, True),
        (True, False),
    ]
    ultra = {**shipped("nemotron-3-super-120b-a12b"), "layers_block_type": ["mamba", "moe", "attention"]}
    del ultra["num_hidden_layers"], ultra["hybrid_override_pattern"]
    assert parse_config(ultra, "x").num_layers == 3
    super49 = load_model("nemotron-super-49b")
    assert super49.layers[6].mixer is None and super49.layers[6].sites == ("mlp",)
    assert len({layer.feed for layer in super49.layers}) == 6


def test_the_page_lists_the_families() -> None:
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")][2:]
    listed = [word for line in rows for word in re.findall(r"`([^`]+)`", line)]
    assert sorted(listed) == sorted(FAMILIES)
    assert {*TEXT_OF.values()} <= {*FAMILIES} and not {*TEXT_OF} & {*FAMILIES}
