"""Which catalog GPU a machine has: by --gpu, by PCI device id, or by the product's name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from thinwire.edge.words import cut, shown
from thinwire.topologies.cluster import Gpu
from thinwire.topologies.dumps.names import Named
from thinwire.topologies.dumps.seen import SeenGpu
from thinwire.topologies.load import gpu_names, load_gpu

_MAKERS = re.compile(r"\b(?:NVIDIA|AMD|Tesla|Graphics|Device)\b|\(R\)|\(TM\)|®|™", re.IGNORECASE)


def identify(gpus: Sequence[SeenGpu], given: str | None, notes: list[str]) -> Gpu:
    """The catalog's GPU. ValueError where nothing tells it, with the device id, and what to pass."""
    told = Counter(name for name in (of(gpu) for gpu in gpus) if name is not None)
    if given is not None:
        found = load_gpu(_spelt(given))
        if told and set(told) != {found.name}:
            notes.append(f"the files' GPUs are {', '.join(sorted(told))}, --gpu says {found.name}: --gpu counts")
        return found
    if len(told) == 1 and all(of(gpu) is not None for gpu in gpus):
        return load_gpu(next(iter(told)))
    if told:
        mixed = ", ".join(f"{count} x {name}" for name, count in sorted(told.items()))
        rest = len(gpus) - told.total()
        others = f", {rest} x {_unknown([gpu for gpu in gpus if of(gpu) is None])}" if rest else ""
        raise ValueError(
            f"its GPUs differ ({mixed}{others}), and a machine has GPUs of one kind: pass --gpu NAME for the one meant"
        )
    raise ValueError(f"{_unknown(gpus)}: pass --gpu NAME (`thinwire gpus` lists them)")


def _spelt(given: str) -> str:
    """A catalog name of a product's, as drivers or people write it; what is none stays, for the catalog to refuse."""
    if given in gpu_names() or given.endswith(".toml"):
        return given
    known = {_bare(product): name for name in gpu_names() for product in load_gpu(name).product_names}
    if (name := known.get(_bare(given))) is not None:
        return name
    run = re.sub(r"[\s_-]", "", given.lower())  # rtx4090, a100sxm, 4090
    alike = [name for name in gpu_names() if run in (name.replace("-", ""), name.rpartition("-")[2])]
    return alike[0] if len(alike) == 1 else given


def _unknown(gpus: Sequence[SeenGpu]) -> str:
    if several := sorted({name for gpu in gpus for name in _candidates(gpu)}):
        return f"a GPU that may be {' or '.join(several[:6])}, for its name is cut"
    ids = sorted({gpu.pci_id for gpu in gpus if gpu.pci_id})
    products = sorted({gpu.product for gpu in gpus if gpu.product})
    archs = sorted({gpu.arch for gpu in gpus if gpu.arch})
    if ids or products:
        said = " ".join([*(f"PCI id {each}" for each in ids[:2]), *(f"product {shown(each)}" for each in products[:2])])
        return f"a GPU that the catalog does not know, {cut(said)}{f' ({archs[0]})' if archs else ''}"
    if archs:
        return f"{len(gpus)} GPUs that the file names by architecture alone ({', '.join(archs[:3])})"
    return f"{len(gpus)} GPUs, and no line says which (`nvidia-smi -L`, given as one more file, would)"


def of(gpu: SeenGpu) -> str | None:
    """The catalog's name of what a file says; None where it is unknown or several would do."""
    found = _candidates(gpu)
    return found[0] if len(found) == 1 else None


def _candidates(gpu: SeenGpu) -> list[str]:
    return [name for name in gpu_names() if _is(load_gpu(name), gpu)]


def _is(known: Gpu, gpu: SeenGpu) -> bool:
    if gpu.pci_id is not None:
        return gpu.pci_id in known.pci_ids
    if gpu.product is None:
        return False
    said = _bare(gpu.product)
    if said.endswith("..."):  # nvidia-smi's table cuts long names
        return len(said) > 6 and any(_bare(each).startswith(said[:-3].rstrip()) for each in known.product_names)
    return any(said == _bare(each) for each in known.product_names)


def _bare(product: str) -> str:
    """A product's name without its maker's, in one case."""
    return " ".join(_MAKERS.sub(" ", product).lower().replace("-", " ").split())


def labelled(gpus: Sequence[SeenGpu], names: Sequence[Named], notes: list[str]) -> tuple[SeenGpu, ...]:
    """GPUs with the products and ids that another text tells of them: by number, or where all are alike."""
    if not names:
        return tuple(gpus)
    alike = {(each.product, each.pci_id) for each in names}
    if len(names) != len(gpus):
        notes.append(
            f"{len(names)} GPUs are named, {len(gpus)} are placed"
            + ("" if len(alike) > 1 else ": all are taken to be alike")
        )
        if len(alike) > 1:
            return tuple(gpus)
    found = []
    for i, gpu in enumerate(gpus):
        name = names[i] if len(names) == len(gpus) else names[0]
        found.append(replace(gpu, product=gpu.product or name.product, pci_id=gpu.pci_id or name.pci_id))
    return tuple(found)
