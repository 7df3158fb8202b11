"""Plans put compressed all-reduces into models, say how many, and refuse a pattern that matches nothing."""

import pickle
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from thinwire.reference.parallel import CompressedRowwiseParallel, parallelize

from . import gloo, sharded

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed (pip install transformers)"
)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One rank, in this process: enough to count."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def row() -> CompressedRowwiseParallel:
    return CompressedRowwiseParallel("flash-int8")


def noise(bits: int) -> float:
    """Relative error of one two-step all-reduce of normal values on grids of `bits` bits.

    A group of at most 128 spans under 6 standard deviations in 2^bits - 1 steps; uniform rounding errs by a step over
    sqrt(12), once in each of the two phases. Behind the residual and the norms, layers add theirs at most.
    """
    return 6 / (2**bits - 1) / 12**0.5 * 2**0.5


@needs_transformers
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names(mesh: DeviceMesh) -> None:
    """The plan that lacks `model.`, which torch skips: nothing of the model is changed."""
    model = sharded.llama()
    style = row()
    plan = {name.removeprefix("model."): each for name, each in sharded.plan(sharded.MLP, style).items()}
    for start in ({}, {"model.layers.*.mlp.up_proj": ColwiseParallel()}):
        with pytest.raises(ValueError) as raised:
            parallelize(model, mesh, {**start, "layers.*.mlp.down_proj": style})
        assert str(raised.value) == (
            "plan matches no module of LlamaForCausalLM: given 'layers.*.mlp.down_proj'; the nearest are"
            " model.layers.1.mlp.down_proj, model.layers.0.mlp.down_proj, model.layers.1.mlp.up_proj"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 warns, 2.6 does not
        parallelize_module(model, mesh, plan)
    assert style.replaced == sharded.compressed(model) == 0
    assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"layers.*.down": row(), "layers.*.gate": ColwiseParallel()}, "given 'layers.*.gate'; the nearest are layers"),
        ({"layers.*.down": row(), "layers.7.up": ColwiseParallel()}, "given 'layers.7.up'; the nearest are layers"),
        ({"layers.*.down": row(), "layers*up": row()}, r"given 'layers\*up'; the nearest are layers.[01].up"),
        ({"x" * 500: row()}, "given 'x{80}'; the nearest"),
        (
            {"layers.*.up": ColwiseParallel(), "layers.*.down": RowwiseParallel()},
            "given ColwiseParallel, RowwiseParallel",
        ),
        ({}, "given nothing; at least one CompressedRowwiseParallel"),
    ],
)
def test_plans_refused(mesh: DeviceMesh, plan: dict[str, ParallelStyle], said: str) -> None:
    model = sharded.Nested()
    with pytest.raises(ValueError, match=said):
        parallelize(model, mesh, plan)
    assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())


def test_a_model_without_linears_says_so(mesh: DeviceMesh) -> None:
    with pytest.raises(ValueError, match=r"no module of Sequential: given '0\.down'; it has no Linear"):
        parallelize(nn.Sequential(nn.SiLU()), mesh, {"0.down": row()})


@pytest.mark.parametrize(
    ("patterns", "replaced"),
    [
        (["layers.*.down"], 2),
        (["layers.0.down"], 1),
        (["layers.[01].d*n"], 2),
        (["layers.0.down", "layers.1.down"], 2),  # one style, two patterns
    ],
)
def test_layers_are_counted(mesh: DeviceMesh, patterns: list[str], replaced: int) -> None:
    """By the door, by the style, and in the model itself; torch's own door counts alike."""
    model, theirs = sharded.Nested(), sharded.Nested()
    style, direct = row(), row()
    assert parallelize(model, mesh, dict.fromkeys(patterns, style)) == sharded.compressed(model) == replaced
    parallelize_module(theirs, mesh, dict.fromkeys(patterns, direct))
    assert style.replaced == direct.replaced == sharded.compressed(theirs) == replaced


def test_a_layer_named_twice_is_refused(mesh: DeviceMesh) -> None:
    """By torch, in either door: so a layer is never counted twice."""
    plan = dict.fromkeys(["layers.*.down", "layers.1.down"], row())
    with pytest.raises(RuntimeError, match="only be called once"):
        parallelize(sharded.Nested(), mesh, plan)
    with pytest.raises(RuntimeError, match="only be called once"):
        parallelize_module(sharded.Nested(), mesh, plan)


def test_a_module_may_be_the_plan_s_own(mesh: DeviceMesh) -> None:
    """The empty pattern is the model itself, as for torch; styles are values that can be sent to processes."""
    style: CompressedRowwiseParallel = pickle.loads(pickle.dumps(row()))
    assert parallelize(nn.Linear(8, 8), mesh, {"": style}) == style.replaced == 1


def test_a_model_without_a_prefix_on_two_ranks(tmp_path: Path) -> None:
    """The bits of the same sums by hand, through both doors."""
    for found in gloo.on_two_ranks(tmp_path, sharded, "nested"):
        assert found == {"replaced": [2] * 5, "equal": [True, True], "whole": False}


@needs_transformers
def test_attention_mlp_or_both_of_a_hugging_face_llama(tmp_path: Path) -> None:
    first, second = gloo.on_two_ranks(tmp_path, sharded, "llamas")
    assert first == second
    for name, layers in (("attention", 2), ("mlp", 2), ("both", 4)):
        found = first[name]
        assert found["replaced"] == [layers] * 3, name
        assert_compressed(found, layers, 8)
        assert found["plain"] < 1e-5, found


@needs_transformers
def test_the_documents_snippets_run(tmp_path: Path) -> None:
    """Every block of Python in README.md and docs/*.md that names CompressedRowwiseParallel compresses a Llama.

    It finds `model`, `mesh` and `partial_sum`; what it calls `replaced` must be true.
    """
    assert sharded.snippets(), "no page shows CompressedRowwiseParallel"
    first, second = gloo.on_two_ranks(tmp_path, sharded, "run_snippets")
    assert first == second and first.keys() == sharded.snippets().keys()
    for where, found in first.items():
        print(f"{where}: {found}")
        assert found["replaced"] > 0, f"{where} replaces no layer of a Hugging Face Llama"
        assert found["said"] in (None, found["replaced"]), f"{where}: {found}"
        assert_compressed(found, found["replaced"], 4)


def assert_compressed(found: dict[str, Any], layers: int, bits: int) -> None:
    """Logits err by more than fp32's rounding, which gives 1e-6, and by less than all layers' noise together."""
    assert 1e-4 < found["error"] < layers * noise(bits), found
