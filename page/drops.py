"""What somebody drops on the page: a model, a machine, a log of nccl-tests, told apart by what is in it.

Bytes become values by the parsers that the command line uses, with their limits. For a moment they lie in the desk's
temporary folder, under a name of ours; nothing in them is executed, and the name given is only shown.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from thinwire.commands.reproduce import command_line
from thinwire.edge.limits import DUMP_BYTES, JSON_BYTES, LOG_BYTES, TOML_BYTES
from thinwire.edge.reading import from_toml
from thinwire.page.answers import dropped_model, file_of, machine_option
from thinwire.page.desk import Desk, model_title, plain
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


File = tuple[str, bytes]  # the name that it was given, and what is in it
MOST_FILES = 16
KINDS = {"model": "a model", "machine": "a machine file", "log": "a log of nccl-tests", "dump": "a dump of a machine"}


class UntoldError(ValueError):
    """A dump that does not say which GPU it is of."""


def drop(desk: Desk, filename: str, body: bytes, state: State, gpu: str | None = None) -> Dropped:
    """What the bytes of one file are: as `dropped`."""
    return dropped(desk, [(filename, body)], state, gpu)


def dropped(
    desk: Desk, files: Sequence[File], state: State, gpu: str | None = None, earlier: Sequence[File] = ()
) -> Dropped:
    """What the files are, kept under a name that a state may have. Several are of one machine, or logs of one.

    Args:
        gpu: of the catalog, where a dump does not say which it is.
        earlier: dumps that were dropped before. Dumps that say too little without them are read together with them.

    Raises:
        UntoldError: dumps that do not say which GPU it is, either.
        ValueError: one sentence: what it is instead, or what is wrong in it.
    """
    if gpu is not None and gpu not in gpu_names():
        raise ValueError(unknown("gpu", gpu))
    found = _kind(files)
    if found != "dump" or not earlier or any(_told(body) != "dump" for _, body in earlier):
        return _read(desk, found, files, state, gpu)
    try:
        return _read(desk, found, files, state, gpu)
    except ValueError:
        new = {plain(name) for name, _ in files}
        both = [*(each for each in earlier if plain(each[0]) not in new), *files]
        if len(both) == len(files):
            raise
        return _read(desk, found, both[-MOST_FILES:], state, gpu)


def _kind(files: Sequence[File]) -> str:
    if not files or len(files) > MOST_FILES:
        raise ValueError(f"1 to {MOST_FILES} files are dropped at once: {len(files)} given")
    kinds = dict[str, str]()
    for name, body in files:
        if not body.strip():
            raise ValueError("the file is empty" if len(files) == 1 else f"{plain(name)} is empty")
        kinds.setdefault(_told(body), plain(name))
    if len(kinds) > 1:
        said = ", ".join(f"{name} is {KINDS[kind]}" for kind, name in kinds.items())
        raise ValueError(f"files of one kind are dropped together, and these are of several: {said}")
    kind = next(iter(kinds))
    if len(files) > 1 and kind not in ("dump", "log"):
        raise ValueError(f"one at a time: each of these {len(files)} files is {KINDS[kind]}")
    return kind


def _told(body: bytes) -> str:
    head = body[: 1 << 20].decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if head.startswith("{"):
        return "model"
    if _LOG.search(head):
        return "log"
    return "machine" if _MACHINE.search(head) and not head.startswith("<") else "dump"


def _read(desk: Desk, kind: str, files: Sequence[File], state: State, gpu: str | None) -> Dropped:
    named = [(plain(name), body) for name, body in files]
    folder = desk.new_folder()
    try:
        match kind:
            case "model":
                return _model(desk, folder, *named[0])
            case "log":
                return _log(desk, folder, named, state)
            case "machine":
                return _machine(desk, folder, *named[0])
            case _:
                return _dump(desk, folder, named, gpu)
    except ValueError as error:
        rmtree(folder, ignore_errors=True)
        text = desk.said(error).replace(f"{folder.name}/", "").replace("machine.toml:", f"{named[0][0]}:")
        if "pass --gpu" in text:
            raise UntoldError(f"{text.partition(', and no line')[0]}, and no line says which: choose the GPU") from None
        raise ValueError(text) from None


def _write(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path


def _model(desk: Desk, folder: Path, name: str, body: bytes) -> Dropped:
    title = model_title(name, body)
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


def _dump(desk: Desk, folder: Path, files: Sequence[File], gpu: str | None) -> Dropped:
    sources = _sources(folder, files)
    for source in sources:
        tell(source)  # what it is instead, in one line
    name = sources[0].stem or "machine"
    found = imported([str(source) for source in sources], gpu, name=name if len(files) == 1 else None)
    path = folder / "machine.toml"
    path.write_text(found.text, "utf-8")
    key = desk.keep(found.cluster, path)
    told = [f"not told: {each.what}; taken: {each.taken}; {each.command} would tell it" for each in found.unknown]
    words = [*(name for name, _ in files), *(["--gpu", gpu] if gpu else []), "--out", f"{found.cluster.name}.toml"]
    told.append(f"{command_line('cluster import', words)} writes it to a file")
    return {
        "kind": "machine", "key": "cluster", "value": key, "label": found.cluster.name,
        "said": [desk.said(each) for each in (*found.understood, *found.notes, *told)],
        "option": machine_option(key, found.cluster), "files": [name for name, _ in files],
    }  # fmt: skip


def _sources(folder: Path, files: Sequence[File]) -> list[Path]:
    """Each in the folder, by a name of its own."""
    found = list[Path]()
    for name, body in files:
        safe = _safe(name)
        if any(safe == each.name for each in found):
            safe = f"{len(found)}-{safe}"
        found.append(_write(folder / safe, body))
    return found


def _safe(name: str) -> str:
    """A name that a file of ours may have: messages then say the user's."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-") or "dump"
    return "dump.toml.txt" if kept == "machine.toml" else kept


def _log(desk: Desk, folder: Path, files: Sequence[File], state: State) -> Dropped:
    from thinwire.sim.costs.shipped import load_profile
    from thinwire.validation.logs.fitting import calibrated, read_logs

    assert isinstance(state.question.cluster, str)
    machine = desk.machine(state.question.cluster)
    names = [name for name, _ in files]
    found = calibrated(read_logs(_sources(folder, files)), machine)
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
    words = ["--logs", *names, "--cluster", file_of(desk, state.question.cluster), "--out", "fabric.json"]
    said.append(f"{command_line('calibrate', words)} writes it to a file")
    return {
        "kind": "profile", "key": "profile", "value": key, "label": f"{', '.join(names)} on {machine.name}",
        "said": [desk.said(line) for line in (*said, *document["borrowed"])],
    }  # fmt: skip
