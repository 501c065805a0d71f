"""What a process hands down to its children besides what start() is told.

The launcher was started once and forks monitors ever after. What its host
changed since must reach the command all the same, and above all a sandbox that
the host has entered: so whoever starts a job compares these.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import signal
import threading
from typing import Final

from jobsup._imposed import read, read_if, settings_in
from jobsup._value import Value

# A newline first, which is looked for faster than the beginning of a line.
_STATUS: Final = re.compile(
    rb"\n(?:Uid|Gid|Groups|SigIgn|Cap\w+|NoNewPrivs|Seccomp\w*|Spec\w+|\w+_allowed|THP_enabled):.*"
)
_UMASK: Final = re.compile(rb"\nUmask:\s*([0-7]+)\n")
_FILTERS: Final = re.compile(rb"\nSeccomp_filters:\s*([0-9]+)\n")
_OWN: Final = ("attr/current", "sessionid")
"""The second is another one whenever loginuid was set.  Linux, audit_set_loginuid()"""


class Surroundings(Value):
    """Of one thread: most of these are a thread's own on Linux."""

    fingerprint: bytes
    """What can only be had by being started there."""
    umask: int
    mask: tuple[int, ...]
    """The blocked signals. These two can be handed over."""
    thread: int
    """Whose they are: a number that no other thread of this process has, or had."""


def surroundings() -> Surroundings | None:
    """Of the calling thread; None where not all of it can be told."""
    seen = _look()
    umask = _UMASK.search(seen[1]) if seen else None
    if seen is None or umask is None:
        return None
    parts, status = seen
    if _filters(status) != _FIRST_FILTERS:
        # Filters of another thread may be as many, and forbid something else.
        parts.append(b"%d" % _thread())
    mask = tuple(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    return Surroundings(b"\n".join(parts), int(umask[1], 8), mask, _thread())


def _look() -> tuple[list[bytes], bytes] | None:
    """All but what can be handed over, and the status that it is told by.

    Sources: proc_pid_status(5), proc_pid_limits(5), namespaces(7) and the
    others named there, credentials(7).
    """
    try:
        # By one descriptor: to follow the link takes longer than most of the reads.
        thread = os.open("/proc/thread-self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts = settings_in(thread)
        status = read("status", thread)
        if parts is None or _hides_filters(status):
            return None
        parts += _STATUS.findall(status)
        parts += [read_if(name, thread) for name in _OWN]
        parts += [os.readlink(name, dir_fd=thread) for name in _namespaces()]
        parts.append(_root(thread))
        return parts, status
    except OSError:
        return None
    finally:
        os.close(thread)


def _thread() -> int:
    """A number of the calling thread's own, for kernel and Python give theirs again."""
    if not hasattr(_own, "number"):
        _own.number = next(_numbers)
    return int(_own.number)


def _filters(status: bytes) -> int:
    """How many seccomp(2) filters there are. A thread can only get more."""
    found = _FILTERS.search(status)
    return int(found[1]) if found else 0


@functools.cache
def _namespaces() -> tuple[bytes, ...]:
    """Where a thread's directory tells of those that its children will be in.  namespaces(7)"""
    names = set(os.listdir(b"/proc/thread-self/ns"))
    own = {name.removesuffix(b"_for_children") for name in names if name.endswith(b"_for_children")}
    return tuple(b"ns/" + name for name in sorted(names - own))


def _root(thread: int) -> bytes:
    """What "/" is, and the mount that it is reached by: another may hide or show what it likes."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        root = os.fstat(fd)
        # mnt_id: proc_pid_fdinfo(5)
        return read(f"fdinfo/{fd}", thread) + b"%d:%d" % (root.st_dev, root.st_ino)
    finally:
        os.close(fd)


def _hides_filters(status: bytes) -> bool:
    """Whether seccomp(2) filters are at work that this kernel, before 5.9, does not count."""
    return b"\nSeccomp:\t2" in status and b"\nSeccomp_filters:" not in status


def _first_filters() -> int:
    """Those that every thread has, as far as can be told: most processes were born with all."""
    try:
        return min(_filters(read(f"/proc/{who}/status")) for who in ("self", "thread-self"))
    except OSError:
        return 0


_own: Final = threading.local()
_numbers: Final = itertools.count()
_FIRST_FILTERS: Final = _first_filters()
