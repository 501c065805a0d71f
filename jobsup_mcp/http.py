"""The server on HTTP: a loopback address only, and a bearer token for every request."""

from __future__ import annotations

import hmac
import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from jobsup_mcp.policy import TOKEN_VARIABLE

if TYPE_CHECKING:
    from jobsup_mcp.server import JobServer

_MIN_TOKEN: Final = 16
_LAST_WORDS_SECONDS: Final = 2

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def take_token() -> str:
    """The token, which is then no longer in the environment that jobs may get."""
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable():
        sys.exit(
            f"jobsup-mcp: put a token of at least {_MIN_TOKEN} printable characters into "
            f"{TOKEN_VARIABLE}; clients send it as 'Authorization: Bearer ...'"
        )
    return token


class NeedsToken:
    """Lets nothing through to *app* that does not bring the token."""

    def __init__(self, app: App, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                await _refuse(send)
                return
        await self._app(scope, receive, send)


async def _refuse(send: Send) -> None:
    headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": b"bearer token missing or wrong\n"})


def make_app(server: JobServer, token: str, host: str, port: int) -> App:
    """The ASGI application; Origin and Host are checked by the SDK."""
    return NeedsToken(server.http_app(host, port), token)


def serve(server: JobServer, token: str, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn  # noqa: PLC0415

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        port = listening.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        print(f"jobsup-mcp: serving http://{name}:{port}/mcp", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            make_app(server, token, host, port),
            log_level="warning",
            # Streams of clients that listen would hold it up for ever.
            timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listening])
