"""What headings say: the model, its precision, the GPUs and the prompt. Never where a file lies."""

from collections.abc import Sequence
from pathlib import PurePath

from thinwire.sim.layers import formats
from thinwire.sim.report import Prediction
from thinwire.topologies.choose import named


def machine(name: str, gpus: Sequence[int]) -> str:
    """Its name, and which of its GPUs are meant where they are not the first ones."""
    return " ".join([plain(name), *([f"({said})"] if (said := named(gpus)) else [])])


def plain(name: str) -> str:
    """A name as it is; of what looks like a path, its last part."""
    return PurePath(name).name if "/" in name or "\\" in name else name


def asked(p: Prediction) -> str:
    """What a prediction is of."""
    prompt, c = p.prompt, p.cluster
    said = formats(p.model, prompt.weights, prompt.kv)
    shared = f", {p.sharing.words}" if p.model.is_mixture and p.tp > 1 else ""
    return (
        f"{plain(p.model.name)} ({said}) on {p.tp} x {c.gpu.name} of {machine(c.name, c.indices)}, "
        f"batch {prompt.batch} x {prompt.input_tokens} tokens{shared}"
    )


def bits(p: Prediction) -> str:
    """Bits a value of each phase, once where they are the same."""
    phases = {phase: bits for phase, bits in p.bits_per_value.items() if bits} or p.bits_per_value
    return "/".join(dict.fromkeys(f"{bits:.4g}" for bits in phases.values()))
