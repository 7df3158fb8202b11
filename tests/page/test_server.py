"""The server's answers over HTTP, in process: documents, files dropped, downloads, errors in one sentence."""

import csv
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("starlette", reason="the page's server is the extra ui")

from starlette.testclient import TestClient

from thinwire.page import answers
from thinwire.page.drops import plain
from thinwire.page.server import application
from thinwire.reference.families.config import load_model

from ..validation.logs.twins import rank_lines, table
from .desks import SMALL, desk, small

BASE = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(application(desk(), port=8765), base_url=BASE, raise_server_exceptions=False)


def drop(client: TestClient, body: bytes, name: str = "file", **more: str) -> Any:
    headers = {"origin": BASE, "x-filename": quote(name)}
    return client.post("/api/drop", params=SMALL | more, content=body, headers=headers)


def test_the_page_and_what_it_names(client: TestClient) -> None:
    page = client.get("/", params=SMALL)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    start = page.text.partition('id="thinwire-data">')[2].partition("</script>")[0]
    document = json.loads(start)
    assert document["mode"] == "served" and document["state"] == small().query()
    assert {one["name"] for one in document["options"]["models"]} >= {"llama-3-8b"}
    assert document["charts"]
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        found = client.get(f"/static/{name}")
        assert found.status_code == 200 and found.headers["content-type"].startswith(kind)
    for missing in ("/static/page.html", "/static/../server.py", "/static/%2e%2e%2fserver.py", "/api/nothing", "/x"):
        assert client.get(missing).status_code == 404
    assert client.get("/", params={"batch": "none"}).status_code == 200  # the page says it when it asks


def test_answers_are_those_of_the_desk(client: TestClient) -> None:
    found = client.get("/api/answer", params=SMALL).json()
    assert found == json.loads(json.dumps(answers.answer(desk(), small())))
    assert client.get("/api/options").json() == json.loads(json.dumps(answers.options()))
    lines = client.get("/api/curves", params={**SMALL, "axis": "link"}).json()["curves"]
    assert [one["axis"] for one in lines] == ["link"]
    assert client.get("/api/curves", params={**SMALL, "axis": "up"}).status_code == 400


def test_a_download_has_the_rows(client: TestClient) -> None:
    found = client.get("/api/answer.csv", params=SMALL)
    assert "attachment" in found.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(found.text)))
    expected = answers.answer(desk(), small())["rows"]
    assert [row["scheme"] for row in rows] == [row["scheme"] for row in expected]
    assert [float(row["ttft_ms"]) for row in rows] == [row["ttft_ms"] for row in expected]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"modell": "x"}, "unknown key 'modell'"),
        ({"model": "llama-3-8c"}, "did you mean"),
        ({"cluster": "8xl40"}, "unknown cluster '8xl40'; did you mean 8xl40s-pcie"),
        ({"scheme": "flash-int44"}, "unknown scheme 'flash-int44'"),
        ({"model": "llama-3-70b", "tp": "1"}, "does not fit 1 x l40s"),
        ({"tp": "9"}, "tp"),
        ({"model": "drop:99"}, "drop the file again"),
    ],
)
def test_a_question_that_cannot_be_is_answered_in_a_sentence(
    client: TestClient, query: dict[str, str], said: str
) -> None:
    found = client.get("/api/answer", params=SMALL | query)
    assert found.status_code == 400
    assert said in found.json()["error"] and "\n" not in found.json()["error"]


def test_a_model_a_machine_and_a_dump_are_told_apart(client: TestClient, root: Path) -> None:
    config = (root / "reference" / "models" / "llama-3-8b.json").read_bytes()
    model = drop(client, config, "config.json").json()
    assert model["kind"] == "model" and model["key"] == "model" and model["option"]["name"] == model["value"]
    found = client.get("/api/answer", params=SMALL | {"model": model["value"]}).json()
    expected = {row["scheme"]: row["ttft_ms"] for row in answers.answer(desk(), small())["rows"]}
    assert {row["scheme"]: row["ttft_ms"] for row in found["rows"]} == pytest.approx(expected)
    assert "--model config.json" in found["command"]
    assert load_model("llama-3-8b").architecture in model["said"][0]

    toml = drop(client, (root / "examples" / "my-machine.toml").read_bytes(), "mine.toml").json()
    assert toml["kind"] == "machine" and toml["option"]["gpus"] == 6
    asked = SMALL | {"cluster": toml["value"], "tp": "2"}
    assert client.get("/api/answer", params=asked).json()["machine"] == "my-machine"

    dump = (root / "examples" / "topo.txt").read_bytes()
    untold = drop(client, dump, "topo.txt")
    assert untold.status_code == 400 and untold.json()["needs"] == "gpu"
    told = drop(client, dump, "topo.txt", gpu="l40s").json()
    assert told["kind"] == "machine" and "4 GPUs: l40s" in told["said"]
    assert told["said"][-1] == "thinwire cluster import topo.txt --gpu l40s --out topo.toml writes it to a file"
    assert client.get("/api/answer", params=SMALL | {"cluster": told["value"]}).json()["tp"] == 4
    lines = client.get("/api/curves", params=SMALL | {"cluster": told["value"], "axis": "tp"}).json()
    assert lines["curves"][0]["x"] == [1, 2, 4]


def log() -> bytes:
    """What all_reduce_perf would print of eight GPUs, at a tenth of the rate of the machine's PCIe."""
    times = {1 << power: 60 + (1 << power) / 1.2e3 for power in range(16, 29, 2)}
    lines = rank_lines(8, gpu="NVIDIA L40S")
    return table("all_reduce", 8, times, lines).encode()


def test_a_log_of_nccl_tests_becomes_the_machines_profile(client: TestClient) -> None:
    whole = {**SMALL, "tp": "8"}
    found = drop(client, log(), "nccl.log", tp="8")
    assert found.status_code == 200, found.text
    profile = found.json()
    assert profile["kind"] == "profile" and profile["key"] == "profile"
    before = {r["scheme"]: r["ttft_ms"] for r in client.get("/api/answer", params=whole).json()["rows"]}
    asked = client.get("/api/answer", params=whole | {"profile": profile["value"]}).json()
    after = {r["scheme"]: r["ttft_ms"] for r in asked["rows"]}
    assert after["bf16"] != pytest.approx(before["bf16"], rel=1e-3)
    assert after["none"] == pytest.approx(before["none"], rel=0.05)  # the logits are gathered yet
    assert "--profile fabric.json" in asked["command"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "not JSON"),
        (b"{}", "architecture None is not supported"),
        (b'{"architectures": ["NoSuch"], "model_type": "no-such"}', "no-such"),
        (b'[["a"]]', "JSON, which none of these tools prints"),
        (b"<!doctype html><html></html>", "web page"),
        (b"<system version='1'>", "f"),
        (b"hello there", "none of"),
        (b"\xff\xfe\x00\x01" * 10, "none of NCCL's"),
        (b"{" + b'"a":{' * 3000 + b"}" * 3001, "nested"),
        (b"gpu = 'l40s'\n[topology]\nkind = 'ring'\n", "f:1: name: missing key"),
        (b"gpu = '/etc/passwd'\nfabric = 'x'\n[topology]\n", "names a GPU of the catalog"),
        (b"\"gpu\" = '''\\u002fetc/passwd'''\n[topology]\n", "names a GPU of the catalog"),
        (b"gpu = 'secret.toml'\nfabric = 'x'\n[topology]\n", "names a GPU of the catalog"),
        (b"#       size         count      type   redop\n# nothing\n", "no row of nccl-tests"),
    ],
)
def test_a_bad_file_says_why(client: TestClient, body: bytes, said: str) -> None:
    found = drop(client, body, "f")
    assert found.status_code == 400
    error = found.json()["error"]
    assert said in error and "\n" not in error and len(error) <= 620
    assert "/tmp" not in error and str(desk().folder) not in error


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("topo.txt", "topo.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\topo.txt", "topo.txt"),
        ("<script>alert(1)</script>", "script_"),
        ("", "file"),
        ("...", "file"),
        ("a\nb\x1b[31m", "a_b_[31m"),
        ("x" * 300, "x" * 38 + "..." + "x" * 19),
    ],
)
def test_a_files_name_is_only_a_name(given: str, shown: str) -> None:
    assert plain(given) == shown
