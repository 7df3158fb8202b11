"""The folders are the architecture: who may import whom, and where files may lie.

Each rule is a function from paths and sources to a list of complaints. The tests apply it to the tree, where
it must find nothing, and to broken examples, where it must find the fault. If one fails after a change of
yours, its message names the line and says what to do; docs/decisions/000-layout.md says why.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

FOLDERS = ("kernels", "reference", "sim", "topologies", "validation")
# reference/, torch-free
CORE = frozenset({"__init__", "catalog", "config", "cross_schedule", "formats", "mixed", "schedule", "scheme"})
DATA = (
    "gpus",
    "machines",
    "models",
    "profiles",
    "published",
    "raw",
    "reports",
)  # the only folders in a folder
MAX_LINES = 600

# The project's parts and which of them each may import. "reference" is the torch side of that folder, "face"
# is src/thinwire/__init__.py.
ARROWS: dict[str, set[str]] = {
    "core": {"core"},
    "topologies": {"topologies"},
    "sim": {"sim", "topologies", "core"},
    "reference": {"reference", "core"},
    "kernels": {"kernels", "core"},
    "validation": {"validation", "sim", "reference", "kernels", "topologies", "core", "face"},
    "face": {"face", "sim", "topologies", "core"},
    "tests": {"validation", "sim", "reference", "kernels", "topologies", "core", "face"},
}
ADVICE = {
    "core": "The torch-free core of reference/ is read by everybody and reads only itself: move what you need"
    " into the core, or take it as an argument.",
    "topologies": "topologies/ describes machines and knows no models, schemes or times: do this in sim/.",
    "sim": "sim/ uses topologies/ and the torch-free core. Move a fact that lives elsewhere into the core;"
    " compose two halves in validation/. Add a new torch-free module of reference/ to CORE in this test.",
    "reference": "reference/ is the oracle and must know neither the kernels it judges nor the simulator. A"
    " backend is found by name when asked for, with importlib.import_module in the one registry.",
    "kernels": "kernels/ uses the torch-free core; hold it against reference/ in tests/ or validation/.",
    "face": "src/thinwire/__init__.py is the public face of the simulator; import thinwire must stay light.",
}
# Other people's packages by part; what is not listed here may import whatever pyproject.toml declares.
PACKAGES: dict[str, set[str]] = {
    "core": {"numpy", "pydantic", "tomli"},
    "topologies": {"networkx", "numpy", "pydantic", "tomli"},
    "kernels": {"numpy", "torch", "triton"},
}
STANDARD = sys.stdlib_module_names | {"tomllib"}  # tomllib: where there is none, tomli is imported instead
TORCH = {"torch", "triton"}
TORCH_PARTS = {"reference", "kernels", "validation"}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name, absolute and dotted."""

    target: str
    line: int
    named: bool = False  # in a string: imported at run time
    lazy: bool = False  # inside a function

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


@pytest.fixture(scope="module")
def sources(root: Path, tracked: list[str]) -> dict[str, str]:
    """Path to source of every module of ours."""
    ours = tuple(f"{folder}/" for folder in (*FOLDERS, "src", "tests", "examples"))
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
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("-", "_")


# --- the rules ---


def part_of_file(path: str) -> str:
    folder, _, rest = path.partition("/")
    if folder == "reference":
        return "core" if rest.removesuffix(".py") in CORE else "reference"
    return folder if folder in FOLDERS else "face" if folder == "src" else "tests"


def part_of_target(target: str) -> str:
    """The part that a name below `thinwire` belongs to."""
    _, *inside = target.split(".")
    if not inside or inside[0] not in FOLDERS:
        return "face"
    if inside[0] == "reference":
        return "core" if len(inside) == 1 or inside[1] in CORE else "reference"
    return inside[0]


def imports(path: str, source: str) -> Iterator[Import]:
    """Every import of a module, wherever it stands. `from . import x` counts as an import of x."""
    folder = path.partition("/")[0]
    package = ["thinwire", folder] if folder in FOLDERS else ["thinwire"] if folder == "src" else [folder]
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
            if base == "thinwire" or base.removeprefix("thinwire.") in FOLDERS:
                yield from (Import(f"{base}.{alias.name}", node.lineno, lazy=lazy) for alias in node.names)
            else:
                yield Import(base, node.lineno, lazy=lazy)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if re.fullmatch(r"thinwire(\.\w+)+", node.value):  # import_module, resources.files, a table of names
                yield Import(node.value, node.lineno, named=True, lazy=lazy)
        elif isinstance(node, ast.Call) and node.args and isinstance(name := node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and name.value in TORCH:
                yield Import(str(name.value), node.lineno, named=True, lazy=lazy)


def arrow_faults(path: str, source: str) -> list[str]:
    """Imports of ours against the arrows."""
    part = part_of_file(path)
    faults = []
    for found in imports(path, source):
        where = f"{path}:{found.line} imports {found.target}"
        if found.top in FOLDERS:
            faults.append(f"{where}: write thinwire.{found.target}, or there is a second copy of every class")
        elif found.top == "thinwire" and (other := part_of_target(found.target)) not in ARROWS[part]:
            registry = (part, other, found.named) == ("reference", "kernels", True)
            version = (part, found.target) == ("sim", "thinwire.__version__")
            if not registry and not version:
                faults.append(f"{where} ({part} -> {other}). {ADVICE[part]}")
    return faults


def package_faults(path: str, source: str, declared: tuple[set[str], set[str]]) -> list[str]:
    """Imports of other people's packages: torch out of place, and what pyproject.toml does not name."""
    core, extras = declared
    part = part_of_file(path)
    faults = []
    for found in imports(path, source) if part != "tests" else ():
        name = found.top.lower()
        if name in STANDARD or name in FOLDERS or name == "thinwire":
            continue
        where = f"{path}:{found.line} imports {found.target}"
        if part in PACKAGES and name not in PACKAGES[part]:
            allowed = ", ".join(sorted(PACKAGES[part]))
            faults.append(f"{where}: {part} has only the standard library, {allowed}. {ADVICE[part]}")
        elif name in TORCH and part not in TORCH_PARTS:
            faults.append(f"{where}: {part} works without torch. {ADVICE[part]}")
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
    """Where files lie: flat folders, data in data folders, __init__.py where it belongs."""
    paths = list(paths)
    faults = []
    for path in paths:
        folder, *inside = PurePosixPath(path).parts
        if folder not in FOLDERS:
            continue
        if len(inside) > 2 or (len(inside) == 2 and inside[0] not in DATA):
            faults.append(f"{path}: {folder}/ is flat; move the file up (folders for data: {', '.join(DATA)})")
        elif len(inside) == 2 and path.endswith(".py"):
            faults.append(f"{path}: {inside[0]}/ holds data; move the module up into {folder}/")
    if "kernels/__init__.py" in paths:
        faults.append("kernels/__init__.py: remove it, it shadows Hugging Face's kernels when Python starts here")
    missing = (f"{folder}/__init__.py" for folder in FOLDERS if folder != "kernels")
    return faults + [f"{path} is missing: this folder is a package" for path in missing if path not in paths]


def link_faults(package: Path) -> list[str]:
    """src/thinwire links to each folder, relatively."""
    faults = []
    for folder in FOLDERS:
        link, wanted = package / folder, f"../../{folder}"
        if not link.is_symlink():
            faults.append(f"src/thinwire/{folder} is no link: git config core.symlinks true, then check out again")
        elif os.readlink(link) != wanted:
            faults.append(f"src/thinwire/{folder} links to {os.readlink(link)}: it must be {wanted}")
    return faults


# --- the tree keeps them ---


def test_imports_follow_the_arrows(sources: dict[str, str]) -> None:
    """An import goes against the arrows of docs/decisions/000-layout.md: the message says what to do."""
    faults = [fault for path, source in sources.items() for fault in arrow_faults(path, source)]
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


def test_folders_are_flat_and_linked(root: Path, tracked: list[str]) -> None:
    """Move the file, or repair the link, as the message says."""
    faults = place_faults(tracked) + link_faults(root / "src" / "thinwire")
    assert not faults, "\n".join(faults)


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
    heavy = ["torch", "triton", "scipy", "pandas"]
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


# --- the rules see what they should ---


@pytest.mark.parametrize(
    ("path", "source", "seen"),
    [
        ("sim/engine.py", "from thinwire.reference.quantize import encode", "sim -> reference"),
        ("sim/engine.py", "from ..reference import allreduce", "sim -> reference"),
        ("sim/engine.py", "from thinwire.reference import model", "sim -> reference"),
        ("sim/cli.py", "def f():\n    from thinwire.validation import calibrate", "sim -> validation"),
        (
            "sim/cli.py",
            "import importlib\nimportlib.import_module('thinwire.validation.x')",
            "sim -> validation",
        ),
        ("sim/profile.py", "resources.files('thinwire.validation')", "sim -> validation"),
        ("sim/cli.py", "import thinwire.kernels.pack", "sim -> kernels"),
        ("sim/plan.py", "import thinwire", "sim -> face"),
        ("reference/scheme.py", "from thinwire.topologies.cluster import Cluster", "core -> topologies"),
        ("reference/scheme.py", "from .packing import pack", "core -> reference"),
        ("reference/catalog.py", "if TYPE_CHECKING:\n    from thinwire.sim.predict import x", "core -> sim"),
        ("reference/quantize.py", "from thinwire.kernels import pack", "reference -> kernels"),
        ("reference/accuracy.py", "from ..sim import predict", "reference -> sim"),
        ("topologies/cluster.py", "from thinwire.reference.config import ModelConfig", "topologies -> core"),
        ("topologies/load.py", "from ..sim.profile import load", "topologies -> sim"),
        ("kernels/pack.py", "from thinwire.reference.quantize import encode", "kernels -> reference"),
        ("kernels/bench.py", "from thinwire.sim import profile", "kernels -> sim"),
        ("src/thinwire/__init__.py", "from .validation import compare", "face -> validation"),
        ("src/thinwire/__init__.py", "from thinwire.kernels import pack", "face -> kernels"),
        ("sim/engine.py", "import reference.scheme", "write thinwire.reference.scheme"),
        ("tests/test_one_scheme.py", "from sim import engine", "write thinwire.sim"),
        ("examples/predict.py", "import topologies", "write thinwire.topologies"),
    ],
)
def test_a_broken_arrow_is_seen(path: str, source: str, seen: str) -> None:
    (fault,) = arrow_faults(path, source)
    assert fault.startswith(f"{path}:{len(source.splitlines())} ")
    assert seen in fault


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "sim/engine.py",
            "from thinwire.reference.scheme import x\nfrom ..topologies import y\nfrom . import z",
        ),
        ("sim/cli.py", "from thinwire import __version__"),
        ("sim/cost.py", '"thinwire.validation.calibrate"\nhint = "written by thinwire.validation.calibrate"'),
        ("reference/quantize.py", "import_module('thinwire.kernels.pack')\nfrom . import packing, formats"),
        ("kernels/pack.py", "from thinwire.reference.formats import planes\nfrom . import unpack"),
        (
            "validation/compare.py",
            "import thinwire\nfrom thinwire.sim import x\nfrom ..reference import quantize",
        ),
        ("tests/sim/test_engine.py", "from thinwire.validation import compare\nimport thinwire.kernels"),
    ],
)
def test_a_sound_import_is_let_through(path: str, source: str) -> None:
    assert arrow_faults(path, source) == []


@pytest.mark.parametrize(
    ("path", "source", "seen"),
    [
        ("sim/predict.py", "import torch.nn as nn", "works without torch"),
        ("sim/predict.py", "def f():\n    import torch", "works without torch"),
        ("sim/predict.py", "importlib.import_module('torch')", "works without torch"),
        ("src/thinwire/__init__.py", "import triton", "works without torch"),
        ("reference/config.py", "from torch import Tensor", "core has only"),
        ("reference/schedule.py", "import networkx", "core has only"),
        ("topologies/cluster.py", "import scipy.sparse", "topologies has only"),
        ("kernels/pack.py", "import scipy", "kernels has only"),
        ("sim/sweep.py", "import pandas", "name it in pyproject.toml"),
        ("sim/sweep.py", "def f():\n    import hypothesis", "name it in pyproject.toml"),
        ("sim/sweep.py", "import anextra", "import it in the function"),
    ],
)
def test_a_package_out_of_place_is_seen(path: str, source: str, seen: str) -> None:
    (fault,) = package_faults(path, source, ({"numpy", "networkx", "scipy"}, {"torch", "triton", "anextra"}))
    assert seen in fault


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sim/engine.py", "import json\nimport simpy, numpy as np\nfrom rich.table import Table"),
        ("reference/model.py", "import torch\nfrom torch import nn"),
        ("kernels/pack.py", "import torch, triton.language as tl, math"),
        ("topologies/load.py", "import tomli, networkx, pydantic, pathlib"),
        ("tests/test_x.py", "import hypothesis, ml_dtypes"),
    ],
)
def test_a_package_in_place_is_let_through(path: str, source: str, declared: tuple[set[str], set[str]]) -> None:
    assert package_faults(path, source, declared) == []


def test_a_misplaced_file_is_seen() -> None:
    sound = [f"{folder}/__init__.py" for folder in FOLDERS if folder != "kernels"]
    sound += [
        "sim/profiles/gpu-l40s.json",
        "validation/raw/a.json",
        "kernels/README.md",
        "tests/sim/deep/test_x.py",
    ]
    assert place_faults(sound) == []
    for broken, seen in [
        ("sim/engine/core.py", "sim/ is flat"),
        ("topologies/gpus/old/l4.toml", "topologies/ is flat"),
        ("sim/profiles/read.py", "holds data"),
        ("kernels/__init__.py", "shadows Hugging Face"),
    ]:
        (fault,) = place_faults([*sound, broken])
        assert seen in fault
    (fault,) = place_faults(path for path in sound if path != "sim/__init__.py")
    assert fault.startswith("sim/__init__.py is missing")


def test_a_long_module_is_seen() -> None:
    assert length_faults("sim/engine.py", "x = 1\n" * MAX_LINES) == []
    assert length_faults("sim/engine.py", "x = 1\n" * (MAX_LINES + 1)) != []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).symlink_to(f"../../{folder}")
    assert link_faults(tmp_path) == []
    (tmp_path / "sim").unlink()
    (tmp_path / "sim").write_text("../../sim")  # what git checks out where links are off
    (tmp_path / "kernels").unlink()
    (tmp_path / "kernels").symlink_to(tmp_path / "elsewhere")
    assert ["is no link" in fault for fault in link_faults(tmp_path)] == [False, True]
