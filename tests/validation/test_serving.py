"""Published serving runs: predictions stay as near as docs/decisions/015-serving.md says they are."""

from statistics import median

from thinwire.validation.published_tables import rows
from thinwire.validation.serving import TABLE, compared


def test_every_row_is_whole() -> None:
    assert len(rows(TABLE)) == 72
    for row in rows(TABLE):
        assert row["source"] and float(row["ttft_ms"]) > 0 and float(row["itl_ms"]) > 0


def test_few_users_are_as_near_as_said() -> None:
    """The time between tokens of up to ten users: within 2 % on H100 in fp8, 42 % too fast at worst on A100."""
    found = list(compared(most_users=10))
    errors = [c.itl_error for c in found]
    assert len(found) == 31
    assert min(errors) > -0.43 and max(errors) < 0.02
    assert median(map(abs, errors)) < 0.27
    recent = [c for c in found if "H100" in c.group]
    assert recent and all(abs(c.itl_error) < 0.02 for c in recent)
    alone = [c.ttft_error for c in found if c.users == 1]
    assert len(alone) == 8 and min(alone) > -0.33 and max(alone) < 0.02
