"""What of a measurement is done, and the file that keeps it, so that a stopped run goes on.

Legend: W windows, T tokens of a window.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from thinwire.reference.core.lookup import own_sources
from thinwire.reference.decoder.model import Decoder
from thinwire.reference.mixed import AnyScheme, plan_of

_KIND = "thinwire accuracy 2"


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Record = TypeVar("Record", bound=_Dataclass)


@dataclass(frozen=True, slots=True)
class Window:
    """Sums over the predicted tokens of one window.

    digest: of its token ids. nll, nll_bf16: -log p of the text, under the scheme and under the baseline, in nats.
    kl: KL(baseline || scheme) of the next-token distributions. agreed: predictions whose likeliest token is the same.
    Raises ValueError for what no window can have.
    """

    digest: str
    tokens: int
    nll: float
    nll_bf16: float
    kl: float
    agreed: int

    def __post_init__(self) -> None:
        counts, sums = (self.tokens, self.agreed), (self.nll, self.nll_bf16, self.kl)
        if not isinstance(self.digest, str) or any(isinstance(x, bool) for x in (*counts, *sums)):
            raise ValueError(f"digest must be a string, everything else a number: {self}")
        if not all(isinstance(x, int) for x in counts) or not 0 <= self.agreed <= self.tokens or not self.tokens:
            raise ValueError(f"tokens must be a positive whole number, agreed one of 0..tokens: {self}")
        if not all(isinstance(x, int | float) and abs(x) < 1e300 for x in sums):  # whole numbers have no end
            raise ValueError(f"nll, nll_bf16 and kl must be finite numbers: {self}")


def digest(ids: Tensor) -> str:
    """16 hex digits of token ids and their shape."""
    return hashlib.sha256(f"{list(ids.shape)}:{ids.reshape(-1).tolist()}".encode()).hexdigest()[:16]


class Lines(Generic[Record]):
    """A file of results done, one JSON object a line behind a key: a run that was stopped goes on from it.

    Args:
        path: the file, made where there is none.
        kind: what the file is, its version last: `thinwire accuracy 1`.
        key: what every line was measured with.
        record: dataclass of a line.

    A last line cut short by a kill is dropped. One process writes at a time. Raises ValueError for a file of another
    key, naming what differs, or one that is damaged.
    """

    def __init__(self, path: Path, kind: str, key: Mapping[str, Any], record: type[Record]) -> None:
        self.path, self.kind, self.found = path, kind, list[Record]()
        header = json.dumps({"kind": kind, **key}, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8, so it holds no results: {error}; give another file") from None
        whole = text[: text.rfind("\n") + 1]
        if not whole:
            if not header.startswith(text):  # neither new nor killed within the key
                raise ValueError(f"{path} holds no {self._what} results: its first line is {text[:80]!r}")
            path.write_text(header + "\n", encoding="utf-8")
            return
        lines = whole.splitlines()
        self._check(lines[0], json.loads(header))
        for number, line in enumerate(lines[1:], 2):
            try:
                self.found.append(record(**json.loads(line)))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(f"{path} is damaged in line {number}: {error}; remove it to start anew") from None
        if whole != text:
            path.write_text(whole, encoding="utf-8")

    def _check(self, line: str, wanted: dict[str, Any]) -> None:
        try:
            given = dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            raise ValueError(f"{self.path} holds no {self._what} results: its first line is {line[:80]!r}") from None
        differ = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        if differ:
            said = "; ".join(f"{name} was {given.get(name)!r}, is {wanted.get(name)!r}" for name in differ)
            raise ValueError(f"{self.path} holds results of another run ({said}); give another file or remove it")

    def add(self, record: Record) -> None:
        """Keep a record, on disk when this returns."""
        self.found.append(record)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record)) + "\n")
        except OSError as error:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    @property
    def _what(self) -> str:
        return self.kind.split()[1]


class Results(Lines[Window]):
    """The windows of an accuracy run; their key is a `run_key`."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        super().__init__(path, _KIND, key, Window)

    @property
    def windows(self) -> dict[str, Window]:
        """Windows done, by digest."""
        return {window.digest: window for window in self.found}


def run_key(
    scheme: AnyScheme,
    decoder: Decoder,
    weights: str,
    calibration_WT: Tensor | None = None,
    prompt: int | None = None,
    together: int = 1,
) -> dict[str, Any]:
    """What a window's figures depend on beside its token ids, which stand for text and tokenizer.

    weights: checksum of the model. calibration_WT: the windows calibrated on, None where the scheme needs none. prompt:
    tokens that the scheme compresses, None = all. together: windows in a batch.
    """
    return {
        **model_key(decoder, weights),
        "scheme": scheme.name,
        "plan": _plan(scheme, decoder.config.num_layers),
        "sequence_split": scheme.sequence_split,
        "calibration": None if calibration_WT is None else digest(calibration_WT),
        "prompt": prompt,
        "together": together,
    }


def model_key(decoder: Decoder, weights: str, *modules: str) -> dict[str, Any]:
    """What any figure of a model depends on. modules: of reference/, beside those that `code_version` starts from."""
    precision = decoder.precision
    return {
        "model": decoder.config.name,
        "weights": weights,
        "tp": decoder.group.size,
        "heads": _heads(decoder),
        "precision": [str(precision.compute), str(precision.partial), str(precision.logits)],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),  # how a kernel cuts its sums follows from both
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(decoder.device) if decoder.device.type == "cuda" else decoder.device.type,
        "code": code_version(*modules),
    }


def _heads(decoder: Decoder) -> list[list[list[int]]]:
    """Query heads of each rank, by layer, or once where layers agree; what else ranks hold follows from them."""
    splits = [[list(shard.query_heads) for shard in shards] for shards in decoder.held]
    return splits if any(split != splits[0] for split in splits) else splits[:1]


def _plan(scheme: AnyScheme, num_layers: int) -> list[list[Any]]:
    """What each sync point does, whatever it is called: runs of equal points as [how many, what]."""
    plan = plan_of(scheme, num_layers)
    found: list[list[Any]] = []
    for entry in plan.values():
        does = entry and [
            entry.reduce.spec,
            entry.gather.spec,
            entry.collective,
            entry.exempt_tokens,
            entry.exempt_last_tokens,
        ]
        if found and found[-1][1] == does:
            found[-1][0] += 1
        else:
            found.append([1, does])
    return found


def code_version(*modules: str) -> str:
    """Checksum of the source that these numbers come from (`sources`), comments and all."""
    return hashlib.sha256(b"".join(text for _, text in sorted(sources(*modules).items()))).hexdigest()[:16]


def sources(*modules: str) -> dict[str, bytes]:
    """Modules of reference/ that `quality.accuracy`, the reading of weights and those named import or name, themselves
    or through others, and those of others' codecs. Names are dotted, ours from reference/ on, others' behind `own:`.
    """
    seen = {f"own:{name}": text for name, text in own_sources().items()}
    waiting = ["quality.accuracy", "decoder.weights", *modules]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen[name] = _file(name).read_bytes()
            for node in ast.walk(ast.parse(seen[name])):
                if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(_PACKAGE):
                    base = f"{node.module}.".removeprefix(_PACKAGE)
                    names = [base.rstrip("."), *(base + imported.name for imported in node.names)]
                    waiting += [found for found in names if found and _file(found).is_file()]
                elif isinstance(node, ast.Constant) and str(node.value).startswith(_PACKAGE):  # backends, numerics
                    found = str(node.value).removeprefix(_PACKAGE)
                    waiting += [found] if _file(found).is_file() else []
    return seen


_PACKAGE = "thinwire.reference."


def _file(module: str) -> Path:
    return Path(__file__).resolve().parents[1].joinpath(*module.split(".")).with_suffix(".py")
