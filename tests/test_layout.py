"""The folders are the architecture: who may import whom, and where files may lie.

`HOUSE` is the rule as data: for each folder at the top, its rooms in order, top to bottom. An import may point down the
list, or stay in its room, and nowhere may imports go in a circle. Each rule is a function from paths and sources to a
list of complaints. The tests apply it to the tree, where it must find nothing, and to broken examples, where it must
find the fault. If one fails after a change of yours, its message names the line and says what to do;
docs/decisions/000-layout.md says why, docs/structure.md what each room is for.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import networkx as nx
import pytest

# Folder at the top -> its rooms ("events/") and the modules of its hall ("api.py"), what may import before what is
# imported. ANY: every module may lie in the hall, which is one room.
ANY = "*.py"
HOUSE: Mapping[str, tuple[str, ...]] = {
    "commands": ("serving/", ANY, "tables/", "frame/"),
    "page": (ANY,),
    "validation": (
        "calibrate.py", "peers/", "papers/", "targets/", "emulation/", "quality/", "instructions/", "relatives/",
        "logs/", "hosts/", "mixtures/", "precisions/", "fits/", "campaign/",
    ),
    "sim": (
        "cli.py", "bench/", "sweeps/", "planning/", "schema.py", "serving/", "verdict.py", "api.py", "catalogs.py",
        "cross/", "predict.py", "report.py", "grounds.py", "interval.py", "question.py", "quality/", "events/",
        "costs/", "workload.py", "layers.py", "sharing.py", "shapes.py", "choices.py",
    ),
    "kernels": (ANY,),
    "reference": (
        "quality/", "decoder/", "bench.py", "bench_groups.py", "parallel.py", "alltoall.py", "allreduce.py", "groups/",
        "check.py", "quantize.py", "codecs/", "mixed.py", "catalog.py", "families/", "core/",
    ),
    "topologies": (
        "importing/", "dumps/", "picture.py", "draw.py", "load.py", "files.py", "schema.py", "generators.py",
        "choose.py", "cluster.py", "names.py", "units.py", "lines.py", "reach.py",
    ),
    "edge": (ANY,),
}  # fmt: skip
# Folders of data: no module lies here.
DATA: Mapping[str, frozenset[str]] = {
    "commands": frozenset(),
    "page": frozenset({"static", "static/charts"}),
    "validation": frozenset({"published", "raw", "reports"}),
    "sim": frozenset({"profiles"}),
    "kernels": frozenset(),
    "reference": frozenset({"models"}),
    "topologies": frozenset({"gpus", "machines"}),
    "edge": frozenset(),
}
# reference/ without torch: two rooms, and the two doors by which schemes are named.
CORE = ("core/", "families/", "mixed.py", "catalog.py")
# Modules that are no part of the house.
ELSEWHERE = ("src/thinwire/__init__.py", "src/thinwire/__main__.py", "tests/", "docs/", "examples/")
MAX_LINES = 600
MAX_MODULES = 15  # of a room; kernels/ has one kernel a file

# The project's parts and which of them each may import. "core" is the torch-free part of reference/, "reference" the
# rest of it, "face" src/thinwire/__init__.py, "main" src/thinwire/__main__.py.
ARROWS: Mapping[str, set[str]] = {
    "edge": {"edge"},
    "core": {"core", "edge"},
    "topologies": {"topologies", "edge"},
    "sim": {"sim", "topologies", "core", "edge"},
    "reference": {"reference", "core", "edge"},
    "kernels": {"kernels", "core", "edge"},
    "validation": {"validation", "sim", "reference", "kernels", "topologies", "core", "edge", "face"},
    "commands": {"commands", "page", "validation", "sim", "reference", "topologies", "core", "edge"},
    "page": {"page", "commands", "validation", "sim", "topologies", "core", "edge"},  # beside the commands
    "face": {"face", "sim", "topologies", "core", "edge"},
    "main": {"commands"},
    "tests": {"commands", "page", "validation", "sim", "reference", "kernels", "topologies", "core", "edge", "face"},
}
# What may reach up, by name and when asked: a backend in its registry, what our codecs mean on tensors in theirs, and
# the door that older installations call.
# May read the version from the face: results and messages carry it.
VERSIONED = ("sim", "reference", "commands", "page")
BY_NAME = {
    ("reference/codecs/backend.py", "kernels"), ("reference/core/builtin.py", "reference"), ("sim/cli.py", "commands"),
}  # fmt: skip
ADVICE = {
    "core": "The torch-free core of reference/ is read by everybody and reads only itself: move what you need"
    " into the core, or take it as an argument.",
    "edge": "edge/ is below everything: it reads, writes and limits files without knowing what is in them.",
    "topologies": "topologies/ describes machines and knows no models, schemes or times: do this in sim/.",
    "sim": "sim/ uses topologies/ and the torch-free core. Move a fact that lives elsewhere into the core;"
    " compose two halves in validation/ or commands/.",
    "reference": "reference/ is the oracle and must know neither the kernels it judges nor the simulator. A"
    " backend is found by name when asked for, with importlib.import_module in the one registry.",
    "kernels": "kernels/ uses the torch-free core; hold it against reference/ in tests/ or validation/.",
    "validation": "Nothing but commands/ stands above validation/: move what both need down into a half.",
    "commands": "commands/ parses, asks and prints: what kernels do is asked through reference/ or validation/.",
    "page": "page/ asks the simulator and shows the answers: what is computed belongs into sim/.",
    "face": "src/thinwire/__init__.py is the public face of the simulator; import thinwire must stay light.",
    "main": "src/thinwire/__main__.py runs the command line and does nothing else.",
}
DOWN = "An import points down the list of tests/test_layout.py: move what is needed to the lower room, or take it as an"
DOWN += " argument"
# Other people's packages by part; what is not listed here may import whatever pyproject.toml declares.
PACKAGES: Mapping[str, set[str]] = {
    "edge": set(),
    "core": {"numpy", "pydantic"},
    "topologies": {"defusedxml", "networkx", "numpy", "pydantic"},
    "kernels": {"numpy", "torch", "triton"},
}
TORCH = {"torch", "triton"}
# Modules that nobody imports before an extra is asked for, and what they may import at their top.
OF_AN_EXTRA: Mapping[str, set[str]] = {"page/server.py": {"anyio", "starlette", "uvicorn"}}
IMPORTED_AS = {"vl_convert_python": "vl_convert"}
TORCH_PARTS = {"reference", "kernels", "validation"}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name, absolute and dotted."""

    target: str
    line: int
    named: bool = False  # in a string: imported at run time
    lazy: bool = False  # inside a function
    relative: bool = False

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


@pytest.fixture(scope="module")
def sources(root: Path, tracked: list[str]) -> dict[str, str]:
    """Path to source of every module of ours."""
    ours = tuple(f"{folder}/" for folder in (*HOUSE, "src", "tests", "examples"))
    found = {n: (root / n).read_text("utf-8") for n in tracked if n.startswith(ours) and n.endswith(".py")}
    assert {"src/thinwire/__init__.py", "sim/__init__.py", "tests/test_layout.py"} <= found.keys()
    return found


@pytest.fixture(scope="module")
def declared(root: Path) -> tuple[set[str], set[str]]:
    """Import names of the core dependencies, and of the extras that users install."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [r for extra, rs in project["optional-dependencies"].items() if extra not in ("test", "dev") for r in rs]
    return {name_of(r) for r in project["dependencies"]}, {name_of(r) for r in extras}


def name_of(requirement: str) -> str:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("-", "_")
    return IMPORTED_AS.get(name, name)


# --- the rules ---


def place_of(inside: str, folder: str) -> str | None:
    """The entry of HOUSE for "room/module.py" or "module.py" of a folder; None: outside every room."""
    room, slash, _ = inside.partition("/")
    if ANY in HOUSE[folder] and not slash:
        return ANY
    entry = f"{room}/" if slash else inside
    return entry if entry in HOUSE[folder] else None


def part_of_file(path: str) -> str:
    folder, _, inside = path.partition("/")
    if folder == "reference":
        return "core" if inside.startswith(CORE) or inside == "__init__.py" else "reference"
    if folder == "src":
        return "main" if inside == "thinwire/__main__.py" else "face"
    return folder if folder in HOUSE else "tests"


def file_of(target: str) -> str | None:
    """A path that stands for a dotted name below `thinwire`, as far as rooms go; None for the face."""
    _, *parts = target.split(".")
    if not parts or parts[0] not in HOUSE:
        return None
    folder, *inside = parts
    if not inside:
        return f"{folder}/__init__.py"
    return f"{folder}/{inside[0]}/x.py" if f"{inside[0]}/" in HOUSE[folder] else f"{folder}/{inside[0]}.py"


def whole(target: str) -> bool:
    """Whether a name is a folder or a room as a whole, or all that is in one."""
    _, *parts = target.removesuffix(".*").split(".")
    if not parts or parts[0] not in HOUSE:
        return False
    rooms = parts[1:]
    return not rooms or (len(rooms) == 1 and f"{rooms[0]}/" in HOUSE[parts[0]])


def package_of(path: str) -> list[str]:
    """The package that relative imports of a module start from."""
    folders = list(PurePosixPath(path).parts[:-1])
    if folders[0] == "src":
        return folders[1:]
    return ["thinwire", *folders] if folders[0] in HOUSE else folders


def imports(path: str, source: str) -> Iterator[Import]:
    """Every import of a module, wherever it stands. `from thinwire.sim import x` counts as an import of x."""
    package = package_of(path)
    tree = ast.parse(source, path)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        lazy = id(node) in inner
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy=lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            ours, relative = base.partition(".")[0] == "thinwire", node.level > 0
            names = [f"{base}.{alias.name}" for alias in node.names] if ours or relative else [base]
            yield from (Import(name, node.lineno, lazy=lazy, relative=relative) for name in names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if re.fullmatch(r"thinwire(\.\w+)+", node.value):  # import_module, resources.files, a table of names
                yield Import(node.value, node.lineno, named=True, lazy=lazy)
        elif isinstance(node, ast.JoinedStr) and node.values and isinstance(first := node.values[0], ast.Constant):
            if re.match(r"thinwire\.\w*", str(first.value)):  # a name that is made up at run time
                yield Import(f"{first.value}...", node.lineno, named=True, lazy=lazy)
        elif isinstance(node, ast.Call) and node.args and isinstance(name := node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and name.value in TORCH:
                yield Import(str(name.value), node.lineno, named=True, lazy=lazy)
            elif called == "import_module" and str(name.value).startswith("."):
                yield Import(f"thinwire{name.value}...", node.lineno, named=True, lazy=lazy)


def arrow_faults(path: str, source: str) -> list[str]:
    """Imports of ours against the arrows: between the parts, and up the rooms of a folder."""
    part, folder = part_of_file(path), path.partition("/")[0]
    faults = []
    for found in imports(path, source):
        where = f"{path}:{found.line} imports {found.target}"
        if folder in HOUSE and path.endswith("__init__.py"):
            faults.append(f"{where}: a room's __init__.py imports nothing, or rooms reach each other through it")
        elif found.top in HOUSE:
            faults.append(f"{where}: write thinwire.{found.target}, or there is a second copy of every class")
        elif found.top == "thinwire" and not (part in VERSIONED and found.target == "thinwire.__version__"):
            target = file_of(found.target)
            if part != "tests" and not found.named and whole(found.target):
                faults.append(f"{where}: name the module, whose room can be told")
                continue
            other = "face" if target is None else part_of_file(target)
            if found.target.endswith("..."):
                faults.append(f"{where}: write the module's whole name, by which its room can be told")
            elif found.relative:
                faults.append(f"{where} from a place beside it: write its whole name, one way everywhere")
            elif other not in ARROWS[part]:
                if not (found.named and (path, other) in BY_NAME):
                    faults.append(f"{where} ({part} -> {other}). {ADVICE[part]}")
            elif target is not None and target.startswith(f"{folder}/"):
                faults += _upward(where, folder, path, target)
    return faults


def _upward(where: str, folder: str, path: str, target: str) -> list[str]:
    order = HOUSE[folder]
    mine, its = (place_of(each.partition("/")[2], folder) for each in (path, target))
    if mine is None or its is None or order.index(mine) <= order.index(its):
        return []
    return [f"{where}: {folder}/{its} stands above {folder}/{mine}. {DOWN}"]


def graph_of(sources: Mapping[str, str]) -> "nx.DiGraph[str]":
    """Who imports whom among our modules, wherever the import stands, by path."""
    modules = {}
    for path in sources:
        if path.partition("/")[0] in HOUSE or path.startswith("src/"):
            dotted = ".".join([*package_of(path), PurePosixPath(path).stem]).removesuffix(".__init__")
            modules[dotted] = path
    graph: nx.DiGraph[str] = nx.DiGraph()
    for path in modules.values():
        for found in imports(path, sources[path]):
            for name in (found.target, found.target.rpartition(".")[0]):  # a module, or a name in one
                if name in modules and modules[name] != path and not modules[name].endswith("__init__.py"):
                    graph.add_edge(path, modules[name], line=found.line)
                    break
    return graph


def cycle_faults(sources: Mapping[str, str]) -> list[str]:
    """Imports that go in a circle, also those inside functions and for types alone."""
    graph = graph_of(sources)
    faults = []
    for knot in nx.strongly_connected_components(graph):
        if len(knot) > 1:
            way = [a for a, _ in nx.find_cycle(graph.subgraph(knot))]
            steps = " -> ".join([f"{a}:{graph.edges[a, b]['line']}" for a, b in zip(way, [*way[1:], way[0]])])  # noqa: B905
            faults.append(f"{steps} -> {way[0]}: imports in a circle; move what both need into a module below both")
    return faults


def package_faults(path: str, source: str, declared: tuple[set[str], set[str]]) -> list[str]:
    """Imports of other people's packages: torch out of place, and what pyproject.toml does not name."""
    core, extras = declared
    part = part_of_file(path)
    faults = []
    for found in imports(path, source) if part != "tests" else ():
        name = found.top.lower()
        if name in sys.stdlib_module_names or name in HOUSE or name == "thinwire":
            continue
        where = f"{path}:{found.line} imports {found.target}"
        if part in PACKAGES and name not in PACKAGES[part]:
            allowed = ", ".join(sorted(PACKAGES[part]))
            faults.append(f"{where}: {part} has only the standard library, {allowed}. {ADVICE[part]}")
        elif name in TORCH and part not in TORCH_PARTS:
            faults.append(f"{where}: {part} works without torch. {ADVICE[part]}")
        elif name in OF_AN_EXTRA.get(path, ()):
            continue
        elif name not in core | extras:
            faults.append(f"{where}: name it in pyproject.toml, among the dependencies or in an extra")
        elif name not in core and not found.lazy and part not in TORCH_PARTS:
            faults.append(f"{where}: it is an extra; import it in the function that needs it")
    return faults


def length_faults(path: str, source: str) -> list[str]:
    """Modules nobody reads in one go."""
    lines = len(source.splitlines())
    return [f"{path}: {lines} lines, at most {MAX_LINES}; split it by purpose"] if lines > MAX_LINES else []


def place_faults(paths: Iterable[str]) -> list[str]:
    """Where files lie: modules in rooms, data in folders of data, __init__.py where it belongs, no room too full."""
    paths = list(paths)
    faults = []
    rooms: Counter[str] = Counter()
    packages = {folder for folder in HOUSE if folder != "kernels"}
    for path in paths:
        folder, _, inside = path.partition("/")
        if folder not in HOUSE:
            if path.endswith(".py") and not path.startswith(ELSEWHERE):
                faults.append(f"{path} is in no folder of the house ({', '.join(HOUSE)}): move it into one")
            continue
        room, slash, rest = inside.partition("/")
        if slash and room in DATA[folder]:
            if path.endswith(".py"):
                faults.append(f"{path}: {room}/ holds data; move the module into a room of {folder}/")
            elif "/" in rest and str(PurePosixPath(inside).parent) not in DATA[folder]:
                faults.append(f"{path}: {room}/ is flat")
        elif not path.endswith(".py"):
            if slash and f"{room}/" not in HOUSE[folder]:
                faults.append(f"{path}: {room}/ is no room of {folder}/ and no folder of data")
        elif "/" in rest:
            faults.append(f"{path}: a room has no rooms; move the module up into {folder}/{room}/")
        elif PurePosixPath(path).name != "__init__.py":
            if place_of(inside, folder) is None:
                known = ", ".join(HOUSE[folder])
                faults.append(f"{path} is outside every room of {folder}/ ({known}): move it into one, or add its room")
            rooms[f"{folder}/{room}/" if slash else f"{folder}/"] += 1
        if slash and f"{room}/" in HOUSE[folder]:
            packages.add(f"{folder}/{room}")
    faults += [
        f"{room} has {count} modules, at most {MAX_MODULES}: it wants another wall"
        for room, count in rooms.items()
        if count > MAX_MODULES and room != "kernels/"
    ]
    if "kernels/__init__.py" in paths:
        faults.append("kernels/__init__.py: remove it, it shadows Hugging Face's kernels when Python starts here")
    missing = (f"{folder}/__init__.py" for folder in sorted(packages))
    return faults + [f"{path} is missing: this folder is a package" for path in missing if path not in paths]


def link_faults(package: Path) -> list[str]:
    """src/thinwire links to each folder, relatively."""
    faults = []
    for folder in HOUSE:
        link, wanted = package / folder, f"../../{folder}"
        if not link.is_symlink():
            faults.append(f"src/thinwire/{folder} is no link: git config core.symlinks true, then check out again")
        elif os.readlink(link) != wanted:
            faults.append(f"src/thinwire/{folder} links to {os.readlink(link)}: it must be {wanted}")
    return faults


def rooms_of() -> list[str]:
    """Every folder of modules, as docs/structure.md and __init__.py speak of it."""
    return [
        *(f"{folder}/" for folder in HOUSE),
        *(f"{folder}/{place}" for folder, places in HOUSE.items() for place in places if place.endswith("/")),
    ]


# --- the tree keeps them ---


def test_imports_follow_the_arrows(sources: dict[str, str]) -> None:
    """An import goes against the arrows of docs/decisions/000-layout.md: the message says what to do."""
    faults = [fault for path, source in sources.items() for fault in arrow_faults(path, source)]
    assert not faults, "\n".join(faults)


def test_no_imports_go_in_a_circle(sources: dict[str, str]) -> None:
    """Move what both need into a module below both; an import inside a function hides a circle and does not open it."""
    faults = cycle_faults(sources)
    assert not faults, "\n".join(faults)


def test_packages_are_declared_and_torch_is_in_its_place(
    sources: dict[str, str], declared: tuple[set[str], set[str]]
) -> None:
    """A module imports another project's package that its part may not have: see the message."""
    faults = [fault for path, source in sources.items() for fault in package_faults(path, source, declared)]
    assert not faults, "\n".join(faults)


def test_no_module_is_too_long(sources: dict[str, str]) -> None:
    """Split the module by what its parts are for; 400 lines is the soft limit."""
    faults = [fault for path, source in sources.items() for fault in length_faults(path, source)]
    assert not faults, "\n".join(faults)


def test_files_lie_in_rooms_and_folders_are_linked(root: Path, tracked: list[str]) -> None:
    """Move the file, or repair the link, as the message says."""
    faults = place_faults(tracked) + link_faults(root / "src" / "thinwire")
    assert not faults, "\n".join(faults)


def test_every_entry_of_the_house_is_there(tracked: list[str]) -> None:
    """A room or a module of the hall went away: take it off the list."""
    for folder, places in HOUSE.items():
        for place in places:
            assert place == ANY or any(path.startswith(f"{folder}/{place}") for path in tracked), f"{folder}/{place}"


def test_structure_says_what_each_room_is_for(root: Path) -> None:
    """A new room has its sentence in docs/structure.md: `- `sim/events/`: what happens in it`."""
    text = (root / "docs" / "structure.md").read_text("utf-8")
    said = re.findall(r"^- `([a-z_/]+/)`: \S", text, re.MULTILINE)
    assert Counter(said) == Counter(rooms_of())


def test_tests_run_against_this_tree(root: Path) -> None:
    """An installed wheel hides the tree: pip uninstall thinwire, then make test."""
    import thinwire  # here, so that a face that fails to import still gets its arrows checked

    assert Path(thinwire.__file__).resolve() == root / "src" / "thinwire" / "__init__.py"


def run_python(code: str, root: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    run = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def test_import_thinwire_is_light(root: Path, tmp_path: Path) -> None:
    """Importing thinwire pulls a heavy package: import it inside the function that needs it."""
    heavy = ["torch", "triton", "scipy", "pandas", "numpy", "networkx", "pydantic"]
    code = f"import sys, thinwire; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code, root, tmp_path).strip() == "[]"


def test_simulator_imports_where_torch_is_refused(root: Path, sources: dict[str, str], tmp_path: Path) -> None:
    """sim/, topologies/ or the core reaches torch, kernels or validation, perhaps through another module."""
    paths = [path for path in sources if part_of_file(path) in ("core", "sim", "topologies")]
    modules = ["thinwire." + path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in paths]
    code = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton") or name in ("thinwire.kernels", "thinwire.validation"):
            raise ImportError("out of bounds: " + name)
sys.meta_path.insert(0, Refuse())
print(len([importlib.import_module(name) for name in {modules}]))
"""
    assert run_python(code, root, tmp_path).strip() == str(len(modules))
