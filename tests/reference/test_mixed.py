"""Schemes by sync point: values, files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import DROP, MixedScheme, entries, find, plan_of, points, read, text, write

FOUR, EIGHT = scheme("flash-int4"), scheme("flash-int8")
NAMES = ("bf16", "flash-int8", "two_step:int4-g32-zp", "flash2-int5+exempt-1", "mxfp4", "hierarchical:int4-g128-zp")


def test_points_come_in_the_models_order() -> None:
    assert points(2) == ((0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp"))


@pytest.mark.parametrize("name", [name for name in schemes() if name != "none"])
def test_one_scheme_is_at_every_point_that_stays(name: str) -> None:
    found = scheme(name)
    plan = plan_of(name, 6)
    assert list(plan) == list(points(6)) and entries(found) == (found,)
    dropped = {point for point, entry in plan.items() if entry is None}
    assert dropped == {(layer, "attention") for layer, kept in enumerate(found.kept_attention(6)) if not kept}
    assert all(entry is found for entry in plan.values() if entry is not None)


def test_a_mixed_scheme_is_its_plan() -> None:
    again = Scheme(**{name: getattr(FOUR, name) for name in Scheme.__slots__})  # equal, another object
    mixed = MixedScheme("x", (FOUR, None, again), (EIGHT, FOUR, EIGHT))
    plan = plan_of(mixed, 3)
    assert list(plan) == list(points(3))
    assert [plan[layer, "attention"] for layer in range(3)] == [FOUR, None, FOUR]
    assert [plan[layer, "mlp"] for layer in range(3)] == [EIGHT, FOUR, EIGHT]
    assert plan[0, "attention"] is plan[2, "attention"]  # the simulator shares what is one object
    assert entries(mixed) == (FOUR, EIGHT)


choices = st.sampled_from([None, *NAMES])


@given(
    st.lists(st.tuples(choices, choices), min_size=1, max_size=8),
    st.sampled_from(NAMES),
    st.text(min_size=1),
    st.text(),
    st.one_of(st.none(), st.floats(0.01, 0.99)),
)
def test_files_give_back_what_was_written(
    rows: list[tuple[str | None, str | None]], last: str, name: str, said: str, split: float | None
) -> None:
    def made(given_name: str | None) -> Scheme | None:
        return None if given_name is None else scheme(given_name)

    attention = tuple(made(row[0]) for row in rows)
    mlp = (*(made(row[1]) for row in rows[:-1]), scheme(last))
    wanted = MixedScheme(name, attention, mlp, said, split, said)
    with TemporaryDirectory() as folder:
        write(wanted, Path(folder) / "a.toml")
        assert read(Path(folder) / "a.toml") == wanted == find(f"{folder}/a.toml")


def test_a_file_can_be_read(tmp_path: Path) -> None:
    shown = text(MixedScheme("x", (FOUR, None), (EIGHT, FOUR), source='a "quote"'))
    assert shown.splitlines()[1:] == [
        'name = "x"',
        'source = "a \\"quote\\""',
        "attention = [",
        '  "flash-int4",  # layer 0',
        f'  "{DROP}",  # layer 1',
        "]",
        "mlp = [",
        '  "flash-int8",  # layer 0',
        '  "flash-int4",  # layer 1',
        "]",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name = ", "a.toml:1: malformed TOML: Invalid value"),
        ('name = "x"\nmlp = ["bf16"]\n', "attention: missing key"),
        ('name = "x"\nattention = ["bf16"]\nmlp = ["bf16"]\nlayers = 3\n', "layers: unknown key .*allowed: name,"),
        ('name = "x"\nattention = ["bf16"]\nmlp = ["bf16", "bf16"]\n', "for each layer: 1 and 2 given"),
        ('name = "x"\nattention = []\nmlp = []\n', "for each layer: 0 and 0 given"),
        ('name = "x"\nattention = ["bf16"]\nmlp = ["drop"]\n', "last sync point of a model cannot be dropped"),
        ('name = "x"\nattention = ["int4"]\nmlp = ["bf16"]\n', "unknown scheme 'int4'; did you mean"),
        ('name = "x"\nattention = ["spd-50"]\nmlp = ["bf16"]\n', "a sync point takes a codec .*: 'spd-50'"),
        ('name = "x"\nattention = ["iso-int8"]\nmlp = ["bf16"]\n', "a sync point takes a codec .*: 'iso-int8'"),
        ('name = "x"\nattention = ["none"]\nmlp = ["bf16"]\n', "a sync point takes a codec .*: 'none'"),
        ('name = "x"\nattention = ["bf16"]\nmlp = ["bf16"]\nsequence_split = 1.5\n', "between 0 and 1: 1.5"),
        ('name = "x"\nattention = [4]\nmlp = ["bf16"]\n', "attention.0: Input should be a valid string"),
    ],
)
def test_files_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        find(str(path))
    assert "a.toml" in str(caught.value)


def test_a_missing_file_and_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read the scheme file .*none.toml: No such file"):
        find(str(tmp_path / "none.toml"))
    (tmp_path / "b.toml").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"b\.toml:1: not UTF-8 text"):
        find(str(tmp_path / "b.toml"))
    with pytest.raises(ValueError, match="x names schemes for 1 layers, the model has 2"):
        plan_of(MixedScheme("x", (FOUR,), (FOUR,)), 2)
