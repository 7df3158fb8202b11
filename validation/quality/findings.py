"""What the tables say, as docs/accuracy.md and its pictures ask: winners, and which look-ups fail."""

from thinwire.sim.choices import Compress
from thinwire.sim.verdict import Limit
from thinwire.validation.quality.measured import Lookups, Measured, bits, kl, known, least, two_steps

BUDGETS = (4.2, 5.0, 6.0, 8.0)  # bits a value
LENGTHS = (512, 2000)  # of look-ups in the table
TRIALS = 400
FAR = 8000
NEAR = 512  # tokens of the prompt whose answers are looked at by distance
PLAIN, LAST = "flash-int4", "flash-int4+exempt-last-1"  # the schemes that sentences are about
USABLE = round(Limit().perplexity - 1, 9)  # of perplexity
SEEN = 5.0  # points of look-ups that are more than a little
STRETCHES = {1: "token 1", 2: "2", 8: "3..8", 32: "9..32", 128: "33..128", 512: "129..512"}
DEGREES = (2, 4, 8)


def winners(measured: Measured, compress: Compress = "prompt") -> list[str]:
    """The two-step scheme of least KL of each budget, whole prompts compressed."""
    found = []
    for budget in BUDGETS:
        within = [name for name in measured.names if two_steps(name) and bits(name) <= budget and "exempt" not in name]
        found.append(least(measured, within, compress))
    return found


def loss(measured: Measured, name: str) -> float:
    """KL of prompts alone."""
    return kl(known(measured.loss(name))).value


def reached(measured: Measured) -> list[int]:
    """Lengths of prompts whose answers were looked at by distance."""
    return sorted({row["prompt_tokens"] for row in measured.prompt["rows"] if "edge" in row})


def asked(measured: Measured) -> list[str]:
    """Compressing schemes with look-ups at both lengths, those that lose least first."""
    names = [name for name in measured.of_case(f"retrieval key-value {LENGTHS[0]}") if bits(name) < 16]
    both = [name for name in names if all(measured.lookups(name, "key-value", length) for length in LENGTHS)]
    return sorted(both, key=lambda name: sum(found.lost.value for found in pair(measured, name)))


def pair(measured: Measured, name: str) -> list[Lookups]:
    """Key-value look-ups at both lengths."""
    return [known_lookups(measured, name, length) for length in LENGTHS]


def known_lookups(measured: Measured, name: str, length: int) -> Lookups:
    """Key-value look-ups; ValueError where there are none."""
    found = measured.lookups(name, "key-value", length)
    if found is None:
        raise ValueError(f"nobody asked {name} for look-ups at {length} tokens")
    return found


def free(measured: Measured) -> list[str]:
    """Schemes whose loss of look-ups is within chance at both lengths."""
    return [name for name in asked(measured) if not any(found.lost.shows for found in pair(measured, name))]


def lost_by(measured: Measured, name: str) -> str:
    """A scheme and its points at both lengths."""
    return f"`{name}` ({', '.join(f'{found.lost.value:.1f}' for found in pair(measured, name))})"


def both_lengths() -> str:
    """Of look-ups."""
    return " and ".join(f"{length:,}" for length in LENGTHS)
