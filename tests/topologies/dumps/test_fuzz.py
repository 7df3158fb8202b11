"""Mutations of every format's twins: a machine that loads, or one line; soon, and in little memory.

HYPOTHESIS_PROFILE=hunt looks at many more. `python tests/fuzz --kind smi` does the same by the command line, in
processes whose memory is limited.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thinwire.topologies.dumps.tell import tell
from thinwire.topologies.importing.machine import imported
from thinwire.topologies.picture import picture

from . import twins

MOST_S = 5.0
ODD = (
    "GPU0",
    "X",
    "NV99",
    "NV0",
    "PIX",
    "SYS",
    "OK",
    "...",
    "\x1b[4m",
    "GPU4095",
    "99999999999999",
    "-1",
    "<pci>",
    "</cpu>",
    "N/A",
    "\t",
    "\x00",
    "é",
    '"',
    "GPU0 X PIX",
    "Device: 9, x, pciBusID: 1",
    "0x030200",
    "1e400",
    "<!--",
    "&a;",
)


@st.composite
def spoilt(draw: st.DrawFn, formats: tuple[str, ...]) -> bytes:
    """A twin with a few lines cut, doubled, swapped or written over, and a few bytes flipped."""
    text = draw(st.sampled_from([text for name, text in twins.ALL.items() if name.startswith(formats)]))
    lines = text.split("\n")
    for _ in range(draw(st.integers(0, 4))):
        at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match draw(st.integers(0, 6)):
            case 0:
                lines[at] = ""
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case 4:
                words = lines[at].split(" ")
                words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(ODD))
                lines[at] = " ".join(words)
            case 5:
                lines = lines[: at + 1]
            case _:
                lines[at] = lines[at].replace("\t", " ") + draw(st.sampled_from(ODD))
    content = bytearray("\n".join(lines).encode("utf-8", "replace"))
    for _ in range(draw(st.integers(0, 3))):
        if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


def answered(content: bytes, *more: str) -> None:
    """A machine whose drawing can be made, or a ValueError of one line; within the time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        path.write_bytes(content)
        others = []
        for i, text in enumerate(more):
            others.append(str(Path(folder) / f"more{i}"))
            Path(others[-1]).write_text(text)
        begun = time.process_time()
        try:
            found = imported([str(path), *others], "l40s")
        except ValueError as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert found.cluster.gpus and picture(found.cluster)
        assert time.process_time() - begun < MOST_S


def hunting() -> bool:
    """Whether the profile of conftest.py that looks for long is on."""
    return os.environ.get("HYPOTHESIS_PROFILE") == "hunt"


NO_CHECKS = settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)


@pytest.mark.parametrize("formats", ["nccl", "smi", "rocm", "sample", "nvbandwidth"])
def test_spoilt_twins(formats: str) -> None:
    @settings(NO_CHECKS, max_examples=max(40, settings.default.max_examples if hunting() else 0))
    @given(spoilt((formats,)))
    def each(content: bytes) -> None:
        answered(content)

    each()


@settings(NO_CHECKS)
@given(spoilt(("sample", "nvbandwidth", "smi-peers")))
def test_spoilt_rates_beside_a_whole_matrix(content: bytes) -> None:
    answered(content, twins.TWO_SOCKETS)


@settings(NO_CHECKS)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes(content: bytes) -> None:
    answered(content)


@pytest.mark.parametrize(
    "line",
    [
        "GPU0 " + "X " * 2_000_000,
        "[" * 4_000_000,
        "Device: " * 500_000,
        " " * 4_000_000,
        "> " * 2_000_000,
        "\x1b[" * 2_000_000,
        "GPU0 X\n" * 500_000,
        "0 1 2\n" * 600_000,
        "Running x.\n" * 300_000,
        "|" * 4_000_000,
        "<" * 4_000_000,
        "<!--" * 1_000_000,
        "<a " * 1_000_000,
        "=" * 4_000_000,
        "GPU[0] : " * 400_000,
        "\n" * 4_000_000,
        "<system version='1'>" + "<cpu>" * 500_000,
        "\\x1b[4m" * 500_000,
        "Unidirectional P2P=Enabled Bandwidth Matrix\n" * 80_000,
        "a1 X " * 800_000,
        "\n" * 99_000 + "x",
        (" " * 41 + "\n") * 99_000 + "x",
        "# \n" * 99_000,
    ],
)
def test_long_garbage_ends_soon(line: str, tmp_path: Path) -> None:
    """Four megabytes, the most that is read, of what a careless pattern would look at for hours."""
    path = tmp_path / "garbage"
    path.write_text(line[: 4 << 20])
    begun = time.process_time()
    with pytest.raises(ValueError):
        tell(path)
        imported([str(path)], "l40s")
    assert time.process_time() - begun < MOST_S
