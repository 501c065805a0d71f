"""The same as `jobsup._linux`, through psutil and POSIX alone: for macOS, and forced in tests.

Weaker where the system is: no subreaper, so a tree is found by looking; no
pidfd, so a number is verified just before it is signalled; no exit status of
another's child; no holes. The README says what that means for the promises.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil

NAME = "portable"
WALL = 0


def become_subreaper() -> bool:
    return False


def tell_of_writes(directory: int) -> bool:
    """Nothing portable tells."""
    return False


def obstacle() -> str | None:
    return None


def name_process(name: str) -> None:
    """Nothing portable does it."""


def inherited_settings() -> None:
    """Nothing portable tells all that a child inherits."""


def punch_hole(fd: int, offset: int, length: int) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def reserve(fd: int, size: int) -> None:
    """Allocate the blocks by writing them."""
    written = 0
    while written < size:  # a disk that fills up takes a part first, and then says no
        written += os.pwrite(fd, bytes(size - written), written)


def sync_data(fd: int) -> None:
    os.fsync(fd)


def boot_id() -> str:
    """None that could be relied upon: the time of the boot moves with the clock."""
    return ""


def moved_since(token: str) -> str | None:
    """None: the start time is absolute here, so that after a reboot it just fits nobody."""
    return None


class ProcessHandle:
    """A process by its number and start time, verified again at each use."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError if there is no process *pid*."""
        self.pid = pid
        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        self._kqueue = _exit_queue(pid) if hasattr(select, "kqueue") else None

    def token(self) -> str | None:
        try:
            created = self._process.create_time()
        except psutil.NoSuchProcess:
            return None
        return f"portable:{created!r}" if self._process.is_running() else None

    def reaped(self) -> bool:
        return not self._process.is_running()

    def fileno(self) -> int | None:
        """None where nothing turns readable: the caller looks now and then."""
        return self._kqueue.fileno() if self._kqueue else None

    def exited(self) -> bool:
        try:
            over = _is_zombie(self._process)
        except psutil.NoSuchProcess:
            return True
        return over or not self._process.is_running()

    def send(self, signum: int) -> None:
        """Raises ProcessLookupError or PermissionError as kill(2) does."""
        try:
            self._process.send_signal(signum)
        except psutil.NoSuchProcess:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        except psutil.AccessDenied:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None

    def send_to_group(self, signum: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def exit_status(self) -> int | None:
        return None

    def close(self) -> None:
        if self._kqueue:
            self._kqueue.close()

    def __enter__(self) -> ProcessHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _exit_queue(pid: int) -> Any:
    """A queue that turns readable, also to poll(2), when the process exits.  kqueue(2)"""
    kernel: Any = select
    queue = kernel.kqueue()
    exits = kernel.kevent(pid, kernel.KQ_FILTER_PROC, kernel.KQ_EV_ADD, kernel.KQ_NOTE_EXIT)
    with suppress(OSError):  # it has exited already, which exited() tells
        queue.control([exits], 0)
    return queue


def uptime() -> int:
    """Nothing: start times are read."""
    return 0


def try_start_time(pid: int, since: int) -> None:
    """Nothing, likewise."""


def own_token(pid: int, since: int | None = None) -> str:
    """The start token of this process or of its unreaped child, whose number is theirs for sure."""
    token = ProcessHandle(pid).token()
    assert token is not None, f"process {pid} was reaped by somebody else"
    return token


class ProcessRow:
    """What the system's process table says of one process."""

    __slots__ = (
        "command",
        "group",
        "is_zombie",
        "parent",
        "pid",
        "session",
        "start_ticks",
        "state",
    )

    def __init__(self, process: psutil.Process) -> None:
        with process.oneshot():
            self.pid = process.pid
            self.command = process.name()
            self.parent = process.ppid()
            self.state = _STATES.get(process.status(), "?")
            self.start_ticks = process.create_time()
            self.is_zombie = _is_zombie(process)
        self.group = _or_zero(os.getpgid, self.pid)
        self.session = _or_zero(os.getsid, self.pid)

    @classmethod
    def read(cls, pid: int) -> ProcessRow | None:
        try:
            return cls(psutil.Process(pid))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None

    @classmethod
    def group_of(cls, pid: int) -> int | None:
        return _or_zero(os.getpgid, pid) or None


_STATES = {
    psutil.STATUS_RUNNING: "R",
    psutil.STATUS_SLEEPING: "S",
    psutil.STATUS_DISK_SLEEP: "D",
    psutil.STATUS_STOPPED: "T",
    psutil.STATUS_TRACING_STOP: "t",
    psutil.STATUS_ZOMBIE: "Z",
    psutil.STATUS_DEAD: "X",
    psutil.STATUS_IDLE: "I",
}


def _is_zombie(process: psutil.Process) -> bool:
    """Whether all of it is over: on Linux a leader may have ended before its other threads."""
    if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return False
    try:
        return bool(process.num_threads() <= 1)
    except psutil.Error:  # macOS tells nothing more of a zombie
        return True


def _or_zero(ask: object, pid: int) -> int:
    try:
        return int(ask(pid))  # type: ignore[operator]  # os.getpgid or os.getsid
    except OSError:
        return 0


def processes() -> Iterator[ProcessRow]:
    """Every process in sight."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            yield ProcessRow(process)


def children_of(pid: int) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def environ_of(pid: int) -> bytes:
    """The environment it was exec'd with; empty if we may not look."""
    try:
        variables = psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return b""
    return b"".join(os.fsencode(f"{name}={value}\0") for name, value in variables.items())


def owner_of(pid: int) -> int:
    try:
        return int(psutil.Process(pid).uids().effective)
    except psutil.Error:
        return -1


def age_of(pid: int) -> float:
    """Seconds since the process started, as long as nobody sets the clock."""
    try:
        return time.time() - float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0
