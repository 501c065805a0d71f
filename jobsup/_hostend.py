"""The host's end of a launcher: hand an order over with the descriptors that go with it."""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final
from weakref import WeakSet

from jobsup._control import ALONG_BYTES, DONE, IDLE, Order, Report
from jobsup._surroundings import Surroundings

_HELLO_BYTES: Final = 4096
_CREDENTIALS: Final = struct.Struct("iII")
_LINGER_SECONDS: Final = 0.5
_MOST_KEPT: Final = 4
"""Lines to monitors that may take another order: each is a descriptor of the host's."""

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
    """All that the host has here, whatever its other threads were about to do with it."""
    for theirs in _handed_over:
        theirs.close()
    for line in tuple(_lines):
        line.close()
    _handed_over.clear()
    _kept.clear()


def is_told_by_the_system(error: OSError) -> bool:
    """Or else by a signal handler of the host, that has had enough: a TimeoutError of its own."""
    return error.errno is not None


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
    except OSError as error:  # reset; or somebody closed our number
        if not is_told_by_the_system(error):
            raise
    return answer


class _Line:
    """A socket of ours, for as long as its number is: a daemon closes all that it finds open."""

    def __init__(self, end: socket.socket, launcher: HostEnd) -> None:
        self.end = end
        self.launcher = launcher
        self._identity = self._look()
        _lines.add(self)

    def _look(self) -> tuple[int, int] | None:
        with suppress(OSError):
            told = os.fstat(self.end.fileno())
            return told.st_dev, told.st_ino
        return None

    def is_ours(self) -> bool:
        return self._look() == self._identity is not None

    def heard(self) -> bytes | None:
        """What the monitor says: that it is idle, or nothing while it works; None if it is gone."""
        if not self.is_ours():
            return None
        try:
            return self.end.recv(len(IDLE), socket.MSG_DONTWAIT) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def close(self) -> None:
        if self.is_ours():
            self.end.close()
        else:
            self.end.detach()

    def __del__(self) -> None:
        """Of an interrupted start(), whose monitor is to see that nobody waits."""
        self.close()


# No lock: a signal handler may start a job, too. One step changes each of these.
_lines: Final[WeakSet[_Line]] = WeakSet()
_kept: Final[list[_Line]] = []
"""Those to monitors that have jobs of ours, or had; the oldest first."""


def drop_kept() -> bool:
    """Close them, where descriptors are wanted; whether there was one."""
    dropped = tuple(_kept)
    _drop(dropped)
    return bool(dropped)


def _drop(lines: Iterable[_Line]) -> None:
    for line in lines:
        with suppress(ValueError):  # another thread has it
            _kept.remove(line)
            line.close()


class HostEnd:
    """One launcher.  It ends when this end is closed, or this process is gone."""

    def __init__(self, run_interpreter: RunInterpreter, thread: int) -> None:
        """Of that thread.  Raises OSError where none can be had."""
        self._thread = thread
        self._is_closed = False
        control, theirs = socket_pair(socket.SOCK_SEQPACKET)
        self._control = _Line(control, self)
        try:
            with handing_over(theirs):
                # The kernel then tells us its pid, in our own pid namespace.  unix(7)
                control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                host = os.pidfd_open(os.getpid())
                try:
                    run_interpreter("jobsup._launcher", theirs, [host])
                finally:
                    os.close(host)
            self._pid = self._hear_hello()
        except BaseException:
            control.close()
            raise

    def _hear_hello(self) -> int:
        space = socket.CMSG_SPACE(_CREDENTIALS.size)
        hello, ancillary, _, _ = self._control.end.recvmsg(_HELLO_BYTES, space)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and hello == b"ready":
                return int(_CREDENTIALS.unpack(data)[0])
        raise ConnectionAbortedError(hello.decode("utf-8", "replace"))

    def is_alive(self) -> bool:
        """Whether it can still hear us."""
        poll = select.poll()
        poll.register(self._control.end, 0)  # POLLHUP comes unasked
        return self._control.is_ours() and not poll.poll(0)

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
        """What the monitor said that took *order*, once that is prepared.

        Raises:
            OSError: The order could not be handed over; its directory may be there.
        """
        # Whoever takes it must be able to look into this thread, unless it is its own.
        thread = 0 if here.thread == self._thread else threading.get_native_id()
        stdin = [] if order.stdin_fd is None else [order.stdin_fd]
        order = order._replace(stdin_fd=None, umask=here.umask, mask=here.mask)
        cwd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            message, fds = (b"%d " % thread, prepare(order).to_bytes()), [cwd, *stdin]
            lines: list[_Line] = []
            answer = left = b""
            try:
                left = self._hand_over(message, fds, lines)
                answer = converse(lines[-1].end, left)
            finally:
                for line in lines:
                    self._release(line, keep=answer == DONE and not left)
            return answer
        finally:
            os.close(cwd)

    # -- who takes the order -------------------------------------------------

    def _hand_over(
        self, message: tuple[bytes, bytes], fds: Sequence[int], lines: list[_Line]
    ) -> bytes:
        """The order, if it is too long to go along; who has it has the last of the *lines*."""
        head, order = message
        if len(order) > ALONG_BYTES:
            self._ask_spare(socket.SOCK_STREAM, (head,), fds, lines)
            return order
        while self._finds_returned(lines):
            try:
                lines[-1].end.sendmsg(message, _rights(fds), socket.MSG_NOSIGNAL)
            except OSError as error:  # it was killed, or went just now
                if not is_told_by_the_system(error):
                    raise
                self._release(lines.pop(), keep=False)
            else:
                return b""
        try:  # by one message, so that the spare is woken once
            self._ask_spare(socket.SOCK_SEQPACKET, message, fds, lines)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # /proc/sys/net/core/wmem_default is small
                raise
            self._release(lines.pop(), keep=False)
            self._ask_spare(socket.SOCK_STREAM, (head,), fds, lines)
            return order
        return b""

    def _finds_returned(self, lines: list[_Line]) -> bool:
        """Whether there is a monitor whose job has ended, and that waits for another."""
        for line in [line for line in _kept if line.launcher is self]:
            with suppress(ValueError):  # another thread has it
                _kept.remove(line)
                lines.append(line)
                said = line.heard()
                if said:
                    return True
                self._release(lines.pop(), keep=said is not None)
        return False

    def _ask_spare(
        self,
        kind: socket.SocketKind,
        message: Sequence[bytes],
        fds: Sequence[int],
        lines: list[_Line],
    ) -> None:
        ours, theirs = socket_pair(kind)
        with handing_over(theirs):
            lines.append(_Line(ours, self))
            rights = _rights([theirs.fileno(), *fds])
            self._control.end.sendmsg(message, rights, socket.MSG_NOSIGNAL)

    def _release(self, line: _Line, *, keep: bool) -> None:
        """Keep it, and no more such than there may be, or close it."""
        if not keep or self._is_closed:
            line.close()
            return
        _kept.append(line)
        _drop(_kept[:-_MOST_KEPT])

    def close(self, *, linger: bool = False) -> None:
        """Let it go, and with *linger* wait a moment until it is gone."""
        self._is_closed = True
        _drop([line for line in _kept if line.launcher is self])
        is_ours = self._control.is_ours()
        self._control.close()
        if linger and is_ours:
            with suppress(OSError):
                poll = select.poll()
                poll.register(os.pidfd_open(self._pid), select.POLLIN)
                poll.poll(_LINGER_SECONDS * 1000)


def _rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
