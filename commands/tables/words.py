"""What headings say: the model, its precision, the GPUs and the prompt. Never where a file lies."""

from collections.abc import Sequence
from pathlib import PurePath

from thinwire.edge.quantities import adding_up
from thinwire.sim.events.timeline import Breakdown
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


def parts_of(b: Breakdown, whole_s: float, power: int) -> list[float]:
    """Compute, exposed and waiting, in seconds rounded to a power of ten: as shown they add up to the whole."""
    return adding_up((b.compute_s, b.exposed_communication_s, b.waiting_s), power, whole_s)


def exchanges_of(b: Breakdown, power: int) -> list[float]:
    """Wire and codec, rounded alike; as shown they add up to what is exposed where nothing is hidden."""
    exposed_s = b.exposed_communication_s
    whole_s = b.communication_s + b.codec_s
    if abs(whole_s - exposed_s) < 1e-6 * (exposed_s or 1.0):
        whole_s = parts_of(b, b.compute_s + exposed_s + b.waiting_s, power)[1]
    return adding_up((b.communication_s, b.codec_s), power, whole_s)


def bits(p: Prediction) -> str:
    """Bits a value of each phase, once where they are the same."""
    phases = {phase: bits for phase, bits in p.bits_per_value.items() if bits} or p.bits_per_value
    return "/".join(dict.fromkeys(f"{bits:.4g}" for bits in phases.values()))
