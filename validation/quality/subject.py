"""What `thinwire accuracy` and the measured table have in common: a model, a text, a scheme, and figures of them.

The model is SmolLM2-135M and the text Wikipedia's prose unless files are given (`reference.quality.downloads`).
Everything runs in bf16, all ranks in this process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from thinwire.edge.words import shown
from thinwire.edge.writing import write_text
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.decoder.model import BF16, Decoder
from thinwire.reference.decoder.text import open_tokenizer
from thinwire.reference.decoder.weights import Checkpoint, open_checkpoint
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import AnyScheme, Point, plan_of
from thinwire.reference.quality.accuracy import (
    Accuracy,
    Progress,
    Run,
    Text,
    baseline_run,
    calibrate,
    check_prompt,
    cut_text,
    evaluate_all,
    islands,
    needs_calibration,
    scheme_run,
)
from thinwire.reference.quality.downloads import TEXT, WEIGHTS, cache_folder, fetch, sha256
from thinwire.reference.quality.results import Results, run_key
from thinwire.sim.choices import Compress

MODEL, TITLE = "smollm2-135m", "SmolLM2-135M (4-bit weights)"  # of the default weights, in tables
WINDOW_TOKENS = 512
WINDOWS = 16  # 8,176 predictions: a scheme takes a minute
COMPRESS = get_args(Compress)
PROMPT_TOKENS = 384  # of a window, where only the prompt is compressed
MACHINE = ("torch", "machine")  # of a row, since a table may be measured on several
CALIBRATION_WINDOWS = 8  # for static outlier hybrids


SMALL_WIDTH = 2048  # models narrower than this run on one thread unless asked otherwise
MOST = 1024  # threads, and ranks in one process


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder read: what it is, in a line, and its checksum."""

    about: str
    sha256: str

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"source": self.about, "sha256": self.sha256}


@dataclass(slots=True)
class Subject:
    """A model at one TP degree and the windows of a text. Calibrations are made when a scheme asks for them.

    prompt: tokens of each window that a scheme compresses, None = all. together: windows in a batch. backend: who runs
    the codecs.
    """

    decoder: Decoder
    weights: Source
    text: Source
    windows: Text
    prompt: int | None = None
    together: int = 1
    backend: str = "auto"
    _calibrations: dict[int, dict[Point, Calibration]] = field(default_factory=dict)  # by tokens left out

    def run(self, scheme: AnyScheme) -> Run:
        """The scheme on this model; calibrated first where it must be."""
        calibrations = self._calibrate(scheme) if needs_calibration(scheme) else None
        return scheme_run(self.decoder, scheme, calibrations, self.prompt, self.backend)

    def _calibrate(self, scheme: AnyScheme) -> dict[Point, Calibration]:
        """First tokens that a point exempts never meet its codec, so they are no part of its calibration either. Last
        ones and answers, which are tokens like others, are.
        """
        plan = plan_of(scheme, self.decoder.config.num_layers)
        found = {}
        for point, entry in plan.items():
            if entry is not None and needs_calibration(entry):
                skip = entry.exempt_tokens
                if skip not in self._calibrations:
                    self._calibrations[skip] = calibrate(self.decoder, self.windows.calibration_WT, skip)
                found[point] = self._calibrations[skip][point]
        return found

    def key(self, scheme: AnyScheme) -> dict[str, Any]:
        """What its windows' figures depend on."""
        calibration = self.windows.calibration_WT if needs_calibration(scheme) else None
        return run_key(scheme, self.decoder, self.weights.sha256, calibration, self.prompt, self.together)

    def measure(
        self, schemes: Sequence[AnyScheme], folder: Path | None = None, progress: Progress | None = None
    ) -> dict[str, Accuracy]:
        """Figures by the schemes' names. folder: where windows done are kept, a file a scheme; None = nowhere."""
        runs = {scheme.name: self.run(scheme) for scheme in schemes}
        results: dict[str, Results] = {}
        if folder is not None:
            results = {
                scheme.name: Results(results_file(folder, self.key(scheme)), self.key(scheme)) for scheme in schemes
            }
        windows_WT, baseline = self.windows.evaluation_WT, baseline_run(self.decoder, self.prompt)
        return evaluate_all(baseline, runs, windows_WT, results, progress, self.together)

    def document(self, scheme: AnyScheme, accuracy: Accuracy) -> dict[str, Any]:
        """The document of `accuracy --json`."""
        grouping = islands(scheme, self.decoder.group.size)
        return {
            "model": self.decoder.config.name,
            "scheme": scheme.name,
            "tp": self.decoder.group.size,
            **accuracy.to_dict(),
            "compress": "all" if self.prompt is None else "prompt",
            "prompt_tokens": self.prompt,
            "window_tokens": self.windows.evaluation_WT.shape[1],
            "calibration_windows": len(self.windows.calibration_WT) if needs_calibration(scheme) else 0,
            "islands": None if grouping is None else [list(island) for island in grouping],
            "weights": self.weights.to_dict(),
            "text": self.text.to_dict(),
        }


def use_threads(asked: int | None, width: int) -> None:
    """Threads of torch's kernels: as asked, one for a model of a small width, torch's own choice otherwise.

    Small products gain little from a second thread and lose all when it waits for a core: on two cores that other
    processes used as well, SmolLM2-135M took 19 s on one thread and 251 s on two. Figures depend on the number
    (docs/decisions/011-accuracy.md), so results are kept by it. Raises ValueError for fewer than one or more than MOST.
    """
    if asked is not None and not 1 <= asked <= MOST:
        raise ValueError(f"threads must lie in 1..{MOST}: threads={asked}")
    if asked is not None or width < SMALL_WIDTH:
        torch.set_num_threads(asked or 1)


def check_device(device: str) -> None:
    """ValueError for a device that is none, or not here."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda: device={shown(device)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"no CUDA GPU here (torch {torch.__version__} sees none): device=cuda")


def results_file(folder: Path, key: Mapping[str, Any], what: str = "scheme") -> Path:
    """The file of a key: another key, another file. what: entry of the key that names it."""
    name = "".join(c if c.isalnum() or c in "-.+" else "_" for c in str(key[what]))[:80]
    mark = hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()[:12]
    return folder / f"{name}-tp{key['tp']}-{mark}.jsonl"


class Material:
    """Weights and text, read once for any number of TP degrees.

    weights, text: files (a Hugging Face folder or a GGUF file; plain UTF-8); None = the defaults, downloaded where
    they are not in the cache. device, backend: where models run, and who runs their codecs. Raises ValueError for what
    cannot be read, ImportError where a package is missing.
    """

    def __init__(
        self, weights: Path | None = None, text: Path | None = None, device: str = "cpu", backend: str = "auto"
    ) -> None:
        self.device, self.backend = torch.device(device), backend
        path = fetch(WEIGHTS) if weights is None else weights
        self.checkpoint: Checkpoint = open_checkpoint(path)
        self.model, self.title = (MODEL, TITLE) if weights is None else (self.checkpoint.config.name,) * 2
        self.weights = Source(WEIGHTS.source if weights is None else str(path), _checksum(path))
        words = fetch(TEXT) if text is None else text
        try:
            content = words.read_bytes()
            decoded = content.decode("utf-8-sig")  # a byte order mark is no text
        except OSError as error:
            raise ValueError(f"cannot read the text {words}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"the text {words} is not UTF-8: {error}") from None
        self.text = Source(TEXT.source if text is None else str(words), hashlib.sha256(content).hexdigest())
        self.encode = open_tokenizer(path).encode
        self.ids = self.encode(decoded)

    def windows(self, tokens: int, windows: int, *schemes: AnyScheme) -> Text:
        """Windows of the text, some of them to calibrate on where a scheme asks for that.

        Raises ValueError where the text is too short, or a window longer than the model's positions.
        """
        calibration = CALIBRATION_WINDOWS if any(needs_calibration(scheme) for scheme in schemes) else 0
        return self.cut(tokens, windows, calibration)

    def calibration(self, tokens: int, windows: int) -> Text:
        """The first WINDOWS windows to evaluate, and `windows` to calibrate on that are none of them.

        More windows to calibrate on begin with the fewer. Errors as `windows`, and for none.
        """
        if windows < 1:
            raise ValueError(f"windows must be positive: windows={windows}")
        found = self.cut(tokens, WINDOWS, windows)
        return Text(found.evaluation_WT, found.calibration_WT.flip(0))

    def cut(self, tokens: int, windows: int, calibration: int) -> Text:
        """So many windows of either kind; errors as of `windows`."""
        limit = self.checkpoint.config.max_positions
        if tokens > limit:
            raise ValueError(f"{self.checkpoint.config.name} has {limit} positions: tokens={tokens}")
        found = cut_text(self.ids, tokens, windows, calibration)
        return Text(found.evaluation_WT.to(self.device), found.calibration_WT.to(self.device))

    def source(self, how: str) -> dict[str, str]:
        """Where a table measured with these comes from. how: the command that measures it."""
        return {
            "kind": "measured",
            "how": how,
            "weights": self.weights.about,
            "weights_sha256": self.weights.sha256,
            "text": self.text.about,
            "text_sha256": self.text.sha256,
            "torch": torch.__version__,
            "machine": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine(),
        }

    def subject(self, tp: int, windows: Text, prompt: int | None = None, together: int = 1) -> Subject:
        """The model on `tp` ranks. ValueError for fewer than one or more than MOST, and a prompt without an answer."""
        if not 1 <= tp <= MOST:
            raise ValueError(f"tp must lie in 1..{MOST}: tp={tp}")
        check_prompt(prompt, windows.evaluation_WT.shape[1])
        weights = OnDevice(self.checkpoint, self.device)
        decoder = Decoder(self.checkpoint.config, weights, LocalGroup(tp), precision=BF16)
        return Subject(decoder, self.weights, self.text, windows, prompt, together, self.backend)


class OnDevice(Mapping[str, Tensor]):
    """A checkpoint whose tensors are read to a device."""

    def __init__(self, checkpoint: Mapping[str, Tensor], device: torch.device) -> None:
        self._checkpoint, self._device = checkpoint, device

    def __getitem__(self, name: str) -> Tensor:
        return self._checkpoint[name].to(self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint)

    def __len__(self) -> int:
        return len(self._checkpoint)


def write_table(path: Path, shared: Mapping[str, Any], name: str, entries: Sequence[Any] | Mapping[str, Any]) -> None:
    """A table in JSON that people can compare: what all entries share, then `name`, an entry a line.

    The file is there whole or not at all. Raises OSError where it cannot be written.
    """
    if isinstance(entries, Mapping):
        left, right = "{}"
        rows = [f"{json.dumps(key)}: {json.dumps(entry, allow_nan=False)}" for key, entry in entries.items()]
    else:
        left, right = "[]"
        rows = [json.dumps(entry, allow_nan=False) for entry in entries]
    lines = ",\n".join(f"  {row}" for row in rows)
    text = json.dumps(shared, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    write_text(path, f'{text},\n "{name}": {left}\n{lines}\n {right}\n}}\n')


def _checksum(path: Path) -> str:
    """Of a file, or of a folder's config and tensors."""
    if path.is_file():
        return sha256(path)
    files = sorted([path / "config.json", *path.glob("*.safetensors")])
    return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()


def command_line(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, name: str, done: str, table: Path, about: str
) -> argparse.Namespace:
    """A measurement's command line, after its own options those that all have; torch takes the threads.

    name: of the folder in the cache where what is `done` lies. table: the file written, `about` says what it is.
    """
    parser.add_argument("--folder", type=Path, default=cache_folder() / name, help=done)
    parser.add_argument("--write", type=Path, default=table, help=about)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where models run: cpu or cuda")
    parser.add_argument("--backend", default="auto", help="who runs the codecs: torch, triton, or auto")
    found = parser.parse_args(arguments)
    check_device(found.device)
    torch.set_num_threads(found.threads)
    return found


def run_program(main: Callable[[], None]) -> None:
    """A measurement as a program: what its user can mend ends it with a line."""
    try:
        main()
    except ValueError as error:  # no network, no table yet, a damaged file of results
        sys.exit(str(error))
