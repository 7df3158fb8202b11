"""A browser and a server for tests and measurements of the page: Debian's Chromium, loopback alone."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
# No sandbox, for tests run as root in a container; the rest are what a browser would do on its own, over the network.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip


def chromium() -> str | None:
    """Where it is, if it is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or next((place for place in PLACES if Path(place).exists()), None)


@contextmanager
def served() -> Iterator[str]:
    """The page's server, in a thread of its own; its address, with a slash at the end."""
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
        assert server.started, "the page's server did not start"
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join(10)
            desk.close()
