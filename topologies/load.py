"""The catalog of machines and GPUs, and a user's own files: the way in to this package.

Reading a file needs pydantic, which costs as much to import as the rest of this package together; it is
imported when the first file is read.
"""

from __future__ import annotations

from pathlib import Path

from thinwire.topologies.cluster import Cluster, Gpu
from thinwire.topologies.names import names, own_file


def cluster_names() -> tuple[str, ...]:
    """The catalog's machines, sorted."""
    return names("cluster")


def gpu_names() -> tuple[str, ...]:
    """The catalog's GPUs, sorted."""
    return names("gpu")


def load_cluster(name_or_path: str | Path) -> Cluster:
    """A catalog machine by name, or a user's by the path of its TOML file (`.toml` at the end, or a `/`).

    ValueError for an unknown name, with near matches; `FileError` (a ValueError) for a file that breaks a
    rule.
    """
    path = own_file("cluster", name_or_path)
    from thinwire.topologies.files import catalog_cluster, read_cluster

    return catalog_cluster(str(name_or_path)) if path is None else read_cluster(path)


def load_gpu(name_or_path: str | Path) -> Gpu:
    """A catalog GPU by name, or a user's by path; errors as `load_cluster`."""
    path = own_file("gpu", name_or_path)
    from thinwire.topologies.files import catalog_gpu, read_gpu

    return catalog_gpu(str(name_or_path)) if path is None else read_gpu(path)
