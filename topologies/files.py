"""Reads one machine or GPU file; a refusal names file, line and rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from thinwire.edge.limits import TOML_BYTES
from thinwire.edge.reading import UnreadableError, is_there, parsed_toml, text
from thinwire.edge.words import cut, meant, place, refusal, shown
from thinwire.topologies.cluster import Cluster, DisconnectedError, Gpu
from thinwire.topologies.generators import Fabric
from thinwire.topologies.lines import KeyPath, line_of, locate
from thinwire.topologies.names import FileError, names, shipped, unknown
from thinwire.topologies.schema import TOPOLOGIES, Explicit, GpuFile, MachineFile, MisplacedError, MultiNode, OneNode
from thinwire.topologies.units import Table, si_or_none

_Model = TypeVar("_Model", bound=Table)


class Document:
    """A parsed TOML file with the line of each key, and its text. what: the file is, where it cannot be read.

    FileError where it is not TOML, UnreadableError where there is nothing to read; both are ValueErrors.
    """

    def __init__(self, path: Path, what: str = "the file") -> None:
        self.path = path
        try:
            self.text = text(path, what, TOML_BYTES.most)
            self.data = parsed_toml(self.text, path, what)
        except UnreadableError as error:
            if error.line:
                raise FileError(path, error.line, error.reason) from None
            raise
        self.lines = locate(self.text)

    def refuse(self, key: KeyPath, rule: str) -> FileError:
        """The error that says which rule the value at `key` breaks, and where."""
        dotted = ".".join(cut(str(part)) for part in key)
        return FileError(self.path, line_of(self.lines, key), f"{dotted}: {rule}" if dotted else rule)

    def check(self, model: type[_Model], data: Mapping[str, Any], at: KeyPath = ()) -> _Model:
        """`data`, the table at `at`, as `model`; refuses with the file's first error, missing keys last."""
        try:
            return model.model_validate(data)
        except ValidationError as refused:
            errors = refused.errors(include_url=False)
        # A misspelt key makes another one missing: the misspelling is what the user wants to hear of.
        lines = [line_of(self.lines, (*at, *_place(error["loc"]))) for error in errors]
        first = min(range(len(errors)), key=lambda i: (errors[i]["type"] == "missing", lines[i]))
        raise self._refusal(model, at, dict(errors[first]))

    def _refusal(self, model: type[Table], at: KeyPath, error: dict[str, Any]) -> FileError:
        loc, kind = _place(error["loc"]), error["type"]
        if kind == "extra_forbidden":
            allowed = _keys(model, loc[:-1])
            hint = meant(str(loc[-1]), allowed, most=1) or f"allowed: {', '.join(allowed)}"
            return self.refuse((*at, *loc), f"unknown key; {hint}")
        if kind in ("model_type", "model_attributes_type") and loc:
            keys = ", ".join(_keys(model, loc))
            return self.refuse((*at, *loc), f"must be a table with {keys}; given {shown(error['input'])}")
        return self.refuse((*at, *loc), refusal(error))


def _place(loc: tuple[str | int, ...]) -> KeyPath:
    return tuple(part for part in loc if part != "[key]")


def _keys(model: type[BaseModel], loc: KeyPath) -> list[str]:
    """The keys allowed in the table at `loc` of `model`."""
    table: Any = model
    for part in loc:
        if isinstance(part, str) and part in getattr(table, "model_fields", {}):
            table = _table_in(table.model_fields[part].annotation)
    return list(getattr(table, "model_fields", {}))


def _table_in(annotation: Any) -> Any:
    """The `Table` inside an annotation such as `list[NodeTable]` or `WireTable | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _table_in(part)) is not None), None)


def _quantities(data: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and source of every number of a checked file."""
    for key, value in data.items():
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, item in items:
            if isinstance(item, dict):
                name = f"{at}{key}" if index is None else f"{at}{key}.{index}"
                if isinstance(item.get("source"), str) and "unit" in item:
                    yield name, item["source"]
                else:
                    yield from _quantities(item, f"{name}.")


@cache
def catalog_gpu(name: str) -> Gpu:
    """A GPU of the catalog."""
    return read_gpu(shipped("gpu", name))


@cache
def catalog_cluster(name: str) -> Cluster:
    """A machine of the catalog."""
    return read_cluster(shipped("cluster", name))


def read_gpu(path: Path) -> Gpu:
    """The GPU of a TOML file; `FileError` when it breaks a rule."""
    document = Document(path, "the GPU's file")
    file = document.check(GpuFile, document.data)
    if file.relative is not None and (file.relative not in names("gpu") or file.relative == file.name):
        hint = meant(file.relative, names("gpu"), cutoff=0.4) or "thinwire gpus lists them"
        raise document.refuse(("relative",), f"must be another GPU of the catalog: {shown(file.relative)}; {hint}")
    return Gpu(
        name=file.name,
        peak_flops_per_s={precision: peak.si for precision, peak in file.peak.items()},
        memory_bytes=file.memory.si,
        memory_bandwidth_bytes_per_s=file.memory_bandwidth.si,
        sm_count=int(file.sm_count.si),
        l2_bytes=None if file.l2 is None else file.l2.si,
        sources=dict(_quantities(document.data)),
        pci_ids=tuple(file.pci_ids),
        product_names=tuple(file.product_names),
        architecture=file.architecture,
        chip=file.chip,
        relative=file.relative,
        matmul_flops_per_s=si_or_none(file.matmul),
        title=file.title,
    )


def read_cluster(path: Path) -> Cluster:
    """The cluster of a TOML file; `FileError` when it breaks a rule."""
    document = Document(path, "the machine's file")
    file = document.check(MachineFile, document.data)
    gpu = _gpu_of(document, file.gpu)
    fabric, topology = _topology(document, file.topology, ("topology",))
    domains = tuple(table.domain() for table in file.domain)
    for index, domain in enumerate(domains):
        for rank in (
            *domain.ranks,
            *(rank for each in (*domain.switches, *(n.ranks for n in domain.nics)) for rank in each),
        ):
            if rank >= len(fabric.gpus):
                raise document.refuse(("domain", index), f"no GPU has rank {rank}: ranks are 0..{len(fabric.gpus) - 1}")
    try:
        found = fabric.cluster(
            name=file.name,
            title=file.title,
            gpu=gpu,
            fabric=file.fabric,
            sources=dict(_quantities(document.data)),
            assumptions=(f"peer-to-peer: {file.peer_to_peer}", *file.assumptions),
        )
        return replace(found, domains=domains) if domains else found
    except DisconnectedError as error:
        at: KeyPath = ("topology",)
        if isinstance(topology, Explicit):
            names = [node.name for node in topology.nodes]
            at = ("topology", "nodes", names.index(error.node), "name")
        raise document.refuse(at, str(error)) from None
    except ValueError as error:
        raise document.refuse(("topology",), str(error)) from None


def _gpu_of(document: Document, gpu: str) -> Gpu:
    """A catalog GPU, or the one in a TOML file named relative to the machine's file."""
    if not gpu.endswith(".toml"):
        if gpu not in names("gpu"):
            raise document.refuse(("gpu",), unknown("gpu", gpu))
        return catalog_gpu(gpu)
    path = document.path.parent / gpu
    if not is_there(path):
        raise document.refuse(("gpu",), f"no such file: {place(path)}")
    return read_gpu(path)


def _topology(document: Document, data: Mapping[str, Any], at: KeyPath) -> tuple[Fabric, Table]:
    """The table at `at` built by the generator its `kind` names."""
    kinds = tuple(TOPOLOGIES)
    if "kind" not in data:
        raise document.refuse((*at, "kind"), f"missing key (allowed: {', '.join(kinds)})")
    kind = data["kind"]
    model = TOPOLOGIES.get(kind) if isinstance(kind, str) else None
    if model is None:
        hint = meant(str(kind), kinds, most=1)
        said = f"unknown kind {shown(kind)}" + (f"; {hint}" if hint else "")
        raise document.refuse((*at, "kind"), f"{said} (allowed: {', '.join(kinds)})")
    topology: OneNode | MultiNode = document.check(model, data, at)
    if isinstance(topology, MultiNode):
        node, inner = _topology(document, topology.node, (*at, "node"))
        if isinstance(inner, MultiNode):
            raise document.refuse((*at, "node", "kind"), "a node is one machine, not several")
    try:
        if isinstance(topology, MultiNode):
            return topology.build_around(node), topology
        return topology.build(), topology
    except MisplacedError as error:
        raise document.refuse((*at, *error.path), str(error)) from None
    except ValueError as error:
        raise document.refuse(at, str(error)) from None
