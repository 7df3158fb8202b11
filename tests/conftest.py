"""What all tests share: one BLAS thread a worker, repeatable property tests, the list of our files."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Two pytest workers on two cores: a BLAS that starts a thread per core only makes them wait for each other.
# This must be set before numpy is imported, and conftest.py is read before any test module.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

try:
    from hypothesis import settings
except ImportError:  # a bare GPU machine, where make gpu runs tests/kernels with torch, Triton, numpy and pytest alone
    pass
else:
    # "ci" is what runs unless asked otherwise: a test that fails here fails everywhere. To hunt for new examples:
    # HYPOTHESIS_PROFILE=hunt make test
    settings.register_profile("ci", derandomize=True, deadline=None)
    settings.register_profile("hunt", derandomize=False, deadline=None, max_examples=2000)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def log4(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The codec of docs/own-codec.md, found on the path and in THINWIRE_CODECS, forgotten afterwards. Its spec."""
    from thinwire.reference.core import lookup, registry

    monkeypatch.syspath_prepend(str(root / "examples"))
    monkeypatch.setenv("THINWIRE_CODECS", "log4")
    yield "log4-g32"
    for entry in registry.entries():
        if entry.kind.__module__ == "log4":
            registry.unregister(entry.kind)
    for module in ("log4", "log4_torch"):
        sys.modules.pop(module, None)
    lookup.forget_loaded()


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[str]:
    """Posix paths of the files git tracks or is about to (new, not ignored); without git, all but caches."""
    git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, or one that git does not trust
        walked = (path.relative_to(root) for path in root.rglob("*") if path.is_symlink() or path.is_file())
        listed = [path.as_posix() for path in walked if not {"__pycache__", ".venv", ".git"} & set(path.parts)]
    return sorted({name for name in listed if name and os.path.lexists(root / name)})
