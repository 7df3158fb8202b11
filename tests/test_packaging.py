"""What users install holds every module and table that git tracks, and works without the repository."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from shutil import copyfile

import pytest

from .test_layout import HOUSE

KEPT = ("raw", "reports")  # folders of data that stay in the repository

pytestmark = pytest.mark.xdist_group("packaging")  # one worker builds once for all of these


def shipped(tracked: Iterable[str]) -> dict[str, str]:
    """Tracked modules and data that users get: path in the repository -> path in the wheel."""
    wanted = {
        path: path.removeprefix("src/")
        for path in ("src/thinwire/__init__.py", "src/thinwire/__main__.py", "src/thinwire/py.typed")
    }
    for path in tracked:
        folder, *inside = PurePosixPath(path).parts
        if folder in HOUSE and inside[0] not in KEPT:
            wanted[path] = f"thinwire/{path}"
    return wanted


def wheel_faults(tracked: Iterable[str], held: Iterable[str]) -> list[str]:
    """What a wheel lacks, and what it would install beside thinwire, by tracked files and names held."""
    names, wanted = set(held), shipped(tracked)
    advice = "name its pattern under package-data in pyproject.toml, or its folder in KEPT"
    faults = [f"{path} is not in the wheel: {advice}" for path, name in wanted.items() if name not in names]
    strays = sorted({n.partition("/")[0] for n in names if not re.match(r"thinwire(-[^/]+\.dist-info)?/", n)})
    return faults + [f"{stray}: our wheel installs nothing beside thinwire" for stray in strays]


@pytest.fixture(scope="module")
def built(root: Path, tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`direct/` has a wheel built from a copy of the tree, `sdist/` an sdist and a wheel built from it."""
    place = tmp_path_factory.mktemp("built")
    for name in tracked:
        (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_symlink():
            (place / "tree" / name).symlink_to(os.readlink(root / name))
        else:
            copyfile(root / name, place / "tree" / name)
    for out, options in (
        ("direct", ["--wheel"]),
        ("sdist", []),
    ):  # without --wheel build goes by way of an sdist
        command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", out, "tree"]
        run = subprocess.run(command, cwd=place, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return place


@pytest.mark.parametrize("how", ["direct", "sdist"])
def test_wheel_holds_every_module_and_table(built: Path, tracked: list[str], how: str) -> None:
    """A file that git tracks does not reach users: name it in pyproject.toml, [tool.setuptools]."""
    (wheel,) = (built / how).glob("*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    faults = wheel_faults(tracked, held)
    assert not faults, "\n".join(faults)
    assert {PurePosixPath(name).name for name in held if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert not [name for name in held if PurePosixPath(name).parts[-2] in KEPT]


def test_sdist_holds_what_a_packager_needs(built: Path, tracked: list[str]) -> None:
    """Name the file in MANIFEST.in. A link in the archive would dangle where it is unpacked."""
    (archive,) = (built / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert {"LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "constraints.txt", "pyproject.toml"} <= names
    assert {f"src/{name}" for name in shipped(tracked).values()} <= names
    assert not [member.name for member in members if member.issym() or member.islnk()]


def test_unpacked_wheel_predicts(built: Path) -> None:
    """The installed package must find its models, machines and profiles by itself, without the repository."""
    (wheel,) = (built / "sdist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(built / "site")
    code = """
import thinwire
from thinwire.sim import predict
asked = dict(model="llama-3-8b", cluster="8xl40s-pcie", scheme="flash-int4", tp=2, batch=1, input_tokens=256)
print(predict.__file__, thinwire.predict(**asked).ttft_s > 0, sep="\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(built / "site")}
    run = subprocess.run([sys.executable, "-c", code], cwd=built, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines() == [str(built / "site" / "thinwire" / "sim" / "predict.py"), "True"]


def test_unpacked_wheel_brings_its_commands(built: Path) -> None:
    """Commands of both halves are there, and those that need no torch work without it."""
    site = built / "commands"
    (wheel,) = (built / "sdist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    refuse = "import sys; sys.modules['torch'] = None; from thinwire.commands.cli import main; main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", refuse, *arguments]
        return subprocess.run(command, cwd=built, env=environment, capture_output=True, text=True)

    shown = run("--help")
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert all(name in shown.stdout for name in ("accuracy", "calibrate", "validate"))
    asked = run("calibrate")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.startswith("thinwire: calibrate needs --from RAW.json")
    refused = run("accuracy", "--scheme", "flash-int4")
    assert refused.returncode == 2 and "pip install 'thinwire[reference,weights]'" in refused.stderr
    read = run("calibrate", "--from", "none.json")  # as far as a file that is not there: past every import
    assert read.returncode == 2 and "cannot read the measurements in none.json" in read.stderr, read.stderr[-2000:]


def test_a_thin_wheel_is_seen() -> None:
    tracked = [
        "sim/events/engine.py",
        "topologies/gpus/l4.toml",
        "validation/raw/a.json",
        "kernels/README.md",
        "tests/t.py",
    ]
    held = {
        "src/thinwire/__init__.py": "thinwire/__init__.py",
        "src/thinwire/__main__.py": "thinwire/__main__.py",
        "src/thinwire/py.typed": "thinwire/py.typed",
        "kernels/README.md": "thinwire/kernels/README.md",
        "sim/events/engine.py": "thinwire/sim/events/engine.py",
        "topologies/gpus/l4.toml": "thinwire/topologies/gpus/l4.toml",
    }
    record = "thinwire-0.1.0.dist-info/RECORD"
    assert wheel_faults(tracked, [*held.values(), record]) == []
    for path, lost in held.items():
        (fault,) = wheel_faults(tracked, [record, *(name for name in held.values() if name != lost)])
        assert fault.startswith(f"{path} is not in the wheel")
    (fault,) = wheel_faults(tracked, [*held.values(), record, "kernels/pack.py"])
    assert fault.startswith("kernels: ")
