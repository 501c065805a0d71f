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


def identify_child(pid: int, parent: ProcessIdentity) -> ProcessIdentity | None:
    """The identity of *pid* if it is a living child of *parent*, None otherwise.

    A process once found below us stays below us, because we are a subreaper;
    so it may be signalled later, through its identity, wherever it has moved.
    """
    row = ProcessRow.read(pid)
    if row is None or row.is_zombie or row.parent != parent.pid:
        return None  # at the price of one look: a fork storm leaves zombies by the thousand
    identity = identify(pid)
    row = ProcessRow.read(pid)
    if identity is None or row is None or row.parent != parent.pid:
        return None
    # The parent's number was its own when the row was read, and the row's
    # process is the identified one: both still answer to their tokens.
    return identity if is_still(parent) and is_still(identity) else None


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
