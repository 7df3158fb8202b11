"""What somebody drops on the page: a model, a machine, a log of nccl-tests, told apart by what is in it.

Bytes become values by the parsers that the command line uses, with their limits. For a moment they lie in the desk's
temporary folder, under a name of ours; nothing in them is executed, and the name given is only shown.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from thinwire.commands.reproduce import command_line
from thinwire.edge.limits import DUMP_BYTES, JSON_BYTES, LOG_BYTES, TOML_BYTES
from thinwire.edge.reading import from_toml
from thinwire.edge.words import cut
from thinwire.page.answers import dropped_model, file_of, machine_option
from thinwire.page.desk import Desk
from thinwire.page.documents import Dropped
from thinwire.page.state import State
from thinwire.reference.families.config import load_model
from thinwire.topologies.dumps.tell import tell
from thinwire.topologies.files import read_cluster
from thinwire.topologies.importing.machine import imported
from thinwire.topologies.load import gpu_names
from thinwire.topologies.names import unknown

MOST_BYTES = max(JSON_BYTES.most, TOML_BYTES.most, DUMP_BYTES.most, LOG_BYTES.most)
_LOG = re.compile(
    r"#\s+size\s+count\s+type|nccl-tests|rccl-tests|Avg bus bandwidth|out-of-place\s+in-place", re.IGNORECASE
)
_MACHINE = re.compile(r"^[ \t]{0,80}(?:\[topology\]|fabric\s{0,9}=|peer_to_peer\s{0,9}=|gpu\s{0,9}=)", re.MULTILINE)


class UntoldError(ValueError):
    """A dump that does not say which GPU it is of."""


def drop(desk: Desk, filename: str, body: bytes, state: State, gpu: str | None = None) -> Dropped:
    """What the bytes are, kept under a name that a state may have.

    Args:
        gpu: of the catalog, where a dump does not say which it is.

    Raises:
        UntoldError: a dump that does not say it, either.
        ValueError: one sentence: what it is instead, or what is wrong in it.
    """
    if gpu is not None and gpu not in gpu_names():
        raise ValueError(unknown("gpu", gpu))
    if not body.strip():
        raise ValueError("the file is empty")
    name = plain(filename)
    head = body[: 1 << 20].decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    folder = desk.new_folder()
    try:
        if head.startswith("{"):
            return _model(desk, folder, name, body)
        if _LOG.search(head):
            return _log(desk, folder, name, body, state)
        if _MACHINE.search(head) and not head.startswith("<"):
            return _machine(desk, folder, name, body)
        return _dump(desk, folder, name, body, gpu)
    except ValueError as error:
        rmtree(folder, ignore_errors=True)
        text = desk.said(error).replace(f"{folder.name}/", "").replace("machine.toml:", f"{name}:")
        if "pass --gpu" in text:
            raise UntoldError(f"{text.partition(', and no line')[0]}, and no line says which: choose the GPU") from None
        raise ValueError(text) from None


def plain(filename: str) -> str:
    """A name for people and for messages: the last part, without what a path or a terminal would take for more."""
    last = re.split(r"[/\\]", filename)[-1]
    kept = "".join(c if c.isprintable() and c not in "<>:\"|?*`$;&'" else "_" for c in last).strip(" .")
    return cut(kept, 60) or "file"


def _write(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path


def _model(desk: Desk, folder: Path, name: str, body: bytes) -> Dropped:
    title = re.sub(r"\.json$", "", name, flags=re.IGNORECASE) or "model"
    title = "model" if title == "config" else title
    if isinstance(found := _json(body), dict) and isinstance(path := found.get("_name_or_path"), str) and path:
        title = plain(path) if title == "model" else title
    path_ = _write(folder / "model.json", body)
    model = replace(load_model(str(path_)), name=title)
    key = desk.keep(model, path_)
    mixture = ", experts" if model.is_mixture else ""
    return {
        "kind": "model",
        "key": "model",
        "value": key,
        "label": title,
        "said": [
            f"{model.architecture}{mixture}: {model.num_layers} layers, width {model.hidden_size}, "
            f"{model.parameters / 1e9:.3g} B parameters",
            *(desk.said(note) for note in (*model.notes, *model.checkpoint.notes)),
        ],
        "option": dropped_model(key, model),
    }


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None  # whoever reads the file says what is wrong


def _machine(desk: Desk, folder: Path, name: str, body: bytes) -> Dropped:
    path = _write(folder / "machine.toml", body)
    if from_toml(path, "the machine").get("gpu") not in gpu_names():
        raise ValueError("a machine dropped here names a GPU of the catalog; a file of its own does not come with it")
    cluster = read_cluster(path)
    key = desk.keep(cluster, path)
    return {
        "kind": "machine", "key": "cluster", "value": key, "label": cluster.name,
        "said": [cluster.title, f"{len(cluster.gpus)} GPUs: {cluster.gpu.name}", *cluster.assumptions],
        "option": machine_option(key, cluster),
    }  # fmt: skip


def _dump(desk: Desk, folder: Path, name: str, body: bytes, gpu: str | None) -> Dropped:
    source = _write(folder / _safe(name), body)
    tell(source)  # what it is instead, in one line
    found = imported([str(source)], gpu, name=f"{Path(_safe(name)).stem or 'machine'}")
    path = folder / "machine.toml"
    path.write_text(found.text, "utf-8")
    key = desk.keep(found.cluster, path)
    told = [f"not told: {each.what}; taken: {each.taken}; {each.command} would tell it" for each in found.unknown]
    words = [name, *(["--gpu", gpu] if gpu else []), "--out", f"{found.cluster.name}.toml"]
    told.append(f"{command_line('cluster import', words)} writes it to a file")
    return {
        "kind": "machine", "key": "cluster", "value": key, "label": found.cluster.name,
        "said": [desk.said(each) for each in (*found.understood, *found.notes, *told)],
        "option": machine_option(key, found.cluster),
    }  # fmt: skip


def _safe(name: str) -> str:
    """A name that a file of ours may have: messages then say the user's."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-") or "dump"
    return "dump.toml.txt" if kept == "machine.toml" else kept


def _log(desk: Desk, folder: Path, name: str, body: bytes, state: State) -> Dropped:
    from thinwire.sim.costs.shipped import load_profile
    from thinwire.validation.logs.fitting import calibrated, read_logs

    assert isinstance(state.question.cluster, str)
    machine = desk.machine(state.question.cluster)
    source = _write(folder / _safe(name), body)
    found = calibrated(read_logs([source]), machine)
    path = folder / "fabric.json"
    path.write_text(json.dumps(found.document), "utf-8")
    load_profile(machine, str(path))  # ValueError: a profile that this machine cannot have
    key = desk.keep(path, path)
    document = found.to_dict()
    said = [
        f"{one['op'].replace('_', '-')} on {one['ranks']} ranks, {one['rows']} sizes: {one['algorithm']}"
        for one in document["series"]
    ]
    said += [line for one in document["series"] for line in one["said"]]
    said += [f"not used: {one['run']}: {one['why']}" for one in document["unused"]]
    words = ["--logs", name, "--cluster", file_of(desk, state.question.cluster), "--out", "fabric.json"]
    said.append(f"{command_line('calibrate', words)} writes it to a file")
    return {
        "kind": "profile", "key": "profile", "value": key, "label": f"{plain(name)} on {machine.name}",
        "said": [desk.said(line) for line in (*said, *document["borrowed"])],
    }  # fmt: skip
