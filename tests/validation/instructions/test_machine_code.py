"""Machine code read: which way a kernel takes, what a loop repeats, and how often a warp waits."""

from thinwire.validation.instructions.machine_code import base, read, rounds, widths

HEAD = "        /*{:04x}*/                   {} ;"


def listing(*lines: str) -> str:
    """SASS: labels stand alone, instructions get addresses."""
    return "\n".join(line if line.startswith(".L") else HEAD.format(16 * at, line) for at, line in enumerate(lines))


SUM = listing(
    "LDC R2, c[0x0][0x210]",
    "LDG.E.128 R4, desc[UR4][R2.64]",
    "FADD R8, R4, R5",
    ".L_x_1:",
    "LDG.E.128 R12, desc[UR4][R2.64]",
    "FADD R8, R8, R12",
    "ISETP.GE.AND P0, PT, R9, R10, PT",
    "@!P0 BRA `(.L_x_1)",
    "STG.E.128 desc[UR4][R2.64], R8",
    "EXIT",
)


def test_a_loop_over_copies_runs_once_for_each_after_the_first() -> None:
    path = read(SUM)
    assert [base(i) for i in path.loop] == ["LDG", "FADD", "ISETP", "BRA"]
    assert [base(i) for i in path.before] == ["LDC", "LDG", "FADD"] and [base(i) for i in path.after] == ["STG", "EXIT"]
    assert len(path.of(2)) == 9 and len(path.of(8)) == 9 + 6 * 4
    assert len(path.of(1)) == len(path.of(2)), "the code holds the second copy whatever is asked"


def test_code_for_older_gpus_leaves_a_loop_by_a_guarded_call() -> None:
    older = SUM.replace("@!P0 BRA `(.L_x_1)", "@!P0 CALL.REL.NOINC `(.L_x_2)")
    lines = older.splitlines()
    at = next(number for number, line in enumerate(lines) if "CALL" in line)
    lines[at + 1 : at + 1] = [HEAD.format(0x1000, "BRA `(.L_x_1)"), ".L_x_2:"]
    path = read("\n".join(lines))
    assert [base(i) for i in path.loop] == ["LDG", "FADD", "ISETP", "CALL"]
    assert rounds(path.of(8)) == 8 and base(path.of(8)[-1]) == "EXIT"


def test_each_turn_of_a_loop_waits_for_its_own_load() -> None:
    assert rounds(read(SUM).of(2)) == 2
    assert rounds(read(SUM).of(8)) == 8


def test_loads_under_way_together_are_waited_for_once() -> None:
    together = listing("LDG.E R4, [R2.64]", "LDG.E R5, [R2.64+0x10]", "FADD R6, R4, R5", "EXIT")
    after = listing("LDG.E R4, [R2.64]", "FADD R6, R4, R4", "LDG.E R5, [R2.64+0x10]", "FADD R6, R6, R5", "EXIT")
    assert rounds(read(together).of(2)) == 1
    assert rounds(read(after).of(2)) == 2


def test_an_address_that_was_loaded_is_waited_for() -> None:
    """A table's row first, then what it points to; a wide load fills all its registers."""
    chained = listing("LDG.E.64 R4, [R2.64]", "LDG.E.128 R8, [R4.64]", "STG.E [R2.64], R11", "EXIT")
    assert rounds(read(chained).of(2)) == 2
    unused = listing("LDG.E.64 R4, [R2.64]", "STG.E [R2.64], R11", "EXIT")
    assert rounds(read(unused).of(2)) == 0


def test_the_fast_path_takes_the_wide_loads_and_leaves_the_tail() -> None:
    branches = listing(
        "@P0 BRA `(.L_x_tail)",
        "LDG.E.128 R4, [R2.64]",
        "STG.E.128 [R2.64], R4",
        "EXIT",
        ".L_x_tail:",
        "LDG.E R4, [R2.64]",
        "IADD3 R5, R4, 0x1, RZ",
        "STG.E [R2.64], R5",
        "EXIT",
    )
    path = read(branches).of(2)
    assert [base(i) for i in path] == ["BRA", "LDG", "STG", "EXIT"]
    assert widths(path, "LDG") == widths(path, "STG") == {"128": 1}
