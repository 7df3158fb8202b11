"""How layers alternate, as functions that a family's literal names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thinwire.edge.words import shown
from thinwire.reference.families.rules import FULL, SLIDING, Given, Kind, Pattern


def every(word: str, usual: int, rest: Kind = "sliding", last: Kind = "full") -> Pattern:
    """The last of each so many layers is `last`, the others are `rest`. The file may give the number, or letters (L:
    local, G: global; EXAONE 4).
    """

    def pattern(given: Given, count: int) -> Sequence[str]:
        said = given.raw(word)
        if isinstance(said, str):
            if not said or set(said) - {"L", "G"}:
                given.fault(f"{given.key(word)}: must be a number, or letters L and G; given {shown(said)}")
            return [last if said[layer % len(said)] == "G" else rest for layer in range(count)]
        step = usual if said is None else given.size(word)
        return [rest if (layer + 1) % step else last for layer in range(count)]

    return pattern


def always(kind: str) -> Pattern:
    """The same in every layer."""
    return lambda given, count: [kind] * count


def behind(word: str, usual: int) -> Pattern:
    """Windows from layer `max_window_layers` on (Qwen 2 and 3)."""

    def pattern(given: Given, count: int) -> Sequence[str]:
        first = given.count(word) if given.raw(word) is not None else usual
        return [SLIDING if layer >= first else FULL for layer in range(count)]

    return pattern


def flags(word: str, yes: str, no: str, otherwise: Pattern) -> Pattern:
    """One flag a layer, 0 or 1; or another pattern where the file has none."""

    def pattern(given: Given, count: int) -> Sequence[str]:
        said = given.counts(word)
        if not said:
            return otherwise(given, count)
        return [yes if value else no for value in given.row(word, said, count, given.count("mtp"))]

    return pattern


def dense_first(usual: int) -> Pattern:
    """Dense up to `first_k_dense_replace`, and experts in each `moe_layer_freq`-th layer behind; or as
    `mlp_layer_types` or a `moe_layer_freq` of one flag a layer says (DeepSeek).
    """

    def pattern(given: Given, count: int) -> Sequence[str]:
        said = given.texts("mlp_layer_types")
        if said is not None:
            for word in set(said) - {"dense", "sparse"}:
                given.fault(f"mlp_layer_types: must be dense or sparse; given {shown(word)}")
            return given.row("mlp_layer_types", said, count, given.count("mtp"))
        if isinstance(given.raw("moe_layer_freq"), list):
            return flags("moe_layer_freq", "sparse", "dense", always("sparse"))(given, count)
        first = usual if given.raw("first_k_dense_replace") is None else given.count("first_k_dense_replace")
        if first > count and given.raw("first_k_dense_replace") is not None:
            given.fault(f"{given.key('first_k_dense_replace')} must be at most the {count} layers: {first}")
        step = given.maybe_size("moe_layer_freq") or 1
        return ["sparse" if layer >= first and layer % step == 0 else "dense" for layer in range(count)]

    return pattern


def sparse_step(given: Given, count: int) -> Sequence[str]:
    """Experts in each `decoder_sparse_step`-th layer but those of `mlp_only_layers` (Qwen)."""
    step = given.maybe_size("decoder_sparse_step") or 1
    plain = set(given.counts("mlp_only_layers") or ())
    return ["dense" if layer in plain or (layer + 1) % step else "sparse" for layer in range(count)]


def rotated_with_windows(given: Given, count: int, kinds: Sequence[str]) -> Sequence[bool]:
    """Layers that see everything do not rotate, if others have a window (Command A, EXAONE 4)."""
    windows = given.positions("sliding_window") is not None
    return [kind == SLIDING or not windows for kind in kinds]


def rotated_by_list(word: str, interval: str, usual: int) -> Callable[[Given, int, Sequence[str]], Sequence[bool]]:
    """One flag a layer, 1: it rotates; or all but each so-manieth (SmolLM 3, Llama 4)."""

    def rule(given: Given, count: int, kinds: Sequence[str]) -> Sequence[bool]:
        said = given.counts(word)
        if said:
            return [bool(value) for value in given.row(word, said, count)]
        step = given.maybe_size(interval) or usual
        return [(layer + 1) % step != 0 for layer in range(count)]

    return rule


def by_choice(given: Given, count: int) -> Sequence[str]:
    """Granite 4: experts in all layers or in none."""
    return [("sparse" if given.count("num_experts") else "dense")] * count
