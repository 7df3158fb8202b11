"""A minute of real ranks on real links, gated on speed-ups: needs root, namespaces and TAP devices.

Skipped with the reason where the machine cannot do it, or where its other jobs leave nothing to be read: where repeats
of the very same run differ by more than a gate could mean. Tolerances: emulate_report.SMOKE.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from thinwire.validation.emulation import cases as emulate_cases
from thinwire.validation.emulation import emulate, namespaces
from thinwire.validation.emulation import report as emulate_report
from thinwire.validation.emulation.cases import MBIT
from thinwire.validation.emulation.namespaces import Links, Star

LACKS = namespaces.missing()
TOO_NOISY = 0.08
ROUNDS = 4

pytestmark = [
    pytest.mark.skipif(bool(LACKS), reason=f"this machine {LACKS}"),
    pytest.mark.xdist_group("emulate"),  # one at a time: they time themselves
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found = emulate.new_document(smoke=True)
    emulate.campaign(emulate_cases.smoke(), ROUNDS, found, None)
    return found


def test_bytes_are_those_predicted(document: dict[str, Any]) -> None:
    """Whatever the load: every rank sent exactly what the simulator counts on its link."""
    for name, case in document["cases"].items():
        for row in case["rows"]:
            assert row["measured_bytes"] == row["predicted_bytes"], (name, row["run"])


def test_times_are_those_predicted(document: dict[str, Any]) -> None:
    """Speed-ups of real ranks, and times of paced ones, within tolerances; see emulate_report.table for the cells."""
    figures = emulate_report.figures(document)
    beyond = [figure.text() for figure in figures if figure.beyond]
    noise = emulate_report.noise(document)
    unsteady = not all(case["fifo"] for case in document["cases"].values())
    if beyond and (noise > TOO_NOISY or unsteady):
        why = "SCHED_FIFO is refused" if unsteady else f"repeats of one run differ by {noise:.0%}"
        pytest.skip(f"too noisy to gate on: {why}; beyond: {'; '.join(beyond)}")
    assert not beyond, "\n".join([*beyond, *emulate_report.table(document)])


def test_the_switch_keeps_its_rate(tmp_path: Path) -> None:
    """Half the rate takes twice as long, by the clock: the links are what they are set to."""
    program = [["exchange", "ring:bf16", 262144, "all_reduce", None, [[0.0, 0.0, 0.0]]]]
    least = {}
    with Star(2, tmp_path) as star:
        for rate in (50, 100):
            star.set_links(Links("x", rate * MBIT))
            runs = [star.time([{"do": "paced", "program": program}] * 2)[0] for _ in range(4)]
            least[rate] = min(runs)
        sent = star.packets()
    # 262144 bytes each way in each of two steps, headers and acknowledgements included: a tenth and latency at most.
    for rate, seconds in least.items():
        assert 2 * 262144 / (rate * MBIT) < seconds < 2 * 262144 / (rate * MBIT) * 1.1 + 5e-3
    assert all(nbytes > 8 * 2 * 262144 for _, nbytes in sent)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """A campaign that is killed outright takes its ranks, its switch and, with them, its namespaces along."""
    code = f"""
import signal, time
from pathlib import Path
from thinwire.validation.emulation.namespaces import Star
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
with Star(2, Path({str(tmp_path)!r})) as star:
    print(*(p.pid for p in (*star._workers, star._switch)), flush=True)
    time.sleep(60)
"""
    for how in (signal.SIGKILL, signal.SIGINT):
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        spaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in pids[:2]}
        assert len(spaces) == 2 and os.readlink("/proc/self/ns/net") not in spaces
        parent.send_signal(how)
        parent.wait(timeout=60)
        parent.stdout.close()
        end = time.monotonic() + 10
        while any(_alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.05)
        assert not [pid for pid in pids if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
