"""The section on packets: every published row is used or left out with a reason, and what it says of its sizes."""

from collections import Counter

import pytest

from thinwire.reference.catalog import scheme
from thinwire.validation.fits.published_tables import rows
from thinwire.validation.targets.compare import SECTIONS
from thinwire.validation.targets.packets import FROM_BYTES, HOSTS, LEFT_OUT, PRESETS, TABLES, packets
from thinwire.validation.targets.targets import Section


@pytest.fixture(scope="module")
def section() -> Section:
    return packets()


def test_it_is_part_of_make_validate(section: Section) -> None:
    assert SECTIONS["packets"](False).key == section.key == "packets"
    keys = [entry.key for entry in section.entries]
    assert len(keys) == len(set(keys)) == 2 * len(HOSTS) * (len(PRESETS) + 1) + 1
    assert {entry.key.split(".")[1] for entry in section.asked_for} == {"rtx-pro-6000", "b200"}


def test_every_row_is_used_or_left_out(section: Section) -> None:
    times = [point for entry in section.entries if entry.key.endswith(".time") for point in entry.points]
    own = Counter(table for table in TABLES for _ in rows(table))
    partners = {name for _, _, names in PRESETS for name in names}
    plain = [
        row for row in rows(TABLES[0])
        if row["implementation"] in partners and row["wire_format"].startswith("bf16")
    ]  # fmt: skip
    speedups = section.entries[-1].points
    left_out = sum(int(said.split(" rows)")[0].split(" row)")[0].split("(")[-1]) for said in LEFT_OUT)
    assert own["nvfp4_allreduce_2026"] == 52 and len(times) == 52 + 26
    assert own["compressed_allreduce_2026"] == 26 + len(plain) + len(speedups) + left_out == 117


def test_gains_are_of_the_same_order_and_large_messages_alone_are_asked_for(section: Section) -> None:
    for entry in section.asked_for:
        assert entry.points and all(point.regime in ("64 KiB-1 MiB", "1-16 MiB", "> 16 MiB") for point in entry.points)
    assert FROM_BYTES == 2**20
    large = {
        point.label: point for e in section.entries if e.key == "packets.b200.trtllm-fp8.gain" for point in e.points
    }
    found = large["trtllm-fp8, B200 x8, 16 MiB"]
    measured = {
        row["implementation"]: float(row["latency_us"])
        for row in rows(TABLES[0])
        if row["gpu"] == "B200" and row["message_bytes"] == str(16 << 20)
    }
    assert found.measured == pytest.approx(measured["two-shot"] / measured["TRT-LLM low-precision two-shot"])


def test_presets_are_of_the_catalog_and_fused() -> None:
    assert all(scheme(name).codec_launch == "fused" for _, name, _ in PRESETS)


def test_what_is_met_on_nvlink_and_missed_over_pcie(section: Section) -> None:
    """Frozen by verdict: a change of the profiles that turns one around is worth a look."""
    verdicts = {entry.key: entry.verdict for entry in section.asked_for}
    assert verdicts["packets.b200.trtllm-fp8.time"] == verdicts["packets.b200.nvfp4-two-shot.time"] == "met"
    assert verdicts["packets.rtx-pro-6000.trtllm-fp8.time"] == "missed"
    assert verdicts["packets.rtx-pro-6000.trtllm-fp8.gain"] == "met"
