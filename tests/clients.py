"""Client processes that take verbs of the API over a socket, and can be killed in the midst of one.

They are forked from one process that has imported everything, so that a new one costs little.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import attrs

from jobsup import ProcessIdentity
from jobsup._identity import identify, open_process, send_verified

PATIENCE: Final = 60.0
"""Seconds that only a failing test takes."""
_PROGRAM: Final = Path(__file__).with_name("client_program.py")


@attrs.frozen
class Reply:
    """What a verb came to: a value, or the name and text of what it raised."""

    value: Any = None
    error: str | None = None
    text: str = ""


class ClientDiedError(Exception):
    """The client ended, of a signal, before it answered."""


class Client:
    """One process.  It does one verb at a time, in the order they were sent."""

    def __init__(self, ours: socket.socket) -> None:
        self.is_closed = False
        self._socket = ours
        self._read = b""
        self._lines: deque[bytes] = deque()
        identity = identify(int(self._line(PATIENCE)))
        assert identity is not None
        self.identity: ProcessIdentity = identity

    def send(self, verb: str, **arguments: object) -> None:
        line = json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n"
        try:
            self._socket.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            raise ClientDiedError(self.identity.pid) from None

    def receive(self, wait: float = PATIENCE) -> Reply:
        """The answer to the oldest verb not yet answered.

        Raises:
            ClientDiedError: There will be none.
            TimeoutError: It did not come in time.
        """
        return Reply(**json.loads(self._line(wait)))

    def ask(self, verb: str, **arguments: object) -> Reply:
        self.send(verb, **arguments)
        return self.receive()

    def _line(self, wait: float) -> bytes:
        while not self._lines:
            if not _is_ready(self._socket.fileno(), wait):
                raise TimeoutError(f"client gave no answer in {wait:g} s")
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise ClientDiedError(getattr(self, "identity", None))
            *lines, self._read = (self._read + data).split(b"\n")
            self._lines.extend(lines)
        return self._lines.popleft()

    def kill(self) -> None:
        """SIGKILL, and until it is gone.  What it answered before can still be received."""
        handle = open_process(self.identity)
        if handle is None:
            return
        with handle:
            send_verified(self.identity, signal.SIGKILL)
            fd = handle.fileno()
            assert fd is not None
            assert _is_ready(fd, PATIENCE), f"{self.identity} survived SIGKILL"

    def close(self) -> None:
        """Let it end, once it is through with what it does."""
        self.is_closed = True
        self._socket.close()


def _is_ready(fd: int, wait: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(wait * 1000))


class ClientPool:
    """Makes clients, and ends them all."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._parent = subprocess.Popen([sys.executable, str(_PROGRAM)], stdin=theirs.fileno())
        self._clients: list[Client] = []

    def __enter__(self) -> ClientPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients:
            client.kill()
            client.close()
        self._ours.close()
        self._parent.wait(PATIENCE)

    def new(self) -> Client:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._ours, [b"!"], [theirs.fileno()])
        client = Client(ours)
        self._clients = [each for each in self._clients if not each.is_closed] + [client]
        return client
