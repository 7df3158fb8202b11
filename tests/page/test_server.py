"""The server's answers over HTTP, in process: documents, files dropped, downloads, errors in one sentence."""

import csv
import io
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("starlette", reason="the page's server is the extra ui")

import anyio
import httpx
from starlette.testclient import TestClient

from thinwire.page import answers, server
from thinwire.page.desk import Desk, model_title, plain, title_of
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


def test_no_text_of_a_download_is_run_by_a_spreadsheet(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    row = answers.answer(desk(), small())["rows"][0]
    begins = ["=", "+", "-", "@", "\t", "\r", "a"]
    rows = [{**row, "why": f"{begin}1+1"} for begin in begins]
    monkeypatch.setattr(answers, "answer", lambda *_: {"rows": rows})
    text = client.get("/api/answer.csv", params=SMALL).text
    found = [cells["why"] for cells in csv.DictReader(io.StringIO(text, newline=""))]
    assert found == ["'=1+1", "'+1+1", "'-1+1", "'@1+1", "'\t1+1", "' 1+1", "a1+1"]


def test_what_was_missing_is_answered_once_it_is_dropped(root: Path) -> None:
    """A link to drop:1, opened before the file is dropped again."""
    fresh = Desk()
    client = TestClient(application(fresh, port=8765), base_url=BASE, raise_server_exceptions=False)
    asked = SMALL | {"model": "drop:1"}
    assert "drop the file again" in client.get("/api/answer", params=asked).json()["error"]
    config = (root / "reference" / "models" / "llama-3-8b.json").read_bytes()
    assert drop(client, config, "config.json").json()["value"] == "drop:1"
    assert client.get("/api/answer", params=asked).status_code == 200
    fresh.close()


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


@pytest.mark.parametrize(
    ("name", "body", "title"),
    [
        ("mine.json", b'{"_name_or_path": "meta/Other"}', "mine"),
        ("config.json", b'{"_name_or_path": "/home/somebody/secret/Llama-X/"}', "Llama-X"),
        ("CONFIG.JSON", b'{"_name_or_path": 5}', "CONFIG"),
        ("config.json", b'{"_name_or_path": "/"}', "model"),
        ("config.json", b"[]", "model"),
        ("config.json", b"{", "model"),
    ],
)
def test_a_model_is_not_called_by_its_folder(tmp_path: Path, name: str, body: bytes, title: str) -> None:
    assert model_title(name, body) == title
    folder = tmp_path / "for-a-customer"
    folder.mkdir()
    (folder / name).write_bytes(body)
    assert title_of(folder / name) == title
    if name == "config.json":
        assert title_of(folder) == title


def test_a_model_of_the_command_line_is_not_either(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "for-a-customer"
    folder.mkdir()
    (folder / "config.json").write_bytes((root / "reference" / "models" / "llama-3-8b.json").read_bytes())
    here = Desk()
    found = answers.answer(here, small(model=here.adopt("model", str(folder / "config.json"))))
    assert "for-a-customer" not in json.dumps(found) and found["model"] != "llama-3-8b"
    here.close()


def test_slow_questions_leave_room_for_sliders(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than threads: a few are worked at, a few wait, the others are told to come again."""
    at_once, most, lock = [0], [0], threading.Lock()
    over = threading.Event()

    def slow(*_: object) -> dict[str, str]:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        over.wait(30)
        with lock:
            at_once[0] -= 1
        return {"verdict": "slow"}

    monkeypatch.setattr(server, "plan", slow)
    app = application(desk(), port=8765)

    async def together() -> tuple[list[int], int]:
        found = list[int]()

        async def ask(client: httpx.AsyncClient) -> None:
            answer = await client.get("/api/plan", params=SMALL)
            found.append(answer.status_code)
            if answer.status_code == 503:
                assert "busy" in answer.json()["error"]

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client, anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(ask, client)
            with anyio.fail_after(20):
                slider = (await client.get("/api/answer", params=SMALL)).status_code
                while most[0] < server.AT_ONCE or len(found) < 60 - server.AT_ONCE - server.WAITING:
                    await anyio.sleep(0.02)
            over.set()
        return found, slider

    found, slider = anyio.run(together)
    assert slider == 200 and most[0] == server.AT_ONCE
    assert found.count(503) == 60 - server.AT_ONCE - server.WAITING and found.count(200) == 60 - found.count(503)


GPUS = "".join(f"GPU {i}: NVIDIA L40S (UUID: GPU-{i})\n" for i in range(4)).encode()
PEERS = (
    "        GPU0    GPU1    GPU2    GPU3\n"
    + "".join(f" GPU{i}   " + "".join(f"{'X' if i == j else 'NS':8}" for j in range(4)) + "\n" for i in range(4))
).encode()


def drop_together(client: TestClient, files: list[tuple[str, bytes]], earlier: int = 0) -> Any:
    listed = ",".join(f"{quote(name)}:{len(body)}" for name, body in files)
    headers = {"origin": BASE, "x-files": listed, "x-earlier": str(earlier)}
    return client.post("/api/drop", params=SMALL, content=b"".join(body for _, body in files), headers=headers)


def test_dumps_are_read_together_at_once_or_one_after_the_other(client: TestClient, root: Path) -> None:
    topo = ("topo.txt", (root / "examples" / "topo.txt").read_bytes())
    gpus, peers = ("gpus.txt", GPUS), ("p2p.txt", PEERS)
    whole = drop_together(client, [topo, gpus, peers]).json()
    assert "4 GPUs: l40s" in whole["said"] and whole["files"] == ["topo.txt", "gpus.txt", "p2p.txt"]
    assert any("bounce through host memory" in line for line in whole["said"])
    assert whole["said"][-1].startswith("thinwire cluster import topo.txt gpus.txt p2p.txt --out ")
    first = drop_together(client, [topo, gpus]).json()
    assert not any("bounce" in line for line in first["said"])
    later = drop_together(client, [topo, gpus, peers], earlier=2).json()  # alone it tells no topology
    assert later["said"] == whole["said"]
    machine = client.get("/api/answer", params=SMALL | {"cluster": later["value"]}).json()
    assert machine["tp"] == 4 and machine["machine"] == "4xl40s-imported"
    other = drop_together(client, [topo, gpus, ("b.txt", topo[1] + gpus[1])], earlier=2).json()
    assert other["files"] == ["b.txt"]  # says all by itself: another machine


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("topo.txt", b"GPU0 X"), ("config.json", b"{}")], "config.json is a model"),
        ([("a.json", b"{}"), ("b.json", b"{}")], "one at a time"),
        ([("a", b"x"), ("b", b" ")], "b is empty"),
        ([("a", b"x")] * 17, "1 to 16 files"),
    ],
)
def test_files_that_do_not_go_together_say_so(client: TestClient, files: list[tuple[str, bytes]], said: str) -> None:
    found = drop_together(client, files)
    assert found.status_code == 400 and said in found.json()["error"]
    short = {"origin": BASE, "x-files": "a:5"}
    assert "X-Files" in client.post("/api/drop", params=SMALL, content=b"abc", headers=short).json()["error"]
