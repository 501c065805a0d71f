"""What a process hands down to its children besides what start() is told.

The launcher was started once and forks monitors ever after. What its host
changed since must reach the command all the same, and above all a sandbox that
the host has entered: so whoever starts a job compares these.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Final

from jobsup._platform import inherited_settings
from jobsup._value import Value

_STATUS: Final = re.compile(
    rb"^(?:Uid|Gid|Groups|SigIgn|Cap\w+|NoNewPrivs|Seccomp\w*|Spec\w+|\w+_allowed|THP_enabled):.*$",
    re.MULTILINE,
)
_UMASK: Final = re.compile(rb"^Umask:\s*([0-7]+)$", re.MULTILINE)
_FILES: Final = (
    "limits",
    "oom_score_adj",
    "cgroup",
    "personality",
    "attr/current",
    "loginuid",
    "sessionid",
)
_BLOCK: Final = 1 << 16


class Surroundings(Value):
    """Of one thread: most of these are a thread's own on Linux."""

    fingerprint: bytes
    """What can only be had by being started there."""
    umask: int
    mask: tuple[int, ...]
    """The blocked signals. These two can be handed over."""


def surroundings() -> Surroundings | None:
    """Of the calling thread; None where not all of it can be told.

    Sources: proc_pid_status(5), proc_pid_limits(5), namespaces(7) and the
    others named there, credentials(7).
    """
    thread = "/proc/thread-self/"
    try:
        settings = inherited_settings()
        status = _read(thread + "status")
        umask = _UMASK.search(status)
        if settings is None or umask is None or _hides_filters(status):
            return None
        parts = [settings, *_STATUS.findall(status), *(_read_if(thread + name) for name in _FILES)]
        spaces = sorted(os.listdir(thread + "ns"))
        parts += [os.fsencode(os.readlink(f"{thread}ns/{name}")) for name in spaces]
        parts.append(_read_if("/proc/self/coredump_filter"))
        parts.append(_root())
    except OSError:
        return None
    mask = tuple(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    return Surroundings(b"\n".join(parts), int(umask[1], 8), mask)


def _root() -> bytes:
    """What "/" is, and the mount that it is reached by: another may hide or show what it likes."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        root = os.fstat(fd)
        # mnt_id: proc_pid_fdinfo(5)
        return _read(f"/proc/thread-self/fdinfo/{fd}") + b"%d:%d" % (root.st_dev, root.st_ino)
    finally:
        os.close(fd)


def _hides_filters(status: bytes) -> bool:
    """Whether seccomp(2) filters are at work that this kernel, before 5.9, does not count."""
    return b"\nSeccomp:\t2" in status and b"\nSeccomp_filters:" not in status


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _BLOCK)
    finally:
        os.close(fd)


def _read_if(path: str) -> bytes:
    """Likewise; the error where the kernel has no such thing."""
    try:
        return _read(path)
    except OSError as error:
        return str(error.errno).encode()
