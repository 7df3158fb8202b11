"""Who may ask the server, what it tells, and what it leaves behind."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the page's server is the extra ui")

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from thinwire.page import assets
from thinwire.page.desk import Desk
from thinwire.page.drops import MOST_BYTES
from thinwire.page.guard import TARGET
from thinwire.page.server import application

from ..command import Capture, run
from .desks import SMALL, desk

BASE = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(application(desk(), port=8765), base_url=BASE, raise_server_exceptions=False)


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST:8765", "[::1]:8765"])
def test_it_is_called_by_names_of_this_machine(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8765", "localhost:8766",
     "localhost.:8765", "0.0.0.0:8765", "", "[::1]", "::1:8765", "127.0.0.1:8765, evil.example"],
)  # fmt: skip
def test_any_other_name_is_refused(client: TestClient, host: str) -> None:
    """DNS rebinding: a page elsewhere makes its own name point here."""
    for path in ("/", "/api/options", "/vega.js", "/nothing"):
        found = client.get(path, headers={"host": host})
        assert found.status_code == 403 and "options" not in found.text


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"},
     {"origin": "http://localhost:8765"}, {"origin": BASE, "sec-fetch-site": "cross-site"}],
)  # fmt: skip
def test_only_the_page_itself_may_drop(client: TestClient, headers: dict[str, str]) -> None:
    found = client.post("/api/drop", params=SMALL, content=b"{}", headers=headers)
    assert found.status_code == 403


def test_other_sites_may_link_to_the_page_and_not_read_answers(client: TestClient) -> None:
    cross = {"sec-fetch-site": "cross-site"}
    assert client.get("/", headers=cross).status_code == 200
    for site in ("cross-site", "same-site"):  # a page of another port is of the same site
        assert client.get("/api/options", headers={"sec-fetch-site": site}).status_code == 403
    assert client.get("/api/options", headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get("/api/options", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert "access-control-allow-origin" not in client.get("/api/options").headers


@pytest.mark.parametrize("path", ["/", "/api/options", "/nothing", "/static/page.js"])
def test_headers_forbid_what_the_page_does_not_need(client: TestClient, path: str) -> None:
    found = client.get(path)
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy and "http:" not in policy and "*" not in policy
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"<script(?![^>]*(src=|application/json))", assets.own("page.html")), "no script of its own"


def test_methods_and_sizes_are_limited(client: TestClient) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/api/options").status_code == 405
    assert client.post("/api/answer", headers={"origin": BASE}).status_code == 405
    assert client.get("/api/answer?x=" + "y" * TARGET).status_code == 414
    assert client.get("/api/answer?x=" + "y" * 5000).status_code == 400

    def endless() -> Any:
        for _ in range(MOST_BYTES // (1 << 20) + 2):
            yield b"#" * (1 << 20)

    found = client.post("/api/drop", params=SMALL, content=endless(), headers={"origin": BASE})
    assert found.status_code == 413 and "at most" in found.json()["error"]


def test_no_path_of_this_machine_is_told(client: TestClient, root: Path) -> None:
    told = [client.get("/").text, client.get("/api/options").text, client.get("/api/answer", params=SMALL).text]
    for query in ({"model": "/etc/passwd"}, {"cluster": "x.toml"}, {"model": "README.md"}, {"profile": "/etc/passwd"},
                  {"price": "/etc/passwd:1"}, {"price": "x.toml:1"}):  # fmt: skip
        found = client.get("/api/plan" if "price" in query else "/api/answer", params=SMALL | query)
        assert found.status_code == 400
        told.append(found.text)
    for body in (b"{}", b"<system", b"[topology]\nx", b"\xff"):
        told.append(client.post("/api/drop", params=SMALL, content=body, headers={"origin": BASE}).text)
    for text in told:
        for path in (str(root), str(Path.home()) + "/", "site-packages", "/tmp/", sys.prefix):
            assert path not in text.replace("/etc/passwd", "")


KEYS = ["model", "cluster", "scheme", "tp", "gpus", "nodes", "ep", "profile", "price", "link", "batch", "rate", "x"]
ODD = ["", "0", "-1", "1e999", "nan", "drop:1", "drop:", "auto:+1%", "two_step:int4-g7", "0-9999", "a:1,a:2"]
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.text(max_size=30),
)


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), st.sampled_from(["answer", "answer.csv"]))
def test_no_query_is_a_fault(client: TestClient, query: dict[str, str], what: str) -> None:
    found = client.get(f"/api/{what}", params=SMALL | query)
    assert found.status_code in (200, 400), found.text
    if found.status_code == 400:
        assert 0 < len(found.json()["error"]) <= 620


def test_a_fault_of_ours_is_no_traceback(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from thinwire.page import answers

    def broken(*_: object) -> None:
        raise RuntimeError("at /secret/place")

    monkeypatch.setattr(answers, "named", broken)
    found = client.get("/api/answer", params=SMALL | {"batch": "77"})
    assert found.status_code == 500
    assert found.json() == {"error": "thinwire failed here (RuntimeError); the terminal says more"}


def test_names_are_data(client: TestClient, root: Path) -> None:
    """A machine called <script> is text, in JSON and in the page's data block."""
    hostile = "<script>alert(1)</script><!--"
    text = (root / "examples" / "my-machine.toml").read_text("utf-8")
    named = re.sub(r'^name = ".*"$', f'name = "{hostile}"', text, flags=re.MULTILINE)
    assert hostile in named
    headers = {"origin": BASE, "x-filename": "%3Cscript%3E.toml"}
    dropped = client.post("/api/drop", params=SMALL, content=named.encode(), headers=headers)
    assert dropped.status_code == 200, dropped.text
    assert dropped.headers["content-type"] == "application/json"
    found = client.get("/api/answer", params=SMALL | {"cluster": dropped.json()["value"], "tp": "2"})
    assert found.json()["machine"] == hostile and found.headers["content-type"] == "application/json"
    block = assets.as_data({"x": f"{hostile}\u2028</script>"})
    assert "<" not in block and json.loads(block)["x"].startswith(hostile)


def test_nothing_is_left_behind(root: Path) -> None:
    here = Desk()
    with TestClient(application(here, port=8765), base_url=BASE) as inside:
        config = (root / "reference" / "models" / "llama-3-8b.json").read_bytes()
        found = inside.post("/api/drop", content=config, headers={"origin": BASE, "x-filename": "..%2F..%2Fx.json"})
        assert found.status_code == 200
        written = [path for path in here.folder.rglob("*") if path.is_file()]
        assert [path.name for path in written] == ["model.json"]
        assert not any(path.stat().st_mode & 0o111 for path in written)
        refused = inside.post("/api/drop", content=b"{}", headers={"origin": BASE})
        assert refused.status_code == 400
        assert len([path for path in here.folder.rglob("*") if path.is_file()]) == 1, "a file refused is removed"
    assert not here.folder.exists()


def test_exposed_it_is_called_by_addresses_too_and_by_no_other_name() -> None:
    hosts = ("127.0.0.1", "gpu-box")
    open_to_all = TestClient(application(desk(), hosts, 8765, addresses=True), base_url=BASE)
    for host in ("gpu-box:8765", "192.0.2.7:8765", "[2001:db8::1]:8765"):
        assert open_to_all.get("/api/options", headers={"host": host}).status_code == 200
    for host in ("evil.example:8765", "192.0.2.7.evil.example:8765", "192.0.2.7:80"):
        assert open_to_all.get("/api/options", headers={"host": host}).status_code == 403


def test_another_address_than_loopback_wants_to_be_meant(capsys: Capture) -> None:
    status, _, err = run(capsys, "ui", "--host", "0.0.0.0", "--no-browser")
    assert status == 2 and "--expose" in err
    status, _, err = run(capsys, "ui", "--model", "no-such-model", "--no-browser")
    assert status == 2 and "unknown model" in err


def a_taken_port_is_one_line(root: Path, port: int) -> None:
    taken = f"from thinwire.commands.cli import main; main(['ui', '--no-browser', '--port', '{port}'])"
    again = subprocess.run(
        [sys.executable, "-c", taken], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin"}, check=False,
    )  # fmt: skip
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "--port 0" in again.stderr


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 0)])
def test_the_command_serves_and_ends_by_a_signal(
    root: Path, tmp_path: Path, ending: signal.Signals, status: int
) -> None:
    """A real socket: the address is printed, answers come, a signal leaves no traceback and no folder."""
    code = "from thinwire.commands.cli import main; main(['ui', '--no-browser', '--port', '0', '--batch', '3'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?.*batch=3.*", address)
        port = int(re.findall(r":(\d+)/", address)[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/options", timeout=30) as answer:
            assert answer.status == 200 and answer.headers["server"] is None
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert raw.recv(64).startswith(b"HTTP/1.1 403")
        assert len(list(tmp_path.iterdir())) == 1
        if ending == signal.SIGINT:
            a_taken_port_is_one_line(root, port)
        process.send_signal(ending)
        began = time.monotonic()
        assert process.wait(30) == status and time.monotonic() - began < 20
        assert process.stderr is not None and process.stderr.read() == ""
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()
