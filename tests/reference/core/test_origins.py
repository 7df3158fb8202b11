"""What results of a codec of one's own rest on: its modules, and those beside them that they import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thinwire.reference.core.origins import sources


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_plain_module_rests_on_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(
        tmp_path,
        {
            "origin_codec.py": "import os, torch, origin_tables\nfrom thinwire.reference import catalog\n",
            "origin_tables.py": "def f():\n    from origin_deep import x\n    import_module('origin_named')\n",
            "origin_deep/__init__.py": "from . import inner\nimport origin_codec\n",
            "origin_deep/inner.py": "from ..beyond import x",
            "origin_named.py": "not python at all",
            "origin_other.py": "",
            "thinwire/reference/catalog.py": "ours is another",
        },
    )
    found = sources(["origin_codec"])
    assert set(found) == {"origin_codec", "origin_tables", "origin_deep", "origin_deep.inner", "origin_named"}
    before = dict(found)
    (tmp_path / "origin_deep" / "inner.py").write_text("x = 2")
    assert sources(["origin_codec"]) != before


def test_a_package_rests_on_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is installed, and there on nothing else."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write(
        tmp_path,
        {
            "origin_pack/__init__.py": "",
            "origin_pack/codec.py": "from .math import tables\nimport origin_else\n",
            "origin_pack/math/__init__.py": "TABLES = 'origin_pack.late:attribute'",
            "origin_pack/math/tables.py": "from .. import helper",
            "origin_pack/helper.py": "",
            "origin_pack/late.py": "",
            "origin_pack/unused.py": "",
            "origin_else.py": "",
        },
    )
    own = {f"origin_pack{name}" for name in ("", ".codec", ".math", ".math.tables", ".helper", ".late")}
    assert set(sources(["origin_pack.codec"])) == own | {"origin_else"}
    monkeypatch.setattr("thinwire.reference.core.origins._installed", lambda: {tmp_path})
    assert set(sources(["origin_pack.codec"])) == own


def test_what_has_no_file_is_empty() -> None:
    assert sources(["builtins", "nowhere.at_all"]) == {"builtins": b"", "nowhere.at_all": b""}


MAIN = """
from thinwire.reference.core.lookup import own_sources
from thinwire.reference.catalog import Codec, Section, register
from dataclasses import dataclass

@dataclass(frozen=True, slots=True)
class Mine(Codec):
    group = 8
    spec = "mine"
    bits_per_value = 8.0
    def _sections(self, numel):
        return (Section("codes", -(-numel // 8) * 8),)

register(Mine, "mine", build=lambda words: Mine(), grammar="mine", examples=("mine",))
import origin_beside
print(sorted((name, len(text)) for name, text in own_sources().items()))
"""


def ran(folder: Path, root: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(folder)])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, input=given, capture_output=True, text=True)


def test_a_main_script_is_its_file(tmp_path: Path, root: Path) -> None:
    write(tmp_path, {"script.py": MAIN, "origin_beside.py": "x = 1", "pack/__main__.py": MAIN})
    expected = f"[('__main__', {len(MAIN)}), ('origin_beside', 5)]\n"
    for arguments in (("script.py",), ("-m", "script"), ("-m", "pack")):
        done = ran(tmp_path, root, *arguments)
        assert (done.stdout, done.stderr) == (expected, "")


def test_a_session_without_a_file_keeps_nothing(tmp_path: Path, root: Path) -> None:
    write(tmp_path, {"origin_beside.py": "x = 1"})
    for arguments, given in ((("-c", MAIN), None), (("-",), MAIN)):
        done = ran(tmp_path, root, *arguments, given=given)
        assert done.stderr.splitlines()[-1] == (
            "ValueError: results cannot be kept: a codec is made in __main__, which has no file to tell whether it "
            "changes; move it to a module and import that"
        )
