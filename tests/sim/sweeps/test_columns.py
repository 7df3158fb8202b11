"""What a sweep's rows say beside the answer: speed-ups, accuracy, bits of experts' tokens; and what failed, counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from thinwire.sim import api
from thinwire.sim.sweeps.spec import read_sweep
from thinwire.sim.sweeps.sweep import reasons, sweep

from ...command import Capture, run
from .sweeps import rows

pytest.importorskip("pyarrow.parquet", reason="pip install 'thinwire[sweep]'")

PREDICT = """
model = "llama-3-8b"
cluster = "8xl40s-pcie"
tp = [1, 4]
input_tokens = ["0.25k", 512]
scheme = ["bf16", "flash-int8", "none", "mine.toml"]
"""
SERVE = """
what = "serve"
model = "llama-3-8b"
cluster = "8xl40s-pcie"
tp = 4
rate = [2.0, 4.0]
duration = 10.0
scheme = ["flash-int4", "bf16", "flash-int8"]
input_tokens = "0.25k"
"""
MIXED = """
name = "mine"
attention = ["flash-int8"]
mlp = ["bf16"]
"""


def found(folder: Path, text: str) -> list[dict[str, Any]]:
    (folder / "s.toml").write_text(text)
    sweep(folder / "s.toml", folder / "o.parquet", workers=1)
    return rows(folder / "o.parquet")


@pytest.mark.parametrize("baseline", ["bf16", "flash-int8"])
def test_speedups_are_over_the_files_baseline(tmp_path: Path, baseline: str) -> None:
    """And accuracy is compare's: 1 where nothing is compressed or sent, null where nobody measured it."""
    text = PREDICT.replace(', "mine.toml"', "")
    got = found(tmp_path, text if baseline == "bf16" else f'baseline = "{baseline}"\n{text}')
    assert len(got) == 12
    for tp in (1, 4):
        for tokens in (256, 512):
            mine = {row["scheme"]: row for row in got if (row["tp"], row["input_tokens"]) == (tp, tokens)}
            c = api.compare([*mine], "llama-3-8b", "8xl40s-pcie", tp=tp, input_tokens=tokens, baseline=baseline)
            for row in c.rows:
                known = c.accuracy(row)
                exact = tp == 1 or row.scheme.name == "bf16"
                assert mine[row.scheme.name]["speedup"] == pytest.approx(c.speedup(row), rel=1e-12)
                expected = 1.0 if exact else None if known is None else known.perplexity_ratio
                assert mine[row.scheme.name]["perplexity_ratio"] == expected
            assert mine[baseline]["speedup"] == 1.0


def test_another_baseline_is_another_point_and_none_named_is_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    ids = []
    for head in ("", 'baseline = "bf16"\n', 'baseline = "flash-int8"\n'):
        path.write_text(head + PREDICT.replace(', "mine.toml"', ""))
        ids.append(read_sweep(path).ids)
    assert ids[0] == ids[1] and not {*ids[0]} & {*ids[2]}
    path.write_text('baseline = "flash-int9"\n' + PREDICT)
    with pytest.raises(ValueError, match=r"s.toml:1: baseline: unknown scheme 'flash-int9'; did you mean flash-int"):
        read_sweep(path)


def test_serving_runs_are_held_against_the_row_that_differs_in_its_scheme_alone(tmp_path: Path) -> None:
    got = found(tmp_path, SERVE)
    for rate in (2.0, 4.0):
        mine = {row["scheme"]: row for row in got if row["rate"] == rate}
        for row in mine.values():
            assert row["speedup"] == mine["bf16"]["ttft_ms_mean"] / row["ttft_ms_mean"]
        assert mine["bf16"]["perplexity_ratio"] == 1.0 < mine["flash-int4"]["perplexity_ratio"]
        assert mine["flash-int4"]["speedup"] > 1
    alone = found(tmp_path, SERVE.replace(', "bf16", "flash-int8"', ""))
    assert [row["speedup"] for row in alone] == [None, None], "there is nothing to hold it against"


def test_bits_of_experts_tokens_where_they_travel(tmp_path: Path) -> None:
    axes = 'attention = ["tp", "dp"]\nexpert_exchange = "all-to-all"\nbatch = 4\ntp = 4\ninput_tokens = 64\n'
    text = f'model = "qwen3-30b-a3b"\ncluster = "8xh100-nvlink"\nscheme = ["bf16", "deepep-fp8"]\n{axes}'
    for row in found(tmp_path, text):
        if row["error"] is None:
            bits = (row["dispatch_bits_per_value"], row["combine_bits_per_value"])
            p = api.predict(
                row["model"], row["cluster"], row["scheme"], tp=4, batch=4, input_tokens=64,
                attention=row["attention"], expert_exchange="all-to-all",
            )  # fmt: skip
            assert bits == (p.bits_per_value.get("dispatch"), p.bits_per_value.get("combine"))
    dense = found(tmp_path, 'model = "llama-3-8b"\ncluster = "8xl40s-pcie"\nscheme = "bf16"\n')
    assert dense[0]["dispatch_bits_per_value"] is None


def test_reasons_are_told_apart_by_their_words_and_not_by_their_numbers() -> None:
    errors = [None, "needs 12.5 GB of 8", "needs 3 GB of 8", "llama-3-8b is no", "llama-3-70b is no", "gone"]
    kinds = [None, "ValueError", "ValueError", "ValueError", "ValueError", "OSError"]
    told = [(reason.points, reason.error_type, reason.error) for reason in reasons(kinds, errors)]
    assert told == [
        (2, "ValueError", "needs 12.5 GB of 8"),
        (1, "ValueError", "llama-3-8b is no"),
        (1, "ValueError", "llama-3-70b is no"),
        (1, "OSError", "gone"),
    ]
    assert reasons([], []) == ()


def test_the_status_says_whether_points_failed(tmp_path: Path, capsys: Capture) -> None:
    """1: all were tried and some failed; 0: none did; 2 is bad input."""
    path, out = tmp_path / "s.toml", str(tmp_path / "o.parquet")
    base = 'cluster = "8xl40s-pcie"\ntp = 2\nscheme = "bf16"\n'
    for models, expected in (('["llama-3-8b", "llama-3-70b"]', 1), ('"llama-3-8b"', 0), ('"llama-3-80b"', 2)):
        path.write_text(f"model = {models}\n{base}")
        status, said, err = run(capsys, "sweep", str(path), "--out", out, "--workers", "1", "--json")
        assert status == expected, err
        if status != 2:
            document = json.loads(said)
            assert (document["command"].split()[:2], document["failed"]) == (["thinwire", "sweep"], expected)
            assert sum(reason["points"] for reason in document["reasons"]) == expected


# --- paths in files are relative to them


def test_every_path_of_a_sweep_is_relative_to_its_file(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """From another working directory: machine, model, profile, scheme of sync points, baseline, trace, plan."""
    folder, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    for each in (folder / "m", elsewhere):
        each.mkdir(parents=True)
    (folder / "m" / "config.json").write_text((root / "reference/models/llama-3-8b.json").read_text())
    (folder / "mine.toml").write_text((root / "topologies/machines/8xl40s-pcie.toml").read_text())
    (folder / "p.json").write_text(json.dumps({"gpu": json.loads((root / "sim/profiles/gpu-l40s.json").read_text())}))
    (folder / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,100,3\n1,100,3\n")
    (folder / "plan.toml").write_text(
        'model = "m/config.json"\nload = { rate_per_s = 4.0, prompt = { mean = 256 }, output = { mean = 16 } }\n'
        "targets = { ttft = { percentile = 90, seconds = 1.0 } }\n"
        'prices = { "mine.toml" = { per_gpu_hour = 1.0, source = "test" } }\n'
        'search = { tp = [2], schemes = ["bf16"], seconds = 20.0 }\n'
    )
    common = 'model = "m/config.json"\ncluster = "mine.toml"\ntp = 4\nprofile = "p.json"\n'
    texts = {
        "predict": f'{common}scheme = ["bf16", "flash-int8"]\nbaseline = "flash-int8"\n',
        "serve": f'what = "serve"\n{common}scheme = "bf16"\ntrace = "t.csv"\nwarm_up = 0.0\n',
        "plan": 'what = "plan"\nplan = "plan.toml"\n',
    }
    monkeypatch.chdir(elsewhere)
    for what, text in texts.items():
        (folder / f"grid-{what}.toml").write_text(text)
        out = str(tmp_path / f"{what}.parquet")
        status, said, err = run(capsys, "sweep", f"../there/grid-{what}.toml", "--out", out, "--workers", "1")
        assert status == 0, said + err
        assert all(row["error"] is None for row in rows(Path(out)))
    status, out, err = run(capsys, "plan", "../there/plan.toml", "--no-changes", "--json")
    assert status == 0 and json.loads(out)["cheapest"]["cluster"] == "mine.toml", err
    # What lies in the working directory alone is not taken for it.
    (folder / "mine.toml").rename(elsewhere / "mine.toml")
    for command in (("sweep", "../there/grid-predict.toml"), ("plan", "../there/plan.toml")):
        status, _, err = run(capsys, *command)
        assert status == 2 and "no such file" in err and "(paths are relative to the" in " ".join(err.split())
