"""The shipped counts are what the compiler makes today: three kernels compiled again, and what the table must hold."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import triton

from thinwire.kernels.bench import CODECS
from thinwire.kernels.form import form
from thinwire.kernels.reduce import can_requantise
from thinwire.reference.catalog import schemes
from thinwire.reference.core.lookup import entry_of, parse_codec
from thinwire.reference.core.scheme import OutlierHybrid
from thinwire.validation.instructions import table
from thinwire.validation.instructions.count import CAPABILITIES, pipe
from thinwire.validation.instructions.machine_code import Instruction
from thinwire.validation.instructions.table import COLUMNS, KERNELS, NORM, Counted, counted, newest, versions

AGAIN = (("encode", "int4-g128-zp", 89), ("reduce8", "mx-e2m1-b32", 90), ("requantise8", "int5-g128-zp", 100))
SCRIPT = """
import json, sys
from dataclasses import astuple
from thinwire.validation.instructions.count import count
json.dump([astuple(count(*one)) for one in json.load(sys.stdin)], sys.stdout)
"""


@pytest.mark.xdist_group("compile")
@pytest.mark.skipif(triton.__version__ != newest(), reason=f"counted with another Triton than {triton.__version__}")
def test_the_table_is_what_the_compiler_makes(root: Path) -> None:
    """If this fails after a change of kernels or of Triton: make instructions, then make calibrate."""
    cache = Path(tempfile.gettempdir()) / f"thinwire-triton-{os.getuid()}"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(AGAIN), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for (kernel, spec, capability), found in zip(AGAIN, json.loads(done.stdout), strict=True):
        assert Counted(*found) == counted(triton.__version__, capability)[spec][kernel], (kernel, spec, capability)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_codec_with_kernels_is_counted(capability: int) -> None:
    """A codec that is new in the catalog wants make instructions."""
    rows = counted(newest(), capability)
    for scheme in schemes().values():
        for codec in (scheme.reduce, scheme.gather):
            if not codec.is_raw and entry_of(codec).kernels:
                assert codec.spec in rows, f"{codec.spec} of {scheme.name}: make instructions"
    for codec, kernels in rows.items():
        known = parse_codec(codec)
        together = not isinstance(known, OutlierHybrid) and can_requantise(form(known), form(known))
        wanted = {name for name in KERNELS if together or not name.startswith("requantise")}
        assert set(kernels) == wanted | ({NORM} if codec == CODECS[0] else set()), codec


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_counts_add_up(capability: int) -> None:
    """No more of any kind than are issued, and a sum of eight is more than twice the work of one of two."""
    for codec, kernels in counted(newest(), capability).items():
        for name, row in kernels.items():
            where = codec, name
            assert 0 <= row.wide <= row.memory and row.memory > 0, where
            halves = 2 if capability >= 100 else 1  # two numbers in one instruction
            assert row.fma / halves + row.imad + row.alu + row.xu + row.lsu <= row.issued, where
            assert 1 <= row.rounds <= 64 and 16 <= row.registers <= 255, where
        few, many = kernels["reduce2"], kernels["reduce8"]
        assert many.a_value(many.issued) > 2 * few.a_value(few.issued), codec


def test_the_campaigns_own_triton_is_counted() -> None:
    assert "3.6.0" in versions(90) and newest() in versions(90)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("FFMA", "fma"), ("FFMA2", "pair"), ("IMAD.MOV.U32", "imad"), ("MUFU.RCP", "xu"), ("LDG.E.128", "memory"),
        ("STS.128", "shared"), ("SHFL.BFLY", "shuffle"), ("BAR.SYNC", "control"), ("UIADD3", "uniform"),
        ("LOP3.LUT", "alu"), ("FMNMX", "alu"), ("VIMNMX", "alu"),
    ],
)  # fmt: skip
def test_pipes(code: str, name: str) -> None:
    assert pipe(Instruction(code, "", False)) == name


def test_a_table_is_written_as_it_is_read(tmp_path: Path) -> None:
    """What another run wrote stays."""
    path = tmp_path / "counts.json"
    row = counted(newest(), 90)["int4-g128-zp"]["encode"]
    table.write({"1.0": {"sm_80": {"a": {"encode": row}}}}, path)
    table.write({"1.0": {"sm_90": {"b": {"decode": row}}}}, path)
    assert table._read(path).keys() == {"1.0"} and table._read(path)["1.0"].keys() == {"sm_80", "sm_90"}
    assert table._read(path)["1.0"]["sm_80"].keys() == {"a"}
    table.write({"1.0": {"sm_80": {"c": {"encode": row}}}}, path, some=True)
    assert table._read(path)["1.0"]["sm_80"].keys() == {"a", "c"}
    table.write({"1.0": {"sm_80": {"c": {"encode": row}}}}, path)
    assert table._read(path)["1.0"]["sm_80"].keys() == {"c"}
    with pytest.raises(ValueError, match="sm_100: make instructions"):
        counted("1.0", 100, path)
    path.write_text(path.read_text().replace(COLUMNS[0], "other"))
    with pytest.raises(ValueError, match="other columns"):
        table._read(path)
