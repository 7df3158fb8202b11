"""A table of sensitivities as a measurement would write it, made up by a seeded rule."""

import math
import random
from typing import Any

from thinwire.reference.mixed import DROP

MODEL = "smollm2-135m"
# Nats a point, on average over points: an order of magnitude for each bit or so, as measured.
LOSSES = {
    "bf16": 0.0,
    "flash-int8": 3e-5, "flash2-int6": 2e-4, "flash2-int5": 1e-3, "flash-int4": 6e-3, "flash-int4+exempt-1": 4e-3,
    "all_gather:int4-g128-zp": 3e-3, "flash2-int2-sr": 0.1, DROP: 0.02,
}  # fmt: skip


FLOOR = 2e-4  # what any change at all does to a model in bf16


def table(layers: int = 30, **changes: Any) -> dict[str, Any]:
    """A table of sensitivities: points differ by orders of magnitude, as measured ones do."""
    chance = random.Random(1)
    scale = {site: [math.exp(chance.gauss(0, 1.3)) for _ in range(layers)] for site in ("attention", "mlp")}
    choices = {
        name: {
            site: {"kl": [FLOOR + loss * x for x in scale[site]]}
            for site in scale
            if name != DROP or site == "attention"
        }
        for name, loss in LOSSES.items()
    }
    source = {"kind": "made", "how": "up", "text": "none"}
    return {
        "kind": "thinwire sensitivity 1", "model": MODEL, "title": "Synthetic", "layers": layers, "tp": 3,
        "prompt_tokens": 9,
        "source": source, "choices": choices, **changes,
    }  # fmt: skip
