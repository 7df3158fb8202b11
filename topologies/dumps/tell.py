"""What kind of file somebody gave: a dump that can be imported, and whose parser; or one line that says what it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from thinwire.edge.reading import UnreadableError
from thinwire.edge.words import place
from thinwire.topologies.dumps.names import Named, named
from thinwire.topologies.dumps.nccl import nccl
from thinwire.topologies.dumps.plain import GRAPHS, WHAT, plain
from thinwire.topologies.dumps.rates import rates
from thinwire.topologies.dumps.rocm import is_rocm, rocm
from thinwire.topologies.dumps.seen import Seen
from thinwire.topologies.dumps.smi import smi

KINDS = (
    "NCCL's topology XML (NCCL_TOPO_DUMP_FILE), `nvidia-smi topo -m`, `rocm-smi --showtopo`, nvbandwidth, "
    "p2pBandwidthLatencyTest"
)
_OTHERS = (
    (r"<!doctype html|<html[\s>]", "a web page: save the raw text instead"),
    (r"#\s+size\s+count\s+type|nccl-tests|out-of-place\s+in-place|# nThread \d+ nGpus|Avg bus bandwidth|"
     r"^[^\n]{0,80}\s\d{1,12}[ \t]{1,20}\d{1,12}[ \t]{1,20}(?:float|half|bfloat16|double|u?int(?:8|32|64))[ \t]",
     "an nccl-tests log: `thinwire calibrate --logs` reads it"),
    (r"^[ \t]{0,80}(?:\[topology\]|fabric\s{0,9}=|peer_to_peer\s{0,9}=)",
     "a machine file already: `thinwire cluster show` reads it"),
    (r"^[ \t]{0,80}\[project\]|^[ \t]{0,80}\[tool\.", "a TOML file that describes no machine"),
    (r"NCCL INFO", "a log of NCCL's: NCCL_TOPO_DUMP_FILE=topo.xml makes NCCL dump the topology itself"),
    (r"^[ \t]{0,80}<graphs\b", GRAPHS),
    (r"\A\s*[{\[]\s*[\"{\[\]}]", "JSON, which none of these tools prints of a topology"),
    (r"No devices were found|NVIDIA-SMI has failed|command not found",
     "an error message: the command found no GPU, or was not found itself"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """All that one file says: structures and measurements, and the GPUs it names."""

    path: str
    seen: tuple[Seen, ...]
    names: tuple[Named, ...]


def tell(path: str | Path) -> Told:
    """Read one file. UnreadableError (a ValueError) in one line for what cannot be imported."""
    shown = str(path)
    text = plain(path)
    try:
        return _told(text, shown)
    except UnreadableError:
        raise
    except ValueError as error:  # a limit: which file is said here
        raise UnreadableError(shown, WHAT, str(error)) from None


def _told(text: str, path: str) -> Told:
    if re.search(
        r"^\s*(?:[$#]\s.{0,200}\n\s*)?<(?:\?xml|!--|!DOCTYPE|!ENTITY|system|graphs)|<system\s+version",
        text[:65536],
        re.IGNORECASE,
    ):
        if re.search(r"<!doctype html|<html[\s>]", text[:65536], re.IGNORECASE):
            raise UnreadableError(path, WHAT, "it is a web page: save the raw text instead")
        return Told(path, (nccl(text, path),), ())
    found = [*smi(text, path)]
    if is_rocm(text):
        found.append(rocm(text, path))
    measured = rates(text, path)
    if measured is not None:
        found.append(measured)
    names = named(text)
    if found or names:
        return Told(path, tuple(found), names)
    raise UnreadableError(path, WHAT, what_else(text))


def what_else(text: str) -> str:
    """What a text is that no parser takes."""
    for pattern, what in _OTHERS:
        if re.search(pattern, text, re.IGNORECASE | re.MULTILINE):
            return f"it is {what}"
    if re.search(r"<[a-z][\w:-]{0,40}[\s>/]", text[:4096], re.IGNORECASE) and "</" in text:
        return "it is XML or HTML, but no topology of NCCL's"
    return f"it is none of {KINDS}"


def importable(path: str | Path) -> bool:
    """Whether a file is one that `cluster import` reads: for a hint, so any fault of it is a no."""
    try:
        return bool(tell(path).seen)
    except ValueError:
        return False


def hint(path: str | Path) -> str:
    """The sentence that sends a dump to the importer."""
    where = place(path)
    return f"{where} is a dump of a machine, no machine file: thinwire cluster import {where} --out machine.toml"
