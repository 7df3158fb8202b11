"""Two sockets joined by a slow link: which GPUs to take, and which scheme?

python examples/gallery/a_slow_socket_link.py        the page: docs/examples/a-slow-socket-link.md
"""

from dataclasses import dataclass

import thinwire

MODEL, MACHINE, PROMPTS, TOKENS = "llama-3-70b", "8xl40s-pcie", 4, 2048
SLOW = 0.25  # of the rate that the link of the catalog's host has
ALL, SOCKET, TWO_EACH, ZIGZAG = "0-7", "0-3", "0,1,4,5", "0,4,1,5"
PLAIN, FLAT, ISLANDS, INT4_ISLANDS = "bf16", "flash2-int6", "hierarchical:int6", "flash2-int4-hier"
SCHEMES = (PLAIN, FLAT, ISLANDS, INT4_ISLANDS)


def predicted(scheme: str, gpus: str, share: float) -> thinwire.Prediction:
    """On these GPUs, with the link between sockets at a share of its rate."""
    links = {"bridge*->bridge*": share}
    return thinwire.predict(
        MODEL, MACHINE, scheme, weights="fp8", gpus=gpus, batch=PROMPTS, input_tokens=TOKENS, scaled_links=links
    )


def ttft_s(scheme: str, gpus: str, share: float = SLOW) -> float:
    """Seconds to the first token."""
    return predicted(scheme, gpus, share).ttft_s


@dataclass(frozen=True)
class Answer:
    """Seconds, by scheme, GPUs and share of the link's rate; the share at which all GPUs are as soon as a socket's."""

    slow: dict[tuple[str, str], float]
    by_share: dict[float, tuple[float, float]]  # all eight: in two steps, by islands
    interval: tuple[float, float]
    even_share: float


def answer() -> Answer:
    """All pairs at the slow rate, all eight at three rates, and a bisection."""
    best = predicted(FLAT, SOCKET, SLOW)
    low, high = SLOW, 2.0
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (low, middle) if ttft_s(ISLANDS, ALL, middle) < best.ttft_s else (middle, high)
    groups = (ALL, SOCKET, TWO_EACH, ZIGZAG)
    return Answer(
        slow={(scheme, gpus): ttft_s(scheme, gpus) for scheme in SCHEMES for gpus in groups},
        by_share={share: (ttft_s(FLAT, ALL, share), ttft_s(ISLANDS, ALL, share)) for share in (1.0, 0.5, SLOW)},
        interval=(best.interval.low_s, best.interval.high_s),
        even_share=high,
    )


def said(a: Answer) -> list[str]:
    """The answer in sentences, the first first."""
    socket, low, high = a.slow[FLAT, SOCKET], *a.interval
    shares = "; ".join(f"{share:.0%}: {flat:.2f} and {islands:.2f} s" for share, (flat, islands) in a.by_share.items())
    return [
        f"With the link at {SLOW:.0%} of its rate, stay on one socket: its four GPUs take {socket:.2f} s to the first "
        f"token with INT6, all eight {a.slow[ISLANDS, ALL]:.2f} s by islands, {a.slow[INT4_ISLANDS, ALL]:.2f} s even "
        f"with INT4.",
        f"Uncompressed, all eight take {a.slow[PLAIN, ALL]:.2f} s, a socket's four {a.slow[PLAIN, SOCKET]:.2f} s.",
        f"All eight with INT6, in two steps and by islands, at shares of the link's rate: {shares}.",
        f"Two GPUs of each socket take {a.slow[PLAIN, TWO_EACH]:.2f} s uncompressed as ranks {TWO_EACH}, and "
        f"{a.slow[PLAIN, ZIGZAG]:.2f} s as ranks {ZIGZAG}; by islands with INT6, {a.slow[ISLANDS, TWO_EACH]:.2f} s "
        f"in either order.",
        f"The 90 % interval of the {socket:.2f} s is {low:.2f} to {high:.2f} s.",
        f"By islands, all eight are sooner than one socket's four where the link keeps more than {a.even_share:.0%} of "
        f"its rate.",
    ]


def main() -> None:
    """Print them."""
    print("\n".join(said(answer())))


if __name__ == "__main__":
    main()
