"""How long it takes from a slider's move to the chart: measured in Chromium, against a server of its own.

python tests/page/bench.py [--steps 50]. Needs playwright and a Chromium. Every step is a prompt that was not asked
before, so the server computes each. A time ends when the browser has painted the frame with the new bars.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PLACES = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
# No sandbox, for root in a container has none; the others keep the browser from asking the network on its own.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
QUESTION = "model=llama-3-70b&cluster=8xl40s-pcie&tp=4"
LENGTHS = 17  # places of the slider from 256 to 4096 tokens, for each batch from 1 on
SETTLED = "html[data-settled]"
# One step: the slider moves as by hand, the page says when its bars have changed, and the next frame is on the screen.
STEP = """
([name, place]) => new Promise((done, failed) => {
  const slider = document.getElementById(name), begun = performance.now();
  performance.clearResourceTimings();
  document.addEventListener("thinwire-drawn", () => requestAnimationFrame(() => {
    const painted = new MessageChannel();
    painted.port1.onmessage = () => {
      const asked = performance.getEntriesByType("resource").find((one) => one.name.includes("api/answer"));
      done([performance.now() - begun, asked ? asked.duration : NaN]);
    };
    painted.port2.postMessage(0);
  }), { once: true });
  setTimeout(() => failed(new Error(document.getElementById("fault").textContent || "the bars did not change")), 20000);
  slider.value = place;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
})
"""


def chromium() -> str | None:
    """Where it is, if it is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or next((place for place in PLACES if Path(place).exists()), None)


@contextmanager
def served() -> Iterator[str]:
    """The page's server in a thread, on a free port of loopback; its address, with a slash at the end."""
    import uvicorn

    from thinwire.page.desk import Desk
    from thinwire.page.server import application

    desk = Desk()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(application(desk, port=port), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not server.started:
            raise RuntimeError("the page's server did not start")
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join(10)


def measure(steps: int) -> list[tuple[float, float]]:
    """Milliseconds of each step, whole and of the server's answer alone."""
    from playwright.sync_api import sync_playwright

    found = []
    with served() as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}?{QUESTION}")
        page.wait_for_selector(SETTLED, state="attached", timeout=120_000)
        for step in range(steps):
            batch, place = divmod(step, LENGTHS)
            if place == 0:
                page.evaluate(STEP, ["batch", batch])
            whole, answer = page.evaluate(STEP, ["input_tokens", 2 + place / 4])
            found.append((float(whole), float(answer)))
            page.wait_for_timeout(20)
        browser.close()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the median, or why there is none."""
    parser = argparse.ArgumentParser(prog="python tests/page/bench.py", description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args(arguments).steps
    if chromium() is None:
        print("thinwire: no Chromium here (Debian and Ubuntu: apt-get install chromium)", file=sys.stderr)
        return 0
    found = measure(steps)
    whole, answers = sorted(each[0] for each in found), [each[1] for each in found]
    print(
        f"slider to chart: median of {steps} {statistics.median(whole):.0f} ms "
        f"(fastest {whole[0]:.0f}, slowest {whole[-1]:.0f}), "
        f"the server's answer {statistics.median(answers):.0f} ms of it"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
