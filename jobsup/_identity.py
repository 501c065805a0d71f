"""Name, verify and signal single processes; the only caller of kill(2) and killpg(3).

The rule: a pid on its own proves nothing. Either we hold the process (a
handle opened first, verified second, signalled through), or it is our own
unreaped child, whose number and group the kernel cannot give away.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from jobsup._platform import ProcessHandle, ProcessRow
from jobsup._stopplan import ProcessIdentity


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has this pid now; None if there is none."""
    try:
        with ProcessHandle(pid) as handle:
            token = handle.token()
    except ProcessLookupError:
        return None
    return ProcessIdentity(pid, token) if token else None


def identify_self() -> ProcessIdentity:
    identity = identify(os.getpid())
    assert identity is not None, "this process has no start token; is /proc mounted?"
    return identity


def open_process(identity: ProcessIdentity) -> ProcessHandle | None:
    """A handle to exactly this process, to be closed; None if it was reaped."""
    try:
        handle = ProcessHandle(identity.pid)
    except ProcessLookupError:
        return None
    if handle.token() == identity.token:
        return handle
    handle.close()
    return None


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether the process runs; a zombie does not."""
    handle = open_process(identity)
    if handle is None:
        return False
    with handle:
        return not handle.exited()


def send_to_child(pid: int, signum: int) -> int | None:
    """Signal our own unreaped child; the errno if the kernel refused."""
    try:
        os.kill(pid, signum)
    except OSError as error:
        return error.errno
    return None


def send_to_group_of(child: int, signum: int) -> int | None:
    """Signal the process group of our own unreaped child, and return its number.

    The child pins the number. Our own group is never hit: None then.
    """
    group = os.getpgid(child)
    if group == os.getpgrp():
        return None
    with suppress(OSError):  # EPERM and the like show up at each process; look there
        os.killpg(group, signum)
    return group


class Member:
    """A process that was seen below us: held by its handle or, after `let_go`, known by its token.

    Once found below us it stays below us, because we are a subreaper; so it
    may be signalled later, wherever it has moved.
    """

    __slots__ = ("_handle", "_identity", "pid")

    def __init__(self, handle: ProcessHandle) -> None:
        self.pid = handle.pid
        self._handle: ProcessHandle | None = handle
        self._identity: ProcessIdentity | None = None

    def identity(self) -> ProcessIdentity | None:
        """None if it was reaped."""
        token = self._handle.token() if self._handle else None
        return ProcessIdentity(self.pid, token) if token else self._identity

    def let_go(self) -> None:
        """Give the descriptor back: a process may have fewer of them than its tree has members."""
        self._identity = self.identity()
        self.close()

    def close(self) -> None:
        if self._handle:
            self._handle.close()
            self._handle = None

    def is_still(self) -> bool:
        """Whether the number is the process's own yet: it lives, or nobody has reaped it."""
        if self._handle:
            return not self._handle.reaped()
        return self._identity is not None and is_still(self._identity)

    def send(self, signum: int) -> None:
        """Signal exactly this process, if it is still there and the kernel lets us."""
        if self._handle:
            with suppress(OSError):
                self._handle.send(signum)
        elif self._identity:
            send_verified(self._identity, signum)


def hold_child(pid: int, parent: int) -> Member | None:
    """*pid*, if it is a living child of whoever has the number *parent*, None otherwise.

    Who that is, the caller asks afterwards, once for all children of a parent:
    if it still has its number then, it had it when this row was read.
    """
    try:
        handle = ProcessHandle(pid)
    except ProcessLookupError:
        return None
    try:
        row = ProcessRow.read(pid)
        # Held before the row was read, and not reaped after: the row is its own.
        if row and row.parent == parent and not row.is_zombie and not handle.reaped():
            return Member(handle)
    except BaseException:
        handle.close()
        raise
    handle.close()
    return None


def send_verified(identity: ProcessIdentity, signum: int) -> int | None:
    """Signal exactly this process; the errno if the kernel refused, ESRCH if it is gone."""
    handle = open_process(identity)
    if handle is None:
        return errno.ESRCH
    with handle:
        try:
            handle.send(signum)
        except OSError as error:
            return error.errno
    return None


def send_to_group_through(identity: ProcessIdentity, signum: int) -> bool:
    """Signal the group that this very process is in now; False where the kernel cannot.

    Atomic against fork(2) as killpg(3) is, but needs no number that might have
    passed to others.
    """
    handle = open_process(identity)
    if handle is not None:
        with handle, suppress(OSError):  # EINVAL before Linux 6.9
            handle.send_to_group(signum)
            return True
    return False


def is_still(identity: ProcessIdentity) -> bool:
    """Whether the number is the process's own yet: it lives, or nobody has reaped it."""
    handle = open_process(identity)
    if handle is None:
        return False
    handle.close()
    return True
