"""Receives posted early change when bytes may leave, and nothing else."""

from pathlib import Path

from thinwire.reference.catalog import scheme
from thinwire.reference.core.schedule import build

from .. import gloo
from . import early


def test_prepared_collectives_give_the_same_bits(tmp_path: Path) -> None:
    for rank, found in enumerate(gloo.on_two_ranks(tmp_path, early, "prepared")):
        assert found["same"] == [True] * len(early.NAMES)
        once = [build(scheme(name), 2, early.NUMEL, None).sent_bytes()[rank] for name in early.NAMES]
        assert found["sent"] == 2 * sum(once)
        again, other, broken = found["said"]
        assert again == "ValueError: a collective is prepared already and has not been run"
        assert other.startswith(
            "ValueError: another collective was prepared: ring of shape [4096], float32; given two_step"
        )
        assert "RuntimeError" in broken  # its receives would swallow the next one's messages
