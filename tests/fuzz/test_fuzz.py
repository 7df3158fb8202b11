"""Twenty seconds of tests/fuzz from a fixed seed: what fails here fails everywhere. `make fuzz` hunts for longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS, SEED = 20, 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, limits memory and looks into /proc")
def test_odd_files_and_command_lines_are_answered_or_refused_in_one_line(root: Path) -> None:
    """The output names seed and number of each case that failed, and how to run it again."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    command = [sys.executable, str(root / "tests" / "fuzz"), "--seed", str(SEED), "--seconds", str(SECONDS)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-5000:]
    assert int(ran.stdout.split(" cases of seed")[0].split()[-1]) >= 20  # every kind, on a machine however slow
