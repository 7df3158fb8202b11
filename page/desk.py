"""Where questions of the page are answered: what was dropped and what was predicted already, while it runs."""

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from threading import Condition, Event, Lock, local
from typing import Any, TypeVar

from thinwire.edge.limits import JSON_BYTES
from thinwire.edge.reading import content
from thinwire.edge.words import cut, shown
from thinwire.page.state import DROP, VALUE, State
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.families.config import load_model, model_aliases, model_names
from thinwire.sim import api
from thinwire.sim.question import Question
from thinwire.sim.report import Prediction
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import cluster_names, load_cluster
from thinwire.topologies.names import unknown

T = TypeVar("T")
KEPT_PREDICTIONS = 1024  # of 50 to 350 kB each: 80 MB, of large machines 350
KEPT_DROPS = 32  # the oldest go
MOST_S = 5.0  # that somebody waits for others before he goes on beside them


class AbandonedError(Exception):
    """Nobody waits for the answer any more."""


class GoneError(ValueError):
    """Nothing is here under that name, now: a file may be dropped that gets it."""


class Turns:
    """Of threads that answer. Python runs one at a time, so whoever may wait does, between two predictions."""

    def __init__(self) -> None:
        self._ahead = 0
        self._changed = Condition()
        self._mine = local()

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """What is done here, others wait for."""
        with self._changed:
            self._ahead += 1
        try:
            yield
        finally:
            with self._changed:
                self._ahead -= 1
                self._changed.notify_all()

    @contextmanager
    def behind(self, gone: Event) -> Iterator[None]:
        """What is done here waits for others, and ends once `gone` is set."""
        self._mine.gone = gone
        try:
            yield
        finally:
            self._mine.gone = None

    def turn(self) -> None:
        """Wait, where this thread is behind others. AbandonedError where nobody waits for it."""
        gone = getattr(self._mine, "gone", None)
        if gone is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._ahead or gone.is_set(), timeout=MOST_S)
        if gone.is_set():
            raise AbandonedError


class Memory:
    """The last so many values by key, from many threads. Two that ask at once may both compute."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self._found: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made for the key, or is now; a ValueError is kept as well, and raised again; a GoneError is not."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                known = self._found[key]
                if isinstance(known, ValueError):
                    raise ValueError(str(known))
                return known  # type: ignore[no-any-return]
        try:
            made: Any = make()
        except GoneError:
            raise
        except ValueError as error:
            made = error
        with self._lock:
            self._found[key] = made
            while len(self._found) > self._most:
                self._found.popitem(last=False)
        if isinstance(made, ValueError):
            raise made
        return made  # type: ignore[no-any-return]


class Desk:
    """Answers, with a memory. Dropped files become values; a profile, which is asked by its path, lies in a temporary
    folder that goes with `close`.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="thinwire-page-")
        self._lock = Lock()
        self._count = 0
        self._dropped: OrderedDict[str, tuple[Any, Path]] = OrderedDict()
        self.writing = Lock()  # of what has one name in the folder
        self._predictions = Memory(KEPT_PREDICTIONS)
        self.answers = Memory(512)
        self.turns = Turns()

    @property
    def folder(self) -> Path:
        """For what must be a file for a moment."""
        return Path(self._folder.name)

    def close(self) -> None:
        """Remove the folder; nothing is answered afterwards."""
        self._folder.cleanup()

    def said(self, error: Exception | str) -> str:
        """A message without the folder's path, nor any other of this machine's."""
        text = str(error)
        theirs = [f"{path.parent}/" for _, path in list(self._dropped.values()) if path.parent != Path()]
        for root in (*theirs, f"{self.folder.resolve()}/", f"{self.folder}/", f"{Path.home()}/", f"{Path.cwd()}/"):
            if len(root) > 2:
                text = text.replace(root, "")
        return text

    # ---- what was dropped

    def new_folder(self) -> Path:
        """A folder of its own in `folder`."""
        return Path(mkdtemp(dir=self.folder))

    def keep(self, value: Any, path: Path) -> str:
        """`drop:N` for a model, a machine, or the path of a profile; path: of its file, alone in a `new_folder`."""
        gone = list[Path]()
        with self._lock:
            self._count += 1
            name = f"{DROP}{self._count}"
            self._dropped[name] = value, path
            while len(self._dropped) > KEPT_DROPS:
                gone.append(self._dropped.popitem(last=False)[1][1])
        for each in gone:
            if each.is_relative_to(self.folder):  # else the user's own, named on the command line
                rmtree(each.parent, ignore_errors=True)
        return name

    def path(self, name: str) -> Path:
        """The file of what was dropped. GoneError as `dropped`."""
        return self._found(name)[1]

    def _found(self, name: str) -> tuple[Any, Path]:
        with self._lock:
            if name not in self._dropped:
                raise GoneError(f"nothing was dropped here as {shown(name)}, or too long ago; drop the file again")
            return self._dropped[name]

    def dropped(self, name: str, kind: type[T]) -> T:
        """What was dropped. GoneError where it is not there (any more); ValueError where it is something else."""
        found, _ = self._found(name)
        if not isinstance(found, kind):
            raise ValueError(f"what was dropped as {shown(name)} is something else")
        return found

    def adopt(self, kind: str, given: str) -> str:
        """A name as it is, a file of the command line's as if it had been dropped. ValueError as whoever reads it."""
        if kind == "profile":
            content(given, "profile", JSON_BYTES.most)
            return self.keep(Path(given), Path(given))
        known = model_names() if kind == "model" else cluster_names()
        if given in known or (kind == "model" and given.lower() in model_aliases()):
            return given
        if kind == "model":
            model = load_model(given)
            return self.keep(replace(model, name=title_of(Path(given))), Path(given))
        return self.keep(api.group(given), Path(given))

    # ---- names to values

    def model(self, name: str) -> ModelConfig:
        """By catalog name, Hugging Face id or drop; never by path. ValueError as `load_model`."""
        if name.startswith(DROP):
            return self.dropped(name, ModelConfig)
        if name in model_names() or name.lower() in model_aliases():
            return load_model(name)
        near = get_close_matches(name[:VALUE].lower(), (*model_names(), *model_aliases()), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`thinwire models` lists them; a config.json is dropped"
        raise ValueError(f"unknown model {shown(name)}; {hint}")

    def machine(self, name: str) -> Cluster:
        """By catalog name or drop; never by path. ValueError for another name."""
        if name.startswith(DROP):
            return self.dropped(name, Cluster)
        if name not in cluster_names():
            raise ValueError(unknown("cluster", name).partition(" (or the path")[0])
        return load_cluster(name)

    def resolved(self, question: Question) -> Question:
        """With values for names, so that nothing is looked up among files."""
        profile = question.profile
        if isinstance(profile, str) and profile.startswith(DROP):
            profile = str(self.dropped(profile, Path))
        model = self.model(question.model) if isinstance(question.model, str) else question.model
        cluster = self.machine(question.cluster) if isinstance(question.cluster, str) else question.cluster
        return replace(question, model=model, cluster=cluster, profile=profile)

    def fresh(self) -> "Desk":
        """The same that remembers little: for thousands of questions, each asked once."""
        other = copy(self)
        other._predictions, other.answers = Memory(64), Memory(4)
        return other

    def predict(self, question: Question) -> Prediction:
        """What a question of names is answered, once. AbandonedError as `Turns.turn`."""
        self.turns.turn()
        return self._predictions.get(question, lambda: api.answer(self.resolved(question)))

    def predicted(self, state: State, scheme: str) -> Prediction:
        """The same of a state, under another scheme."""
        return self.predict(replace(state.asking(), scheme=scheme))


# ---- what files are called: names for people, without the folders that they lie in


def plain(filename: str) -> str:
    """A name for people and for messages: the last part, without what a path or a terminal would take for more."""
    last = re.split(r"[/\\]", filename)[-1]
    kept = "".join(c if c.isprintable() and c not in "<>:\"|?*`$;&'" else "_" for c in last).strip(" .")
    return cut(kept, 60) or "file"


def model_title(filename: str, body: bytes) -> str:
    """The file's own name; of a `config.json`, which says nothing, the last part of what it says it came from."""
    title = re.sub(r"\.json$", "", plain(filename), flags=re.IGNORECASE)
    if title not in ("config", ""):
        return title
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "model"  # whoever reads the file says what is wrong
    said = found.get("_name_or_path") if isinstance(found, dict) else None
    return plain(said.rstrip("/\\")) if isinstance(said, str) and said.strip("/\\ .") else "model"


def title_of(path: Path) -> str:
    """The same of a model's file, or of a folder that holds its `config.json`. OSError where it cannot be read."""
    file = path / "config.json" if path.is_dir() else path
    with open(file, "rb") as opened:
        return model_title(file.name, opened.read(JSON_BYTES.most))
