"""Models that plans shard and compress, and what two ranks find of them. Run by gloo.on_two_ranks."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.groups.group import TorchGroup
from thinwire.reference.parallel import CompressedRowwiseParallel, parallelize

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 2
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
PLANS = {"attention": ATTENTION, "mlp": MLP, "both": ATTENTION + MLP}


class Nested(nn.Module):
    """Blocks below `layers`, with no `model.` above them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(64, 256), "down": nn.Linear(256, 64)}) for _ in range(LAYERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer["down"](torch.relu(layer["up"](x)))
        return x


def nested_by_hand(x: Tensor, scheme: str) -> Tensor:
    """What a Nested gives on two ranks: each one's partial sums, and their all-reduce in this process."""
    for layer in Nested().layers:
        up, down = layer["up"], layer["down"]
        partials = []
        for w_up, b_up, w_down in zip(up.weight.chunk(2), up.bias.chunk(2), down.weight.chunk(2, dim=1), strict=True):
            hidden = torch.relu(nn.functional.linear(x, w_up.contiguous(), b_up.contiguous()))
            partials.append(nn.functional.linear(hidden, w_down.contiguous()))
        x = all_reduce_local(partials, scheme)[0] + down.bias
    return x


def nested(group: TorchGroup) -> dict[str, Any]:
    """Both doors on a model without `model.`: bits by hand, and layers counted."""
    mesh = init_device_mesh("cpu", (2,))
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        by_hand = nested_by_hand(x, "flash-int8")
        style = CompressedRowwiseParallel("flash-int8")
        model = Nested()
        replaced = parallelize(model, mesh, {"layers.*.up": ColwiseParallel(), "layers.*.down": style})
        direct = CompressedRowwiseParallel("flash-int8")
        theirs = parallelize_module(Nested(), mesh, {"layers.*.up": ColwiseParallel(), "layers.*.down": direct})
        return {
            "replaced": [replaced, style.replaced, direct.replaced, compressed(model), compressed(theirs)],
            "equal": [torch.equal(model(x), by_hand), torch.equal(theirs(x), by_hand)],
            "whole": torch.equal(Nested()(x), by_hand),
        }


def compressed(model: nn.Module) -> int:
    """Linears that compute otherwise than their class does: the model's own word for what was replaced."""
    return sum(isinstance(module, nn.Linear) and "forward" in vars(module) for module in model.modules())


def llama() -> nn.Module:
    """A tiny random Hugging Face Llama in fp32, the same on every rank."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    return LlamaForCausalLM(config).eval()


def plan(names: tuple[str, ...], row: ParallelStyle) -> dict[str, ParallelStyle]:
    """Megatron's split of the linears named, in every layer of a `llama`; one style for all rows."""
    rows = ("o_proj", "down_proj")
    return {f"model.layers.*.{name}": row if name.endswith(rows) else ColwiseParallel() for name in names}


def llamas(group: TorchGroup) -> dict[str, Any]:
    """By plan: layers as the door, the style and the model count them, and errors without and with flash-int8."""
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for name, names in PLANS.items():
        style = CompressedRowwiseParallel("flash-int8")
        model, plain = llama(), llama()
        replaced = parallelize(model, mesh, plan(names, style))
        parallelize_module(plain, mesh, plan(names, RowwiseParallel()))
        found[name] = {
            "replaced": [replaced, style.replaced, compressed(model)],
            "plain": error_of(plain),
            "error": error_of(model),
        }
    return found


def error_of(model: Callable[..., Any]) -> float:
    """Relative error of a changed llama's logits."""
    tokens_BT = torch.randint(0, 512, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = llama()(tokens_BT).logits
        return float((model(tokens_BT).logits - whole).norm() / whole.norm())


def snippets() -> dict[str, str]:
    """The documents' Python that puts CompressedRowwiseParallel into a model, by page and number on the page."""
    found = {}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"^```python[^\n]*\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        for number, block in enumerate(blocks):
            if "CompressedRowwiseParallel" in block:
                found[f"{page.relative_to(ROOT).as_posix()}#{number}"] = block
    return found


def run_snippets(group: TorchGroup) -> dict[str, Any]:
    """Each snippet on a llama of its own: layers as it and as the model counts them, and the logits' error."""
    found = {}
    for where, source in snippets().items():
        model = llama()
        partial_sum = torch.randn(32, 256, generator=torch.Generator().manual_seed(group.rank))
        given = {"model": model, "mesh": init_device_mesh("cpu", (2,)), "partial_sum": partial_sum}
        with torch.inference_mode():
            exec(compile(source, where, "exec"), given)
        found[where] = {"said": given.get("replaced"), "replaced": compressed(model), "error": error_of(model)}
    return found
