"""Cross-attention cases for tests: tensors from a seed, cut over ranks, and one way to run either algorithm on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.cross_schedule import CrossShape, Wire, lv_bytes, ring_bytes
from thinwire.reference.core.scheme import Raw
from thinwire.reference.decoder.cross_attention import Mask, lv_xattn, padding, ring_attention
from thinwire.reference.groups.group import Group, LocalGroup, TorchGroup

FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def shape_of(case: dict[str, Any]) -> CrossShape:
    """Sizes of a case."""
    return CrossShape(
        case.get("batch", 2), case.get("heads", 4), case.get("kv_heads", 2), case.get("head_dim", 8),
        tuple(case["text"]), tuple(case["visual"]),
    )  # fmt: skip


def wire_of(case: dict[str, Any]) -> Wire:
    """Formats on the wire of a case."""
    raw = Raw(FORMATS[case.get("dtype", "float32")])
    return Wire(raw, parse_codec(case["partial"]) if case.get("partial") else raw, raw)


def whole(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all ranks, [B, H or G, tokens, K]; a few keys stand out, as sinks do."""
    shape, generator = shape_of(case), torch.Generator().manual_seed(case.get("seed", 0))
    found = []
    for heads, tokens in (
        (shape.heads, sum(shape.text)),
        (shape.kv_heads, sum(shape.visual)),
        (shape.kv_heads, sum(shape.visual)),
    ):
        x = torch.randn(shape.batch, heads, tokens, shape.head_dim, generator=generator, dtype=torch.float64)
        found.append(x)
    found[1][:, :, ::7] *= 4
    dtype = getattr(torch, case.get("dtype", "float32"))
    query, key, value = (x.to(dtype) for x in found)
    return query, key, value


def mask_of(case: dict[str, Any]) -> Mask | None:
    """The padding of a case, if any."""
    return padding(case["lengths"]) if "lengths" in case else None


def run(case: dict[str, Any], group: Group) -> list[Tensor]:
    """The outputs of the ranks that the group holds here."""
    shape = shape_of(case)
    query, key, value = whole(case)
    parts = [x.split(sizes, 2) for x, sizes in ((query, shape.text), (key, shape.visual), (value, shape.visual))]
    if isinstance(group, TorchGroup):
        parts = [(part[group.rank],) for part in parts]
    if case.get("method", "lv") == "ring":
        return ring_attention(*parts, shape, group, mask=mask_of(case))
    partial = parse_codec(case["partial"]) if case.get("partial") else None
    return lv_xattn(*parts, shape, group, mask=mask_of(case), partial=partial)


def run_local(case: dict[str, Any]) -> tuple[Tensor, list[int]]:
    """The outputs of all ranks, [B, H, T, K], and the bytes that each sent."""
    ranks = len(case["text"])
    group = LocalGroup(ranks)
    output = torch.cat(run(case, group), 2)
    sent = [0] * ranks
    for (source, _), count in group.sent_bytes.items():
        sent[source] += count
    return output, sent


def formula(case: dict[str, Any]) -> list[int]:
    """The bytes each rank sends, by the closed form."""
    count = ring_bytes if case.get("method", "lv") == "ring" else lv_bytes
    return list(count(shape_of(case), wire_of(case)))
