"""Who may ask: the page itself, from this machine. A server on loopback is reached by every page that a browser shows,
so names, origins and sizes are checked before anything is read.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any

from thinwire.page.assets import SERVED

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
OURS = (b"", b"same-origin", b"none")  # what browsers say of who asks; nothing, where it is none
TARGET = 1 << 13  # bytes of a path and its query
HEADERS = (
    (b"content-security-policy", SERVED.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Around an application.

    Args:
        hosts: names by which the server may be called, without a port. A page elsewhere whose name is made to point to
            this machine (DNS rebinding) is called by its own.
        port: of the server; None takes any, for tests.
        addresses: any IP address will do as well, which is no name that could be made to point here.
    """

    def __init__(
        self, app: App, hosts: tuple[str, ...] = LOOPBACK, port: int | None = None, addresses: bool = False
    ) -> None:
        self._app, self._hosts, self.port, self._addresses = app, hosts, port, addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse in a line."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(h for h in HEADERS if h[0] not in given)]
            await send(message)

        if refused := self._refused(scope):
            status, why = refused
            body = why.encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
            await with_headers({"type": "http.response.start", "status": status, "headers": headers})
            await with_headers({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, with_headers)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        host = headers.get(b"host", [])
        if len(host) != 1 or not self._ours(host[0].decode("latin-1")):
            return 403, "this server is called by the address it printed, and no other"
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > TARGET:
            return 414, f"an address has at most {TARGET} bytes"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "GET, HEAD and POST are answered"
        site = headers.get(b"sec-fetch-site", [b""])[0]
        origins = [value.decode("latin-1") for value in headers.get(b"origin", [])]
        foreign = any(origin != f"http://{host[0].decode('latin-1')}" for origin in origins)
        if foreign or (scope["method"] == "POST" and not origins) or site not in OURS:
            if scope["method"] != "POST" and not foreign and scope["path"] == "/":
                return None  # a link to the page, from anywhere, is a link
            return 403, "only the page that this server gave may ask it"
        return None

    def _ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if not colon:
            name, port = host, "80"
        known = name.lower() in self._hosts or (self._addresses and _is_address(name))
        return known and (self.port is None or port == str(self.port))


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
