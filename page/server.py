"""The page over HTTP on loopback: it computes anew on every change, and keeps nothing but what it was asked before."""

import csv
import io
import json
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import unquote

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thinwire import __version__
from thinwire.edge.words import said
from thinwire.page import answers, assets, defaults, drops
from thinwire.page.curves import curves
from thinwire.page.desk import AbandonedError, Desk
from thinwire.page.documents import Start
from thinwire.page.drops import MOST_BYTES, File, UntoldError
from thinwire.page.guard import LOOPBACK, Guard
from thinwire.page.loads import serve
from thinwire.page.plans import plan
from thinwire.page.state import State, read

AT_ONCE, WAITING = 3, 24  # of what takes seconds: a page asks for two
CSV = ("scheme", "ttft_ms", "low_ms", "high_ms", "compute_ms", "codec_ms", "wire_ms", "waiting_ms", "speedup",
       "bits_reduce", "bits_gather", "wire_mb", "perplexity", "lookups_lost", "standing", "best", "why")  # fmt: skip


def application(
    desk: Desk, hosts: tuple[str, ...] = LOOPBACK, port: int | None = None, start: str = "", addresses: bool = False
) -> Guard:
    """The server as an ASGI application. start: the query of the page's first state; the others are `Guard`'s."""

    slow = anyio.CapacityLimiter(AT_ONCE)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        preparing = threading.Thread(target=_prepare, daemon=True)
        preparing.start()
        yield
        await anyio.to_thread.run_sync(preparing.join)  # or it would be cut off inside the library
        desk.close()

    def first(answer: Callable[[Desk, State], Any]) -> Callable[[Request], Any]:
        """An endpoint that a slider waits for."""

        async def endpoint(request: Request) -> Response:
            def work() -> Response:
                with desk.turns.ahead():
                    return _answered(desk, lambda: answer(desk, read(_query(request))))

            return await anyio.to_thread.run_sync(work)

        return endpoint

    def later(answer: Callable[[Desk, Request], Any]) -> Callable[[Request], Any]:
        """One that waits for those, and ends when nobody waits for it. Few at once, few in the queue: each holds a
        thread and megabytes, and sliders need threads, too."""

        async def endpoint(request: Request) -> Response:
            if slow.statistics().tasks_waiting >= WAITING:
                return _json({"error": "busy: too much is asked at once; try again in a moment"}, 503)
            gone, found = threading.Event(), Response(status_code=503)  # nobody reads that one

            def work() -> Response:
                with desk.turns.behind(gone):
                    return _answered(desk, lambda: answer(desk, request))

            async def watch() -> None:
                while not await request.is_disconnected():
                    await anyio.sleep(0.05)
                gone.set()
                together.cancel_scope.cancel()  # out of the queue; what runs ends at its next turn

            try:
                async with anyio.create_task_group() as together:
                    together.start_soon(watch)
                    async with slow:
                        found = await anyio.to_thread.run_sync(work)
                    together.cancel_scope.cancel()
            except anyio.get_cancelled_exc_class():  # the server ends, which is no fault to print
                found = _json({"error": "the server ends"}, 503)
            finally:
                gone.set()
            return found

        return endpoint

    def page(request: Request) -> Response:
        query = _query(request) or start
        try:
            state = read(query)
        except ValueError:
            state = read(start)  # the page says what was wrong when it asks for the answer
        try:
            offered = answers.options_with(desk, state)
        except ValueError:  # what was dropped is gone
            offered = answers.options()
        document: Start = {
            "mode": "served", "version": __version__, "state": state.query(), "options": offered,
            "charts": assets.charts(), "made": "",
        }  # fmt: skip
        return Response(assets.served(document), media_type="text/html", headers={"cache-control": "no-store"})

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in assets.names():
            raise HTTPException(404)
        return Response(assets.own(name), media_type=assets.names()[name], headers={"cache-control": "no-cache"})

    def library(request: Request) -> Response:
        try:
            found = assets.library()
        except ValueError as error:
            return Response(str(error), 500, media_type="text/plain")
        return Response(found, media_type="text/javascript", headers={"cache-control": "max-age=3600"})

    async def dropped(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return _json(
                {"error": f"a file, or all that are dropped at once, has at most {MOST_BYTES} bytes here"}, 413
            )
        pairs = request.query_params.multi_items()
        gpu = next((value for key, value in pairs if key == "gpu"), None)

        def work() -> Response:
            try:
                files, earlier = _files(request, body)
                state = read([pair for pair in pairs if pair[0] != "gpu"])
                return _json(drops.dropped(desk, files, state, gpu, earlier))
            except UntoldError as error:
                return _json({"error": said(str(error)), "needs": "gpu"}, 400)
            except ValueError as error:
                return _refused(desk, error)

        return await anyio.to_thread.run_sync(work)

    routes = [
        Route("/", page),
        Route("/static/{name}", static),
        Route("/vega.js", library),
        Route("/api/options", lambda request: _json(answers.options())),
        Route("/api/answer", first(answers.answer)),
        Route("/api/answer.csv", first(table)),
        Route("/api/all", later(lambda desk, request: answers.answer(desk, read(_query(request)), everything=True))),
        Route("/api/curves", later(_curves)),
        Route("/api/serve", later(lambda desk, request: serve(desk, read(_query(request))))),
        Route("/api/plan", later(lambda desk, request: plan(desk, read(_query(request))))),
        Route("/api/drop", dropped, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=life, exception_handlers={HTTPException: _missing, Exception: _broken})
    return Guard(app, hosts, port, addresses)


def _prepare() -> None:
    """What the first visit would wait for."""
    try:
        assets.library()
    except ValueError as error:
        print(said(str(error)), file=sys.stderr)
    answers.options()


async def _body(request: Request) -> bytes | None:
    """At most so many bytes, whatever the header promises; None: more."""
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _files(request: Request, body: bytes) -> tuple[list[File], list[File]]:
    """What was dropped, and what had been before. ValueError where the header does not say what is in the body."""
    listed = request.headers.get("x-files")
    if listed is None:
        return [(unquote(request.headers.get("x-filename", ""), errors="replace")[:200], body)], []
    found, at = list[File](), 0
    for part in listed.split(","):
        name, _, size = part.rpartition(":")
        if not (size.isascii() and size.isdecimal() and len(size) < 12):
            raise ValueError("X-Files has NAME:BYTES of each file, with commas between")
        found.append((unquote(name, errors="replace")[:200], body[at : at + int(size)]))
        at += int(size)
    before = request.headers.get("x-earlier", "0")
    earlier = int(before) if before.isascii() and before.isdecimal() and len(before) < 4 else 0
    if at != len(body) or earlier >= len(found):
        raise ValueError("X-Files and X-Earlier do not say what is in the body")
    return found[earlier:], found[:earlier]


def _query(request: Request) -> str:
    return str(request.scope["query_string"].decode("latin-1"))


def _answered(desk: Desk, answer: Callable[[], Any]) -> Response:
    try:
        return _json(answer())
    except ValueError as error:
        return _refused(desk, error)
    except AbandonedError:
        return Response(status_code=503)  # nobody reads it


def _curves(desk: Desk, request: Request) -> Any:
    pairs = request.query_params.multi_items()
    axes = [value for key, value in pairs if key == "axis"]
    return curves(desk, read([pair for pair in pairs if pair[0] != "axis"]), axes)


def _json(document: Any, status: int = 200) -> Response:
    if isinstance(document, Response):
        return document
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return Response(text, status, {"cache-control": "no-store"}, "application/json")


def _refused(desk: Desk, error: ValueError) -> Response:
    return _json({"error": said(desk.said(error))}, 400)


def _missing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _json({"error": "there is nothing here" if status == 404 else "that is not answered here"}, status)


def _broken(request: Request, error: Exception) -> Response:
    """A fault of ours: what went wrong is said on the terminal, not to the page."""
    return _json({"error": f"thinwire failed here ({type(error).__name__}); the terminal says more"}, 500)


def table(desk: Desk, state: State) -> Response:
    """The answer's rows as CSV. A text that a spreadsheet would take for a formula is quoted as text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV)
    for row in answers.answer(desk, state)["rows"]:
        low, high = row["interval_ms"] or (None, None)
        bits = row["bits"] or (None, None)
        values = {**row, "low_ms": low, "high_ms": high, "bits_reduce": bits[0], "bits_gather": bits[1]}
        writer.writerow([_cell(values[name]) for name in CSV])
    headers = {"content-disposition": 'attachment; filename="thinwire.csv"', "cache-control": "no-store"}
    return Response(out.getvalue(), 200, headers, "text/csv")


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
    return text.replace("\r", " ")  # which csv does not quote, and a reader takes for the end of a row


def run(desk: Desk, host: str, port: int, start: str, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. ready: told the address. OSError where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)  # who is told the address may call at once
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        exposed = host not in defaults.LOOPBACK
        hosts = (*LOOPBACK, shown, socket.gethostname().lower(), socket.getfqdn().lower()) if exposed else LOOPBACK
        app = application(desk, hosts, port, start, addresses=exposed)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=1 << 16,
        )
        ready(f"http://{shown}:{port}/" + (f"?{start}" if start else ""))
        server = uvicorn.Server(config)
        with _ended_by_hang_up(server):
            server.run([listening])


@contextmanager
def _ended_by_hang_up(server: uvicorn.Server) -> Iterator[None]:
    """A terminal that is closed ends it as Ctrl-C does, which uvicorn sees to; nohup's wish is kept."""
    before = signal.getsignal(signal.SIGHUP)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        server.should_exit = True

    signal.signal(signal.SIGHUP, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
