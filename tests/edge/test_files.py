"""Files in and out: one way in, which refuses in one line, and one way out, which is whole or nothing."""

import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thinwire.edge.limits import JSON_BYTES
from thinwire.edge.reading import UnreadableError, content, from_json, from_toml
from thinwire.edge.words import QUOTED, cut, place, said, shown
from thinwire.edge.writing import replacing, write_text
from thinwire.sim.serving.arrivals import Trace
from thinwire.topologies.load import load_cluster

from ..command import Capture, run

DEEP = 100_000
PLACE = ("--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--tp", "4")
PREDICT = ("predict", *PLACE, "--scheme", "bf16")
SERVE = ("serve", *PLACE, "--scheme", "bf16")
AUTO = ("auto", "+1%", "--model", "smollm2-135m", "--cluster", "4xl4-pcie", "--tp", "3")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice in one object"),
        ('{"a": NaN}', "numbers are finite: NaN"),
        ('{"a": 1e400}', "numbers are finite: 1e400"),
        ('{"a": 18446744073709551616}', "whole numbers have 64 bits"),
        ('{"a": ' + "9" * 100_000 + "}", "whole numbers have 64 bits"),
        ("[" * DEEP, "nested more than 64 deep"),
        ("[" * 70 + "]" * 70, "nested more than 64 deep"),
        ('{"a":' * DEEP, "nested more than 64 deep"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_json_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UnreadableError) as refused:
        from_json(path, "the thing")
    assert str(refused.value).startswith("cannot read the thing ") and reason in refused.value.reason
    assert len(refused.value.reason) < 2 * QUOTED


def test_constants_of_python_may_be_let_through(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [Infinity, -Infinity, 1e400, 1.5], "b": NaN}')
    found = from_json(path, "the thing", constants=True)
    assert found["a"] == [math.inf, -math.inf, math.inf, 1.5] and math.isnan(found["b"])
    path.write_text('{"a": 1, "a": NaN}')
    with pytest.raises(UnreadableError, match="given twice"):
        from_json(path, "the thing", constants=True)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * DEEP,
        "x = " + "[" * 70 + "]" * 70,
        "a." * DEEP + "b = 1",
        "[" + "a." * 70 + "b]",
    ],
)
def test_toml_is_refused_as_deep_whatever_it_is_made_of(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UnreadableError, match="nested more than 64 deep"):
        from_toml(path, "the thing")


def test_what_editors_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{\r\n"a": 1}\r\n')
    assert from_json(path, "the thing") == {"a": 1}
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert from_toml(path, "the thing") == {"a": 1}


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device here")
def test_a_device_without_end_is_cut() -> None:
    with pytest.raises(UnreadableError, match=f"more than {JSON_BYTES.most} bytes"):
        from_json("/dev/zero", "the thing")
    with pytest.raises(UnreadableError, match="more than 7 bytes"):
        content("/dev/zero", "the thing", 7)


def fifo(path: Path, text: bytes) -> threading.Thread:
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(text,), daemon=True)
    writer.start()
    return writer


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_read_once(tmp_path: Path, root: Path) -> None:
    trace = b"TIMESTAMP,ContextTokens,GeneratedTokens\n0,100,2\n1,50,5\n"
    writer = fifo(tmp_path / "t.csv", trace)
    read = Trace(str(tmp_path / "t.csv"))
    writer.join(10)
    assert (read.requests, [len(piece.at_s) for piece in read.pieces(0, 10.0)]) == (2, [2])
    writer = fifo(tmp_path / "m.toml", (root / "examples" / "my-machine.toml").read_bytes())
    assert len(load_cluster(str(tmp_path / "m.toml")).gpus) == 6
    writer.join(10)


# --- one line ---


def profile_with(place: tuple[str | int, ...], value: str) -> Callable[[Path], str]:
    """The text of a shipped profile with one value as it is written."""

    def text(root: Path) -> str:
        document: Any = {"gpu": json.loads((root / "sim" / "profiles" / "gpu-l40s.json").read_text("utf-8"))}
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = "HERE"
        return json.dumps(document).replace('"HERE"', value)

    return text


WEIGHT = ("gpu", "gemm", "bf16", "correction", "weights", 0, 0)
CORRECTION = ("gpu", "attention", "correction", 0)
SHARE = ("gpu", "decode_attention", "shares", 0)
EFFICIENCY = ("gpu", "elementwise", "costs", "copy", "efficiency")
GAP = ("gpu", "kernel_gap_s", "value")


LARGE = 400_000


@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [
        (from_toml, "a" * LARGE, "Expected '='"),
        (from_toml, '"' * (LARGE + 1), "malformed TOML"),
        (from_toml, "a." * LARGE + "b=1", "nested more than 64 deep"),
        (from_toml, "x=1\ny={" + "a." * LARGE + "b=1}", "x.toml:2: malformed TOML: nested more than 64 deep"),
        (from_toml, "[" + "a." * LARGE + "b]", "nested more than 64 deep"),
        (from_toml, "x = 0x" + "f" * LARGE, "whole numbers have 64 bits: 0xfff"),
        (from_toml, "x = " + "1" * LARGE, "malformed TOML"),
        (from_json, "{" + ", ".join(f'"{n}": 0' for n in [*range(LARGE), 7]) + "}", "key '7' is given twice"),
        (from_json, "-" * LARGE, "not JSON"),
    ],
    ids=map(str, range(9)),
)
def test_no_file_within_the_size_takes_long(
    tmp_path: Path, read: Callable[[str, str], Any], text: str, reason: str
) -> None:
    """Some did minutes: a search that began anew at each character, a key looked for among all before it."""
    path, begun = tmp_path / "x.toml", time.process_time()
    path.write_text(text)
    with pytest.raises(UnreadableError) as error:
        read(str(path), "the file")
    assert reason in str(error.value) and time.process_time() - begun < 20


def test_dots_that_make_no_tables_are_none(tmp_path: Path) -> None:
    many = "a." * 70
    path = tmp_path / "x.toml"
    path.write_text(f"# {many} = 1\ns = \"{many} = 2\"  # {many}\nt = '{many}'\nx.y.z = 1.5\n")
    assert from_toml(str(path), "the file") == {"s": f"{many} = 2", "t": many, "x": {"y": {"z": 1.5}}}


@pytest.mark.parametrize("value", ["null", "{}", "[]", '"1"', "true", "1e3", "1e400", "NaN", "-1e3"])
@pytest.mark.parametrize("where", [WEIGHT, CORRECTION, SHARE, EFFICIENCY, GAP], ids=lambda where: str(where[-2]))
def test_a_number_of_a_profile_is_a_number_within_reason(
    tmp_path: Path, root: Path, capsys: Capture, where: tuple[str | int, ...], value: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(profile_with(where, value)(root))
    status, out, err = run(capsys, *PREDICT, "--profile", str(path))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "error," not in err


LONG = "a" * 300


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ("collective", *PLACE[2:], "--scheme", "bf16", "--bytes", "1e20"),
            "--bytes must be a whole number; given '1e20'",
        ),
        (
            ("collective", *PLACE[2:], "--scheme", "bf16", "--bytes", "1" + "0" * 20),
            "bytes must lie in 2..17592186044416",
        ),
        ((*PREDICT, "--model", LONG), "unknown model"),
        ((*PREDICT, "--model", LONG + "/x"), "unknown model"),
        ((*PREDICT, "--cluster", LONG + ".toml"), "no such file"),
        ((*PREDICT, "--scheme", LONG + ".toml"), "File name too long"),
        ((*PREDICT, "--profile", LONG), "File name too long"),
        ((*PREDICT, "--trace", LONG), "File name too long"),
        ((*SERVE, "--trace", LONG), "cannot read trace"),
        ((*SERVE, "--trace", "/dev/zero"), "more than 67108864 bytes"),
        ((*AUTO, "--sensitivities", LONG), "File name too long"),
        ((*AUTO, "--out", LONG + ".toml"), "File name too long"),
        (("sweep", LONG), "File name too long"),
        (("plan", LONG), "File name too long"),
        (("calibrate", "--from", LONG), "File name too long"),
        (("models", LONG), "unexpected extra argument"),
        ((*PREDICT, "--weights", "int3"), "is not one of 'bf16', 'fp8', 'fp8-block'"),
        ((*SERVE, "--rate", "1", "--replicas", "5000"), "replicas must lie in 1..4096: replicas=5000"),
        ((*SERVE, "--users", "1000000"), "users must lie in 1..131072"),
        ((*SERVE, "--rate", "1", "--duration", "1e9"), "duration must lie in"),
        ((*SERVE, "--rate", "1e6", "--duration", "60"), "at most 20000000 requests"),
        ((*SERVE, "--rate", "1", "--kv-tokens", "99999999"), "for which there is room: kv_tokens=99999999"),
        ((*PREDICT, "--scheme", "two_step:int4-g1000000-min"), "group must lie in 8..65536: group=1000000"),
        ((*PREDICT, "--scheme", "two_step:int4@chunk=1"), "at most 4096 chunks"),
    ],
)
def test_one_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *command)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert words in err and "Value error" not in err and LONG[: QUOTED + 1] not in err
    assert not list(tmp_path.iterdir())


def test_a_prompt_beyond_the_positions_is_answered_with_a_warning(capsys: Capture) -> None:
    long = ("--model", "smollm2-135m", "--tp", "1", "--input-tokens", "9000", "--json")
    status, out, err = run(capsys, *PREDICT, *long)
    assert status == 0 and json.loads(out)["input_tokens"] == 9000
    assert err.count("\n") == 1 and "9000 tokens of a sequence are beyond the 8192 positions of smollm2-135m" in err


# --- out ---


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    for end in (KeyboardInterrupt, OSError, SystemExit):
        with pytest.raises(end), replacing(path) as rough:
            rough.write_text("half")
            raise end
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    stale = tmp_path / ".a.txt.999999999.tmp"  # of a process that was killed
    stale.write_text("half")
    write_text(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o640


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    write_text(os.devnull, "new")
    assert not os.path.isfile(os.devnull)


# --- words ---


def test_words() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a list too large to show" and shown(10**5000) == "a int too large to show"
    assert len(cut("x" * 500)) == len(place("x" * 500)) == QUOTED
    assert place("/a/" + "x" * 500 + "/b.toml").endswith("x/b.toml")
    assert said("Value error, Value error, no\nsuch\tthing \x1b[31m") == r"no such thing \x1b[31m"
    assert len(said("word " * 1000)) == 600
