"""A Hugging Face Llama whose all-reduces are compressed, in two processes on this machine.

    pip install 'thinwire[reference]' transformers
    python examples/hf_llama.py --scheme flash-int4

The model is tiny and its weights random: the point is the one line that applies a scheme. Tensor parallelism by itself
differs from one process by bf16's rounding; what the scheme adds is measured against that, the uncompressed model.
"""

import argparse
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from thinwire.reference.parallel import CompressedRowwiseParallel, parallelize


def tiny_llama() -> torch.nn.Module:
    """Random weights, the same on every rank."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def plan(row: ParallelStyle) -> dict[str, ParallelStyle]:
    """Megatron's split of every layer; `row` is the style of the two linears whose outputs are partial sums."""
    return {
        "model.layers.*.self_attn.q_proj": ColwiseParallel(),
        "model.layers.*.self_attn.k_proj": ColwiseParallel(),
        "model.layers.*.self_attn.v_proj": ColwiseParallel(),
        "model.layers.*.self_attn.o_proj": row,
        "model.layers.*.mlp.gate_proj": ColwiseParallel(),
        "model.layers.*.mlp.up_proj": ColwiseParallel(),
        "model.layers.*.mlp.down_proj": row,
    }


def compared(logits: torch.Tensor, exact: torch.Tensor) -> str:
    """How far apart two models' logits are, in words."""
    error = float((logits - exact).norm() / exact.norm())
    agree = float((logits.argmax(-1) == exact.argmax(-1)).float().mean())
    return f"relative error of the logits {error:.2e}, same top token {agree:.0%}"


def worker(rank: int, ranks: int, store: str, scheme: str) -> None:
    """Logits without tensor parallelism, with plain and with compressed all-reduces."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    tokens = torch.randint(0, 512, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = tiny_llama()(tokens).logits.float()
        plain = parallelize_module(tiny_llama(), mesh, plan(RowwiseParallel()))(tokens).logits.float()
        model = tiny_llama()
        replaced = parallelize(model, mesh, plan(CompressedRowwiseParallel(scheme)))
        compressed = model(tokens).logits.float()
    if rank == 0:
        print(f"plain all-reduce: {compared(plain, whole)} against one process")
        print(
            f"{scheme}, {replaced} layers replaced: {compared(compressed, plain)} against the plain all-reduce",
            flush=True,
        )
    dist.destroy_process_group()


def main() -> None:
    """Two gloo processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", default="flash-int8")
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (options.ranks, os.path.join(folder, "store"), options.scheme), nprocs=options.ranks)


if __name__ == "__main__":
    main()
