"""DeepSeek-V3 on eight RTX PRO 6000 over PCIe: how to share it out, and what is left for compression to do?

python examples/gallery/deepseek_on_pcie.py        the page: docs/examples/deepseek-on-pcie.md
"""

from dataclasses import dataclass
from typing import Any

import thinwire
from thinwire.sim.serving.serve import Paces

MODEL, MACHINE, TWO_SWITCHES = "deepseek-v3", "8xrtx-pro-6000-pcie", "8xrtx-pro-6000-2switch"
TOKENS, PROMPTS = 4096, 8
# Ways to share the model out: experts cut by columns, experts whole, and attention data-parallel besides.
CUT: dict[str, Any] = {}
WHOLE: dict[str, Any] = {"ep": 8}
OWN: dict[str, Any] = {"attention": "dp", "expert_exchange": "all-to-all"}


@dataclass(frozen=True)
class Answer:
    """Seconds to the first token, by way and scheme; what fits."""

    cut: dict[str, float]
    whole: dict[str, float]
    own: dict[str, float]
    own_interval: tuple[float, float]
    by_prompts: dict[int, tuple[float, float]]  # experts whole, own sequences; nothing compressed
    cache_tokens: int  # that experts whole leave room for in a service
    own_serves: bool
    two_switches: dict[str, float]  # experts whole, on the other machine


def ttft_s(scheme: str, way: dict[str, Any], prompts: int = PROMPTS, machine: str = MACHINE) -> float:
    """One prefill."""
    return thinwire.predict(MODEL, machine, scheme, batch=prompts, input_tokens=TOKENS, **way).ttft_s


def cache_tokens(way: dict[str, Any]) -> int:
    """Tokens that a service's KV cache has room for; 0: the weights leave none."""
    try:
        return Paces(thinwire.Deployment(MODEL, MACHINE, **way)).limits.kv_tokens
    except ValueError:
        return 0


def answer() -> Answer:
    """Three ways, all-reduces and dispatch compressed or not."""
    reduced = ("bf16", "flash-int8", "flash2-int6")
    dispatched = ("bf16", "deepep-fp8", "a2a-int8")
    interval = thinwire.predict(MODEL, MACHINE, "bf16", batch=PROMPTS, input_tokens=TOKENS, **OWN).interval
    return Answer(
        cut={scheme: ttft_s(scheme, CUT) for scheme in reduced},
        whole={scheme: ttft_s(scheme, WHOLE) for scheme in reduced},
        own={scheme: ttft_s(scheme, OWN) for scheme in dispatched},
        own_interval=(interval.low_s, interval.high_s),
        by_prompts={n: (ttft_s("bf16", WHOLE, n), ttft_s("bf16", OWN, n)) for n in range(1, PROMPTS + 1)},
        cache_tokens=cache_tokens(WHOLE),
        own_serves=cache_tokens(OWN) > 0,
        two_switches={scheme: ttft_s(scheme, WHOLE, machine=TWO_SWITCHES) for scheme in reduced},
    )


def said(a: Answer) -> list[str]:
    """The answer in sentences, the first first."""
    low, high = a.own_interval
    turn = min(n for n, (whole, own) in a.by_prompts.items() if own < whole)
    whole, own = a.by_prompts[1]
    two = a.two_switches
    serves = "has room for a KV cache too" if a.own_serves else "has no room for a KV cache beside its weights"
    return [
        f"For {PROMPTS} prompts of {TOKENS:,} tokens at once, give every GPU sequences of its own and send tokens to "
        f"their experts: {a.own['bf16']:.2f} s to the first token, where tensor parallelism takes {a.cut['bf16']:.2f} "
        f"s, and nothing is compressed yet.",
        f"A service on these GPUs cannot do so: that way {serves}; tensor parallelism with whole experts has room for "
        f"{a.cache_tokens:,} tokens, and takes {a.whole['bf16']:.2f} s, with INT6 all-reduces "
        f"{a.whole['flash2-int6']:.2f} s.",
        f"FP8 dispatch brings {a.own['bf16']:.2f} s down to {a.own['deepep-fp8']:.2f} s, INT8 both ways to "
        f"{a.own['a2a-int8']:.2f} s.",
        f"Whole experts instead of columns: {a.cut['bf16']:.2f} s become {a.whole['bf16']:.2f} s.",
        f"Own sequences win from {turn} prompts on; a single one takes {own:.2f} s that way and {whole:.2f} s with "
        f"tensor parallelism and whole experts.",
        f"Behind two PCIe switches, tensor parallelism takes {two['bf16']:.2f} s as it is, {two['flash-int8']:.2f} s "
        f"with INT8 and {two['flash2-int6']:.2f} s with INT6 all-reduces.",
        f"The 90 % interval of the {a.own['bf16']:.2f} s is {low:.2f} to {high:.2f} s.",
    ]


def main() -> None:
    """Print them."""
    print("\n".join(said(answer())))


if __name__ == "__main__":
    main()
