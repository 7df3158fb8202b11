"""A Hugging Face Llama whose all-reduces are compressed, in two processes on this machine.

    pip install 'thinwire[reference]' transformers
    python examples/hf_llama.py --scheme flash-int4

The model is tiny and its weights random: the point is the one line that applies a scheme.
"""

import argparse
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from thinwire.reference.parallel import CompressedRowwiseParallel


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


def plan(row: object) -> dict[str, object]:
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


def worker(rank: int, ranks: int, store: str, scheme: str) -> None:
    """Logits without tensor parallelism, with plain and with compressed all-reduces."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    tokens = torch.randint(0, 512, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = tiny_llama()(tokens).logits.float()
        plain = parallelize_module(tiny_llama(), mesh, plan(RowwiseParallel()))(tokens).logits.float()
        compressed = parallelize_module(tiny_llama(), mesh, plan(CompressedRowwiseParallel(scheme)))(
            tokens
        ).logits.float()
    if rank == 0:
        for name, logits in (("plain all-reduce", plain), (scheme, compressed)):
            error = float((logits - whole).norm() / whole.norm())
            agree = float((logits.argmax(-1) == whole.argmax(-1)).float().mean())
            print(f"{name}: relative error of the logits {error:.4f}, same top token {agree:.0%}", flush=True)
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
