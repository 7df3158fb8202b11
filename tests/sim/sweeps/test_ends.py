"""However a sweep ends, it says one line or none, and leaves nothing but whole results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ...command import Capture, run, unhurried

SPEC = """
model = "llama-3-8b"
cluster = "8xl40s-pcie"
tp = 4
scheme = ["bf16", "flash-int8"]
batch = [1, 2, 3, 4, 5, 6, 7, 8]
input_tokens = [128, 256, 512, 1024, 2048, 4096]
"""
CODE = "import sys; from thinwire.commands.cli import main; main(sys.argv[1:])"
SHARED = Path("/dev/shm")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(SPEC)
    return path


def shared() -> set[str]:
    """What may outlive a process there, but for other people's."""
    named = ("loky", "sem.", "joblib", "psm_")
    return {name for name in os.listdir(SHARED) if name.startswith(named)} if SHARED.is_dir() else set()


def workers_of(driver: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = status.read_text().splitlines()
        except OSError:  # it ended
            continue
        if f"PPid:\t{driver}" in lines:
            found.append(int(status.parent.name))
    return found


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc and /dev/shm")
@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (signal.SIGINT, 130, "thinwire: stopped; the same command goes on with what is done\n"),
        (signal.SIGTERM, 143, ""),
        (signal.SIGKILL, -9, ""),
    ],
)
def test_a_signal(spec: Path, tmp_path: Path, end: signal.Signals, status: int, said: str) -> None:
    out, before = tmp_path / "o.parquet", shared()
    command = [sys.executable, "-c", CODE, "sweep", str(spec), "--out", str(out), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        until = time.monotonic() + 60
        while not list(Path(f"{out}.parts").glob("*.parquet")) and time.monotonic() < until:
            time.sleep(0.002)
        pids = workers_of(running.pid)
        running.send_signal(end)
        _, err = running.communicate(timeout=60)  # a worker that lived on would keep standard error open
    if running.returncode == 0:
        pytest.skip("done before the signal came")
    assert (running.returncode, unhurried(err)) == (status, said)
    assert pids and gone(pids)
    assert shared() <= before
    left = {path.name for path in Path(f"{out}.parts").iterdir()}
    if end != signal.SIGKILL:  # there a part may be under its temporary name; the next run takes it away
        assert left and all(len(name) == 24 + len(".parquet") for name in left)


def test_a_full_disk(spec: Path, tmp_path: Path) -> None:
    """One line, status 2; the part that found no room is not there."""
    pytest.importorskip("resource")
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); {CODE}"
    out, before = tmp_path / "o.parquet", shared()
    command = [sys.executable, "-c", limited, "sweep", str(spec), "--out", str(out), "--workers", "2"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout, unhurried(found.stderr).count("\n")) == (2, "", 1), found.stderr
    assert "thinwire: cannot keep results in " in found.stderr and "File too large" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]
    assert shared() <= before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_full_disk_under_standard_output() -> None:
    with open("/dev/full", "w") as full:
        found = subprocess.run([sys.executable, "-c", CODE, "models"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (found.returncode, found.stderr) == (2, "thinwire: cannot read or write: No space left on device\n")


@pytest.mark.parametrize("kind", ["trace", "scheme"])
def test_what_is_half_written_is_not_there(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A file that was there stays as it was, and no temporary one stays beside it."""
    out = tmp_path / ("t.json" if kind == "trace" else "s.toml")
    out.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    place = ("--model", "smollm2-135m", "--cluster", "4xl4-pcie", "--tp", "3")
    command = (
        ("predict", *place, "--scheme", "bf16", "--trace", str(out))
        if kind == "trace"
        else ("auto", "+1%", *place, "--out", str(out))
    )
    status, _, err = run(capsys, *command)
    assert (status, err.count("\n")) == (2, 1)
    assert "No space left on device" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(out.name, "old")]
