"""Rotary positions of one kind of layer, in every spelling that configs have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinwire.edge.words import cut, shown
from thinwire.reference.core.mixers import Rope, RopeScaling
from thinwire.reference.families.rules import CHUNKED, FULL, SLIDING, Given

_ROPE_KINDS = {FULL: "full_attention", SLIDING: "sliding_attention", CHUNKED: "chunked_attention"}


def rope_of(given: Given, kind: str, head_dim: int, number: int) -> Rope:
    """As transformers: rope_scaling before rope_parameters unless it is empty, the table's base before that beside it;
    both may have a table a kind of layer.
    """
    family = given.family
    table = given.table("rope_scaling") or given.table("rope_parameters")
    key = "rope_scaling" if given.raw("rope_scaling") else "rope_parameters"
    nested = any(isinstance(table.get(word), Mapping) for word in _ROPE_KINDS.values())
    if nested:
        table = table.get(_ROPE_KINDS[kind]) or {}
        if not isinstance(table, Mapping):
            given.fault(f"{key}.{_ROPE_KINDS[kind]}: must be a table; given {shown(table)}")
    plain = family.plain_sliding and kind == SLIDING
    local = given.real("rope_local_base_freq") if plain else None
    theta = _number(given, table, "rope_theta", key) if nested or not plain else None
    if theta is None:
        theta = local or _of_layer(given, "rope_theta", number)
    partial = _number(given, table, "partial_rotary_factor", key)
    turned = given.maybe_size("rotary_dim")
    if partial is None and (given.has("partial_rotary_factor") or turned is None):
        partial = _of_layer(given, "partial_rotary_factor", number)
    dims = turned if partial is None else int(head_dim * partial)
    scaling = _scaling(given, table if nested or not plain else {}, key)
    if scaling is not None and scaling.kind == "proportional":
        dims = 2 * int((partial or 1.0) * head_dim // 2)
    assert dims is not None
    if dims % 2 and dims == head_dim:
        given.fault(f"head_dim must be even, since rotary positions turn pairs: head_dim={head_dim}")
    if dims % 2 or not 0 < dims <= head_dim:
        given.fault(f"rotary positions must turn an even number of a head's values: {dims} of {head_dim}")
    return Rope(dims, theta, given.told(family.interleaved), scaling)


def _of_layer(given: Given, word: str, number: int) -> float:
    """A number of the file, or a layer's of a row of them, or the family's."""
    said = given.raw(word)
    if isinstance(said, list):
        if number >= len(said):
            given.fault(f"{given.key(word)} must have a value for each layer: {len(said)}")
        found = given.checked("real", word, said[number])
    else:
        found = given.real(word) or given.checked("real", word, given.assumed(word))
    return float(found)


def _number(given: Given, table: Mapping[str, Any], word: str, key: str) -> float | None:
    """A positive finite number of the table, or nothing."""
    value = table.get(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e30:
        given.fault(f"{key}.{word}: must be a positive finite number; given {shown(value)}")
    return float(value)


def _scaling(given: Given, table: Mapping[str, Any], key: str) -> RopeScaling | None:
    said = table.get("rope_type") or table.get("type") or "default"
    if not isinstance(said, str):
        given.fault(f"{key}.rope_type: must be a word; given {shown(said)}")
    kind = "longrope" if said == "su" else said
    if kind in ("default", "mrope"):  # three positions a token, equal for text
        return None

    def needed(word: str) -> float:
        value = table.get(word)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            given.fault(f"rope_scaling {kind} needs a positive {word}: {shown(value)}")
        return float(value)

    def optional(word: str, otherwise: float | None = None) -> float | None:
        return otherwise if not table.get(word) else needed(word)

    if kind == "linear":
        return RopeScaling(kind, needed("factor"))
    if kind == "proportional":
        return RopeScaling(kind, optional("factor") or 1.0)
    if kind not in ("llama3", "yarn", "longrope"):
        return RopeScaling(cut(kind))
    # Phi-3 keeps the positions it was trained with beside the table.
    beside = given.positions("original_max_position_embeddings")
    original = beside or table.get("original_max_position_embeddings") or given.max_positions()
    if isinstance(original, bool) or not isinstance(original, int) or original < 1:
        given.fault(f"rope_scaling {kind} needs a positive original_max_position_embeddings: {shown(original)}")
    if kind == "llama3":
        factor, low, high = needed("factor"), needed("low_freq_factor"), needed("high_freq_factor")
        # Equal bounds leave nothing between them (Llama 4 Scout); transformers divides by zero and never looks.
        if low > high or (low == high and given.model_type != "llama4_text"):
            given.fault(f"rope_scaling llama3 needs low_freq_factor < high_freq_factor: {[low, high]}")
        return RopeScaling(kind, factor, low, high, original)
    if kind == "yarn":
        return RopeScaling(
            kind,
            needed("factor"),
            original_max_positions=original,
            beta_fast=optional("beta_fast") or 32.0,
            beta_slow=optional("beta_slow") or 1.0,
            attention_factor=optional("attention_factor"),
            mscale=optional("mscale"),
            mscale_all_dim=optional("mscale_all_dim"),
            truncate=table.get("truncate") is not False,
        )
    rows = []
    for word in ("short_factor", "long_factor"):
        values = table.get(word)
        if values is None:
            values = []
        good = isinstance(values, list) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < float("inf") for v in values
        )
        if not good:
            given.fault(f"rope_scaling {kind} needs positive numbers as {word}: {shown(values)}")
        rows.append(tuple(float(value) for value in values))
    return RopeScaling(
        kind,
        optional("factor") or max(given.max_positions() / original, 1.0),
        original_max_positions=original,
        attention_factor=optional("attention_factor"),
        short=rows[0],
        long=rows[1],
    )
