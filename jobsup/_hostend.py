"""The host's end of a launcher: hand an order over with the descriptors that go with it."""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from jobsup._control import ALONG_BYTES, Order, Report
from jobsup._surroundings import Surroundings

_HELLO_BYTES: Final = 4096
_CREDENTIALS: Final = struct.Struct("iII")
_LINGER_SECONDS: Final = 0.5

RunInterpreter = Callable[[str, socket.socket, Sequence[int]], None]
Prepare = Callable[[Order], Order]


def socket_pair(kind: socket.SocketKind = socket.SOCK_STREAM) -> Sequence[socket.socket]:
    """Both ends block, whatever the host gave to `socket.setdefaulttimeout`."""
    pair = socket.socketpair(socket.AF_UNIX, kind)
    for end in pair:
        end.settimeout(None)
    return pair


_handed_over: set[socket.socket] = set()


@contextmanager
def handing_over(theirs: socket.socket) -> Iterator[None]:
    """Close another process's end afterwards, and in every fork that a thread makes meanwhile.

    Its copy would hide that the other process died: we would wait for both.
    """
    _handed_over.add(theirs)
    try:
        with theirs:
            yield
    finally:
        _handed_over.discard(theirs)


def close_in_child() -> None:
    for theirs in _handed_over:
        theirs.close()
    _handed_over.clear()


def converse(ours: socket.socket, order: bytes) -> bytes:
    """Hand over the order, unless it is empty; what the monitor said of it, or died saying."""
    try:
        if order:
            # Without the flag a monitor that died would kill a host that
            # has SIGPIPE at its default.  send(2)
            ours.sendall(order, getattr(socket, "MSG_NOSIGNAL", 0))
            ours.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass  # what it said before it died is still there to be read
    answer = b""
    try:
        while Report.from_bytes(answer) is None and (part := ours.recv(1 << 16)):
            answer += part
    except ConnectionResetError:
        pass
    return answer


class HostEnd:
    """One launcher.  It ends when this end is closed, or this process is gone."""

    def __init__(self, run_interpreter: RunInterpreter, thread: int) -> None:
        """Of that thread.  Raises OSError where none can be had."""
        self._thread = thread
        self._control, theirs = socket_pair(socket.SOCK_SEQPACKET)
        self._inode = os.fstat(self._control.fileno()).st_ino
        try:
            with handing_over(theirs):
                # The kernel then tells us its pid, in our own pid namespace.  unix(7)
                self._control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                host = os.pidfd_open(os.getpid())
                try:
                    run_interpreter("jobsup._launcher", theirs, [host])
                finally:
                    os.close(host)
            self._pid = self._hear_hello()
        except BaseException:
            self._control.close()
            raise

    def _hear_hello(self) -> int:
        space = socket.CMSG_SPACE(_CREDENTIALS.size)
        hello, ancillary, _, _ = self._control.recvmsg(_HELLO_BYTES, space)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and hello == b"ready":
                return int(_CREDENTIALS.unpack(data)[0])
        raise ConnectionAbortedError(hello.decode("utf-8", "replace"))

    def _is_ours(self) -> bool:
        """Whether the number is our socket's yet: a daemon closes all that it finds open."""
        try:
            return os.fstat(self._control.fileno()).st_ino == self._inode
        except OSError:
            return False

    def is_alive(self) -> bool:
        """Whether it can still hear us."""
        poll = select.poll()
        poll.register(self._control, 0)  # POLLHUP comes unasked
        return self._is_ours() and not poll.poll(0)

    def is_usable(self) -> bool:
        """Whether it lives, in no wider sandbox than this thread.

        No file tells of a Landlock domain. But whoever has entered one may not
        look into a process outside of it.  landlock(7), ptrace(2) access mode
        """
        try:
            os.readlink(f"/proc/{self._pid}/cwd")
        except OSError:
            return False
        return self.is_alive()

    def launch(self, order: Order, here: Surroundings, prepare: Prepare) -> bytes:
        """What the monitor said that it forked for *order*, once that is prepared.

        Raises:
            OSError: The order could not be handed over; its directory may be there.
        """
        with ExitStack() as on_exit:
            ours, theirs = socket_pair()
            on_exit.enter_context(ours)
            with handing_over(theirs):
                cwd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                on_exit.callback(os.close, cwd)
                stdin = [] if order.stdin_fd is None else [order.stdin_fd]
                # It must be able to look into this thread, unless it is its own.
                thread = 0 if here.thread == self._thread else threading.get_native_id()
                order = order._replace(stdin_fd=None, umask=here.umask, mask=here.mask)
                data = prepare(order).to_bytes()
                left = self._send(b"%d " % thread, data, [theirs.fileno(), cwd, *stdin])
            return converse(ours, left)

    def _send(self, head: bytes, order: bytes, fds: Sequence[int]) -> bytes:
        """Send the descriptors, with the order in the same message, or return it if it is long."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        if len(order) <= ALONG_BYTES:  # then a spare is woken once
            try:
                self._control.sendmsg([head, order], [rights], socket.MSG_NOSIGNAL)
                return b""
            except OSError as error:
                if error.errno != errno.EMSGSIZE:  # /proc/sys/net/core/wmem_default is small
                    raise
        self._control.sendmsg([head], [rights], socket.MSG_NOSIGNAL)
        return order

    def close(self, *, linger: bool = False) -> None:
        """Let it go, and with *linger* wait a moment until it is gone."""
        if not self._is_ours():
            self._control.detach()
            return
        self._control.close()
        if linger:
            with suppress(OSError):
                poll = select.poll()
                poll.register(os.pidfd_open(self._pid), select.POLLIN)
                poll.poll(_LINGER_SECONDS * 1000)
